"""The connections to one origin: those in use, those that wait for work, and the calls that wait for one."""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, NamedTuple

from router_core.gateway.reply import Phase, UpstreamFailure
from router_core.gateway.transport.answer import Names
from router_core.gateway.transport.connection import Connection
from router_core.gateway.transport.dial import Dialer
from router_core.gateway.transport.last_head import LastHead
from router_core.gateway.transport.protocol import Origin
from router_core.gateway.values import Timeouts

__all__ = ["Lane", "LaneStats", "Limits"]

_NEVER: Final = float("inf")
_GOLDEN: Final = 0.6180339887498949


@dataclass(frozen=True, slots=True)
class Limits:
    """What a lane may hold."""

    max_connections: int
    max_idle: int
    idle_timeout: float
    max_age: float
    max_body: int


class LaneStats(NamedTuple):
    """Counts of one moment."""

    open: int
    """Connections, those being opened among them."""
    idle: int
    in_use: int
    waiting: int
    """Calls without a connection, because there are as many as there may be."""


class _Waiter(NamedTuple):
    granted: asyncio.Future[Connection | None]
    """A connection, or None: leave to open one."""
    due: float
    deadline: float


class Lane:
    """Hands out connections to one origin, the one that was used last first; calls wait in order."""

    def __init__(
        self, origin: Origin, limits: Limits, dialer: Dialer, names: Names, active: Callable[[], None]
    ) -> None:
        """``active`` is called when there is something that ``sweep`` has to look after."""
        self.origin = origin
        self.idle: list[Connection] = []
        self._limits = limits
        self._dialer = dialer
        self._names = names
        self._last = LastHead()
        self._active = active
        self._size = 0
        """Connections open, being opened, and granted to be."""
        self._connections: set[Connection] = set()
        self._closing: set[Connection] = set()
        self._waiters: deque[_Waiter] = deque()
        self._opened = 0
        self._shut = False
        self._awake_until = _NEVER
        """When everything idle is too old, unless ``sweep`` was here before."""

    @property
    def empty(self) -> bool:
        """Whether there is nothing to look after."""
        return not (self._size or self._waiters or self._closing)

    def stats(self) -> LaneStats:
        """Count."""
        idle = len(self.idle)
        return LaneStats(self._size, idle, self._size - idle, len(self._waiters))

    def take(self, now: float) -> Connection | None:
        """Return a connection that waits for work, if there is one."""
        idle = self.idle
        awake = now < self._awake_until
        while idle:
            connection = idle.pop()
            if awake and connection.due > now and connection.usable:
                return connection
            # This process was asleep, and so the sweep was. A network forgets, and then nobody answers.
            connection.drop()
        return None

    async def acquire(self, timeouts: Timeouts, deadline: float, *, fresh: bool = False) -> Connection:
        """Return a connection that is ready; ``fresh``: one that was never used."""
        self._active()
        now = asyncio.get_running_loop().time()
        self._awake_until = now + self._limits.idle_timeout
        due = now + timeouts.connect
        while not self._shut:
            if self._size >= self._limits.max_connections and self.idle:
                # Only one that is fresh will do: make room for it.
                self.idle[0].drop()
            if self._size < self._limits.max_connections:
                self._size += 1
                return await self._open(due, deadline)
            granted = await self._wait(_Waiter(asyncio.get_running_loop().create_future(), due, deadline))
            if granted is None:
                return await self._open(due, deadline)
            if granted.usable:
                if not fresh:
                    return granted
                granted.drop()
        raise UpstreamFailure("unreachable", "connect", "the gateway is shutting down")

    def sweep(self, now: float) -> None:
        """Do what is due."""
        limits = self._limits
        self._awake_until = now + limits.idle_timeout
        for connection in list(self._connections):
            if connection.heard:
                connection.stay(now)
            if connection.due <= now:
                connection.expire(now)
            elif connection.retires <= now:
                connection.retire()
        surplus = len(self.idle) - limits.max_idle
        for place, connection in enumerate(list(self.idle)):
            if connection.due == _NEVER:
                connection.due = now + limits.idle_timeout
            elif place < surplus:
                # Idle since the last time already, so that a burst closes none that the next one needs.
                connection.drop()
        while self._waiters and self._overdue(self._waiters[0], now):
            self._waiters.popleft()

    def shut(self) -> None:
        """Close every connection and refuse every call."""
        self._shut = True
        failure = "the gateway is shutting down"
        for waiter in self._waiters:
            if not waiter.granted.done():
                waiter.granted.set_exception(UpstreamFailure("unreachable", "connect", failure))
        self._waiters.clear()
        for connection in list(self._connections):
            connection.abandon(failure)

    # What a connection reports.

    def released(self, connection: Connection) -> None:
        """Give it to whoever waits longest."""
        waiters = self._waiters
        while waiters:
            granted = waiters.popleft().granted
            if not granted.done():
                granted.set_result(connection)
                return
        self.idle.append(connection)

    def gone(self, connection: Connection) -> None:
        """Forget it; another may be opened in its place."""
        if connection in self._connections:
            self._connections.remove(connection)
            self._closing.add(connection)
            if connection in self.idle:
                self.idle.remove(connection)
            self._free()

    def closed(self, connection: Connection) -> None:
        """Forget it wholly."""
        self._closing.discard(connection)

    def _free(self) -> None:
        """Pass on the leave to have one connection."""
        while self._waiters:
            granted = self._waiters.popleft().granted
            if not granted.done():
                granted.set_result(None)
                return
        self._size -= 1

    def _make(self, sock: socket.socket) -> Connection:
        # Spread evenly, so that those opened together are not replaced together.
        self._opened += 1
        age = self._limits.max_age * (0.75 + self._opened * _GOLDEN % 1 / 2)
        tls = self.origin.scheme == "https"
        return Connection(
            self, self._names, self._last, self._limits.max_body, sock, tls=tls, max_age=age
        )  # fmt: skip

    async def _open(self, due: float, deadline: float) -> Connection:
        try:
            connection = await self._dialer.dial(self.origin, self._make, due, deadline)
        except BaseException:
            self._free()
            raise
        if self._shut or not connection.usable:
            connection.drop()
            self._free()
            raise UpstreamFailure(
                "reset", "connect", f"{self.origin.host}:{self.origin.port} hung up at once"
            )
        self._connections.add(connection)
        return connection

    async def _wait(self, waiter: _Waiter) -> Connection | None:
        self._waiters.append(waiter)
        granted = waiter.granted
        try:
            return await granted
        except (asyncio.CancelledError, GeneratorExit):
            if granted.cancelled():
                with suppress(ValueError):  # passed over in the meantime
                    self._waiters.remove(waiter)
            elif granted.exception() is None:
                self._give_back(granted.result())
            raise

    def _give_back(self, granted: Connection | None) -> None:
        """Pass on what came too late."""
        if granted is None:
            self._free()
        elif granted.usable:
            self.released(granted)

    def _overdue(self, waiter: _Waiter, now: float) -> bool:
        """Turn away one that waits for too long; returns whether it is gone."""
        if waiter.granted.done():
            return True
        if now < min(waiter.due, waiter.deadline):
            return False
        phase: Phase = "total" if waiter.deadline <= waiter.due else "connect"
        text = f"no connection to {self.origin.host} became free"
        waiter.granted.set_exception(UpstreamFailure("busy", phase, text))
        return True
