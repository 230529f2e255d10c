"""What comes back from an upstream, and the ways in which nothing does."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Literal

import msgspec

__all__ = ["FailureKind", "Phase", "Reply", "UpstreamFailure"]

FailureKind = Literal[
    "refused", "unreachable", "dns", "tls", "timeout", "reset", "malformed", "too_large", "busy"
]
"""``busy``: nothing was tried, as this process has as many connections there as it may have."""
Phase = Literal["connect", "tls", "dns", "send", "first_byte", "body", "total"]


class UpstreamFailure(Exception):
    """No answer, or one that cannot be used.

    ``sent``: some of the request may have reached the upstream, so that it may have done the work.
    ``started``: some of the answer had come.
    """

    def __init__(
        self, kind: FailureKind, phase: Phase, message: str = "", *, sent: bool = False, started: bool = False
    ) -> None:  # fmt: skip
        super().__init__(message or f"{kind} ({phase})")
        self.kind = kind
        self.phase = phase
        self.sent = sent
        self.started = started


class Reply(msgspec.Struct, eq=False):
    """One answer of an upstream, in the shape of OpenAI whatever the upstream speaks.

    Exactly one of ``body`` and ``chunks`` is there: whole answers come as ``body``, event streams as
    ``chunks`` (raw bytes as they came, not cut at events). Whoever takes a reply with ``chunks`` has to
    ``aclose`` it: that ends the call at the upstream unless all of it was read.
    """

    status: int
    headers: Mapping[str, str]
    """Names in lower case; of equal names the first."""
    body: bytes | None = None
    chunks: AsyncIterator[bytes] | None = None
    secrets: tuple[str, ...] = ()
    """Of a stream: what we said to prove who we are, which no error in it may repeat to the caller."""

    @property
    def content_type(self) -> str:
        """The media type, in lower case and without parameters."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()

    async def aclose(self) -> None:
        """Let go of the upstream; a stream that was not read to its end is cut off there."""
        aclose = getattr(self.chunks, "aclose", None)
        if aclose is not None:
            await aclose()
