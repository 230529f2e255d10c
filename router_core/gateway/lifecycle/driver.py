"""What the lifecycle needs of a provider."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from router_core.gateway.lifecycle.states import State

__all__ = ["EndpointDriver", "ManagementError", "Seen"]


class ManagementError(Exception):
    """A management API did not do what it was asked. The text never holds a credential."""

    def __init__(self, message: str, *, transient: bool = True, status: int = 0) -> None:
        super().__init__(message)
        self.transient = transient
        """Whether asking again later may help."""
        self.status = status


@dataclass(frozen=True, slots=True)
class Seen:
    """What a provider says of an endpoint, in our words."""

    state: State
    sub: str = ""
    """The provider's own word: ``paused`` is woken otherwise than ``scaledToZero``."""
    url: str = ""
    """Where inference goes; empty where the provider does not say."""
    message: str = ""
    serving: bool | None = None
    """Whether calls may be sent. None: nothing is known that was not known before."""
    timer: float | None = None
    """Seconds of idleness after which the provider itself puts it to sleep; None: it does not."""


class EndpointDriver(Protocol):
    """One endpoint at its provider. Every method but ``doubt`` raises ManagementError."""

    provider: str
    url: str
    """Where inference goes, as far as it is known without asking; else empty."""

    async def look(self) -> Seen:
        """Return how it stands."""

    async def wake(self, sub: str, attempt: int) -> None:
        """Order it to start, and do not wait; ``sub`` is what was last seen, ``attempt`` counts from 1."""

    async def sleep(self, *, pause: bool) -> None:
        """Order it to stop. With ``pause`` it stays down until ``wake``, whoever calls it."""

    async def push_timer(self, seconds: float) -> bool:
        """Have the provider put it to sleep when it is idle; False where the provider cannot, or did not."""

    async def answers(self) -> bool:
        """Return whether it answers calls, without asking the management API. May wake it."""

    def doubt(self) -> None:
        """Take nothing for granted at the next look: a call found it not running."""
