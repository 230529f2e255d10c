"""The page at /docs: try every route, upload files, watch jobs; offline, all of it is in this package."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

from router_core.http.message import Request, Response
from router_core.routing.product import product_route
from router_core.routing.route import Route

__all__ = ["CONTENT_SECURITY_POLICY", "docs_routes"]

CONTENT_SECURITY_POLICY: Final = "; ".join(
    (
        "default-src 'none'",
        # only files of this package run or style the page: no inline code, nothing from elsewhere
        "script-src 'self'",
        "style-src 'self'",
        "connect-src 'self'",
        # results are shown from memory
        "img-src 'self' blob:",
        "media-src blob:",
        "form-action 'none'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    )
)
_FOLDER: Final = Path(__file__).parent / "web"
_TYPES: Final = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


def docs_routes() -> list[Route]:
    """Return the routes of the page and its files.

    They are open to everybody: the page holds nothing of the service, and asks for an API key where one is
    needed to read its description.
    """
    routes = []
    for path in sorted(_FOLDER.iterdir()):
        if path.suffix in _TYPES:
            where = "/docs" if path.name == "index.html" else f"/docs/{path.name}"
            routes.append(product_route("GET", where, _file(path), public=True, in_schema=False))
    return routes


def _file(path: Path) -> Callable[[Request], Awaitable[Response]]:
    content = path.read_bytes()
    etag = f'"{hashlib.sha256(content).hexdigest()[:20]}"'
    headers = (
        ("content-type", _TYPES[path.suffix]),
        ("content-security-policy", CONTENT_SECURITY_POLICY),
        ("cache-control", "no-cache"),
        ("etag", etag),
    )

    async def send(request: Request) -> Response:
        """Send one file of the documentation page."""
        if request.headers.get("if-none-match") == etag:
            return Response(304, headers[1:])
        return Response(200, headers, content)

    return send
