"""The transport: HTTP/1.1 over connections of our own, for the whole process."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final

from router_core.gateway.reply import Reply, UpstreamFailure
from router_core.gateway.transport.answer import Names
from router_core.gateway.transport.connection import Coming, StaleConnection
from router_core.gateway.transport.dial import Dialer
from router_core.gateway.transport.lane import Lane, LaneStats, Limits
from router_core.gateway.transport.protocol import MAX_BODY, Origin, Transport
from router_core.gateway.transport.resolve import Resolver
from router_core.gateway.transport.tls import Contexts
from router_core.gateway.values import Timeouts
from router_core.http.taskless import own_task

__all__ = ["ConnectionPool"]


_ROUNDS: Final = 100


class ConnectionPool(Transport):
    """Keeps connections open between requests, and never more to one origin than allowed."""

    def __init__(
        self, *, max_per_origin: int = 512, max_idle: int = 64, idle_timeout: float = 15.0,
        max_age: float = 120.0, max_body: int = MAX_BODY, resolver: Resolver | None = None,
        tick: float = 0.05,
    ) -> None:  # fmt: skip
        """``tick``: seconds between two looks at what is due; no request has a timer of its own.
        ``max_age``: seconds until a connection is replaced, so that a name that moves is followed."""
        self._limits = Limits(max_per_origin, max_idle, idle_timeout, max_age, max_body)
        self._resolver = resolver or Resolver()
        self._dialer = Dialer(self._resolver, Contexts())
        self._names = Names()
        self._lanes: dict[Origin, Lane] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._tick = tick
        self._closed = False

    def ask(
        self, origin: Origin, head: bytes, body: bytes, timeouts: Timeouts, deadline: float, stream: bool
    ) -> Coming | None:  # fmt: skip
        """Send one request over a connection that waits for one; None: there is none, ``send`` opens one.

        Where nobody has read it (StaleConnection) it may be sent again.
        """
        loop = self._loop or self._begin()
        now = loop.time()
        if now >= deadline:
            raise UpstreamFailure("timeout", "total", "no time was left for this attempt")
        lane = self._lanes.get(origin)
        connection = None if lane is None else lane.take(now)
        return None if connection is None else connection.ask(head, body, timeouts, deadline, stream, now)

    async def send(
        self, origin: Origin, head: bytes, body: bytes, *, timeouts: Timeouts, deadline: float,
        stream: bool = False,
    ) -> Reply:  # fmt: skip
        """Send one request and return its answer."""
        fresh = False
        coming = self.ask(origin, head, body, timeouts, deadline, stream)
        while True:
            if coming is None:
                await own_task()
                lane = self._lanes.get(origin) or self._lane(origin)
                connection = await lane.acquire(timeouts, deadline, fresh=fresh)
                now = asyncio.get_running_loop().time()
                coming = connection.ask(head, body, timeouts, deadline, stream, now)
            try:
                return await coming
            except (asyncio.CancelledError, GeneratorExit):
                coming.forsake()
                raise
            except StaleConnection:
                # Once is enough: a connection that was never used cannot have been given up for being idle.
                if fresh:
                    raise
                fresh, coming = True, None

    def stats(self) -> Mapping[Origin, LaneStats]:
        """Count the connections to each origin, and the calls that wait for one."""
        return {origin: lane.stats() for origin, lane in self._lanes.items()}

    async def aclose(self) -> None:
        """Close every connection; calls that are under way fail."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for lane in self._lanes.values():
            lane.shut()
        await self._resolver.aclose()
        # What was aborted is closed by the event loop in its next rounds, TLS in some more.
        for _ in range(_ROUNDS):
            if all(lane.empty for lane in self._lanes.values()):
                break
            await asyncio.sleep(0)
        self._lanes.clear()

    def _begin(self) -> asyncio.AbstractEventLoop:
        self._loop = asyncio.get_running_loop()
        return self._loop

    def _lane(self, origin: Origin) -> Lane:
        if self._closed:
            raise UpstreamFailure("unreachable", "connect", "the transport is closed")
        lane = Lane(origin, self._limits, self._dialer, self._names, self._look_after)
        self._lanes[origin] = lane
        return lane

    def _look_after(self) -> None:
        """See to it that the sweep runs while there is anything to sweep."""
        if self._timer is None and self._loop is not None and not self._closed:
            self._timer = self._loop.call_later(self._tick, self._sweep)

    def _sweep(self) -> None:
        self._timer = None
        if self._loop is None:
            return
        now = self._loop.time()
        for origin, lane in list(self._lanes.items()):
            lane.sweep(now)
            if lane.empty:
                del self._lanes[origin]
        if self._lanes:
            self._look_after()
