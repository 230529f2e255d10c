"""The order of the layers, fixed here and nowhere else, outermost first:

    record        sees the final answer, whoever gave it, so that no request is missing from logs and metrics
    headers       outside errors: an error page needs its security headers as much as a result does
    errors        turns whatever is raised below into problem+json; below record, which wants a status
    host          before anything looks at the path: a rebound Host name must learn nothing
    origin        before matching, for the same reason: a foreign page may not find out which routes exist
    match         before authentication, which must judge the route object and never the raw path
    authenticate  before scopes, which belong to a caller
    scopes        the last gate: below it the caller may do this
    dispatch      binding, the function, its result

Layers that are not configured are left out when the stack is built, so that they cost nothing.
"""

from __future__ import annotations

from collections.abc import Awaitable, Mapping, Sequence

from router_core.http.message import Request, Response
from router_core.middleware.errors import ExceptionHandler, errors_layer
from router_core.middleware.exchange import Authenticator, Dispatch, Exchange, Handle, Layer, Matcher
from router_core.middleware.gates import (
    allowed_hosts,
    authenticate_layer,
    host_layer,
    origin_layer,
    scopes_layer,
)
from router_core.middleware.headers import headers_layer
from router_core.middleware.record import record_layer
from router_core.settings import Settings
from router_core.telemetry.events import Events

__all__ = ["Stack", "build_stack"]


class Stack:
    """The compiled layers: ``handle`` answers a request, ``admit`` judges one whose body is still to come."""

    __slots__ = ("_gates", "_handle", "layers")

    def __init__(self, layers: Sequence[tuple[str, Layer]], dispatch: Dispatch) -> None:
        self.layers = (*[name for name, _ in layers], "dispatch")
        self._handle = _compose([layer for _, layer in layers], _dispatch(dispatch))
        self._gates = _compose([layer for name, layer in layers if name in _GATES], _admitted)

    async def handle(self, request: Request) -> Response:
        """Answer; errors are answers too."""
        return await self._handle(Exchange(request))

    async def admit(self, request: Request) -> int | None:
        """Raise what ``handle`` would answer before it looks at the body.

        An adapter asks before it reads a large body, so that a stranger cannot make it hold one. Returns
        the body limit of the route, or None where the settings decide.
        """
        exchange = Exchange(request)
        await self._gates(exchange)
        return None if exchange.match is None else exchange.match.route.max_body_bytes


_GATES = frozenset({"host", "origin", "match", "authenticate", "scopes"})


def build_stack(
    *,
    settings: Settings,
    table: Matcher,
    dispatch: Dispatch,
    events: Events,
    authenticator: Authenticator | None = None,
    exception_handlers: Mapping[type[BaseException], ExceptionHandler] | None = None,
) -> Stack:
    """Put the layers that are configured into their order."""
    hosts = allowed_hosts(settings)
    layers: list[tuple[str, Layer | None]] = [
        ("record", record_layer(events)),
        ("headers", headers_layer()),
        ("errors", errors_layer(exception_handlers or {}, events)),
        ("host", host_layer(hosts) if hosts else None),
        ("origin", origin_layer(settings)),
        ("match", _match_layer(table)),
        ("authenticate", authenticate_layer(authenticator) if authenticator is not None else None),
        ("scopes", scopes_layer() if authenticator is not None else None),
    ]
    return Stack([(name, layer) for name, layer in layers if layer is not None], dispatch)


def _compose(layers: Sequence[Layer], innermost: Handle) -> Handle:
    handle = innermost
    for layer in reversed(layers):
        handle = layer(handle)
    return handle


def _match_layer(table: Matcher) -> Layer:
    def layer(inner: Handle) -> Handle:
        def match(exchange: Exchange) -> Awaitable[Response]:
            request = exchange.request
            exchange.match = table.match(request.method, request.path)
            return inner(exchange)

        return match

    return layer


def _dispatch(dispatch: Dispatch) -> Handle:
    def run(exchange: Exchange) -> Awaitable[Response]:
        match = exchange.match
        if match is None:
            raise RuntimeError("the match layer is missing")
        request = exchange.request
        principal = exchange.principal
        params = match.path_params
        if principal is not None or params:
            request = Request(
                request.method,
                request.path,
                request.query,
                request.headers,
                request.body,
                request.id,
                request.client,
                request.scheme,
                request.principal if principal is None else principal,
                params,
                request.native,
                request.root,
            )
        return dispatch(request, match.route)

    return run


async def _admitted(_exchange: Exchange) -> Response:
    return _NOTHING


_NOTHING = Response(204)
