"""RunPod's API on the local server: the official clients and their users' scripts work against a laptop.

``/v2/{endpoint}/...`` with any endpoint name. A job submitted here is a job like every other: it is also
found under ``/jobs``. Other than on the platform, input that cannot be right is refused at once with 422
instead of becoming a job that fails, a retry makes a new job (a finished one is never changed), and webhooks
are signed and carry our own job body.
"""

from __future__ import annotations

import asyncio
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, Final

import pydantic_core

from handlers.local.runpod_words import (
    Envelope,
    brief,
    encode_status,
    read_envelope,
    read_wait,
)
from router_core.binding.inputs import Intake
from router_core.errors import BadRequest, Conflict, Gone
from router_core.http.message import Request, Response
from router_core.jobs import moves
from router_core.jobs.job import WAITING, Job, State
from router_core.jobs.service import JobService
from router_core.jobs.store import JobQuery
from router_core.jobs.worker import concurrency_of
from router_core.routing.named import NamedRoutes, take_key
from router_core.routing.permission import READ, check_permission
from router_core.routing.product import Handler, product_route
from router_core.routing.route import Route
from router_core.telemetry.events import Events, JobMoved
from router_core.types import Principal
from router_core.wiring import Core

__all__ = ["RunpodShape", "runpod_routes"]

OpenApi = Callable[[], Mapping[str, Any]]

_DOCUMENT_PATHS: Final = frozenset({"openapi.json", "/openapi.json"})
_DOCUMENT_ID: Final = "openapi-json"
"""The job that answers for the virtual route: always finished, never stored."""
_JSON: Final = (("content-type", "application/json"), ("cache-control", "no-store"))
_CANCEL_WAIT: Final = 2.0
"""Seconds: the official client gives a cancel three."""
_MAX_CURSORS: Final = 10_000
_PAGE: Final = 1000
_LARGE: Final = 1024 * 1024
_ENDED: Final = -1


def runpod_routes(core: Core) -> list[Route]:
    """Return the routes for ``build_app(extra_routes=...)``."""
    slots = sum(concurrency_of(route) for route in core.routes)
    shape = RunpodShape(
        service=core.service, routes=core.routes, events=core.events, intake=core.intake,
        openapi=core.openapi, slots=slots,
    )  # fmt: skip
    return shape.routes()


class RunpodShape:
    """Answers for the routes of a RunPod endpoint, over the same service as the native job routes."""

    def __init__(
        self,
        *,
        service: JobService,
        routes: Iterable[Route],
        events: Events,
        intake: Intake,
        openapi: OpenApi | None = None,
        slots: int = 1,
    ) -> None:
        """``intake`` reads files behind URLs; ``slots`` is how many jobs this process can run at once."""
        self._service = service
        self._named = NamedRoutes(routes)
        self._intake = intake
        self._openapi = openapi
        self._slots = slots
        self._counts = _Counts()
        self._cursors = _Cursors()
        events.subscribe(self._counts.listen)

    def routes(self) -> list[Route]:
        """Return the routes to serve."""
        table: tuple[tuple[str, str, Handler], ...] = (
            ("POST", "run", self.run),
            ("POST", "runsync", self.runsync),
            ("GET", "status/{job_id}", self.status),
            ("POST", "status/{job_id}", self.status),
            ("GET", "stream/{job_id}", self.stream),
            ("POST", "stream/{job_id}", self.stream),
            ("POST", "cancel/{job_id}", self.cancel),
            ("POST", "retry/{job_id}", self.retry),
            ("GET", "health", self.health),
            ("POST", "purge-queue", self.purge_queue),
        )
        return [
            product_route(
                method,
                f"/v2/{{endpoint}}/{name}",
                handler,
                in_schema=False,
                any_caller=name != "health",
                scopes=(f"{READ}|jobs",) if name == "health" else (),
            )
            for method, name, handler in table
        ]

    async def run(self, request: Request) -> Response:
        """Accept a job."""
        envelope = read_envelope(request, self._service.settings.max_json_depth)
        if self._is_document(envelope):
            return self._document()
        job = await self._submit(envelope, request.principal)
        return _json(brief(job))

    async def runsync(self, request: Request) -> Response:
        """Accept a job and wait for it; one that takes longer goes on."""
        seconds = read_wait(request)
        envelope = read_envelope(request, self._service.settings.max_json_depth)
        if self._is_document(envelope):
            return self._document()
        job = await self._submit(envelope, request.principal)
        return await self._status(await self._wait(job, request.principal, seconds))

    async def status(self, request: Request) -> Response:
        """Tell how a job stands; its output can be read as often as wanted."""
        job_id = request.path_params["job_id"]
        if self._openapi is not None and job_id == _DOCUMENT_ID:
            return self._document()
        return await self._status(await self._service.get(job_id, request.principal))

    async def stream(self, request: Request) -> Response:
        """Return what the job has yielded since the caller asked last.

        The clients send no position, so it is kept here, for each caller and job. A cancelled job ends with
        410 after it has been told once: the official client would otherwise ask for ever, as it does not
        know CANCELLED for an end.
        """
        principal, job_id = request.principal, request.path_params["job_id"]
        job = await self._service.get(job_id, principal)
        after = self._cursors.get(principal, job_id)
        if after == _ENDED:
            raise Gone("the job was cancelled and its stream has ended", code="stream_ended")
        chunks, last = await self._chunks(job_id, after)
        told = job.state is State.CANCELLED and not chunks
        self._cursors.set(principal, job_id, _ENDED if told else last)
        head = pydantic_core.to_json(brief(job))
        return Response(200, _JSON, b'%s,"stream":[%s]}' % (head[:-1], b",".join(chunks)))

    async def cancel(self, request: Request) -> Response:
        """Cancel a job; one that has ended already keeps its status."""
        principal, job_id = request.principal, request.path_params["job_id"]
        try:
            job = await self._service.cancel(job_id, principal)
        except Conflict:
            job = await self._service.get(job_id, principal)
        if not job.terminal:
            job = await self._service.wait(job_id, principal, _CANCEL_WAIT)
        return _json(brief(job))

    async def retry(self, request: Request) -> Response:
        """Run the input of a failed, cancelled or timed-out job again; the answer holds the new id."""
        added = await self._service.retry(request.path_params["job_id"], request.principal)
        return _json(brief(added.job))

    async def health(self, request: Request) -> Response:
        """Count the open jobs, and those that have ended since this process began."""
        stats = await self._service.store.stats()
        waiting = sum(number for (_, state), number in stats.by_route.items() if state in WAITING)
        running = sum(stats.by_route.values()) - waiting
        jobs = {**self._counts.read(), "inProgress": running, "inQueue": waiting}
        workers = {"idle": max(0, self._slots - running), "running": min(running, self._slots)}
        return _json({"jobs": jobs, "workers": workers})

    async def purge_queue(self, request: Request) -> Response:
        """Cancel the jobs of the caller that wait; what runs goes on."""
        removed = 0
        query = JobQuery(states=WAITING, limit=100)
        while True:
            page = await self._service.find(query, request.principal)
            removed += sum(await asyncio.gather(*(self._cancel_waiting(job) for job in page.jobs)))
            if not page.cursor:
                return _json({"removed": removed, "status": "completed"})
            query = replace(query, cursor=page.cursor)

    async def _submit(self, envelope: Envelope, principal: Principal) -> Job:
        named = self._named.find(envelope.input)
        check_permission(named.route, principal)  # the layers have judged only ``/run``
        if named.route.plan.request_only:
            raise BadRequest(
                f"{named.route.key} takes a request as it is, which no job can keep; call it directly",
                code="no_job",
            )
        options = envelope.options
        key = take_key(named, envelope.policy)
        if key and not options.key:
            options = replace(options, key=key).check()
        inputs = named.route.plan.collect_input(named.arguments, self._intake)
        await named.route.plan.fetch(inputs, self._intake)
        added = await self._service.submit(
            named.route,
            inputs,
            principal=principal,
            options=options,
            content_type="application/json",
        )
        return added.job

    async def _wait(self, job: Job, principal: Principal, seconds: float) -> Job:
        """Wait in turns, as the service bounds each; stop early when it takes no more waiters."""
        clock = self._service.clock
        end = clock.monotonic() + seconds
        while not job.terminal and (left := end - clock.monotonic()) > 0:
            begun = clock.monotonic()
            turn = min(left, self._service.settings.sync_wait_max)
            job = await self._service.wait(job.id, principal, turn)
            if clock.monotonic() - begun < turn / 2:
                break
        return job

    async def _status(self, job: Job) -> Response:
        output = None
        if job.state is State.SUCCEEDED:
            result = await self._service.result(job)
            # base64 of many megabytes would hold up every other caller
            large = result.file is not None and result.file.size > _LARGE
            output = await asyncio.to_thread(result.as_json) if large else result.as_json()
        return Response(200, _JSON, encode_status(job, output))

    async def _chunks(self, job_id: str, after: int) -> tuple[list[bytes], int]:
        """Return the outputs after a position, of the megabyte that is kept, and how far they go."""
        page = await self._service.events(job_id, after, _PAGE)
        chunks = [b'{"output":%s}' % event.data for event in page.events if event.type == "output"]
        return chunks, max((event.seq for event in page.events), default=after)

    async def _cancel_waiting(self, job: Job) -> bool:
        """Cancel, unless a worker was faster: the service's own cancel would stop it."""
        retention = self._service.retention(self._service.routes.get(job.route))
        move = moves.cancel_waiting(now=self._service.clock.now(), retention=retention)
        return (await self._service.store.move(job.id, move)).applied

    def _is_document(self, envelope: Envelope) -> bool:
        path = envelope.input.get("path")
        return self._openapi is not None and isinstance(path, str) and path in _DOCUMENT_PATHS

    def _document(self) -> Response:
        document = self._openapi() if self._openapi is not None else {}
        return _json({"id": _DOCUMENT_ID, "status": "COMPLETED", "output": document})


class _Counts:
    """Counts jobs that ended or were tried again; told from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._numbers: Counter[str] = Counter(completed=0, failed=0, retried=0)

    def listen(self, event: object) -> None:
        """Count one event."""
        if not isinstance(event, JobMoved):
            return
        if event.move in ("retry", "rescue") and event.state == State.RETRYING:
            name = "retried"
        elif event.state == State.SUCCEEDED:
            name = "completed"
        elif event.state in (State.FAILED, State.EXPIRED):
            name = "failed"
        else:
            return
        with self._lock:
            self._numbers[name] += 1

    def read(self) -> dict[str, int]:
        """Return the numbers so far."""
        with self._lock:
            return dict(self._numbers)


class _Cursors:
    """How far each caller has read each stream; the longest unused are forgotten."""

    def __init__(self) -> None:
        self._positions: OrderedDict[tuple[str, str], int] = OrderedDict()

    def get(self, principal: Principal, job_id: str) -> int:
        """Return the number of the last event that was handed out."""
        return self._positions.get((principal.id, job_id), 0)

    def set(self, principal: Principal, job_id: str, position: int) -> None:
        """Remember it."""
        key = (principal.id, job_id)
        self._positions[key] = position
        self._positions.move_to_end(key)
        if len(self._positions) > _MAX_CURSORS:
            self._positions.popitem(last=False)


def _json(value: Mapping[str, Any]) -> Response:
    return Response(200, _JSON, pydantic_core.to_json(value))
