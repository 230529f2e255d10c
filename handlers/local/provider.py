"""The provider ``fastapi`` (or ``local``): what ``router.start()`` and ``router-core serve`` call.

The name is that of the interface it serves; FastAPI itself is not needed.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from handlers.local.listen import bind
from handlers.local.server import ServeOptions, check_exposure, make_config, run_app, run_worker
from router_core.errors import Misconfigured
from router_core.jobs.failpoints import arm
from router_core.settings import Settings, unknown_variables
from router_core.telemetry.events import Note
from router_core.telemetry.logging import Log

if TYPE_CHECKING:
    from router_core.app import App
    from router_core.routing.route import Route
    from router_core.wiring import Core

__all__ = ["LOCAL", "build", "local_routes", "serve", "start"]

LOCAL: Final = ("fastapi", "local")
"""Names of this provider."""


def start(router: Any, settings: Settings) -> None:
    """Serve a router on this machine until a signal comes."""
    code = serve(router, settings)
    if code:
        raise SystemExit(code)


def serve(router: Any, settings: Settings, options: ServeOptions | None = None) -> int:
    """Serve and return the exit code.

    Several workers load the app by its name (``settings.app``), each in its own process. A ready-made App is
    served with its own settings, which are those that have to be given.
    """
    options = options or ServeOptions()
    check_exposure(settings, options)
    arm(os.environ)
    app = build(router, settings)
    log = Log(app.settings)
    app.events.subscribe(log)
    log.install()
    try:
        for said in unknown_variables(os.environ):
            app.events.emit(Note("unknown_setting", "warning", said))
        if options.workers == 1:
            return run_app(app, options)
        if app is not router and not any(route.kind == "job" for route in app.routes):
            # it needs no store, and what its processes did not share only one of them would find
            settings = replace(settings, jobs="none://")
            return _serve_many(app, settings, options, shared=False)
        return _serve_many(app, settings, options)
    finally:
        log.close()


def build(router: Any, settings: Settings) -> App:
    """Return the app with the routes that only this platform has: the docs page, and RunPod's."""
    from router_core.app import App as Ready
    from router_core.wiring import build_app

    return router if isinstance(router, Ready) else build_app(router, settings, extra_routes=local_routes)


def local_routes(core: Core) -> list[Route]:
    """Return the routes of the local server, for ``build_app(extra_routes=...)``."""
    from handlers.local.docs import docs_routes
    from handlers.local.runpod_shape import runpod_routes

    return [*docs_routes(), *runpod_routes(core)]


def _serve_many(app: App, settings: Settings, options: ServeOptions, *, shared: bool = True) -> int:
    from handlers.local.workers import Supervisor

    if not settings.app:
        raise Misconfigured(
            "several workers need the app by name: set ROUTER_APP=module:attribute or use the CLI"
        )
    if shared and not _shareable(app):
        raise Misconfigured(
            f"several workers need a job store that processes can share, and {_why_not(app)}, or one worker"
        )
    if settings.keys and settings.state.startswith("memory:"):
        raise Misconfigured(
            "ROUTER_KEYS=state with ROUTER_STATE=memory:// keeps keys in the memory of one process: several "
            "workers need a state that they share, such as sqlite:///state.db"
        )
    make_config(None, app, options)  # a certificate that cannot be read is reported here, once
    sockets = bind(settings.host, settings.port)
    try:
        grace = settings.drain_grace + 15.0
        with _metrics_folder() as folder:
            return Supervisor(_worker, (settings, options, folder), options.workers, sockets, grace).run()
    finally:
        for sock in sockets:
            sock.close()


@contextlib.contextmanager
def _metrics_folder() -> Iterator[str]:
    """Yield a folder that is gone afterwards; empty where nothing can be written, so that each worker tells
    its own metrics."""
    try:
        folder = tempfile.mkdtemp(prefix="router-metrics-")
    except OSError:
        yield ""
        return
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _shareable(app: App) -> bool:
    """Ask the store; one that does not say is believed unless it lives in memory."""
    flag = getattr(app.parts.store, "multi_process", None)
    return not app.settings.jobs.startswith("memory:") if flag is None else bool(flag)


def _why_not(app: App) -> str:
    url = app.settings.jobs
    if url.startswith("sqlite:"):
        import sqlite3

        return (
            f"the SQLite of this Python, {sqlite3.sqlite_version}, may corrupt a file that several processes "
            "write to (fixed in 3.51.3): use a Python with a newer SQLite"
        )
    if url.startswith("memory:"):
        return "ROUTER_JOBS=memory:// is the memory of one process: use sqlite:///path"
    return f"that of ROUTER_JOBS, {url.partition('://')[0]}://, says that it is none: use another one"


def _worker(
    settings: Settings, options: ServeOptions, folder: str, sockets: list[socket.socket]
) -> None:  # fmt: skip
    from handlers.loader import load_app
    from handlers.local.workers import end_with_parent

    end_with_parent()
    app = load_app(settings.app, settings, extra_routes=local_routes)
    log = Log(settings)
    app.events.subscribe(log)
    log.install()
    try:
        code = run_worker(app, options, sockets, folder)
    finally:
        log.close()
    raise SystemExit(code)
