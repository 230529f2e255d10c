"""What the kernel knows about a connection: whether the other side has received what we sent."""

from __future__ import annotations

import socket
import struct
import sys
from typing import Final

__all__ = ["nothing_received", "open_socket"]

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


def nothing_received(sock: socket.socket, size: int) -> bool:
    """Return whether it is certain that not one of the last ``size`` bytes written reached the other side.

    To be asked only of a connection that the other side has closed (its end of stream was seen): that
    message acknowledges everything which had arrived before it, so what is unacknowledged then came too
    late to be read by anybody. After a bare reset nothing is certain. Systems that do not tell: False.
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
    # The first byte acknowledged is that of the handshake, which is not among those sent.
    return bool(sent - again - max(acknowledged - 1, 0) >= size)
