"""What the tests of endpoints share: a gateway's lifecycle on a clock of its own, over real sockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from router_core.clock import Clock
from router_core.gateway.lifecycle.drivers import Drivers
from router_core.gateway.lifecycle.endpoints import Lifecycle
from router_core.gateway.lifecycle.upkeep import EndpointUpkeep
from router_core.gateway.reply import Reply, UpstreamFailure
from router_core.gateway.transport.pool import ConnectionPool
from router_core.gateway.transport.protocol import Origin, Transport
from router_core.gateway.values import EndpointSpec, Secret, Timeouts
from router_core.state import StateStore
from router_core.stores.state_memory import MemoryStateStore
from router_core.telemetry.events import Events, Note
from router_core.testing.clock import FakeClock
from router_core.testing.huggingface_api import HuggingFaceApi

__all__ = [
    "Gateway", "PlainTransport", "gateway", "hub_on", "never", "pair", "passing", "spec_of", "until",
]  # fmt: skip

T = TypeVar("T")


class PlainTransport:
    """A Transport that opens a connection for each request."""

    async def send(
        self, origin: Origin, head: bytes, body: bytes, *, timeouts: Timeouts, deadline: float,
        stream: bool = False,
    ) -> Reply:  # fmt: skip
        try:
            reader, writer = await asyncio.open_connection(origin.host, origin.port)
        except OSError as error:
            raise UpstreamFailure("refused", "connect", str(error)) from error
        try:
            async with asyncio.timeout_at(deadline):
                return await _exchange(reader, writer, head + body)
        except (OSError, asyncio.IncompleteReadError, ValueError) as error:
            kind: Any = "timeout" if isinstance(error, TimeoutError) else "reset"
            raise UpstreamFailure(kind, "first_byte", str(error), sent=True) from error
        finally:
            writer.close()

    async def aclose(self) -> None:
        return


async def _exchange(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, data: bytes) -> Reply:
    writer.write(data)
    first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().strip().split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    content = await reader.readexactly(int(headers.get("content-length", "0")))
    return Reply(int(first.split()[1]), headers, content)


@dataclass
class Gateway:
    """One process of a gateway, as far as endpoints are concerned."""

    lifecycle: Lifecycle
    upkeep: EndpointUpkeep
    clock: Clock
    notes: list[Note]
    busy: dict[str, int] = field(default_factory=dict)

    def audit(self, operation: str) -> list[dict[str, Any]]:
        """Return the audit entries of one operation."""
        return [note.fields for note in self.notes_of(f"endpoint_{operation}")]

    def notes_of(self, name: str) -> list[Note]:
        """Return the notes of one name."""
        return [note for note in self.notes if note.name == name]


@asynccontextmanager
async def gateway(
    specs: Sequence[EndpointSpec], clock: Clock, state: StateStore | None = None,
    *, transport: Transport | None = None, drivers: Callable[[EndpointSpec], Any] | None = None,
) -> AsyncIterator[Gateway]:  # fmt: skip
    """Run one process of a gateway; several share a ``state``."""
    notes: list[Note] = []
    events = Events(lambda event: notes.append(event) if isinstance(event, Note) else None)
    transport = transport or ConnectionPool()
    busy: dict[str, int] = {}
    lifecycle = Lifecycle(
        specs, drivers or Drivers(transport, clock), state or MemoryStateStore(clock), clock, events,
        in_flight=lambda name: busy.get(name, 0), draw=lambda: 0.5,
    )  # fmt: skip
    try:
        yield Gateway(lifecycle, EndpointUpkeep(lifecycle, events), clock, notes, busy)
    finally:
        await lifecycle.aclose()
        await transport.aclose()


@asynccontextmanager
async def pair(
    specs: Sequence[EndpointSpec], clock: Clock, state: StateStore
) -> AsyncIterator[tuple[Gateway, Gateway]]:
    """Run two processes of a gateway that share a ``state``."""
    async with gateway(specs, clock, state) as one, gateway(specs, clock, state) as two:
        yield one, two


@contextmanager
def hub_on(clock: FakeClock) -> Iterator[HuggingFaceApi]:
    """Run the stand-in for Hugging Face on a clock."""
    with HuggingFaceApi(now=clock.monotonic) as hub:
        yield hub


def spec_of(hub: HuggingFaceApi, name: str, **changes: Any) -> EndpointSpec:
    """Return the configuration of an endpoint of the stand-in."""
    spec = EndpointSpec(
        name, "huggingface", hub.url(name), "ann", name, Secret(hub.token), hub.api_url, auto_sleep=0.0
    )
    return replace(spec, **changes)


async def passing(clock: FakeClock, work: Awaitable[T], *, step: float = 0.25, always: bool = False) -> T:
    """Return what is waited for, with time going on while somebody here sleeps, or ``always``."""
    task = asyncio.ensure_future(work)
    while not task.done():
        if always or clock.sleepers:
            clock.advance(step)
        await asyncio.sleep(0.001)
    return await task


async def until(clock: FakeClock, holds: Callable[[], bool], *, step: float = 0.5) -> None:
    """Let time go on until something holds."""

    async def wait() -> None:
        for _ in range(20_000):
            if holds():
                return
            await asyncio.sleep(0.001)
        raise AssertionError("it never came to hold")

    await passing(clock, wait(), step=step)


def never() -> float:
    """Return a deadline that does not come."""
    return asyncio.get_running_loop().time() + 3600.0
