"""What the kernel knows about a connection: whether the other side has received what we sent."""

from __future__ import annotations

import socket
import struct
import sys
from typing import Final

__all__ = ["never_read", "open_socket"]

_TCP_INFO: Final = 11
_UNTIL_RETRANSMITTED: Final = 216
"""Bytes of Linux's ``struct tcp_info`` up to and including ``tcpi_bytes_retrans`` (4.19 and later)."""
_KEEP_IDLE: Final = 30
"""Seconds of silence after which the kernel asks whether the other side still lives."""


def open_socket(family: int) -> socket.socket:
    """Open a socket that connects, and later reads and writes, without blocking."""
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setblocking(False)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if sys.platform == "linux":
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _KEEP_IDLE)
    return sock


def never_read(sock: socket.socket, size: int, before: int | None, *, closed: bool) -> bool:
    """Return whether it is certain that nobody has read the last ``size`` bytes that were written.

    That is so when none of them left this machine: no more was ever sent than what had been written
    ``before`` them (None: unknown, as under TLS). And it is so when the other side has closed (its end of
    stream was seen: ``closed``) and has acknowledged none of them: the end acknowledges all that had arrived
    until then, and what arrives later is thrown away. After a bare reset nothing else is certain. Systems
    that do not tell: False.
    """
    if sys.platform != "linux":
        return False
    try:
        info = sock.getsockopt(socket.IPPROTO_TCP, _TCP_INFO, _UNTIL_RETRANSMITTED)
    except OSError:
        return False
    if len(info) < _UNTIL_RETRANSMITTED:
        return False
    (acknowledged,) = struct.unpack_from("=Q", info, 120)
    sent, again = struct.unpack_from("=QQ", info, 200)
    if before is not None and sent - again <= before:
        return True
    # The first byte acknowledged is that of the handshake, which is not among those sent.
    return closed and bool(sent - again - max(acknowledged - 1, 0) >= size)
