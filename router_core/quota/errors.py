"""What a caller is told who asks for more than there is."""

from __future__ import annotations

from typing import Final

from router_core.errors import RateLimited
from router_core.quota.cap import BUDGET, CONCURRENCY, Cap

__all__ = ["Exceeded"]

_SAYS: Final = {
    BUDGET: ("budget_exceeded", "what is left of its budget"),
    CONCURRENCY: ("concurrency_exceeded", "its limit of calls at once"),
}


class Exceeded(RateLimited):
    """A limit stands in the way. Nothing was taken of any limit."""

    def __init__(self, subject: str, cap: Cap, remaining: int, retry_after: float) -> None:
        code, what = _SAYS.get(cap.kind, ("rate_limited", "its limit by time"))
        super().__init__(f"this needs more than {what} ({cap.name})", retry_after=retry_after, code=code)
        self.subject = subject
        self.cap = cap
        self.remaining = remaining
