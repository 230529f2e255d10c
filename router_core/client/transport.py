"""What carries a call to a service: a small protocol, so that tests need no sockets."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Final, Protocol

import pydantic_core

from router_core.client.errors import BadAnswer
from router_core.errors import RouterError
from router_core.http.message import Headers

__all__ = ["MAX_BODY", "Call", "Payload", "Reply", "Transport"]

MAX_BODY: Final = 256 * 1024 * 1024
"""Bytes of one answer that are read into memory; a stream has no such limit."""


class Payload(Protocol):
    """A body that can be sent again from its beginning: a retry must send the same bytes."""

    @property
    def size(self) -> int | None:
        """Length in bytes, or None when it is not known beforehand."""

    def chunks(self) -> AsyncIterator[bytes]:
        """Return the bytes, each time from the beginning."""


@dataclass(frozen=True, slots=True)
class Call:
    """One request that goes out."""

    method: str
    url: str
    """Absolute."""
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes | Payload = b""
    silence: float = 30.0
    """Seconds without a byte from the peer after which the connection counts as dead."""


class Reply(Protocol):
    """One answer, its body not read yet."""

    status: int
    headers: Headers

    def chunks(self) -> AsyncIterator[bytes]:
        """Return the body as it arrives. Raises ConnectionCut, UpstreamTimeout."""

    async def aclose(self) -> None:
        """Let go of the connection; safe to call twice."""


class Transport(Protocol):
    """Sends calls. It follows no redirects, except of GET, and repeats nothing by itself."""

    async def send(self, call: Call) -> Reply:
        """Send one call and return once the head of the answer is there.

        Raises CannotConnect when nothing was sent, ConnectionCut or UpstreamTimeout when the peer may have
        acted on it.
        """

    async def aclose(self) -> None:
        """Close what is open."""


async def read(reply: Reply, limit: int = MAX_BODY) -> bytes:
    """Return the whole body and let go of the connection; raises BadAnswer beyond ``limit``."""
    parts: list[bytes] = []
    size = 0
    try:
        async for chunk in reply.chunks():
            size += len(chunk)
            if size > limit:
                raise BadAnswer(f"the answer is larger than {limit} bytes, which is what this client reads")
            parts.append(chunk)
    finally:
        await reply.aclose()
    return b"".join(parts)


async def read_some(reply: Reply, limit: int) -> bytes:
    """Return at most the first ``limit`` bytes and let go; a cut body gives what came."""
    parts: list[bytes] = []
    left = limit
    try:
        async for chunk in reply.chunks():
            parts.append(chunk[:left])
            left -= len(chunk)
            if left <= 0:
                break
    except RouterError:
        pass  # what came is all there is
    finally:
        await reply.aclose()
    return b"".join(parts)


def parse_json(data: bytes, what: str) -> Any:
    """Decode JSON that a service sent; raises BadAnswer that says what was expected."""
    try:
        return pydantic_core.from_json(data)
    except ValueError:
        start = data[:80].decode("utf-8", "replace")
        raise BadAnswer(f"{what} should be JSON and begins with {start!r}") from None
