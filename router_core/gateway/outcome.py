"""What became of an attempt, judged once: retries, health and accounting all read this judgement."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

__all__ = ["CANCELLED", "KINDS", "OK", "Kind", "Move", "Outcome"]

Kind = Literal[
    "ok", "cancelled", "client_error", "auth", "not_found", "rate_limited", "overloaded", "server_error",
    "unclear", "connect", "timeout", "malformed", "context_window", "content_policy",
]  # fmt: skip
Move = Literal["done", "stop", "retry", "context", "policy"]

KINDS: Final[tuple[Kind, ...]] = (
    "ok", "cancelled", "client_error", "auth", "not_found", "rate_limited", "overloaded", "server_error",
    "unclear", "connect", "timeout", "malformed", "context_window", "content_policy",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Outcome:
    """One judgement."""

    kind: Kind
    move: Move
    """done: answer with it. stop: answer with it, nobody else would do better. retry: another deployment may
    do better. context, policy: models of that fallback chain may do better."""
    failure: bool = False
    """Whether it speaks against the deployment (circuit breaker, ejection)."""
    safe: bool = True
    """Known not to have done the work, so that it may be tried again without ``RetryPolicy.unclear``."""
    cooldown: float = 0.0
    """Seconds for which the deployment asked to be left alone (Retry-After), or should be; 0: none."""
    status: int = 0
    """HTTP status of the upstream; 0 without an answer."""
    message: str = ""
    """For logs and for our own error; never holds what a caller or upstream wrote unbounded."""
    reached: bool = True
    """Whether it cost the upstream anything. What was refused at its door did not: another attempt is no load
    upon load, so it is neither counted against ``RetryPolicy.max_attempts`` nor against the budget."""


OK: Final = Outcome("ok", "done", status=200)
CANCELLED: Final = Outcome("cancelled", "stop")
"""The caller went away: says nothing about the deployment."""
