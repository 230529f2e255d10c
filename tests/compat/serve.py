"""Serve the test service as ``router-core serve`` does."""

from __future__ import annotations

import os
import sys

from handlers.local.runpod_shape import runpod_routes
from handlers.local.server import ServeOptions, run_app
from router_core.settings import Settings
from router_core.wiring import build_app
from tests.compat.service import router

if __name__ == "__main__":
    app = build_app(router, Settings.from_env(os.environ), extra_routes=runpod_routes)
    sys.exit(run_app(app, ServeOptions()))
