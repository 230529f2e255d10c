"""The order of the layers, fixed here and nowhere else, outermost first:

    record        sees the final answer, whoever gave it, so that no request is missing from logs and metrics
    headers       outside errors: an error page needs its security headers as much as a result does
    errors        turns whatever is raised below into problem+json; below record, which wants a status
    host          before anything looks at the path: a rebound Host name must learn nothing
    cors          preflights are answered here: they come without credentials, and without anything to refuse
    origin        before matching, for the same reason: a foreign page may not find out which routes exist
    match         before authentication, which must judge the route object and never the raw path
    guard         before authentication, which an address that has failed too often is not asked for again
    authenticate  before scopes, which belong to a caller
    scopes        the last gate: below it the caller may do this
    limit         below the gates, which may be judged once for many requests; each of these is counted, and
                  so is what a gate refuses
    audit         around nothing but dispatch: what is written down is a change that may be made; refused ones
                  are seen on the way out
    dispatch      binding, the function, its result

Layers that are not configured are left out when the stack is built, so that they cost nothing.

Nested functions would cost a coroutine each, and most of the layers have nothing to wait for. So the three
outermost and the limit are written into ``Stack.handle`` itself; those from host to scopes, the gates, can
only let a request pass or raise, and are called one after the other. What limit and CORS have to say in an
answer is added on its way out, to errors as well.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import inf
from time import monotonic, perf_counter
from typing import TYPE_CHECKING

from router_core.http.message import Request, Response
from router_core.middleware.errors import Errors, ExceptionHandler
from router_core.middleware.exchange import (
    Admission,
    Answered,
    Authenticator,
    Dispatch,
    Exchange,
    Gate,
    Match,
    Matcher,
    pay,
)
from router_core.middleware.gates import (
    LOCAL,
    allowed_hosts,
    authenticate_gate,
    cors_gate,
    host_gate,
    match_gate,
    origin_gate,
    scopes_gate,
)
from router_core.middleware.headers import HSTS, with_headers
from router_core.middleware.record import identified, recorded
from router_core.routing.route import Route
from router_core.routing.table import Match as Found
from router_core.settings import Settings
from router_core.telemetry.events import Events
from router_core.types import Principal

if TYPE_CHECKING:
    from router_core.middleware.auditing import Auditing
    from router_core.middleware.limit import Limit
    from router_core.security.cors import Cors

__all__ = ["Stack", "build_stack"]


class Stack:
    """The compiled layers: ``handle`` answers a request, ``admit`` judges one whose body is still to come."""

    __slots__ = ("_always", "_audit", "_beside", "_cors", "_dispatch", "_errors", "_events", "_gates",
                 "_lasting", "_limit", "_monotonic", "_secure", "layers")  # fmt: skip

    def __init__(
        self, gates: Sequence[tuple[str, Gate]], dispatch: Dispatch, errors: Errors, events: Events,
        lasting: bool = False, monotonic: Callable[[], float] = monotonic,
        limit: Limit | None = None, cors: Cors | None = None, audit: Auditing | None = None,
        secure: bool = False,
    ) -> None:  # fmt: skip
        """``lasting``: what the gates say of a request holds of every other with its head, for as long as
        they say."""
        below = [name for name, part in (("limit", limit), ("audit", audit)) if part is not None]
        self.layers = ("record", "headers", "errors", *[name for name, _ in gates], *below, "dispatch")
        self._gates = tuple(gate for _, gate in gates)
        self._dispatch = dispatch
        self._errors = errors
        self._events = events
        self._lasting = lasting
        self._monotonic = monotonic
        self._limit = limit
        self._cors = cors
        self._audit = audit
        self._secure = secure
        self._always = secure or cors is not None
        """Whether there is something to say in every answer."""
        self._beside = self._always or limit is not None or audit is not None

    async def handle(self, request: Request, match: Match | None = None) -> Response:
        """Answer; errors are answers too. Who has looked for the ``match`` already may bring it along."""
        started = perf_counter()
        if not request.id:
            request = identified(request)
        exchange = Exchange(request, match)
        try:
            for gate in self._gates:
                waiting = gate(exchange)
                if waiting is not None:
                    await waiting
            match, principal = exchange.match, exchange.principal
            if match is None:
                raise RuntimeError("the match layer is missing")
            if self._limit is not None and (waiting := self._limit.count(exchange)) is not None:
                await waiting
            if principal is not None or match.path_params:
                request = _informed(request, principal, match)
            if self._audit is None:
                response = await self._dispatch(request, match.route)
            else:
                response = await self._audit.dispatch(exchange, request, match, self._dispatch)
        except Exception as error:
            response = await self._refusal(error, exchange)
        if self._beside and (self._always or exchange.remarkable):
            response = await self._finished(exchange, response)
        return recorded(self._events, exchange, with_headers(response, request.id), started)

    async def _refusal(self, error: Exception, exchange: Exchange) -> Response:
        """Return the answer to what was raised, and see that it was counted."""
        if isinstance(error, Answered):
            return error.response
        if self._limit is not None:
            error = self._limit.refused(exchange, error)
        return await self._errors.answer(error, exchange)

    async def _finished(self, exchange: Exchange, response: Response) -> Response:
        """Do what audit, limit and CORS have to do with an answer."""
        if self._secure:
            response = response.with_headers(HSTS)
        if self._audit is not None:
            await self._audit.done(exchange, response)
        if self._limit is not None and exchange.left >= 0:
            response = self._limit.mark(response, exchange.left)
        return response if self._cors is None else self._cors.mark(exchange.request, response)

    def admission(self, request: Request) -> Admission | None:
        """Return what the gates say to this request and to every other with the same head.

        None where it is refused, or where the gates have to be asked each time: ``handle`` does that.
        """
        exchange = Exchange(request)
        try:
            for gate in self._gates if self._lasting else ():
                waiting = gate(exchange)
                if waiting is not None:
                    close = getattr(waiting, "close", None)
                    if close is not None:
                        close()
                    return None
        except Exception:
            return None  # ``handle`` meets it again, and says so
        match = exchange.match
        if match is None or match.path_params or self._cors is not None:
            return None
        if self._audit is not None and self._audit.watches(exchange):
            return None
        shortcut = getattr(self._dispatch, "shortcut", None)
        call = None if shortcut is None else shortcut(request, match.route)
        toll = None if self._limit is None else self._limit.toll(exchange)
        return Admission(match, exchange.principal, call, exchange.until, toll)

    async def admitted(self, request: Request, admission: Admission) -> Response:
        """Answer a request that has its ``admission``, and its principal from there.

        As ``handle`` answers it, but without the headers that every answer carries: for an adapter that has
        these at hand in the form in which it sends them.
        """
        started = perf_counter()
        exchange = Exchange(request, admission.match)
        exchange.principal = admission.principal
        call, until = admission.call, admission.until
        try:
            if until != inf and until <= self._monotonic():
                request = await self._judge_again(exchange, admission)
            exchange.counted = True
            if admission.toll is not None and (waiting := pay(admission.toll, exchange)) is not None:
                await waiting
            if call is not None:
                response = await call(request)
            else:
                response = await self._dispatch(request, admission.match.route)
        except Exception as error:
            response = await self._refusal(error, exchange)
        if exchange.left >= 0 and self._limit is not None:
            response = self._limit.mark(response, exchange.left)
        return recorded(self._events, exchange, response, started)

    async def _judge_again(self, exchange: Exchange, admission: Admission) -> Request:
        """Ask the gates whether an admission still stands, and let it stand from now on."""
        exchange.principal = None  # who it was; a refusal is nobody's
        for gate in self._gates:
            waiting = gate(exchange)
            if waiting is not None:
                await waiting
        principal = exchange.principal
        admission.principal, admission.until = principal, exchange.until
        if principal is None:
            return exchange.request
        exchange.request = _informed(exchange.request, principal, admission.match)
        return exchange.request

    async def explain(self, error: Exception, request: Request, route: Route | None = None) -> Response:
        """Answer an error that an adapter met itself, the way ``handle`` answers it."""
        exchange = Exchange(request)
        exchange.match = None if route is None else Found(route, {})
        response = await self._errors.answer(error, exchange)
        return response if self._cors is None else self._cors.mark(request, response)

    async def admit(self, request: Request) -> int | None:
        """Raise what ``handle`` would answer before it looks at the body.

        An adapter asks before it reads a large body, so that a stranger cannot make it hold one. Returns
        the body limit of the route, or None where the settings decide.
        """
        exchange = Exchange(request)
        try:
            for gate in self._gates:
                waiting = gate(exchange)
                if waiting is not None:
                    await waiting
        except Answered:
            return None  # whatever its body is
        except Exception as error:
            if self._limit is not None:
                raise self._limit.refused(exchange, error) from None
            raise
        if self._limit is not None:
            self._limit.check(exchange)
        return None if exchange.match is None else exchange.match.route.max_body_bytes


def build_stack(
    *,
    settings: Settings,
    table: Matcher,
    dispatch: Dispatch,
    events: Events,
    authenticator: Authenticator | None = None,
    realms: Mapping[str, Authenticator] | None = None,
    exception_handlers: Mapping[type[BaseException], ExceptionHandler] | None = None,
    monotonic: Callable[[], float] = monotonic,
    limit: Limit | None = None,
    audit: Auditing | None = None,
) -> Stack:
    """Put the layers that are configured into their order; ``monotonic`` is the clock of authenticators."""
    hosts, cors = allowed_hosts(settings), _cors(settings)
    asks = authenticator is not None or bool(realms)
    gates: list[tuple[str, Gate | None]] = [
        ("host", host_gate(hosts) if hosts else None),
        ("cors", None if cors is None else cors_gate(cors, table)),
        ("origin", origin_gate(settings, cors)),
        ("match", match_gate(table)),
        ("guard", limit.guard() if asks and limit is not None else None),
        ("authenticate", authenticate_gate(authenticator, realms or {}) if asks else None),
        ("scopes", scopes_gate() if authenticator is not None else None),
    ]
    configured = [(name, gate) for name, gate in gates if gate is not None]
    lasting = authenticator is None or bool(getattr(authenticator, "lasting", False))
    lasting = lasting or hasattr(authenticator, "recall")
    errors = Errors(exception_handlers or {}, events)
    return Stack(
        configured, dispatch, errors, events, lasting, monotonic, limit, cors, audit, _promises_tls(settings)
    )


def _promises_tls(settings: Settings) -> bool:
    """Return whether answers say so: our own server does that by itself, also where it serves TLS."""
    return settings.provider not in LOCAL and settings.server_url.startswith("https:")


def _cors(settings: Settings) -> Cors | None:
    if not settings.cors_origins:
        return None
    from router_core.security.cors import cors_of  # a function that starts for a call does without

    return cors_of(settings)


def _informed(request: Request, principal: Principal | None, match: Match) -> Request:
    return Request(
        request.method,
        request.path,
        request.query,
        request.headers,
        request.body,
        request.id,
        request.client,
        request.scheme,
        request.principal if principal is None else principal,
        match.path_params,
        request.native,
        request.root,
        request.disconnected,
        request.max_reply_bytes,
        request.answer_by,
    )
