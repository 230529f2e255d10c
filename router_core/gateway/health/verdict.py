"""What the answer to a probe says about a deployment."""

from __future__ import annotations

from typing import Final, NamedTuple

from router_core.gateway.outcome import Outcome
from router_core.gateway.reply import Reply, UpstreamFailure

__all__ = ["Verdict", "judge_failure", "judge_outcome", "judge_reply"]

_MAX_DETAIL: Final = 200
_TOO_BUSY: Final = 429
_LATE: Final = 408


class Verdict(NamedTuple):
    """One judgement of one probe."""

    up: bool
    detail: str
    wrong: str = ""
    """What an operator has to mend: it answers, so it is up, but not to a request like ours."""


def judge_reply(reply: Reply) -> Verdict:
    """Judge an answer to a probe that is free of charge."""
    status = reply.status
    if 200 <= status < 300:
        return Verdict(True, f"answered {status}")
    if status == _TOO_BUSY:
        return Verdict(True, "answered 429: too many requests")
    if status == _LATE or status >= 500:
        return Verdict(False, f"answered {status}")
    return Verdict(True, f"answered {status}", f"the probe is answered with {status}")


def judge_failure(failure: UpstreamFailure) -> Verdict:
    """Judge that there was no answer."""
    return Verdict(False, f"{failure.kind} ({failure.phase}): {failure}"[:_MAX_DETAIL])


def judge_outcome(outcome: Outcome) -> Verdict:
    """Judge a real call that was made as a probe."""
    if outcome.kind in ("ok", "rate_limited"):
        return Verdict(True, f"a call: {outcome.kind}")
    if outcome.failure and outcome.kind not in ("auth", "not_found"):
        return Verdict(False, f"a call: {outcome.kind} {outcome.message}"[:_MAX_DETAIL])
    return Verdict(True, f"a call: {outcome.kind}", f"a call made as a probe ends in {outcome.kind}")
