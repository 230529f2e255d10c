"""Call a decorated function as an adapter would, without a server."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from router_core.binding.depends import DependencyScope
from router_core.binding.inputs import Intake
from router_core.binding.result import to_response
from router_core.errors import RouterError
from router_core.http.message import Headers, Request, Response
from router_core.http.problem import problem_response
from router_core.routing.router import Router
from router_core.routing.table import Table

__all__ = ["answer", "body_of", "bound", "json_request", "request_for", "router_with"]


def request_for(
    method: str,
    target: str,
    body: bytes = b"",
    content_type: str = "",
    headers: Iterable[tuple[str, str]] = (),
) -> Request:
    """Return a request; ``target`` may hold a query."""
    path, _, query = target.partition("?")
    pairs = [*headers, *([("content-type", content_type)] if content_type else [])]
    return Request(method, path, query=query, headers=Headers(pairs), body=body, id="req-1")


def json_request(target: str, value: Any, method: str = "POST", **kwargs: Any) -> Request:
    """Return a request with a JSON body; bytes are sent as they are."""
    body = value if isinstance(value, bytes) else json.dumps(value).encode()
    return request_for(method, target, body, "application/json", **kwargs)


async def bound(router: Router, request: Request, intake: Intake | None = None) -> dict[str, Any]:
    """Return the arguments that the function would be called with."""
    match, request = _matched(router, request)
    values = match.plan.bind(request, intake or Intake())
    return values if isinstance(values, dict) else await values


async def answer(
    router: Router,
    request: Request,
    *,
    intake: Intake | None = None,
    injected: Mapping[str, Any] | None = None,
) -> Response:
    """Return the response, errors as problems."""
    try:
        route, request = _matched(router, request)
        values = route.plan.bind(request, intake or Intake())
        arguments = values if isinstance(values, dict) else await values
        slots = {"request": request, "principal": request.principal, **(injected or {})}
        scope = DependencyScope(overrides=router.dependency_overrides)
        try:
            value = await route.plan.call(arguments, slots, scope)
            response = to_response(route, value, request, on_close=scope.aclose)
        except BaseException as error:
            await scope.aclose(error)
            raise
        if isinstance(response.body, bytes):
            await scope.aclose()
        return response
    except RouterError as error:
        return problem_response(error)


async def body_of(response: Response) -> bytes:
    """Return the whole body, also of a stream."""
    if isinstance(response.body, bytes):
        return response.body
    return b"".join([piece async for piece in response.body])


def router_with(path: str, func: Any, method: str = "post", **options: Any) -> Router:
    """Return a router that serves one function."""
    router = Router()
    getattr(router, method)(path, **options)(func)
    return router


def _matched(router: Router, request: Request) -> tuple[Any, Request]:
    match = Table(router.routes).match(request.method, request.path)
    moved = Request(
        request.method, request.path, query=request.query, headers=request.headers, body=request.body,
        id=request.id, path_params=match.path_params,
    )  # fmt: skip
    return match.route, moved
