"""The gateway by itself: ``router-core serve router_core.gateway.app:create_app``."""

from __future__ import annotations

import os

from router_core.gateway import Gateway
from router_core.routing.router import Router

__all__ = ["CONFIG", "create_app"]

CONFIG = "ROUTER_GATEWAY"
"""Names the configuration file."""


def create_app() -> Router:
    """Return the router of a gateway that is configured by ``ROUTER_GATEWAY`` and the environment.

    Raises Misconfigured, naming file and line, for a configuration that cannot work.
    """
    router = Router(title="router-core gateway")
    router.include_router(Gateway(path=os.environ.get(CONFIG, "").strip(), environ=os.environ).router)
    return router
