"""Whatever is raised becomes an answer; what it says about us stays in the log."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from router_core.errors import Misconfigured, RouterError, StoreError
from router_core.http.message import Request, Response
from router_core.http.problem import problem_response
from router_core.middleware.exchange import Exchange
from router_core.telemetry.events import Events, Note

__all__ = ["MEMBERS", "Errors", "ExceptionHandler"]

ExceptionHandler = Callable[[Request, Any], Any]
"""Called with the request and the exception, sync or async. Returns a Response, a RouterError (answered as
a problem), None (the default answer), or any other value (answered as JSON with status 500)."""

MEMBERS = "problem_members"
"""Key of ``Route.meta``: a function from a RouterError to more members of its problem, for routes that
stand in for an API whose clients look for the error somewhere else."""
_INTERNAL_DETAIL = "the service failed; the request id leads to the reason in its log"


class Errors:
    """Turns exceptions into problem+json, the author's handlers first."""

    __slots__ = ("_events", "_handlers")

    def __init__(self, handlers: Mapping[type[BaseException], ExceptionHandler], events: Events) -> None:
        self._handlers = handlers
        self._events = events

    async def answer(self, raised: Exception, exchange: Exchange) -> Response:
        """Return the answer for what was raised."""
        exchange.error = raised
        handler = _handler_for(self._handlers, raised) if self._handlers else None
        if handler is not None:
            try:
                answer = await _handled(handler, exchange.request, raised)
            except Exception as second:
                raised, answer = second, None
            if answer is not None:
                return answer
        return _answer(raised, exchange, self._events)


def _handler_for(
    handlers: Mapping[type[BaseException], ExceptionHandler], error: BaseException
) -> ExceptionHandler | None:
    for kind in type(error).__mro__:
        handler = handlers.get(kind)
        if handler is not None:
            return handler
    return None


async def _handled(handler: ExceptionHandler, request: Request, error: BaseException) -> Response | None:
    value = handler(request, error)
    if inspect.isawaitable(value):
        value = await value
    if value is None or isinstance(value, Response):
        return value
    if isinstance(value, RouterError):
        return problem_response(value, instance=request.path, request_id=request.id)
    return Response.json(value, status=500)


def _answer(error: Exception, exchange: Exchange, events: Events) -> Response:
    if isinstance(error, RouterError) and not isinstance(error, Misconfigured):
        if isinstance(error, StoreError):
            # a store that is away has every call refused, and its guard tells of that as an error, once
            cause = {} if error.__cause__ is None else {"cause": type(error.__cause__).__name__}
            events.emit(Note("request_error", "warning", str(error), _fields(exchange) | cause))
        elif error.status == 500:
            events.emit(Note("request_error", "error", str(error), _fields(exchange), error))
        return _problem(error, exchange)
    events.emit(
        Note("unhandled_error", "error", f"{type(error).__name__} in a request", _fields(exchange), error)
    )
    return _problem(RouterError(_INTERNAL_DETAIL), exchange)


def _problem(error: RouterError, exchange: Exchange) -> Response:
    """Return the problem, with what the route wants to see beside its members."""
    request, match = exchange.request, exchange.match
    if match is not None:
        members = match.route.meta.get(MEMBERS)
        if members is not None:
            error.extra.update(members(error))
    return problem_response(error, instance=request.path, request_id=request.id)


def _fields(exchange: Exchange) -> dict[str, Any]:
    match = exchange.match
    return {
        "request_id": exchange.request.id,
        "method": exchange.request.method,
        "path": exchange.request.path,
        "route": match.route.key if match is not None else "",
    }
