"""Response headers that every answer carries."""

from __future__ import annotations

from typing import Final

from router_core.http.message import Response
from router_core.middleware.exchange import Exchange, Handle, Layer

__all__ = ["SECURITY_HEADERS", "headers_layer"]

SECURITY_HEADERS: Final[tuple[tuple[str, str], ...]] = (
    # a JSON answer that quotes its input must not be sniffed into a page
    ("x-content-type-options", "nosniff"),
    # an answer opened as a page may load and run nothing, and nobody may frame it
    ("content-security-policy", "default-src 'none'; frame-ancestors 'none'"),
    # job ids in paths are not for third parties
    ("referrer-policy", "no-referrer"),
    # another site's page may not read answers by embedding them
    ("cross-origin-resource-policy", "same-origin"),
)
_NAMES: Final = frozenset(name for name, _ in SECURITY_HEADERS)


def headers_layer() -> Layer:
    """Add the security headers, each unless the answer brings its own (the docs page has its own policy)."""

    def layer(inner: Handle) -> Handle:
        async def headers(exchange: Exchange) -> Response:
            response = await inner(exchange)
            own = [pair[0] for pair in response.headers if pair[0] in _NAMES or pair[0].lower() in _NAMES]
            if own:
                present = {name.lower() for name in own}
                added = tuple(pair for pair in SECURITY_HEADERS if pair[0] not in present)
            else:
                added = SECURITY_HEADERS
            return Response(
                response.status,
                (*response.headers, *added, ("x-request-id", exchange.request.id)),
                response.body,
            )

        return headers

    return layer
