"""What a call that took part in a trial says about its arm."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from router_core.gateway.call import Attempt, Call
from router_core.gateway.trials.tally import Tally

__all__ = ["judge_call"]

_REFUSED: Final = frozenset({"client_error", "context_window", "content_policy"})
"""What a model takes for the caller's mistake."""


def judge_call(tally: Tally, call: Call, model_id: str, seconds: float) -> None:
    """Add a call that has ended to the tally of its arm, which is served by the model.

    What the arm's own model did counts, whoever helped out afterwards: a canary that fails half of its calls
    is not excused by the baseline answering them. But a call that others had a part in is tainted: how long
    it took, what it cost and what came out of it say nothing about the arm.
    """
    attempts = call.attempts
    own = attempts
    if len(attempts) != 1 or attempts[0].model_id != model_id:
        own = [each for each in attempts if each.model_id == model_id]
    if not own:
        tally.tainted += 1
        return
    kind = _kind(own)
    tainted = len(own) != len(attempts)
    if kind == "cancelled":
        tally.cancelled += 1
    elif kind in _REFUSED:
        tally.n += 1
        tally.refused += 1
        tally.tainted += tainted
    elif kind != "ok":
        tally.n += 1
        tally.errors += 1
        tally.tainted += tainted
    elif tainted:
        tally.tainted += 1
    else:
        tally.answered(seconds, *_used(own))


def _kind(own: Sequence[Attempt]) -> str:
    """Return how the arm's model did: well if any try was, else by the last that was not given up."""
    kinds = [each.outcome for each in own]
    if "ok" in kinds:
        return "ok"
    return next((kind for kind in reversed(kinds) if kind != "cancelled"), "cancelled")


def _used(own: Sequence[Attempt]) -> tuple[int | None, int]:
    """Return micro-dollars (None: no price is known for a part of it) and tokens."""
    cost: int | None = 0
    tokens = 0
    for each in own:
        usage = each.usage
        if usage is None:
            continue
        tokens += usage.input_tokens + usage.output_tokens
        cost = None if cost is None or each.cost is None else cost + each.cost
    return cost, tokens
