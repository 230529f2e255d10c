"""The one error shape: ``application/problem+json`` (RFC 9457)."""

from __future__ import annotations

from typing import Any, Final

import pydantic_core

from router_core.errors import RouterError
from router_core.http.message import Response

__all__ = ["PROBLEM_TYPE", "problem_body", "problem_response"]

PROBLEM_TYPE: Final = "application/problem+json"


def problem_body(error: RouterError, *, instance: str = "", request_id: str = "") -> dict[str, Any]:
    """Return the members of a problem: type, title, status, detail, code, instance, request_id, extras."""
    body: dict[str, Any] = {
        "type": f"urn:router-core:error:{error.code}",
        "title": error.title,
        "status": error.status,
        "detail": error.detail,
        "code": error.code,
    }
    if instance:
        body["instance"] = instance
    if request_id:
        body["request_id"] = request_id
    if error.retryable:
        body["retryable"] = True
    body.update((key, value) for key, value in error.extra.items() if value is not None)
    return body


def problem_response(error: RouterError, *, instance: str = "", request_id: str = "") -> Response:
    """Return the answer for an error.

    Values that came from a caller are made encodable rather than trusted: a lone surrogate or an
    infinite float inside ``errors`` must not turn a 422 into a 500.
    """
    body = problem_body(error, instance=instance, request_id=request_id)
    try:
        encoded = pydantic_core.to_json(body, inf_nan_mode="strings", serialize_unknown=True)
    except (ValueError, UnicodeEncodeError):
        body = {key: _plain(value) for key, value in body.items()}
        encoded = pydantic_core.to_json(body, inf_nan_mode="strings")
    headers = (("content-type", PROBLEM_TYPE), *error.headers.items())
    return Response(error.status, headers, encoded)


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, dict):
        return {_plain(str(key)): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, (int, float, bool)) or value is None:
        return value
    return _plain(repr(value))
