"""Endpoints that nobody wakes or puts to sleep here."""

from __future__ import annotations

from router_core.gateway.lifecycle.driver import ManagementError, Seen
from router_core.gateway.lifecycle.states import State

__all__ = ["AlwaysAwake"]


class AlwaysAwake:
    """Counts as running, whatever happens to it: health is the matter of probes."""

    provider = "none"

    def __init__(self, url: str = "") -> None:
        self.url = url

    async def look(self) -> Seen:
        """Return running."""
        return Seen(State.RUNNING, serving=True)

    async def wake(self, sub: str, attempt: int) -> None:
        """Do nothing."""

    async def sleep(self, *, pause: bool) -> None:
        """Refuse."""
        raise ManagementError("it has no driver, so it cannot be put to sleep", transient=False, status=409)

    async def push_timer(self, seconds: float) -> bool:
        """Refuse."""
        return False

    async def answers(self) -> bool:
        """Return True."""
        return True

    def doubt(self) -> None:
        """Do nothing."""
