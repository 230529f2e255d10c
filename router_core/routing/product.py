"""Routes that belong to the product rather than to the author's service: jobs, health, documents."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from router_core.binding.plan import compile_plan
from router_core.http.message import Request, Response
from router_core.routing.path import parse_path
from router_core.routing.route import JobOptions, Route

__all__ = ["UNLIMITED", "Handler", "product_route"]

UNLIMITED = "unlimited"
"""Key of ``Route.meta``: true for routes that no rate limit counts or refuses (probes)."""

Handler = Callable[[Request], Awaitable[Response]]


def product_route(
    method: str, path: str, handler: Handler, summary: str = "", *, public: bool = False,
    scopes: tuple[str, ...] = (), tags: tuple[str, ...] = (), in_schema: bool = True,
    meta: Mapping[str, Any] | None = None, realm: str = "", max_body_bytes: int | None = None,
    any_caller: bool = False,
) -> Route:  # fmt: skip
    """Return a route that hands the request to ``handler`` as it is; path values are in ``path_params``.

    Its permission is one of ``scopes``, ``public``, ``any_caller`` and ``realm``: without any it is open to
    administrators alone.
    """
    func = _with_path_values(handler, path)
    return Route(
        key=f"{method} {path}", methods=(method,), path=path, func=func,
        plan=compile_plan(func, path=path, methods=(method,)), kind="call", job=JobOptions(), internal=True,
        summary=summary, description=inspect.getdoc(handler) or "", public=public, scopes=scopes, tags=tags,
        include_in_schema=in_schema, meta=dict(meta or {}), realm=realm, max_body_bytes=max_body_bytes,
        any_caller=any_caller,
    )  # fmt: skip


def _with_path_values(handler: Handler, path: str) -> Callable[..., Awaitable[Response]]:
    """Give the handler a signature that names the path's values, so that they are documented too."""
    names = parse_path(path).names

    async def call(request: Request, **_values: str) -> Response:
        return await handler(request)

    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    parameters = [inspect.Parameter("request", kind, annotation=Request)]
    parameters += [inspect.Parameter(name, kind, annotation=str) for name in names]
    call.__signature__ = inspect.Signature(parameters, return_annotation=Response)  # type: ignore[attr-defined]
    call.__annotations__ = {"request": Request, "return": Response, **dict.fromkeys(names, str)}
    call.__name__ = handler.__name__
    return call
