"""router-core: write a Python function once, serve it anywhere, with durable jobs for long work.

    from router_core import File, JobProgress, Router

    router = Router()

    @router.route("/predict", queue_size=100)
    def predict(job_progress: JobProgress, image: File, strength: float = 0.5) -> File: ...

    router.start()

Names are imported when they are first used, so that a process pays only for what it needs.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from router_core.app import App
    from router_core.binding.depends import Depends
    from router_core.binding.params import Body, Cookie, Form, Header, Path, Query
    from router_core.errors import (
        BadRequest,
        Conflict,
        Forbidden,
        HTTPError,
        Misconfigured,
        NotFound,
        RateLimited,
        RouterError,
        Unauthorized,
        Unavailable,
        UpstreamError,
    )
    from router_core.http.media import File
    from router_core.http.message import Request, Response
    from router_core.jobs.context import JobCancelled, JobContext, JobProgress
    from router_core.routing.router import Router
    from router_core.settings import Settings
    from router_core.types import Principal
    from router_core.wiring import build_app

__all__ = [
    "App",
    "BadRequest",
    "Body",
    "Conflict",
    "Cookie",
    "Depends",
    "File",
    "Forbidden",
    "Form",
    "HTTPError",
    "Header",
    "JobCancelled",
    "JobContext",
    "JobProgress",
    "Misconfigured",
    "NotFound",
    "Path",
    "Principal",
    "Query",
    "RateLimited",
    "Request",
    "Response",
    "Router",
    "RouterError",
    "Settings",
    "Unauthorized",
    "Unavailable",
    "UpstreamError",
    "__version__",
    "build_app",
]

_HOMES = {
    "App": "app",
    "Body": "binding.params",
    "Cookie": "binding.params",
    "Depends": "binding.depends",
    "File": "http.media",
    "Form": "binding.params",
    "Header": "binding.params",
    "JobCancelled": "jobs.context",
    "JobContext": "jobs.context",
    "JobProgress": "jobs.context",
    "Path": "binding.params",
    "Principal": "types",
    "Query": "binding.params",
    "Request": "http.message",
    "Response": "http.message",
    "Router": "routing.router",
    "Settings": "settings",
    "build_app": "wiring",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("router-core")
    if name not in __all__:
        raise AttributeError(f"module 'router_core' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"router_core.{_HOMES.get(name, 'errors')}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
