"""Names to addresses: remembered for a while, asked for once at a time, never more than a few at once."""

from __future__ import annotations

import asyncio
import socket
from typing import Final, NamedTuple

__all__ = ["Address", "Resolver"]

_PARALLEL: Final = 3
"""Fewer than the threads that event loops have for this and other work."""
_STALE: Final = 600.0
"""Seconds for which old addresses serve while the resolver itself is ill."""


class Address(NamedTuple):
    """Where a socket connects to."""

    family: int
    target: tuple[str, int] | tuple[str, int, int, int] | tuple[int, bytes]


class _Known(NamedTuple):
    until: float
    addresses: tuple[Address, ...]
    error: socket.gaierror | None
    learnt: float


class Resolver:
    """A cache over ``loop.getaddrinfo``, which can hang in threads that nobody can stop: hence the bounds."""

    def __init__(self, *, ttl: float = 30.0, negative_ttl: float = 1.0, max_names: int = 4096) -> None:
        self._ttl = ttl
        self._negative_ttl = negative_ttl
        self._max_names = max_names
        self._known: dict[tuple[str, int], _Known] = {}
        self._running: dict[tuple[str, int], asyncio.Task[_Known]] = {}
        self._slots = asyncio.Semaphore(_PARALLEL)

    async def addresses(self, host: str, port: int) -> tuple[Address, ...]:
        """Return all addresses of a name, in the order of preference; raises ``socket.gaierror``."""
        literal = _literal(host, port)
        if literal is not None:
            return (literal,)
        key = host, port
        known = self._known.get(key)
        if known is None or known.until <= asyncio.get_running_loop().time():
            known = await self._shared(key)
        if known.error is not None:
            # A new one: a traceback grows on an exception each time it is raised.
            raise socket.gaierror(*known.error.args)
        return known.addresses

    def doubt(self, host: str, port: int) -> None:
        """Ask again soon: none of the addresses could be connected to."""
        known = self._known.get((host, port))
        if known is not None and known.error is None:
            self._known[host, port] = known._replace(
                until=min(known.until, known.learnt + self._negative_ttl)
            )

    async def aclose(self) -> None:
        """Wait for nobody any more."""
        running = list(self._running.values())
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    async def _shared(self, key: tuple[str, int]) -> _Known:
        """Look a name up once for all who ask now; one who is cancelled does not spoil it for the others."""
        task = self._running.get(key)
        if task is None:
            task = asyncio.get_running_loop().create_task(self._look_up(key))
            self._running[key] = task
            task.add_done_callback(lambda _: self._running.pop(key, None))
        return await asyncio.shield(task)

    async def _look_up(self, key: tuple[str, int]) -> _Known:
        loop = asyncio.get_running_loop()
        host, port = key
        async with self._slots:
            try:
                found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
                known = self._learnt(tuple(Address(each[0], each[4]) for each in found), loop.time())
            except socket.gaierror as error:
                known = self._failed(key, error, loop.time())
            except UnicodeError:
                # A label that is empty or longer than 63 characters is no name at all.
                known = self._failed(key, socket.gaierror(socket.EAI_NONAME, "not a host name"), loop.time())
        if len(self._known) >= self._max_names:
            self._known.clear()
        self._known[key] = known
        return known

    def _learnt(self, addresses: tuple[Address, ...], now: float) -> _Known:
        if not addresses:
            raise socket.gaierror(socket.EAI_NONAME, "no address")
        return _Known(now + self._ttl, tuple(dict.fromkeys(addresses)), None, now)

    def _failed(self, key: tuple[str, int], error: socket.gaierror, now: float) -> _Known:
        """Judge a failure: a resolver that is ill does not take away the addresses that it gave before."""
        before = self._known.get(key)
        until = now + self._negative_ttl
        if error.errno != socket.EAI_NONAME and before is not None and now - before.learnt < _STALE:
            return before._replace(until=until)
        return _Known(until, (), error, float("-inf"))


def _literal(host: str, port: int) -> Address | None:
    """Return the address that a host already is."""
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, host)
        except (OSError, UnicodeError, ValueError):
            continue
        return Address(family, (host, port) if family == socket.AF_INET else (host, port, 0, 0))
    return None
