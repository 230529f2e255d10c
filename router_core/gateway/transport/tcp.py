"""What the kernel knows about a connection: whether the other side has received what we sent."""

from __future__ import annotations

import socket
import struct
import sys
from typing import Final

__all__ = ["KNOWS", "bytes_sent", "never_read", "open_socket", "predates"]

KNOWS: Final = sys.platform == "linux"
"""Whether this system counts what the other side has received."""
_TCP: Final = socket.IPPROTO_TCP
_TCP_INFO: Final = 11
_UNTIL_ACKNOWLEDGED: Final = 128
"""Bytes of Linux's ``struct tcp_info`` up to and including ``tcpi_bytes_acked``."""
_UNTIL_RETRANSMITTED: Final = 216
"""The same up to and including ``tcpi_bytes_retrans`` (4.19 and later)."""
_KEEP_IDLE: Final = 30
"""Seconds of silence after which the kernel asks whether the other side still lives."""


def open_socket(family: int) -> socket.socket:
    """Open a socket that connects, and later reads and writes, without blocking."""
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setblocking(False)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if KNOWS:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _KEEP_IDLE)
    return sock


def bytes_sent(sock: socket.socket) -> int:
    """Return how many bytes have left this machine, retransmissions not counted; -1 where nobody knows."""
    counts = _counts(sock)
    return counts[0] if counts is not None else -1


def never_read(sock: socket.socket, before: int, *, closed: bool) -> bool:
    """Return whether it is certain that nobody has read what was written after the first ``before`` bytes.

    That is so when nothing of it left this machine. And it is so when the other side has closed (its end of
    stream was seen: ``closed``) and has acknowledged none of it: the end acknowledges all that had arrived
    until then, and what arrives later is thrown away. After a bare reset nothing is certain of what was sent.
    Systems that do not tell: False.
    """
    counts = _counts(sock)
    if counts is None:
        return False
    sent, acknowledged = counts
    return sent == before or (closed and acknowledged <= before)


def predates(sock: socket.socket, before: int) -> bool:
    """Return whether what has just been received was sent before the other side had what we wrote last.

    Every segment says how much had arrived when it was sent, so an answer acknowledges its request.
    """
    try:
        info = sock.getsockopt(_TCP, _TCP_INFO, _UNTIL_ACKNOWLEDGED)
    except OSError:
        return False
    return len(info) == _UNTIL_ACKNOWLEDGED and 0 < int.from_bytes(info[120:], sys.byteorder) - 1 <= before


def _counts(sock: socket.socket) -> tuple[int, int] | None:
    """Return bytes sent and bytes acknowledged; None where the system does not count them."""
    if not KNOWS:
        return None
    try:
        info = sock.getsockopt(_TCP, _TCP_INFO, _UNTIL_RETRANSMITTED)
    except OSError:
        return None
    if len(info) < _UNTIL_RETRANSMITTED:
        return None
    (acknowledged,) = struct.unpack_from("=Q", info, 120)
    sent, again = struct.unpack_from("=QQ", info, 200)
    # The first byte acknowledged is that of the handshake, which is not among those sent; without it, this
    # is a system that has the structure and does not fill it in.
    return (sent - again, acknowledged - 1) if acknowledged else None
