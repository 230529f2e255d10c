"""One Lambda function: a service, made as the environment says, that answers any event."""

from __future__ import annotations

import os
import time
from collections.abc import Coroutine, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, Final

from handlers.aws.events import DIRECT, SCHEDULE, SQS, sniff
from handlers.aws.http import SHAPES, HttpCalls, whole
from handlers.aws.loop import PersistentLoop, run_inline
from handlers.aws.telemetry import Telemetry
from router_core.calls import CallService
from router_core.errors import Misconfigured, RouterError
from router_core.settings import Settings, unknown_variables
from router_core.telemetry.events import Note
from router_core.types import new_id

if TYPE_CHECKING:
    from router_core.app import App
    from router_core.routing.router import Router

__all__ = ["LambdaApp", "build"]

ROLE: Final = "ROUTER_LAMBDA_ROLE"
"""What a function on a queue does with its messages: ``dead_letters`` buries them, else they are jobs."""
DEAD_LETTERS: Final = "dead_letters"
TRACER: Final = "ROUTER_TRACER"
"""``powertools`` sends a trace of every invocation to X-Ray."""
_OF_ONE_PROCESS: Final = ("memory:", "sqlite:", "file:")


class LambdaApp:
    """One service as a Lambda handler: any event in, its reply out."""

    def __init__(
        self,
        service: App | CallService,
        telemetry: Telemetry | None = None,
        *,
        role: str = "",
        takes_jobs: bool = True,
    ) -> None:
        self._service = service
        self.telemetry = telemetry or Telemetry(service.settings, {})
        self.loop = PersistentLoop()
        self.worker_id = new_id()
        """Names this process to the job store; another one after a snapshot was thawed."""
        self._buries = role == DEAD_LETTERS
        self.calls = HttpCalls(service, takes_jobs=takes_jobs)

    def start(self, *, background: bool = False) -> None:
        """Open the store and run the start-up hooks; ``background`` is for tests, where nothing freezes."""
        service = self._service
        if isinstance(service, CallService):
            self.loop.start(service.start())
        else:
            self.loop.start(service.start(background=background))

    def stop(self) -> None:
        """End the service (in tests: a Lambda process is killed)."""
        self.loop.run(self._service.stop())
        self.loop.close()

    def restored(self) -> None:
        """Be another process than the one that the snapshot was taken of."""
        self.worker_id = new_id()
        if not isinstance(self._service, CallService):
            self._service.restored()
        self.calls.restored()
        self.telemetry.restored()

    def note(self, note: Note) -> None:
        """Report something to the operator."""
        self._service.events.emit(note)

    def __call__(self, event: Any, context: Any) -> Any:
        """Answer one event. Raises UnknownEvent for one of no kind that is served here."""
        self.telemetry.begin(context)
        return self.loop.run(self.answer(event, context))

    def traced(self) -> AbstractContextManager[None]:
        """Return what surrounds an invocation: nothing, where no tracer was asked for."""
        return nullcontext()

    def answer(self, event: Any, context: Any) -> Coroutine[Any, Any, Any]:
        """Answer one event on the running loop. Raises UnknownEvent at once."""
        kind = sniff(event)
        if kind in SHAPES:
            return self.calls.reply(kind, event, context)
        return self._worked(kind, event, context)

    async def _worked(self, kind: str, event: Any, context: Any) -> Any:
        """Do what is no HTTP; each is loaded by the function that needs it."""
        app = await whole(self._service)
        if kind == SQS and self._buries:
            from handlers.aws.dead_letters import bury

            return await bury(app, event, context)
        if kind == SQS:
            from handlers.aws.sqs import run_batch

            return await run_batch(app, event, context)
        if kind == SCHEDULE:
            from handlers.aws.schedule import tend

            return await tend(app, event, context)
        if kind == DIRECT:
            from handlers.aws.direct import invoke

            for look in app.looks:
                await look()
            return await invoke(app, event, context)
        raise AssertionError(kind)


def build(
    environ: Mapping[str, str], served: Router | App | None = None, *, threads: bool = False
) -> LambdaApp:
    """Return the started handler of the service that the environment names.

    ``threads`` runs sync functions beside the loop, which has more to do where answers are streamed.
    Raises Misconfigured or StoreError, after one line in the log that says what to change.
    """
    began = time.perf_counter()
    telemetry = Telemetry(Settings(), environ)
    try:
        app = _service(environ, served, threads)
        telemetry = Telemetry(app.settings, environ)
        telemetry.install()
        app.events.subscribe(telemetry)
        made = _kind(environ)(app, telemetry, role=environ.get(ROLE, ""), takes_jobs=_keeps(app.settings))
        _arm(environ)
        for said in unknown_variables(environ):
            made.note(Note("unknown_setting", "warning", said))
        try:
            made.start()
        except BaseException:
            made.loop.close()
            raise
    except RouterError as error:
        telemetry.line(40, {"event": "init_failed", "code": error.code, "message": str(error)})
        raise
    if environ.get("AWS_LAMBDA_INITIALIZATION_TYPE") == "snap-start":
        from handlers.aws.snapstart import register

        register(made, environ)
    telemetry.init_seconds = time.perf_counter() - began
    return made


def _kind(environ: Mapping[str, str]) -> type[LambdaApp]:
    tracer = environ.get(TRACER, "").strip().lower()
    if not tracer:
        return LambdaApp
    if tracer != "powertools":
        raise Misconfigured(f"{TRACER} is {tracer!r}; it must be powertools, or unset")
    from handlers.aws.tracing import TracedApp

    return TracedApp


def _service(environ: Mapping[str, str], served: Router | App | None, threads: bool) -> App | CallService:
    from handlers.loader import load
    from router_core.routing.router import Router as Unwired

    name = environ.get("ROUTER_APP", "").strip()
    if served is None:
        if not name:
            raise Misconfigured("set ROUTER_APP=module:attribute to the router that this function serves")
        served = load(name, environ.get("LAMBDA_TASK_ROOT") or os.getcwd())
    if not isinstance(served, Unwired):
        _check(served.settings, served.routes)
        return served
    settings = _settings(environ, served)
    _check(settings, served.routes)
    if _is_plain(settings, served):
        return CallService(served, settings, run_sync=None if threads else run_inline)
    from router_core.wiring import build_app

    return build_app(served, settings)


def _is_plain(settings: Settings, router: Router) -> bool:
    """Return whether this function only answers calls, so that it can start without everything else."""
    stores = (settings.jobs, settings.blobs) == ("memory://", "memory://") and settings.queue == "inprocess"
    more = settings.webhook_secret or settings.worker_keys or router.extensions
    return stores and not more and all(route.kind != "job" for route in router.routes)


def _settings(environ: Mapping[str, str], router: Router) -> Settings:
    """Return the settings; where no store is named, one that needs no disk."""
    given: dict[str, Any] = {**router.settings_overrides, "provider": "lambda"}
    for name, variables, default in (
        ("jobs", ("ROUTER_JOBS",), "memory://"),
        ("blobs", ("ROUTER_BLOBS",), "memory://"),
        ("environment", ("EXECUTION_ENVIRONMENT", "EXECUTION_ENVIORNMENT"), "serverless"),
    ):
        if name not in given and not any(environ.get(variable, "").strip() for variable in variables):
            given[name] = default
    return Settings.from_env(environ, **given)


def _keeps(settings: Settings) -> bool:
    """Return whether a job that is taken here will be run: by another process, so it has to be told."""
    return settings.queue != "inprocess" and not settings.jobs.startswith(_OF_ONE_PROCESS)


def _check(settings: Settings, routes: Any) -> None:
    job = next((route for route in routes if route.kind == "job" and not route.internal), None)
    if job is None:
        return
    missing = [
        wanted
        for value, wanted in (
            (settings.jobs, "ROUTER_JOBS=dynamodb://table"),
            (settings.queue, "ROUTER_QUEUE=sqs://queue"),
            (settings.blobs, "ROUTER_BLOBS=s3://bucket/prefix"),
        )
        if value == "inprocess" or value.startswith(_OF_ONE_PROCESS)
    ]
    if missing:
        raise Misconfigured(
            f"the job route {job.path} needs a record, a queue and a store that outlive this process; "
            f"set {', '.join(missing)}"
        )


def _arm(environ: Mapping[str, str]) -> None:
    if environ.get("ROUTER_FAILPOINT"):
        from router_core.jobs.failpoints import arm

        arm(environ)
