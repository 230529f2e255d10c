"""Take the address before anything is started, so that one that is taken is said in one line."""

from __future__ import annotations

import errno
import socket
from typing import Final

from router_core.errors import Misconfigured

__all__ = ["bind"]

_ABSENT: Final = frozenset({errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT})
"""A name like localhost may stand for an IPv6 address that this machine does not have."""


def bind(host: str, port: int) -> list[socket.socket]:
    """Return a bound socket for every address of ``host``; raises Misconfigured when there is none.

    They do not listen yet: until the app has started, callers are refused rather than kept waiting.
    """
    name = host.strip("[]")
    try:
        found = socket.getaddrinfo(name or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise _refused(host, port, error) from None
    bound: list[socket.socket] = []
    failure: OSError | None = None
    for family, kind, protocol, _, address in dict.fromkeys(found):
        try:
            bound.append(_one(family, kind, protocol, address, port or _port(bound)))
        except OSError as error:
            if error.errno not in _ABSENT:
                for sock in bound:
                    sock.close()
                raise _refused(host, port, error) from None
            failure = error
    if not bound:
        raise _refused(host, port, failure or OSError("no such address"))
    return bound


def _one(family: int, kind: int, protocol: int, address: tuple[object, ...], port: int) -> socket.socket:
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            # a socket of its own for each family: the behaviour must not depend on a system setting
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind((address[0], port, *address[2:]))
    except OSError:
        sock.close()
        raise
    return sock


def _port(bound: list[socket.socket]) -> int:
    """With port 0 every address gets the port that the first one was given."""
    return int(bound[0].getsockname()[1]) if bound else 0


def _refused(host: str, port: int, error: OSError) -> Misconfigured:
    return Misconfigured(f"cannot listen on {host}:{port}: {error.strerror or error}")
