"""What one RunPod worker does with a job, whoever takes it: the SDK's loop, its test server, a test."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Mapping
from time import perf_counter
from typing import Any, Final

import pydantic_core

from handlers.runpod.calls import Calls, request_of
from handlers.runpod.envelope import Envelope, read_job
from handlers.runpod.jobs import Jobs
from handlers.runpod.line import Line, Silent
from handlers.runpod.outcome import Outcome, error_text, trace_of
from handlers.runpod.results import Results
from handlers.runpod.slots import Slots, allowed
from router_core.app import App
from router_core.binding.inputs import Intake
from router_core.errors import JobError, NotFound, RouterError, ValidationFailed
from router_core.http.message import Request, Response
from router_core.http.problem import problem_response
from router_core.jobs.execution import contained
from router_core.routing.named import Named, NamedRoutes, take_key
from router_core.security.fetch import GuardedHttp
from router_core.security.url_guard import UrlGuard
from router_core.settings import Settings
from router_core.telemetry.events import Note, RequestDone

__all__ = ["Worker"]

_DOCUMENT: Final = frozenset({"openapi.json", "/openapi.json"})
_SOURCES: Final = frozenset({"body", "query", "path", "header", "cookie"})
_MAX_TRACES: Final = 100
_GONE: Final = 499
"""The status in the log of what its caller has cancelled."""


class Worker:
    """An app, ready for RunPod's jobs. ``handle`` never raises, except when its task is cancelled."""

    def __init__(self, app: App) -> None:
        self.app = app
        self.settings = app.settings
        self._own = [route for route in app.routes if not route.internal]
        self._named = NamedRoutes(self._own)
        intake = _intake(app.settings)
        results = Results(app.settings, app.service)
        self._slots = Slots(self._own)
        self._calls = Calls(app, intake, results)
        self._jobs = Jobs(app, intake, results, self._slots, self._own)
        self._results = results
        self._traces = _Traces()
        if self.settings.tracebacks:
            app.events.subscribe(self._traces)

    @property
    def concurrency(self) -> int:
        """How many jobs this worker takes at once."""
        return allowed(self._own, self.settings.runpod_concurrency)

    async def start(self) -> None:
        """Run the start-up hooks; jobs are taken after them."""
        await self.app.start()

    async def release(self) -> None:
        """Give back what still runs: its callers are told to run the job again."""
        self._jobs.release()
        self._calls.release()
        await self.app.drain(0)
        self._jobs.give_up()

    async def stop(self) -> None:
        """Run the shut-down hooks."""
        await self.app.stop(0)

    async def handle(self, job: Mapping[str, Any], line: Line | None = None) -> Outcome:
        """Run one delivery to its end."""
        job_id = str(job.get("id", ""))
        started = perf_counter()
        found: Named | None = None
        try:
            envelope = read_job(job)
            if self._is_document(envelope):
                outcome = await self._document(envelope)
            else:
                found = self._named.find(envelope.input)
                outcome = await self._run(envelope, found, line or Silent())
        except asyncio.CancelledError:
            self._report(job_id, found, started, None)
            raise
        except BaseException as raised:
            error = contained(raised)
            outcome = await self._failed(job_id, found, error)
        self._report(job_id, found, started, outcome)
        return outcome

    def _report(self, job_id: str, named: Named | None, started: float, outcome: Outcome | None) -> None:
        """Tell logs and metrics of a delivery; there is no outcome where its caller has cancelled it."""
        method, path, key = "POST", "", ""
        if named is not None:
            method, path, key = named.route.methods[0], named.route.path, named.route.key
        status = _GONE if outcome is None else outcome.status
        seconds = perf_counter() - started
        self.app.events.emit(
            RequestDone(method, path, key, status, seconds, job_id, disconnected=outcome is None)
        )

    async def _run(self, envelope: Envelope, named: Named, line: Line) -> Outcome:
        if named.route.kind == "job":
            return await self._jobs.run(envelope, named, line)
        self._refuse_key(envelope, named)
        give_back = await self._slots.take(named.route)
        try:
            return await self._calls.run(named, envelope.id, envelope.sync, line)
        finally:
            give_back()

    def _refuse_key(self, envelope: Envelope, named: Named) -> None:
        """Say so rather than run a call twice that its caller believes to be protected."""
        if take_key(named, envelope.policy):
            text = "idempotency keys are for job routes; this one answers at once and keeps no record"
            error = {"loc": ["input", "idempotency_key"], "msg": text, "type": "idempotency_unsupported"}
            raise ValidationFailed(text, errors=[error], code="idempotency_unsupported")

    # -- the virtual route ---------------------------------------------------------------------------

    def _is_document(self, envelope: Envelope) -> bool:
        path = envelope.input.get("path")
        return isinstance(path, str) and path in _DOCUMENT

    async def _document(self, envelope: Envelope) -> Outcome:
        route = next((each for each in self.app.routes if each.path == "/openapi.json"), None)
        if route is None:
            raise NotFound("this service has no OpenAPI document")
        answer = await self.app.dispatch(Request("GET", route.path, id=envelope.id), route)
        return await self._results.of_json(bytes(answer.body), envelope.sync)  # type: ignore[arg-type]

    # -- errors --------------------------------------------------------------------------------------

    async def _failed(self, job_id: str, named: Named | None, error: BaseException) -> Outcome:
        """Return the failure as the core would answer it, its author's exception handlers included."""
        trace = self._trace(error)
        if isinstance(error, ValidationFailed):
            _place(error)
        if isinstance(error, JobError):  # the log has it, from where it happened
            return _of_answer(problem_response(error, request_id=job_id), trace)
        if not isinstance(error, Exception):
            error = RuntimeError(f"{type(error).__name__}: {error}")
        route = None if named is None else named.route
        arguments = {} if named is None else named.arguments
        request = (
            request_of(route, arguments, job_id) if route is not None else Request("POST", "/", id=job_id)
        )
        answer = await self.app.parts.stack.explain(error, request, route)
        return _of_answer(answer, trace)

    def _trace(self, error: BaseException) -> str:
        if not self.settings.tracebacks:
            return ""
        record_id = error.extra.get("job_id", "") if isinstance(error, RouterError) else ""
        return self._traces.take(record_id) or trace_of(error)


def _place(error: ValidationFailed) -> None:
    """Say that a wrong value is in the input: there is no query, header or body to look at."""
    for each in error.errors:
        where, *rest = each.get("loc") or ("input",)
        if where in _SOURCES:
            each["loc"] = ["input", *rest]


def _of_answer(answer: Response, trace: str) -> Outcome:
    """Turn the answer that an error was given into an end: an author's handler may make a result of it."""
    body = answer.body if isinstance(answer.body, bytes) else b""
    if answer.status < 400:
        return Outcome(body if _is_json(body) else pydantic_core.to_json(body.decode("utf-8", "replace")))
    if not _is_json(body):
        body = pydantic_core.to_json({"detail": body.decode("utf-8", "replace")})
    value = pydantic_core.from_json(body)
    text = error_text(value if isinstance(value, dict) else {"detail": value}, trace)
    return Outcome(error=text, status=answer.status)


def _is_json(body: bytes) -> bool:
    try:
        pydantic_core.from_json(body)
    except ValueError:
        return False
    return True


def _intake(settings: Settings) -> Intake:
    guard = UrlGuard(allow_private=settings.allow_private_urls)
    return Intake(
        max_json_depth=settings.max_json_depth,
        fetch=GuardedHttp(guard, max_bytes=settings.max_upload_bytes),
    )


class _Traces:
    """Keeps the traceback of the last failures of jobs, for callers who are allowed to see them."""

    def __init__(self) -> None:
        self._by_job: OrderedDict[str, str] = OrderedDict()

    def __call__(self, event: object) -> None:
        """Take note of an error of a job."""
        if isinstance(event, Note) and event.name == "job_error":
            job_id = str(event.fields.get("job_id", ""))
            self._by_job[job_id] = str(event.fields.get("traceback") or trace_of(event.error))
            while len(self._by_job) > _MAX_TRACES:
                self._by_job.popitem(last=False)

    def take(self, job_id: str) -> str:
        """Return it once."""
        return self._by_job.pop(job_id, "")
