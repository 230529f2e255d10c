"""CORS: which pages of other sites may read what is answered here.

Nothing is allowed unless ``ROUTER_CORS_ORIGINS`` names it: an origin (``https://app.example.com``), all
subdomains (``https://*.example.com``), all of a scheme (``chrome-extension://*``), or every page (``*``).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from router_core.errors import Misconfigured
from router_core.http.message import Request, Response
from router_core.settings import Settings

__all__ = ["EXPOSED", "REQUESTED", "Cors", "cors_of", "is_preflight"]

_WISHES: Final = (
    "agent-type", "compliance", "max-cost", "region", "request-type", "session", "tags", "timeout",
    "user-tier", "workspace",
)  # fmt: skip
_COUNTED: Final = ("requests", "tokens")
_TOLD: Final = ("attempts", "decision", "deployment", "fallback-from", "model", "rule", "trial")
_SDK: Final = (
    "arch", "helper-method", "lang", "os", "package-version", "retry-count", "runtime", "runtime-version",
    "timeout",
)  # fmt: skip
"""What OpenAI's client says of itself in each request, from pages too."""
REQUESTED: Final = (
    "accept", "accept-language", "authorization", "cache-control", "cancel-after", "content-language",
    "content-type", "idempotency-key", "if-match", "if-none-match", "last-event-id", "openai-beta", "prefer",
    "traceparent", "tracestate", "x-api-key", "x-job-delay", "x-job-priority", "x-request-id",
    "x-webhook-url", *(f"x-router-{name}" for name in _WISHES), *(f"x-stainless-{name}" for name in _SDK),
)  # fmt: skip
"""Header fields that pages may send; ``ROUTER_CORS_HEADERS`` names more."""
EXPOSED: Final = (
    "content-disposition", "etag", "idempotency-replayed", "location", "ratelimit", "ratelimit-policy",
    "retry-after", "www-authenticate", "x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset",
    "x-request-id", *(f"x-router-{name}" for name in _TOLD),
    *(f"x-ratelimit-{word}-{of}" for of in _COUNTED for word in ("limit", "remaining", "reset")),
)  # fmt: skip
"""Header fields of answers that pages may read."""
_HOST: Final = r"(?:\*|(?:\*\.)?[a-z0-9_-][a-z0-9_.-]*(?::[0-9]{1,5})?|\[[0-9a-f:.]+\](?::[0-9]{1,5})?)"
_ORIGIN: Final = re.compile(r"[a-z][a-z0-9+.-]*://" + _HOST + r"\Z")
_LABELS: Final = re.compile(r"[a-z0-9_-][a-z0-9_.-]*(?::[0-9]{1,5})?\Z")
_FIELD: Final = re.compile(r"[a-z0-9!#$%&'*+.^_`|~-]{1,64}\Z")
_WEB: Final = frozenset({"http://*", "https://*"})
_EXPOSES: Final = ("access-control-expose-headers", ", ".join(EXPOSED))
_VARY: Final = ("vary", "Origin")
_VARY_PREFLIGHT: Final = (
    "vary",
    "Origin, Access-Control-Request-Method, Access-Control-Request-Headers, "
    "Access-Control-Request-Private-Network",
)


class Cors:
    """Decides about origins, and writes the fields that tell browsers."""

    __slots__ = ("_credentials", "_every", "_fields", "_max_age", "_names", "_suffixes")

    def __init__(
        self, origins: Iterable[str], *, credentials: bool = False, headers: Iterable[str] = (),
        max_age: int = 600,
    ) -> None:  # fmt: skip
        """Raises Misconfigured for what no browser would send, and for every page with credentials."""
        found = frozenset(origins)
        for origin in found:
            if origin != "*" and not _ORIGIN.match(origin):
                raise Misconfigured(
                    f"ROUTER_CORS_ORIGINS has {origin[:80]!r}; an origin is written https://app.example.com, "
                    "without a path"
                )
        if credentials and ("*" in found or found & _WEB):
            raise Misconfigured(
                "ROUTER_CORS_ORIGINS lets every page in, which cannot be together with "
                "ROUTER_CORS_CREDENTIALS: name the origins"
            )
        self._every = "*" in found
        self._names = frozenset(origin for origin in found if "*" not in origin)
        self._suffixes = tuple(
            (scheme + "://", host.removeprefix("*"))
            for scheme, _, host in (origin.partition("://") for origin in found if "://*" in origin)
        )
        self._credentials = credentials
        self._fields = _fields(headers)
        self._max_age = str(max_age)

    def allows(self, origin: str) -> bool:
        """Return whether pages of this origin may read answers."""
        return self._every or self._named(origin)

    def _named(self, origin: str) -> bool:
        name = origin.lower()
        if name in self._names:
            return True
        return any(
            name.startswith(scheme) and name.endswith(suffix) and _LABELS.match(name, len(scheme))
            for scheme, suffix in self._suffixes
        )

    def preflight(self, request: Request, methods: str) -> Response:
        """Return the answer to a preflight for a path that takes these methods."""
        origin, asked = request.headers.get("origin", ""), request.headers
        if not self.allows(origin):
            return Response(204, (_VARY_PREFLIGHT,))
        headers = [
            *self._origin(origin),
            ("access-control-allow-methods", methods),
            ("access-control-allow-headers", ", ".join(self._fields)),
            ("access-control-max-age", self._max_age),
        ]
        if asked.get("access-control-request-private-network") == "true" and self._named(origin):
            # a page that nobody has named must not reach into a network just because every page may read
            headers.append(("access-control-allow-private-network", "true"))
        return Response(204, (*headers, _VARY_PREFLIGHT))

    def mark(self, request: Request, response: Response) -> Response:
        """Tell the browser whether the page may read an answer."""
        origin = request.headers.get("origin")
        if any(name == "access-control-allow-methods" for name, _ in response.headers):
            return response  # to a preflight
        if self._every:  # the same for all of them, so that a cache need not know who asks
            return response.with_headers(*self._origin("*"), _EXPOSES)
        if origin is None or not self._named(origin):
            return response.with_headers(_VARY)
        return response.with_headers(*self._origin(origin), _EXPOSES, _VARY)

    def _origin(self, origin: str) -> list[tuple[str, str]]:
        allowed = [("access-control-allow-origin", "*" if self._every else origin)]
        if self._credentials:
            allowed.append(("access-control-allow-credentials", "true"))
        return allowed


def is_preflight(request: Request) -> bool:
    """Return whether a browser asks, and not a page."""
    headers = request.headers
    return request.method == "OPTIONS" and "origin" in headers and "access-control-request-method" in headers


def cors_of(settings: Settings) -> Cors | None:
    """Return the rules of the settings, or None where no page of another site is let in."""
    origins = [one.strip().lower() for one in settings.cors_origins.split(",") if one.strip()]
    if not origins:
        return None
    return Cors(
        origins, credentials=settings.cors_credentials, headers=settings.cors_headers.split(","),
        max_age=settings.cors_max_age,
    )  # fmt: skip


def _fields(more: Iterable[str]) -> tuple[str, ...]:
    names = [name.strip().lower() for name in more if name.strip()]
    for name in names:
        if not _FIELD.match(name) or name == "*":
            raise Misconfigured(f"ROUTER_CORS_HEADERS has {name[:80]!r}, which is no name of a header field")
    return tuple(dict.fromkeys((*REQUESTED, *names)))
