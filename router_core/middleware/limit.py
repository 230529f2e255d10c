"""The layer that counts: how much each caller asks, and how often an address fails to say who it is."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from time import time
from typing import TYPE_CHECKING, Final

from router_core.clock import Clock
from router_core.errors import RateLimited, Unauthorized
from router_core.http.message import Request, Response
from router_core.middleware.exchange import Exchange, Gate, Toll, pay
from router_core.routing.product import UNLIMITED
from router_core.security.addresses import ClientAddress, parse_proxies
from router_core.security.rate_limit import Meter, Rate, rate_of
from router_core.settings import Settings
from router_core.telemetry.events import Events, Note
from router_core.types import Principal

if TYPE_CHECKING:
    from router_core.app import Upkeep
    from router_core.security.rate_shared import SharedMeter
    from router_core.state import StateStore

__all__ = ["Limit", "limit_of"]

_FAILURES: Final = 10
"""A tenth of the requests may be wrong about who is asking, and at least so many."""
_BELIEVED: Final = 10_000


class Limit:
    """Counts requests: by caller where he is known, else by address."""

    __slots__ = ("_address", "_barred", "_believed", "_calls", "_events", "_failures", "_shared", "_time")

    def __init__(
        self, rate: Rate, address: ClientAddress, *, clock: Callable[[], float] = time,
        shared: SharedMeter | None = None, events: Events | None = None,
    ) -> None:  # fmt: skip
        """``shared`` counts callers who are known, in all processes together."""
        self._events = events
        self._address = address
        self._shared = shared
        self._time = clock
        self._calls = Meter(rate, clock=clock)
        failures = min(rate.most, max(_FAILURES, rate.most // 10))
        self._failures = Meter(Rate(failures, rate.seconds), clock=clock)
        self._barred: dict[str, float] = {}
        """Addresses that have failed too often, and until when."""
        self._believed: set[int] = set()
        """Hashes of credentials that were right lately."""

    def guard(self) -> Gate:
        """Return the gate before authentication: an address that has failed too often is not even asked.

        Others may share it, so credentials that were right lately are looked at all the same.
        """

        def guard(exchange: Exchange) -> None:
            if self._barred and not _open(exchange):
                address = self._address(exchange.request)
                if address in self._barred and _credentials(exchange.request) not in self._believed:
                    self._check_barred(address)

        return guard

    def _check_barred(self, address: str) -> None:
        if self._time() < self._barred[address]:
            self._failures.check(address)
        del self._barred[address]

    def count(self, exchange: Exchange) -> Awaitable[None] | None:
        """Count a request that the gates let pass; raises RateLimited."""
        exchange.counted = True
        match, principal = exchange.match, exchange.principal
        if match is not None and (match.route.realm or UNLIMITED in match.route.meta):
            if _is_known(principal):
                self._believe(exchange.request)
            return None
        if principal is None or principal.kind == "anonymous":
            exchange.left = self._calls.take("a:" + self._address(exchange.request))
            return None
        self._believe(exchange.request)
        if self._shared is None:
            exchange.left = self._calls.take("p:" + principal.id)
            return None
        return pay(partial(self._shared.take, "p:" + principal.id), exchange)

    def toll(self, exchange: Exchange) -> Toll | None:
        """Return what counts a request like this one: for those that come again and again with one head."""
        match, principal, request = exchange.match, exchange.principal, exchange.request
        if match is not None and (match.route.realm or UNLIMITED in match.route.meta):
            return None
        known = _is_known(principal)
        if known:
            self._believe(request)
        take = self._shared.take if known and self._shared is not None else self._calls.take
        return partial(take, self._key(principal, request))

    def check(self, exchange: Exchange) -> None:
        """Raise RateLimited if the request would be refused, without counting it."""
        match = exchange.match
        if match is None or not (match.route.realm or UNLIMITED in match.route.meta):
            self._calls.check(self._key(exchange.principal, exchange.request))

    def refused(self, exchange: Exchange, error: Exception) -> Exception:
        """Count a request that a gate refused; returns what to answer with."""
        if exchange.counted or isinstance(error, RateLimited):
            return error
        exchange.counted = True
        try:
            if isinstance(error, Unauthorized):
                self._fail(self._address(exchange.request))
            else:
                self._calls.take(self._key(exchange.principal, exchange.request))
        except RateLimited as limited:
            return limited
        return error

    def mark(self, response: Response, left: int) -> Response:
        """Say how many are left, where that is little."""
        return response.with_headers(*self._calls.headers(left))

    def _fail(self, address: str) -> None:
        try:
            self._failures.take(address)
        except RateLimited as limited:
            self._bar(address, limited.retry_after)
            raise

    def _bar(self, address: str, seconds: float) -> None:
        if address not in self._barred and self._events is not None:
            text = f"{address or 'a peer without an address'} was wrong too often about who it is"
            fields = {"client": address, "seconds": round(seconds)}
            self._events.emit(Note("address_barred", "warning", text, fields))
        if len(self._barred) >= _BELIEVED:
            self._barred.clear()
        self._barred[address] = self._time() + seconds

    def _believe(self, request: Request) -> None:
        if len(self._believed) >= _BELIEVED:
            self._believed.clear()
        self._believed.add(_credentials(request))

    def _key(self, principal: Principal | None, request: Request) -> str:
        if principal is not None and _is_known(principal):
            return "p:" + principal.id
        return "a:" + self._address(request)


def limit_of(
    settings: Settings, clock: Clock, events: Events, state: Callable[[], StateStore] | None = None
) -> tuple[Limit | None, Sequence[Upkeep]]:
    """Return the limit of the settings, or None, and what has to run beside it. Raises Misconfigured.

    Callers are counted in ``state`` where other processes see it.
    """
    proxies = parse_proxies(settings.trusted_proxies)
    rate = rate_of(settings)
    if rate is None:
        return None, ()
    shared = None
    if state is not None and not settings.state.startswith("memory:"):
        from router_core.security.rate_shared import SharedMeter

        shared = SharedMeter(rate, state(), clock)
    limit = Limit(rate, ClientAddress(proxies), clock=clock.now, shared=shared, events=events)
    return limit, () if shared is None else (shared.quota,)


def _is_known(principal: Principal | None) -> bool:
    return principal is not None and principal.kind != "anonymous"


def _open(exchange: Exchange) -> bool:
    return exchange.match is not None and exchange.match.route.public


def _credentials(request: Request) -> int:
    """Return a number that stands for what a caller says of himself; it is believed nothing because of it."""
    headers = request.headers
    key = headers["x-api-key"] if "x-api-key" in headers else ""
    return hash((headers["authorization"] if "authorization" in headers else "", key))
