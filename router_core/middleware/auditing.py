"""The layer that has changes written down: requests to routes that ask for a right to manage something."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any, Final

from router_core.clock import Clock
from router_core.http.message import Request, Response
from router_core.middleware.exchange import Dispatch, Exchange, Match
from router_core.routing.permission import manages
from router_core.routing.route import Route
from router_core.security.addresses import ClientAddress, parse_proxies
from router_core.security.audit import AuditTrail, Draft, drafted
from router_core.settings import Settings
from router_core.telemetry.events import Events

if TYPE_CHECKING:
    from router_core.state import StateStore

__all__ = ["Auditing", "open_audit"]

_READS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_NOT: Final = 0
_TOLD: Final = 1
_ALWAYS: Final = 2


class Auditing:
    """Sees to it that each change has an entry, and those that were refused too."""

    __slots__ = ("_address", "_kinds", "trail")

    def __init__(self, trail: AuditTrail, address: ClientAddress) -> None:
        self.trail = trail
        self._address = address
        self._kinds: dict[str, int] = {}

    def watches(self, exchange: Exchange) -> bool:
        """Return whether this request may have to be written down."""
        match = exchange.match
        if match is None or exchange.request.method in _READS:
            return False
        route = match.route
        kind = self._kinds.get(route.key)
        if kind is None:
            kind = self._kinds[route.key] = _kind(route)
        return kind != _NOT

    def dispatch(
        self, exchange: Exchange, request: Request, match: Match, dispatch: Dispatch
    ) -> Awaitable[Response]:
        """Dispatch a request, and keep an eye on it if it changes something."""
        if self.watches(exchange):
            return self._around(exchange, request, match, dispatch)
        return dispatch(request, match.route)

    async def _around(
        self, exchange: Exchange, request: Request, match: Match, dispatch: Dispatch
    ) -> Response:
        """Have the change made, and written down before it where that is required."""
        draft = exchange.draft = self._draft(exchange)
        if self.trail.required and not draft.needs_word:
            await self.trail.begin(draft)
        drafted(draft)
        try:
            return await dispatch(request, match.route)
        except Exception:
            raise
        except BaseException:  # the caller has gone, and what he asked for may be done
            self.trail.record(draft, "interrupted")
            raise
        finally:
            drafted(None)

    async def done(self, exchange: Exchange, response: Response) -> None:
        """Write down how it ended."""
        draft, status = exchange.draft, response.status
        refused = status in (401, 403)
        if draft is None:
            if not refused or not self.watches(exchange):
                return
            draft = self._draft(exchange)
        if draft.needs_word and not draft.told:
            return
        self.trail.record(draft, "refused" if refused else "done" if status < 400 else "failed", status)
        if not self.trail.runs:  # nothing works beside the calls here
            await self.trail.flush()

    def _draft(self, exchange: Exchange) -> Draft:
        request, match, principal = exchange.request, exchange.match, exchange.principal
        if match is None:
            raise RuntimeError("what is watched was matched")
        fields: dict[str, Any] = {
            "principal": "" if principal is None else principal.id,
            "kind": "" if principal is None else principal.kind,
            "method": request.method,
            "route": match.route.path,
            "request_id": request.id,
            "client": self._address(request),
        }
        return Draft(fields, match.path_params, self._kinds.get(match.route.key) == _TOLD)


def open_audit(
    settings: Settings, state: Callable[[], StateStore], clock: Clock, events: Events,
    routes: Iterable[Route], *, always: bool,
) -> Auditing | None:  # fmt: skip
    """Return what writes changes down; None in a service where nobody could make one that is.

    ``always``: there may be callers who manage the jobs of others.
    """
    if not (always or settings.audit_required or any(manages(route) for route in routes)):
        return None
    trail = AuditTrail(state, clock, events, ttl=settings.audit_retention, required=settings.audit_required)
    return Auditing(trail, ClientAddress(parse_proxies(settings.trusted_proxies), whole=True))


def _kind(route: Route) -> int:
    """Routes of the product where everybody finds his own are written down where somebody acts on what is
    another's: their handlers say so."""
    if manages(route):
        return _ALWAYS
    return _TOLD if route.any_caller else _NOT
