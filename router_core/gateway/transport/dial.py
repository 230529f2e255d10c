"""Opens connections: a name becomes addresses, one of them a socket, and that a trusted connection."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from router_core.gateway.reply import Phase, UpstreamFailure
from router_core.gateway.transport.connection import Connection
from router_core.gateway.transport.protocol import Origin
from router_core.gateway.transport.resolve import Address, Resolver
from router_core.gateway.transport.tcp import open_socket
from router_core.gateway.transport.tls import Contexts

__all__ = ["Dialer"]

_LEAST: Final = 0.5
"""Seconds that an address gets at least, where several share the time there is."""
_LATE: Final = 0.25
"""Seconds after its time at which a timer says that this process stood still, and not the other side."""
_DOUBT: Final = 30.0
"""Seconds for which an address that did not answer is tried after the others."""


class Dialer:
    """Opens connections to any origin."""

    def __init__(self, resolver: Resolver, contexts: Contexts) -> None:
        self._resolver = resolver
        self._contexts = contexts
        self._turn = -1
        self._doubtful: dict[Address, float] = {}
        """Addresses that did not answer, and until when that is remembered."""

    async def dial(
        self, origin: Origin, make: Callable[[socket.socket], Connection], due: float, deadline: float
    ) -> Connection:
        """Return an open connection before ``due``; raises UpstreamFailure.

        A ``due`` that passed while this process stood still says nothing: it is tried for as long once more.
        """
        loop = asyncio.get_running_loop()
        span = due - loop.time()
        try:
            return await self._dial_once(origin, make, due, deadline)
        except UpstreamFailure as failure:
            now = loop.time()
            if failure.kind != "timeout" or now - due < _LATE or now >= deadline:
                raise
        return await self._dial_once(origin, make, loop.time() + span, deadline)

    async def _dial_once(
        self, origin: Origin, make: Callable[[socket.socket], Connection], due: float, deadline: float
    ) -> Connection:
        attempt = _Attempt(origin)
        try:
            async with asyncio.timeout_at(min(due, deadline)):
                return await self._dial(attempt, make, due)
        except TimeoutError:
            phase: Phase = "total" if deadline <= due else attempt.phase
            raise UpstreamFailure("timeout", phase, f"{origin.host}:{origin.port} took too long") from None
        except (OSError, ValueError, OverflowError) as error:
            raise attempt.failure(error) from None

    async def _dial(
        self, attempt: _Attempt, make: Callable[[socket.socket], Connection], due: float
    ) -> Connection:
        origin = attempt.origin
        context: ssl.SSLContext | None = None
        if origin.scheme == "https":
            attempt.phase = "tls"
            context = await self._contexts.get(origin.ca_file)
        if not 0 < origin.port < 65536:
            raise ValueError("no such port")
        attempt.phase = "dns"
        addresses = await self._resolver.addresses(origin.host, origin.port)
        attempt.phase = "connect"
        try:
            sock = await self._connect(addresses, due)
        except BaseException:
            self._resolver.doubt(origin.host, origin.port)
            raise
        attempt.phase = "connect" if context is None else "tls"
        connection: Connection | None = None
        try:
            connection = make(sock)
            await asyncio.get_running_loop().create_connection(
                lambda: connection, sock=sock, ssl=context,
                server_hostname=origin.host if context is not None else None,
            )  # fmt: skip
        except BaseException:
            sock.close()
            raise
        return connection

    async def _connect(self, addresses: tuple[Address, ...], due: float) -> socket.socket:
        """Connect to the first address that answers; the time there is, is shared among those left."""
        loop = asyncio.get_running_loop()
        last: OSError | None = None
        for number, address in enumerate(self._in_turn(addresses, loop.time())):
            now = loop.time()
            share = max((due - now) / (len(addresses) - number), _LEAST)
            try:
                async with asyncio.timeout_at(now + share):
                    return await _connect_one(address)
            except OSError as error:  # TimeoutError is one
                last = error
                self._doubtful[address] = loop.time() + _DOUBT
        raise last or OSError("no address")

    def _in_turn(self, addresses: tuple[Address, ...], now: float) -> list[Address]:
        """Return the addresses of the preferred family in turn, then the others; the doubtful last."""
        if len(addresses) == 1:
            return list(addresses)
        family = addresses[0].family
        preferred = [each for each in addresses if each.family == family]
        self._turn = (self._turn + 1) % len(preferred)
        others = [each for each in addresses if each.family != family]
        ordered = preferred[self._turn :] + preferred[: self._turn] + others
        self._doubtful = {each: until for each, until in self._doubtful.items() if until > now}
        return sorted(ordered, key=self._doubtful.__contains__)


class _Attempt:
    """How far it has come."""

    def __init__(self, origin: Origin) -> None:
        self.origin = origin
        self.phase: Phase = "connect"

    def failure(self, error: OSError | ValueError | OverflowError) -> UpstreamFailure:
        """Return what went wrong, in our words."""
        where = f"{self.origin.host}:{self.origin.port}"
        match error:
            case socket.gaierror():
                return UpstreamFailure("dns", "dns", f"{where}: {error.strerror}")
            case ssl.SSLCertVerificationError():
                return UpstreamFailure("tls", "tls", f"{where}: {error.verify_message or error}")
            case ConnectionRefusedError():
                return UpstreamFailure("refused", self.phase, f"{where} refuses connections")
            case ConnectionError():
                return UpstreamFailure("reset", self.phase, f"{where} hung up")
            case _ if self.phase == "tls":
                return UpstreamFailure("tls", "tls", f"{where}: {error}")
            case _:
                return UpstreamFailure("unreachable", self.phase, f"{where}: {error}")


async def _connect_one(address: Address) -> socket.socket:
    sock = open_socket(address.family)
    try:
        await asyncio.get_running_loop().sock_connect(sock, address.target)
    except BaseException:
        with suppress(OSError):
            sock.close()
        raise
    return sock
