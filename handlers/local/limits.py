"""What the HTTP protocol classes hold connections to, and the refusal they write by themselves."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

from uvicorn import Config

from router_core.errors import RouterError
from router_core.http.problem import problem_response
from router_core.middleware.headers import SECURITY_HEADERS
from router_core.settings import Settings
from router_core.types import new_id

if TYPE_CHECKING:
    from handlers.local.door import Door

__all__ = ["Limits", "LocalConfig", "is_host", "refusal"]


@dataclass(frozen=True, slots=True)
class Limits:
    """Times in seconds."""

    header_timeout: float = 10.0
    """From the connection, or the first byte of a request, to the end of its headers."""
    body_timeout: float = 30.0
    """For a body; one that keeps coming at 64 KiB/s may take longer."""
    stall_timeout: float = 30.0
    """A reader that takes nothing for so long is cut off."""
    max_head_bytes: int = 48 * 1024
    """Request line and headers together, while they are still incomplete."""
    max_connections: int = 1000
    """Above it requests are answered with 503; far above it connections are closed unread."""

    @classmethod
    def from_settings(cls, settings: Settings, max_connections: int = 1000) -> Limits:
        """Take what the settings say."""
        return cls(
            header_timeout=settings.header_timeout,
            body_timeout=settings.body_timeout,
            max_head_bytes=settings.max_header_bytes + 16 * 1024,
            max_connections=max_connections,
        )


class LocalConfig(Config):
    """uvicorn's configuration with our limits beside it, where a protocol object can find them."""

    def __init__(
        self,
        app: Any,
        *,
        limits: Limits,
        on_refusal: Callable[[int, str, str], None] | None = None,
        door: Door | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(app, **kwargs)
        self.limits = limits
        self.on_refusal = on_refusal
        """Told status, reason and peer of every request that is refused before the app sees it."""
        self.door = door
        """Where plain requests enter below ASGI; None: there is no such door."""


def is_host(value: bytes) -> bool:
    """Return whether a Host header may be one (RFC 9110 section 7.2)."""
    return _HOST.match(value) is not None


_HOST: Final = re.compile(rb"[A-Za-z0-9._~!$&'()*+,;=:%\[\]-]*\Z")


def refusal(error: RouterError, default_headers: list[tuple[bytes, bytes]]) -> bytes:
    """Return a complete HTTP/1.1 answer that ends the connection."""
    request_id = new_id()
    response = problem_response(error, request_id=request_id)
    body = response.body if isinstance(response.body, bytes) else b""
    try:
        phrase = HTTPStatus(error.status).phrase
    except ValueError:
        phrase = error.title
    lines = [f"HTTP/1.1 {error.status} {phrase}".encode("latin-1", "replace")]
    lines += [name + b": " + value for name, value in default_headers]
    fields = (
        *response.headers,
        *SECURITY_HEADERS,
        ("x-request-id", request_id),
        ("content-length", str(len(body))),
        ("connection", "close"),
    )
    lines += [f"{name}: {value}".encode("latin-1") for name, value in fields]
    return _CRLF.join([*lines, b"", body])


_CRLF: Final = b"\r\n"
