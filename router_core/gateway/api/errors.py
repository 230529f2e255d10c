"""Errors as clients of OpenAI look for them, inside the problem that every error of ours is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from router_core.errors import RouterError

__all__ = ["OPENAI_ERRORS", "openai_error"]

_TYPES: Final[Mapping[int, str]] = {
    400: "invalid_request_error", 401: "authentication_error", 403: "permission_error",
    404: "not_found_error", 408: "timeout_error", 413: "invalid_request_error",
    415: "invalid_request_error", 422: "invalid_request_error", 429: "rate_limit_error",
    502: "upstream_error", 503: "overloaded_error", 504: "timeout_error",
}  # fmt: skip


def openai_error(error: RouterError) -> dict[str, Any]:
    """Return the member ``error`` that OpenAI's clients read."""
    kind = _TYPES.get(error.status, "invalid_request_error" if error.status < 500 else "server_error")
    return {
        "error": {
            "message": error.detail,
            "type": kind,
            "param": error.extra.get("param"),
            "code": error.code,
        }
    }


OPENAI_ERRORS: Final[dict[str, Any]] = {"problem_members": openai_error}
"""``meta`` of routes that clients of OpenAI call."""
