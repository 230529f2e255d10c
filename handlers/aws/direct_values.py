"""Values of direct calls: how their input is read, and how what comes back is written as JSON."""

from __future__ import annotations

import types
from typing import TYPE_CHECKING, Any

import pydantic_core

from handlers.aws.offload import filename_of
from router_core.binding.inputs import Intake
from router_core.binding.result import encode_result
from router_core.binding.stream import iterate_in_threads
from router_core.http.media import File
from router_core.http.message import Response
from router_core.jobs.settle import Outputs
from router_core.security.fetch import GuardedHttp
from router_core.security.url_guard import UrlGuard

if TYPE_CHECKING:
    from router_core.binding.depends import DependencyScope
    from router_core.routing.route import Route
    from router_core.settings import Settings

__all__ = ["collected", "intake_of", "plain_value"]


async def collected(route: Route, value: Any, scope: DependencyScope) -> bytes:
    """Return all that a function yields, as a list."""
    items = iterate_in_threads(value, scope.run_sync) if isinstance(value, types.GeneratorType) else value
    outputs = Outputs()
    try:
        async for item in items:
            outputs.add(encode_result(route, item))
    finally:
        close = getattr(items, "aclose", None)
        if close is not None:
            await close()
    return outputs.result()


def intake_of(settings: Settings) -> Intake:
    """Return what reads files behind URLs, within the limits of the settings."""
    guard = UrlGuard(allow_private=settings.allow_private_urls)
    web = GuardedHttp(guard, max_bytes=settings.max_upload_bytes)
    return Intake(max_json_depth=settings.max_json_depth, fetch=web)


def plain_value(response: Response) -> Any:
    """Return the body of an answer as a value: JSON read, a file as an object, the rest as text."""
    body = response.body if isinstance(response.body, bytes) else b""
    kind = (response.header("content-type") or "").partition(";")[0].strip()
    if kind.endswith("json"):
        try:
            return pydantic_core.from_json(body)
        except ValueError:
            return body.decode("utf-8", "replace")
    if response.header("content-disposition"):
        return File(body, filename=filename_of(response), content_type=kind).to_object()
    return body.decode("utf-8", "replace") if body else None
