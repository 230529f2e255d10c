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

    Every try at the arm's own model counts, whoever saved the call afterwards: a canary that fails half of
    its tries is not excused by the next try, or by the baseline, answering. But a call that another model had
    a part in is tainted: how long it took, what it cost and what came out of it say nothing about the arm.
    """
    attempts = call.attempts
    if len(attempts) == 1 and attempts[0].outcome == "ok" and attempts[0].model_id == model_id:
        tally.answered(seconds, *_used(attempts))
        return
    own = [each for each in attempts if each.model_id == model_id]
    kinds = {each.outcome for each in own} - {"cancelled"}
    tainted = len(own) != len(attempts) or not own
    if not kinds:
        tally.tainted += tainted
        tally.cancelled += not tainted
        return
    if "ok" in kinds and not tainted:
        tally.answered(seconds, *_used(own))
    else:
        tally.n += 1
        tally.tainted += tainted
    if kinds - _REFUSED - {"ok"}:
        tally.errors += 1
    elif "ok" not in kinds:
        tally.refused += 1


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
