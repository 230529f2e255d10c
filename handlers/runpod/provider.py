"""The provider ``runpod``: what ``router.start()`` and ``python -m handlers.runpod`` call on a worker."""

from __future__ import annotations

import os
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, cast

from router_core.errors import Misconfigured
from router_core.jobs.failpoints import arm
from router_core.settings import Settings, unknown_variables
from router_core.telemetry.events import Note
from router_core.telemetry.logging import Log

if TYPE_CHECKING:
    from handlers.runpod.worker import Worker
    from router_core.app import App
    from router_core.clock import Clock
    from router_core.jobs.store import Store

__all__ = ["adapted", "build", "check_platform", "serve", "start"]

_DEFAULTS: Final = Settings()
_RUNPODS: Final = 1800.0
"""Seconds for which the platform keeps results."""
_KEPT: Final = 2_000
_KEPT_BYTES: Final = 64 * 1024 * 1024
"""Ended records in memory: it is the model's."""
_PASSED_ON: Final = ("--rp_",)
"""Arguments that are the SDK's."""
_LAST_THREADS: Final = 1.0


def start(router: Any, settings: Settings) -> None:
    """Work for RunPod until a signal comes."""
    code = serve(router, settings)
    if code:
        raise SystemExit(code)


def adapted(settings: Settings) -> Settings:
    """Return the settings as they are meant on RunPod, where nothing on the disk outlives the worker.

    Records are kept in memory, unless ROUTER_JOBS names a store of the operator's, and there only for as long
    as RunPod itself keeps a result; the queue is RunPod's.
    """
    if settings.queue not in ("inprocess", "runpod"):
        raise Misconfigured(
            f"ROUTER_QUEUE is {settings.queue!r}; a RunPod worker takes its jobs from RunPod: leave it unset"
        )
    jobs, blobs, retention = settings.jobs, settings.blobs, settings.retention
    if jobs == _DEFAULTS.jobs:
        jobs = "memory://"
    if jobs.startswith("memory:") and retention == _DEFAULTS.retention:
        retention = _RUNPODS
    if blobs == _DEFAULTS.blobs:
        blobs = f"file://{tempfile.gettempdir()}/router-core-blobs"
    return replace(settings, queue="runpod", jobs=jobs, blobs=blobs, retention=retention)


def build(router: Any, settings: Settings) -> App:
    """Return the app of a router; one that is ready is taken as it is."""
    from handlers.runpod.pacing import PacedStore
    from router_core.app import App as Ready
    from router_core.backends import open_jobs
    from router_core.clock import SystemClock
    from router_core.wiring import build_app

    if isinstance(router, Ready):
        return router
    clock, meant = SystemClock(), adapted(settings)
    inner = _memory(clock) if meant.jobs.startswith("memory:") else open_jobs(meant, clock)
    return build_app(router, meant, clock=clock, store=cast("Store", PacedStore(inner)))


def _memory(clock: Clock) -> Store:
    from router_core.stores.memory import MemoryJobStore

    return MemoryJobStore(clock, max_finished=_KEPT, max_finished_bytes=_KEPT_BYTES)


def check_platform(environ: Mapping[str, str], arguments: Sequence[str]) -> None:
    """Raise Misconfigured where no RunPod is to be seen, saying what to do instead."""
    if "--rp_serve_api" in arguments or environ.get("RUNPOD_REALTIME_PORT", "0") not in ("", "0"):
        return
    if not environ.get("RUNPOD_WEBHOOK_GET_JOB"):
        raise Misconfigured(
            "this is not a RunPod worker (RUNPOD_WEBHOOK_GET_JOB is not set): run `router-core serve "
            "module:router` for RunPod-shaped routes on this machine, or pass "
            "--test-input '{\"input\": {...}}'"
        )
    for name in ("RUNPOD_WEBHOOK_GET_JOB", "RUNPOD_WEBHOOK_POST_OUTPUT", "RUNPOD_WEBHOOK_POST_STREAM"):
        if "?" not in environ.get(name, ""):
            raise Misconfigured(f"{name} is {environ.get(name, '')!r}; RunPod sets it to a URL with a query")


def serve(router: Any, settings: Settings) -> int:
    """Work and return the exit code."""
    check_platform(os.environ, sys.argv)
    arm(os.environ)
    app = build(router, settings)
    log = Log(app.settings)
    app.events.subscribe(log)
    log.install()
    try:
        for said in (*unknown_variables(os.environ), *_without_effect(app)):
            app.events.emit(Note("unknown_setting", "warning", said))
        _work(app)
    finally:
        log.close()
    _let_go()
    return 0


def _work(app: App) -> None:
    from handlers.runpod.scaler import install
    from handlers.runpod.sdk import load_sdk
    from handlers.runpod.worker import Worker

    sdk = load_sdk(app.settings)
    worker = Worker(app)
    drive = install(worker)
    # it reads the command line, too: leave it what it knows
    sys.argv = [sys.argv[0], *(word for word in sys.argv[1:] if word.startswith(_PASSED_ON))]
    sdk.start(_config(worker))
    if drive.failed is not None:
        raise drive.failed


def _config(worker: Worker) -> dict[str, Any]:
    """Return what the SDK is given; its test server runs the handler alone."""

    async def handler(job: dict[str, Any]) -> Any:
        await worker.start()
        outcome = await worker.handle(job)
        return outcome.for_sdk()

    return {
        "handler": handler,
        "concurrency_modifier": lambda _current: worker.concurrency,
        "refresh_worker": worker.settings.runpod_refresh,
    }


def _without_effect(app: App) -> list[str]:
    said = []
    if app.settings.api_keys:
        said.append("ROUTER_API_KEYS has no effect on RunPod: whoever holds a key of the endpoint may call")
    elif app.settings.authenticates:
        said.append(
            "ROUTER_KEYS, ROUTER_JWT_ISSUER and ROUTER_CLIENT_CERTIFICATES have no effect on RunPod: whoever "
            "holds a key of the endpoint may call"
        )
    if app.settings.webhook_secret:
        said.append(
            "ROUTER_WEBHOOK_SECRET has no effect on RunPod: the platform sends the webhooks, unsigned"
        )
    return said


def _let_go() -> None:
    """End the process although a function that was given up on still runs in its thread: the interpreter
    would wait for it."""
    until = time.monotonic() + _LAST_THREADS
    while time.monotonic() < until and _stuck():
        time.sleep(0.02)
    if _stuck():
        from handlers.local.processes import kill_tree

        sys.stdout.flush()
        sys.stderr.flush()
        kill_tree(os.getpid(), itself=False)
        os._exit(0)


def _stuck() -> bool:
    return any(thread.name.startswith("router-core-call") for thread in threading.enumerate())
