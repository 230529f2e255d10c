"""Hand the client certificate of a connection to the app: verified in the handshake, in no header."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from functools import partial
from typing import Any

from router_core.security.certificates import PEER, Peer, peer_of

__all__ = ["certified"]

Scope = MutableMapping[str, Any]
App = Callable[[Scope, Any, Any], Awaitable[None]]


def certified(protocol: type[Any]) -> type[Any]:
    """Return a protocol like this one whose scopes say who is at the other end."""

    class Certified(protocol):  # type: ignore[misc]
        """One connection of somebody with a certificate."""

        app: App
        _peer: Peer | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:
            """Look at the certificate: the handshake is over."""
            super().connection_made(transport)
            self._peer = _peer_at(transport)
            if self._peer is not None:
                self.app = partial(_told, self.app, self._peer)

        def scope_of(self, cycle: Any) -> dict[str, Any]:
            """Return the scope of a request that came through the door below ASGI."""
            scope: dict[str, Any] = super().scope_of(cycle)
            if self._peer is not None:
                scope["extensions"] = {**scope["extensions"], PEER: self._peer}
            return scope

    return Certified


async def _told(app: App, peer: Peer, scope: Scope, receive: Any, send: Any) -> None:
    # the extensions may be one dictionary for all connections
    scope["extensions"] = {**(scope.get("extensions") or {}), PEER: peer}
    await app(scope, receive, send)


def _peer_at(transport: asyncio.Transport) -> Peer | None:
    """Return whose certificate it is; the handshake refuses those that cannot be verified."""
    certificate = transport.get_extra_info("peercert")
    if not certificate:
        return None
    import ssl  # loaded long ago, where there is a certificate

    return peer_of(certificate, ssl.cert_time_to_seconds(certificate["notAfter"]))
