"""The seam for whatever limits calls: budgets, rates, quotas. Without limits there is none of it.

A call is admitted once, before anything is decided about it, and settled once, when all of its attempts have
ended: retries, fallbacks and hedges are parts of it, and so is a stream up to its last byte.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Protocol, TypeGuard

from router_core.gateway.call import Call, Usage

__all__ = ["Admission", "Permit", "has_to_wait", "settle"]


class Permit(Protocol):
    """What an admitted call holds. One of the two is called, once; neither may raise or wait."""

    def settle(self, cost_micros: int | None, usage: Usage | None, now: float) -> None:
        """Book what all attempts of the call have used and cost; None: no price is known for any of it."""

    def release(self, now: float) -> None:
        """Take it back: nothing was spent, because nobody was asked or what was asked came to nothing."""


class Admission(Protocol):
    """Judges calls before they are served."""

    def admit(self, call: Call, now: float) -> Permit | Awaitable[Permit | None] | None:
        """Return what the call has to hold, or None where no limit applies to it.

        An awaitable says that somebody else has to be asked; the call waits for it. Who is cancelled while
        waiting holds nothing. Raises HTTPError (429 and the like), here or when awaited, for a call that is
        refused. ``now`` is in seconds of ``loop.time()``, here and wherever the permit is told of the time.
        """


def has_to_wait(admitted: Permit | Awaitable[Permit | None] | None) -> TypeGuard[Awaitable[Permit | None]]:
    """Return whether an answer of ``Admission.admit`` is still to come."""
    return isinstance(admitted, Awaitable)


def settle(call: Call, now: float) -> None:
    """Give back what a call holds, with the sum of its attempts; a second time changes nothing."""
    permit: Permit | None = call.permit
    if permit is None:
        return
    call.permit = None
    used = [each for each in call.attempts if each.usage is not None]
    if not used:
        permit.release(now)
        return
    costs = [each.cost for each in used if each.cost is not None]
    usages = [each.usage for each in used if each.usage is not None]
    permit.settle(sum(costs) if costs else None, _total(usages), now)


def _total(usages: list[Usage]) -> Usage:
    if len(usages) == 1:
        return usages[0]
    return Usage(
        sum(each.input_tokens for each in usages),
        sum(each.output_tokens for each in usages),
        sum(each.cached_tokens for each in usages),
        sum(each.reasoning_tokens for each in usages),
        any(each.estimated for each in usages),
        sum(each.seconds for each in usages),
    )
