"""How bytes get to an upstream and back: the one seam between the gateway and HTTP."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from router_core.gateway.reply import Reply
from router_core.gateway.values import Timeouts

__all__ = ["MAX_BODY", "Origin", "Transport"]

MAX_BODY = 64 * 1024 * 1024
"""Bytes that a whole (not streamed) answer may have."""


class Origin(NamedTuple):
    """Where connections go. Equal origins share a pool."""

    scheme: str
    host: str
    port: int
    ca_file: str = ""
    """Certificates of a private authority, beside those of the system; verification itself is never off."""


class Transport(Protocol):
    """Sends requests and returns answers. One for a process and event loop, closed at shutdown alone."""

    async def send(
        self, origin: Origin, head: bytes, body: bytes, *, timeouts: Timeouts, deadline: float,
        stream: bool = False,
    ) -> Reply:  # fmt: skip
        """Send one request and return its answer.

        ``head`` is everything up to and including the empty line, ``content-length`` included (so it ends
        with two CRLF), ``body`` what follows. ``deadline`` is in seconds of ``loop.time()``. With ``stream``
        an answer of 2xx that is not JSON comes as ``chunks``, as soon as its head is there; everything else
        comes whole. Raises UpstreamFailure.
        """

    async def aclose(self) -> None:
        """Close every connection."""
