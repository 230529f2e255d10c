"""What the layers hand to each other: one request on its way in and what has been learned about it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from math import inf
from typing import TYPE_CHECKING, Protocol, cast

from router_core.http.message import Request, Response
from router_core.types import Principal

if TYPE_CHECKING:
    from router_core.routing.route import Route
    from router_core.security.audit import Draft

__all__ = ["Admission", "Answered", "Authenticator", "Dispatch", "Exchange", "Gate", "Match", "Matcher",
           "Toll", "pay"]  # fmt: skip


class Match(Protocol):
    """The route of a request and the values in its path."""

    @property
    def route(self) -> Route:
        """The route."""

    @property
    def path_params(self) -> Mapping[str, str]:
        """Values of the path's parameters."""


class Matcher(Protocol):
    """The match table."""

    def match(self, method: str, path: str) -> Match:
        """Return the match; raises NotFound or MethodNotAllowed."""


class Authenticator(Protocol):
    """Finds out who is asking.

    It may offer a shorter way to callers that it knows, or both: ``identify(request) -> Principal``, where
    nothing has ever to be waited for, and ``recall(request) -> (Principal, until) | None``, where None means
    that it has to ask first. ``until`` is by the app's monotonic clock: so long what it says holds of every
    request with the same head. With ``identify`` that is for good where ``lasting`` is true.
    """

    async def authenticate(self, request: Request) -> Principal:
        """Return the caller; raises Unauthorized."""


class Exchange:
    """One request, from its arrival to its answer. Mutable, and private to the stack."""

    __slots__ = ("counted", "draft", "error", "left", "match", "principal", "request", "until")

    def __init__(self, request: Request, match: Match | None = None) -> None:
        self.request = request
        self.match = match
        self.principal: Principal | None = None
        """Set when authentication is configured."""
        self.until = inf
        """As long as who is asking is believed to be so, by the monotonic clock."""
        self.draft: Draft | None = None
        """What is known of the change that it makes, where that is written down."""
        self.counted = False
        """Whether the rate limit knows of it."""
        self.left = -1
        """How many requests the caller has left, where that is little."""
        self.error: BaseException | None = None
        """What the answer was made from, if it is an error."""

    @property
    def remarkable(self) -> bool:
        """Whether audit or limit may have something to do with its answer."""
        return self.draft is not None or self.error is not None or self.left >= 0


class Answered(Exception):
    """Raised by a gate that has the answer itself."""

    def __init__(self, response: Response) -> None:
        super().__init__()
        self.response = response


class Admission:
    """What the gates say to every request with the same head: which route it leads to, and who asks."""

    __slots__ = ("call", "match", "principal", "toll", "until")

    def __init__(
        self, match: Match, principal: Principal | None,
        call: Callable[[Request], Awaitable[Response]] | None = None, until: float = inf,
        toll: Toll | None = None,
    ) -> None:  # fmt: skip
        self.match = match
        self.principal = principal
        self.until = until
        """By the monotonic clock: whoever asks later is judged again (``Stack.admitted`` sees to that)."""
        self.toll = toll
        """What counts each of them."""
        self.call = call
        """Answers such a request, where there is less to do than ``Dispatch`` does."""


Toll = Callable[[], "int | Awaitable[int]"]
"""Counts a request, and says how many are left (-1: enough); raises RateLimited."""
Dispatch = Callable[[Request, "Route"], Awaitable[Response]]
"""Bind, run, and turn the result into an answer; errors are raised."""
Gate = Callable[[Exchange], Awaitable[None] | None]
"""Raises what refuses a request; an awaitable where it has to wait to find out."""


def pay(toll: Toll, exchange: Exchange) -> Awaitable[None] | None:
    """Count a request; an awaitable where other processes have to be asked. Raises RateLimited."""
    left = toll()
    if type(left) is int:
        exchange.left = left
        return None
    return _paid(cast("Awaitable[int]", left), exchange)


async def _paid(coming: Awaitable[int], exchange: Exchange) -> None:
    exchange.left = await coming
