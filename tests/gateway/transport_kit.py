"""What the tests of the transport begin with: a pool and a fault upstream on each of two event loops."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final

import pytest
import uvloop

from router_core.gateway.reply import Reply, UpstreamFailure
from router_core.gateway.transport.lane import LaneStats
from router_core.gateway.transport.pool import ConnectionPool
from router_core.gateway.transport.protocol import Origin
from router_core.gateway.values import Timeouts
from router_core.testing.upstream import Behaviour, Exchange, Upstream

__all__ = ["Kit", "both_loops", "broken", "gate", "request_head", "settle", "told", "whole"]

_LOOPS: Final[dict[str, Callable[[], asyncio.AbstractEventLoop]]] = {
    "asyncio": asyncio.SelectorEventLoop,
    "uvloop": uvloop.new_event_loop,
}

_TICK: Final = 0.005


class Kit:
    """A pool and an upstream."""

    def __init__(self, upstream: Upstream) -> None:
        self.upstream = upstream
        self.pool = ConnectionPool(tick=_TICK)
        self.origin = Origin("http", "127.0.0.1", upstream.port)

    async def send(
        self, body: bytes = b"{}", *, stream: bool = False, within: float = 10.0,
        origin: Origin | None = None, **timeouts: float,
    ) -> Reply:  # fmt: skip
        """Send one request and return its answer."""
        return await self.pool.send(
            origin or self.origin,
            request_head(len(body)),
            body,
            timeouts=Timeouts(**{"connect": 5.0, "first_byte": 5.0, "idle": 5.0, **timeouts}),
            deadline=asyncio.get_running_loop().time() + within,
            stream=stream,
        )

    async def failure(self, *args: Any, **named: Any) -> UpstreamFailure:
        """Send one request and return what went wrong."""
        with pytest.raises(UpstreamFailure) as caught:
            await self.send(*args, **named)
        return caught.value

    async def use(self, **options: Any) -> None:
        """Use a pool of other options."""
        await self.pool.aclose()
        self.pool = ConnectionPool(tick=_TICK, **options)

    @property
    def stats(self) -> LaneStats:
        """Counts of the one origin."""
        return self.pool.stats().get(self.origin, LaneStats(0, 0, 0, 0))


def request_head(length: int) -> bytes:
    """Return the head of a request as clients make them."""
    return (
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: upstream\r\ncontent-type: application/json\r\n"
        b"content-length: %d\r\n\r\n" % length
    )


async def whole(reply: Reply) -> bytes:
    """Read a stream to its end."""
    assert reply.chunks is not None
    return b"".join([chunk async for chunk in reply.chunks])


async def broken(reply: Reply, got: list[bytes] | None = None) -> UpstreamFailure:
    """Read a stream that does not come to its end, note what came, and return what it failed with."""
    assert reply.chunks is not None
    try:
        async for chunk in reply.chunks:
            if got is not None:
                got.append(chunk)
    except UpstreamFailure as failure:
        return failure
    raise AssertionError("the stream came to its end")


def told(failure: UpstreamFailure) -> tuple[str, str, bool, bool]:
    """Return everything that a failure says."""
    return failure.kind, failure.phase, failure.sent, failure.started


def gate(opened: asyncio.Event) -> Behaviour:
    """Answer when the event is set."""

    async def run(exchange: Exchange) -> None:
        await opened.wait()
        await exchange.whole(200, b"%d" % exchange.request.number)

    return Behaviour("gate", run)


async def settle() -> None:
    """Let everything that is ready run."""
    for _ in range(10):
        await asyncio.sleep(0)


def both_loops(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Run a test on asyncio's loop and on uvloop's, and see that nothing stays open behind it."""

    def run(*, loop: str, **named: Any) -> None:
        with asyncio.Runner(loop_factory=_LOOPS[loop]) as runner:
            runner.run(_with_kit(test, named))

    parameters = inspect.signature(test).parameters
    others = [each for name, each in parameters.items() if name != "kit"]
    loop = inspect.Parameter("loop", inspect.Parameter.KEYWORD_ONLY)
    functools.update_wrapper(run, test)
    del run.__wrapped__  # type: ignore[attr-defined]
    run.__signature__ = inspect.Signature([*others, loop])  # type: ignore[attr-defined]
    marked: Callable[..., None] = pytest.mark.parametrize("loop", list(_LOOPS))(run)
    return marked


def _with_kit(test: Callable[..., Awaitable[None]], named: dict[str, Any]) -> Coroutine[Any, Any, None]:
    async def run() -> None:
        async with Upstream() as upstream:
            kit = Kit(upstream)
            try:
                await test(kit, **named)
            finally:
                await kit.pool.aclose()
            assert kit.pool.stats() == {}
            await upstream.until(lambda: upstream.open == 0)
            names = [repr(task) for task in asyncio.all_tasks() - {asyncio.current_task()}]
            # Those of the upstream end with its connections, some turns of the loop later.
            left = [name for name in names if "Wire" not in name and "_accept_connection2" not in name]
            assert not left, "a task was left behind"

    return run()
