"""An upstream that answers like a model server, or fails in whatever way a test asks for, on real sockets.

    async with Upstream() as upstream:                  # speaks OpenAI until told otherwise
        upstream.queue(hang(), status(429, retry_after="2"), reset_before())
        ...                                             # upstream.url is where it listens
        assert upstream.requests[0].json()["model"] == "m"

What it does with requests: those of the queue first, one behaviour for each request; then ``script``, which
is one behaviour for all, or a function of the request that returns one.
"""  # fmt: skip

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Final, Self

from router_core.testing.loops import wind_up
from router_core.testing.ports import HeldPort
from router_core.testing.upstream_faults import Behaviour
from router_core.testing.upstream_openai import openai
from router_core.testing.upstream_wire import Exchange, Seen, Wire

__all__ = ["UNRESOLVABLE", "Behaviour", "Exchange", "Script", "Seen", "Upstream", "closed_port", "in_thread"]

_PATIENCE: Final = 30.0
UNRESOLVABLE: Final = "no-such-host.invalid"
"""A name that no resolver knows, by RFC 6761."""

Script = Behaviour | Callable[[Seen], Behaviour]


class Upstream:
    """A scripted server on 127.0.0.1 that counts and records what it sees."""

    def __init__(
        self, script: Script | None = None, *, certificate: str = "", key: str = "", port: int = 0
    ) -> None:
        """``certificate`` and ``key`` are files in PEM: with them it speaks TLS."""
        self.script: Script = script or openai()
        self.port = port
        self.requests: list[Seen] = []
        self.connections = 0
        """Connections accepted so far."""
        self.in_flight = 0
        self.max_in_flight = 0
        self.cancelled = 0
        """Requests whose caller hung up before they were answered."""
        self._queue: deque[Behaviour] = deque()
        self._wires: set[Wire] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._held: HeldPort | None = None
        self._changed = asyncio.Event()
        self.loop: asyncio.AbstractEventLoop | None = None
        """Where it runs, once it was started."""
        self._tls: ssl.SSLContext | None = None
        if certificate:
            self._tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            self._tls.load_cert_chain(certificate, key or None)

    @property
    def url(self) -> str:
        """Where it listens, without a slash at the end."""
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}"

    @property
    def open(self) -> int:
        """Connections that are open now."""
        return len(self._wires)

    def queue(self, *behaviours: Behaviour) -> None:
        """Answer the next requests with these, in this order and one for each."""
        self._queue.extend(behaviours)

    async def start(self) -> Self:
        """Listen; on the port it had before, if it was stopped."""
        if self._server is None:
            loop = asyncio.get_running_loop()
            self.loop = loop
            if not self.port:
                self._held = HeldPort()
                self.port = self._held.number
            self._server = await loop.create_server(
                lambda: Wire(self), "127.0.0.1", self.port, ssl=self._tls, reuse_address=True, backlog=2048,
                # Nobody is waited for who does not answer to a farewell.
                ssl_shutdown_timeout=0.05 if self._tls else None,
            )  # fmt: skip
        return self

    async def stop(self) -> None:
        """Die as a killed process does: every connection is reset, and until ``start`` others are refused."""
        if self._server is not None:
            self._server.close()
            self._server = None
        self.hang_up()
        await self.until(lambda: not self._wires)
        # They were cancelled, and end now; unless it is one of them that stops us.
        if left := self._tasks - {asyncio.current_task()}:
            await asyncio.wait(left)

    def close_connections(self) -> None:
        """Close every open connection properly, as servers do with those that are idle."""
        for wire in list(self._wires):
            wire.close()

    def hang_up(self) -> None:
        """Reset every open connection, and go on listening."""
        for wire in list(self._wires):
            wire.kill()

    async def until(self, condition: Callable[[], bool], timeout: float = 10.0) -> None:
        """Wait for something that a request, its end, or a connection brings about."""
        async with asyncio.timeout(timeout):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:  # fmt: skip
        await self.stop()

    # What the connections report.

    def connected(self, wire: Wire, task: asyncio.Task[None]) -> int:
        """Count a connection, which a task serves, and return its number."""
        self._wires.add(wire)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self.connections += 1
        self._changed.set()
        return self.connections

    def disconnected(self, wire: Wire) -> None:
        """Forget a connection."""
        self._wires.discard(wire)
        self._changed.set()

    def saw(self, connection: int, method: str, target: str, headers: dict[str, str]) -> Seen:
        """Record the head of a request."""
        seen = Seen(len(self.requests) + 1, connection, method, target, headers)
        self.requests.append(seen)
        return seen

    def begin(self) -> None:
        """Count a request as in flight."""
        self.in_flight += 1
        self.max_in_flight = max(self.max_in_flight, self.in_flight)
        self._changed.set()

    def end(self, seen: Seen) -> None:
        """Count it as done."""
        self.in_flight -= 1
        self.cancelled += seen.cancelled
        self._changed.set()

    async def answer(self, exchange: Exchange) -> None:
        """Let the behaviour that is due answer one request."""
        chosen = self._queue.popleft() if self._queue else self.script
        if not isinstance(chosen, Behaviour) or not chosen.early:
            await exchange.read_body()
            self._changed.set()
        if not isinstance(chosen, Behaviour):
            chosen = chosen(exchange.request)
        exchange.request.behaviour = chosen.name
        await chosen.run(exchange)


@contextmanager
def closed_port() -> Iterator[int]:
    """Hold a port of 127.0.0.1 on which nobody listens: connections to it are refused."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


@contextmanager
def in_thread(upstream: Upstream) -> Iterator[Upstream]:
    """Serve on a loop in a thread of its own, for callers that block."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="upstream", daemon=True)
    thread.start()
    try:
        asyncio.run_coroutine_threadsafe(upstream.start(), loop).result(_PATIENCE)
        yield upstream
    finally:
        asyncio.run_coroutine_threadsafe(_wound_up(upstream), loop).result(_PATIENCE)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(60)
        loop.close()


async def _wound_up(upstream: Upstream) -> None:
    """Stop it, and end what its loop still does: connections that were never ready, in a handshake."""
    await upstream.stop()
    await wind_up()
