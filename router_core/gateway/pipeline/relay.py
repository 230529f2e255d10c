"""A stream on its way to the caller: an attempt that is still in flight."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from router_core.gateway.accounting.tokens import estimate_cut
from router_core.gateway.call import Attempt, Call, Usage
from router_core.gateway.outcome import CANCELLED, OK, Outcome
from router_core.gateway.reply import Reply
from router_core.gateway.resilience.breaker import Permit

if TYPE_CHECKING:
    from router_core.gateway.select.candidate import Candidate
    from router_core.gateway.streams.gate import Held

__all__ = ["Finish", "Relay"]

Finish = Callable[[Call, "Candidate", Attempt, Permit, Outcome, "Usage | None"], None]

_INTERRUPTED: Final = Outcome("unclear", "stop", failure=True, safe=False, message="the stream broke off")


class Relay:
    """Passes chunks on; when they end, or nobody wants them any more, the attempt ends with them."""

    __slots__ = ("_attempt", "_call", "_candidate", "_chunks", "_finish", "_held", "_permit", "_reply")

    def __init__(self, call: Call, candidate: Candidate, attempt: Attempt, reply: Reply, held: Held) -> None:
        self._call = call
        self._candidate = candidate
        self._attempt = attempt
        self._reply = reply
        self._held = held
        self._chunks = held.chunks
        self._permit: Permit | None = None
        self._finish: Finish | None = None

    def carry(self, permit: Permit, finish: Finish) -> None:
        """Take over what the attempt holds."""
        self._permit = permit
        self._finish = finish

    def __aiter__(self) -> Relay:
        return self

    async def __anext__(self) -> bytes:
        try:
            return await self._chunks.__anext__()
        except StopAsyncIteration:
            self._end(OK if self._held.complete else self._held.failure or _INTERRUPTED)
            raise

    def tap(self, sink: Callable[[bytes], bool]) -> None:
        """Offer pieces to ``sink`` as they come; what it does not take is iterated over."""
        self._held.tap(sink)

    @property
    def tapped(self) -> int:
        """Bytes that the sink has taken."""
        return self._held.tapped

    async def aclose(self) -> None:
        """End the attempt, and the call at the upstream where it has not ended by itself."""
        try:
            await self._reply.aclose()
        finally:
            self._end(OK if self._held.complete else CANCELLED)

    def _end(self, outcome: Outcome) -> None:
        finish, self._finish = self._finish, None
        if finish is not None and self._permit is not None:
            finish(self._call, self._candidate, self._attempt, self._permit, outcome, self._usage())

    def _usage(self) -> Usage | None:
        """Return what the upstream counted, or an estimate where the stream ended before it told."""
        held = self._held
        usage = held.usage()
        return estimate_cut(self._call, held.text_bytes) if usage is None else usage
