"""Response headers that every answer carries."""

from __future__ import annotations

from typing import Final

from router_core.http.message import Response

__all__ = ["HSTS", "SECURITY_HEADERS", "with_headers"]

HSTS: Final = ("strict-transport-security", "max-age=31536000")
"""Where the service is reached by TLS: browsers do not try without it for a year. Subdomains and preloading
are for whoever owns the domain to promise."""

SECURITY_HEADERS: Final[tuple[tuple[str, str], ...]] = (
    # a JSON answer that quotes its input must not be sniffed into a page
    ("x-content-type-options", "nosniff"),
    # an answer opened as a page may load and run nothing, and nobody may frame it
    ("content-security-policy", "default-src 'none'; frame-ancestors 'none'"),
    # the same, for browsers and scanners that do not know of policies
    ("x-frame-options", "DENY"),
    # a page made of an answer asks for no device
    ("permissions-policy", "camera=(), geolocation=(), microphone=()"),
    # job ids in paths are not for third parties
    ("referrer-policy", "no-referrer"),
    # another site's page may not read answers by embedding them
    ("cross-origin-resource-policy", "same-origin"),
)
_NAMES: Final = frozenset(name for name, _ in SECURITY_HEADERS)


def with_headers(response: Response, request_id: str) -> Response:
    """Add the security headers, each unless the answer brings its own (the docs page has its own policy)."""
    given = response.headers
    if len(given) == 1 and given[0][0] == "content-type":  # most answers
        headers = (given[0], *SECURITY_HEADERS, ("x-request-id", request_id))
        return Response(response.status, headers, response.body)
    added = SECURITY_HEADERS
    for name, _ in given:
        if name in _NAMES or name.lower() in _NAMES:
            present = {name.lower() for name, _ in given}
            added = tuple(pair for pair in SECURITY_HEADERS if pair[0] not in present)
            break
    return Response(response.status, (*given, *added, ("x-request-id", request_id)), response.body)
