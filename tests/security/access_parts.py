"""What the tests of access share."""

from __future__ import annotations

from router_core.http.message import Request, Response

__all__ = ["nothing"]


async def nothing(request: Request) -> Response:
    """Answer with nothing."""
    return Response(204)
