"""The routes that only the local server has."""

from __future__ import annotations

from typing import TYPE_CHECKING

from handlers.local.runpod_shape import runpod_routes

if TYPE_CHECKING:
    from router_core.routing.route import Route
    from router_core.wiring import Core

__all__ = ["local_routes"]


def local_routes(core: Core) -> list[Route]:
    """Return them for ``build_app(extra_routes=...)``."""
    return [*runpod_routes(core)]
