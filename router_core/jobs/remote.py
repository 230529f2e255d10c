"""The routes under which workers on other machines take, keep and end jobs.

A worker key opens these routes and no others. What a worker may touch is decided by the lease: every
request about a job carries the epoch and the token of its claim, and every write repeats them in the store
(C2). A lease that is not, or no longer, good is answered with 409 ``fenced``, alike for jobs that exist and
jobs that do not.
"""

from __future__ import annotations

import asyncio
import hmac
import random
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final
from weakref import WeakValueDictionary

import pydantic_core

from router_core.errors import (
    Conflict,
    Draining,
    Fenced,
    NotFound,
    StoreError,
    ValidationFailed,
)
from router_core.http.message import Request, Response
from router_core.jobs.dispatch import Dispatcher
from router_core.jobs.job import Fence, Job, State
from router_core.jobs.leaving import unless_gone
from router_core.jobs.moves import Move
from router_core.jobs.prefer import query_value
from router_core.jobs.remote_blobs import LeasedBlobs
from router_core.jobs.remote_moves import ended, noted, settled_by, succeeded
from router_core.jobs.remote_offers import Offers
from router_core.jobs.remote_overtime import Overtime
from router_core.jobs.remote_replay import Replays
from router_core.jobs.remote_wait import Wakeups
from router_core.jobs.remote_wire import (
    EPOCH_HEADER,
    MAX_BATCH,
    MAX_WAIT,
    MOVES,
    PIECE,
    PROTOCOL,
    TOKEN_HEADER,
    AnyMove,
    Appended,
    Beat,
    ClaimJobs,
    Hello,
    Progress,
    Steps,
    Succeed,
    Wait,
    is_json,
    job_to_wire,
    read,
)
from router_core.jobs.service import JobService
from router_core.jobs.store import Claim, NewEvent
from router_core.routing.product import product_route
from router_core.routing.route import Route
from router_core.telemetry.events import Events, Note
from router_core.types import ID_PATTERN, Principal

__all__ = ["RemoteRoutes"]

BEAT: Final = 5.0
"""Seconds between heartbeats of remote workers: this is how late a cancel may reach them."""
POLL: Final = 3.0
"""Seconds between looks of an idle worker that is told of new jobs, should it miss one."""
POLL_ALONE: Final = 2.0
"""The same where nobody can be told, as each request is a process of its own (AWS Lambda). A held request
would be paid for all the while; a short one every two seconds costs cents a month."""
_SLICE: Final = 1.0
_RESERVED: Final = frozenset({"job", "truncated"})
_NUMBER: Final = re.compile(r"[0-9]{1,15}\Z")
_SMALL: Final = 512 * 1024
_LARGE: Final = 4 * 1024 * 1024
"""A batch of events, or a result, in the escapes of JSON inside JSON."""


class RemoteRoutes:
    """Handlers for remote workers, each from a request to an answer."""

    def __init__(
        self, *, service: JobService, routes: Mapping[str, Route], dispatcher: Dispatcher, wakeups: Wakeups,
        events: Events, holds: Callable[[], bool], title: str = "",
    ) -> None:  # fmt: skip
        """``holds`` says whether this process may hold a request back."""
        self._service = service
        self._store = service.store
        self._clock = service.clock
        self._lease = service.settings.lease
        self._retention = service.settings.retention
        self._routes = routes
        self._offers = Offers(routes)
        self._dispatcher = dispatcher
        self._wakeups = wakeups
        self._events = events
        self._holds = holds
        self._title = title
        self._blobs = LeasedBlobs(service.blobs)
        self._replays = Replays(service.clock)
        self._overtime = Overtime(self._store, service.clock)
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def routes(self) -> list[Route]:
        """Return the routes, opened by worker keys only."""
        table: tuple[tuple[str, str, Callable[[Request], Awaitable[Response]], int], ...] = (
            ("POST", "/worker/hello", self.hello, _SMALL),
            ("POST", "/worker/wait", self.wait, _SMALL),
            ("POST", "/worker/claim", self.claim, _SMALL),
            ("POST", "/worker/heartbeat", self.heartbeat, _SMALL),
            ("GET", "/worker/jobs/{job_id}", self.get, _SMALL),
            ("POST", "/worker/jobs/{job_id}/move", self.move, _LARGE),
            ("POST", "/worker/jobs/{job_id}/events", self.append, _LARGE),
            ("GET", "/worker/jobs/{job_id}/blob", self.read_blob, _SMALL),
            ("PUT", "/worker/jobs/{job_id}/blob", self.write_blob, PIECE),
        )
        return [
            product_route(
                method, path, handler, realm="worker", in_schema=False, tags=("workers",), max_body_bytes=most
            )
            for method, path, handler, most in table
        ]

    # -- work ----------------------------------------------------------------------------------------

    async def hello(self, request: Request) -> Response:
        """Tell a worker what it may serve and how often to come by."""
        asked = read(Hello, request.body)
        if asked.protocol != PROTOCOL:
            raise Conflict(
                f"this coordinator speaks version {PROTOCOL} of the worker protocol and the worker "
                f"{asked.protocol}: install the same router-core on both",
                code="worker_protocol",
            )
        served, refused = self._offers.served(request.principal, asked.routes)
        worker = _worker(request.principal, asked.worker_id)
        fields = {"worker_id": worker, "routes": served, "refused": list(refused)}
        self._events.emit(
            Note("worker_joined", "info", f"a worker of {request.principal.id} is there", fields)
        )
        holds = self._holds()
        return Response.json({
            "protocol": PROTOCOL, "service": self._title, "worker": request.principal.id,
            "routes": served, "refused": refused, "lease": self._lease, "beat": min(BEAT, self._lease / 3),
            "wait": MAX_WAIT if holds else 0, "poll": POLL if holds else POLL_ALONE,
            "piece": PIECE, "download": 0 if holds else PIECE,
        })  # fmt: skip

    async def wait(self, request: Request) -> Response:
        """Hold the request until there may be a job for the worker, or for as long as it asks."""
        asked = read(Wait, request.body)
        ready = False
        if self._holds():
            worker = _worker(request.principal, asked.worker_id)
            ready = bool(await unless_gone(request, self._wait(worker, asked)))
        return Response.json({"ready": ready, "seen": self._wakeups.seen})

    async def _wait(self, worker: str, asked: Wait) -> bool:
        until = self._clock.monotonic() + asked.wait
        while not self._service.draining:
            left = until - self._clock.monotonic()
            if left <= 0:
                return False
            if await self._wakeups.wait(worker, asked.routes, asked.seen, min(left, _SLICE)):
                return True
        return False

    async def claim(self, request: Request) -> Response:
        """Hand out jobs of the routes that the worker has free slots for."""
        asked = read(ClaimJobs, request.body)
        if self._service.draining:
            raise Draining("this coordinator is going away; another one has the jobs", retry_after=1)
        self._check_lease(asked.lease)
        known = {key: asked.signatures.get(key, "") for key in asked.slots}
        served, refused = self._offers.served(request.principal, known)
        worker = _worker(request.principal, asked.worker_id)
        async with self._lock(f"claim {worker}"):
            answer = self._replays.find(worker, asked.claim_id)
            if answer is None:
                answer = await self._claim(worker, asked, served, refused)
        return Response(200, (("content-type", "application/json"),), answer)

    async def _claim(
        self, worker: str, asked: ClaimJobs, served: list[str], refused: dict[str, str]
    ) -> bytes:
        seen = self._wakeups.seen
        jobs, more = await self._take(worker, asked.lease, {key: asked.slots[key] for key in served})
        told = [job_to_wire(job, owner=self._asks_for_caller(job.route)) for job in jobs]
        answer = pydantic_core.to_json({"jobs": told, "more": more, "refused": refused, "seen": seen})
        if jobs:
            self._wakeups.leave(worker)
            self._replays.keep(worker, asked.claim_id, answer, asked.lease)
        return answer

    def _asks_for_caller(self, key: str) -> bool:
        return not self._routes[key].plan.slots.isdisjoint({"principal", "request"})

    async def _take(self, worker: str, lease: float, slots: dict[str, int]) -> tuple[list[Job], bool]:
        """Claim up to a batch; also tell whether there may be more."""
        if sum(slots.values()) <= MAX_BATCH:
            return list(await self._store.claim(Claim(worker, lease, slots))), False
        jobs: list[Job] = []
        more = False
        for key in random.sample(list(slots), len(slots)):
            wanted = min(slots[key], MAX_BATCH - len(jobs))
            if not wanted:
                return jobs, True
            try:
                found = await self._store.claim(Claim(worker, lease, {key: wanted}))
            except StoreError:
                if not jobs:
                    raise
                return jobs, False  # those that were claimed must not be lost with the answer
            jobs += found
            more = more or (len(found) == wanted < slots[key])
        return jobs, more

    async def heartbeat(self, request: Request) -> Response:
        """Renew leases; tell which are gone and which jobs somebody wants to end."""
        asked = read(Beat, request.body)
        self._check_lease(asked.lease)
        fences = [Fence(*each) for each in asked.fences]
        allowed = await self._overtime.allowed(fences)
        found = await self._store.renew(allowed, asked.lease) if allowed else ()
        held = {fence.job_id: (False, False) for fence in set(fences).difference(allowed)}
        held |= {each.job_id: (each.held, each.cancel) for each in found}
        for fence in allowed:
            if held.get(fence.job_id) == (True, True):
                self._overtime.cancelled(fence)
        # of those that the store did not come to nothing is said: their worker asks again
        return Response.json({"renewals": [[id, *held[id]] for id, _, _ in asked.fences if id in held]})

    def _check_lease(self, lease: float) -> None:
        if lease > self._lease:
            raise Conflict(
                f"a lease has at most {self._lease:g} s here: start the worker again", code="lease_too_long"
            )

    # -- one job -------------------------------------------------------------------------------------

    async def get(self, request: Request) -> Response:
        """Tell how the job of a lease stands."""
        job, _ = await self._leased(request)
        return Response.json(_standing(job))

    async def move(self, request: Request) -> Response:
        """Write one of the changes that a worker may make. Says whether it took effect, and the state."""
        said = read(MOVES, request.body)
        async with self._lock(f"move {request.path_params['job_id']}"):
            return await self._move(request, said)

    async def _move(self, request: Request, said: AnyMove) -> Response:
        job, fence = await self._leased(request)
        if not job.token:  # this lease has ended the attempt before: the same answer again
            return Response.json({"applied": False, **_standing(job)})
        if isinstance(said, (Progress, Steps)):
            return await self._write(fence, noted(fence, said))
        now, keep = self._clock.now(), self._keep(job)
        if not isinstance(said, Succeed):
            return await self._write(fence, ended(job, fence, said, now=now, keep=keep))
        if said.upload is None:
            return await self._write(fence, succeeded(job, fence, said, None, now=now, keep=keep))
        if job.state is not State.RUNNING:
            return Response.json({"applied": False, **_standing(job)})
        blob = await self._blobs.assemble(fence, said.upload)
        response = await self._write(fence, succeeded(job, fence, said, blob, now=now, keep=keep), [blob.key])
        await self._blobs.forget(said.upload.pieces)
        return response

    def _keep(self, job: Job) -> float:
        route = self._routes.get(job.route)
        own = None if route is None else route.job.retention
        return self._retention if own is None else own

    async def _write(self, fence: Fence, move: Move, made: Sequence[str] = ()) -> Response:
        moved = await self._store.move(fence.job_id, move)
        if not moved.applied:
            await self._blobs.forget(list(made))
        job = moved.job
        if job is None or job.epoch != fence.epoch:
            raise _fenced()
        if moved.applied and job.state in (State.QUEUED, State.RETRYING):
            await self._tell(job)
        return Response.json({"applied": moved.applied, **_standing(job)})

    async def _tell(self, job: Job) -> None:
        """Tell other workers of a job that was put back; they look by themselves, too."""
        try:
            await self._dispatcher.dispatch(job)
        except Exception as error:
            text = f"job {job.id} waits until a worker looks"
            self._events.emit(Note("dispatch_failed", "warning", text, error=error))

    async def append(self, request: Request) -> Response:
        """Keep events of the job; those that an earlier try has brought already are left out."""
        said = read(Appended, request.body)
        for event in said.events:
            if event.type in _RESERVED or not is_json(event.data):
                raise ValidationFailed("an event has a type of its own and data in JSON")
        async with self._lock(f"events {request.path_params['job_id']}"):
            job, fence = await self._leased(request)
            known = job.event_seq - said.after
            if known < 0:
                raise Conflict(f"the last event was number {job.event_seq}", code="events_out_of_order")
            fresh = [NewEvent(event.type, event.data.encode()) for event in said.events[known:]]
            last = await self._store.append(fence, fresh) if fresh else job.event_seq
        return Response.json({"last": last})

    async def read_blob(self, request: Request) -> Response:
        """Answer with an input of the job."""
        job, _ = await self._leased(request, now=True)
        key, start, length = (query_value(request, name) or "" for name in ("key", "start", "length"))
        if not all(_NUMBER.match(text or "0") for text in (start, length)):
            raise ValidationFailed("start and length are numbers of bytes")
        return await self._blobs.read(job, key, int(start or 0), int(length or 0))

    async def write_blob(self, request: Request) -> Response:
        """Keep a piece of the job's result."""
        _, fence = await self._leased(request, now=True)
        return Response.json({"piece": await self._blobs.keep(fence, request)}, 201)

    async def _leased(self, request: Request, *, now: bool = False) -> tuple[Job, Fence]:
        """Return the record of a lease that is good, or that has ended the attempt itself (no token then).

        ``now`` asks for one that has not run out, too. Raises Fenced, NotFound, StoreError.
        """
        fence = _fence(request)
        job = await self._store.get(fence.job_id)
        if not isinstance(job, Job) or not request.principal.may(job.route):
            raise _fenced()
        held = job.epoch == fence.epoch and hmac.compare_digest(job.token.encode(), fence.token.encode())
        held = held and job.worker_id.startswith(f"{request.principal.id}/")
        if now and (not held or job.lease_until <= self._clock.now()):
            raise _fenced()
        if not held and not settled_by(job, fence):
            raise _fenced()
        return job, fence

    def _lock(self, name: str) -> asyncio.Lock:
        """Return the lock of a name, so that a repetition waits for the request that it repeats."""
        lock = self._locks.get(name)
        if lock is None:
            lock = self._locks[name] = asyncio.Lock()
        return lock


def _worker(principal: Principal, worker_id: str) -> str:
    return f"{principal.id}/{worker_id}"


def _fence(request: Request) -> Fence:
    job_id, headers = request.path_params["job_id"], request.headers
    epoch, token = headers.get(EPOCH_HEADER, ""), headers.get(TOKEN_HEADER, "")
    if not ID_PATTERN.match(job_id):
        raise NotFound("there is no such job")
    if not _NUMBER.match(epoch) or not 1 <= len(token) <= 64:
        raise ValidationFailed(f"the lease is told by {EPOCH_HEADER} and {TOKEN_HEADER}")
    return Fence(job_id, int(epoch), token)


def _standing(job: Job) -> dict[str, Any]:
    return {
        "state": job.state.value,
        "reason": job.reason,
        "event_seq": job.event_seq,
        "held": bool(job.token),
    }


def _fenced() -> Fenced:
    return Fenced("this lease does not hold that job")
