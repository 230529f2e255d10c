"""Job routes: the record decides, the platform only says when.

A delivery becomes a record whose idempotency key is the platform's job id, so a job that is delivered again
finds what became of it: a result is posted again, a run that another worker keeps alive is waited for, one
that was given back is run. Only a job that has failed or was cancelled gets a new record, because that is
what ``/retry`` asks for and the platform sends it under the same id. Without a store that outlives this
worker all this holds for as long as the worker lives.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Final, TypeVar

from handlers.runpod.calls import draining
from handlers.runpod.envelope import Envelope
from handlers.runpod.line import Chunks, Line, Progress, too_large
from handlers.runpod.outcome import Outcome
from handlers.runpod.pacing import PacedStore, Reader
from handlers.runpod.results import Results
from handlers.runpod.slots import Slots
from router_core.app import App
from router_core.binding.inputs import Intake
from router_core.errors import Conflict, Gone, RouterError, StoreError, ValidationFailed
from router_core.jobs.job import WAITING, Job, State
from router_core.jobs.outcome import job_error
from router_core.jobs.runner import CANCEL_GRACE
from router_core.jobs.store import Claim, EventPage
from router_core.jobs.submission import MAX_DELAY, SubmitOptions
from router_core.routing.named import Named, take_key
from router_core.routing.route import Route
from router_core.telemetry.events import Note
from router_core.types import ANONYMOUS

__all__ = ["Jobs", "is_shared"]

T = TypeVar("T")

PATIENCE: Final = 60.0
"""Seconds for which a store that does not answer is asked again before the job fails for it."""
_LONGEST_PAUSE: Final = 5.0
_LOOK_AGAIN: Final = 2.0
"""Seconds between looks at a job that another worker runs."""
_LOOK_OFTEN: Final = 0.1
_AGAIN: Final = frozenset({State.FAILED, State.CANCELLED, State.EXPIRED})
_MAX_GENERATIONS: Final = 100
_PAGE: Final = 100
_TTL: Final = 24 * 3600.0
"""Seconds; the platform's own default."""


def is_shared(url: str) -> bool:
    """Whether other workers of the endpoint see the same records: a file or memory is this worker's own."""
    return url.partition(":")[0] not in ("memory", "sqlite")


@dataclass(slots=True, eq=False)
class _Delivery:
    """One delivery on its way to an outcome."""

    envelope: Envelope
    route: Route
    job: Job
    ours: bool
    """The record was made for this platform job; another one's is not ours to cancel."""
    progress: Progress
    chunks: Chunks
    reader: Reader | None
    """Of what it yields."""
    followed: int = 0
    """Number of the last event that was posted."""
    here: bool = False
    """It runs in this worker."""
    refused: RouterError | None = None
    """Why a chunk cannot be posted at all."""
    ended: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    """Done when the record has ended, or nobody waits for it any more; its function may go on."""

    def end(self) -> None:
        """Wait no more."""
        if not self.ended.done():
            self.ended.set_result(None)

    def read_no_more(self) -> None:
        """Let its generator run on."""
        if self.reader is not None:
            self.reader.leave()

    def hush(self) -> None:
        """Post nothing more."""
        self.progress.stop()
        self.chunks.stop()
        self.read_no_more()


class Jobs:
    """Runs job routes."""

    def __init__(self, app: App, intake: Intake, results: Results, slots: Slots, routes: Iterable[Route]):
        self._app = app
        self._service = app.service
        self._intake = intake
        self._results = results
        self._slots = slots
        self._shared = is_shared(app.settings.jobs)
        self._worker_id = app.parts.pool.worker_id
        self._released = False
        self._store = _paced(app)
        # where appending does not tell the reader, it has to look
        self._look = _LOOK_AGAIN if self._store is getattr(app.parts.store, "inner", None) else _LOOK_OFTEN
        self._deliveries: set[_Delivery] = set()
        self._runs: set[asyncio.Task[None]] = set()
        # the platform has accepted the job already: its queue is the one that counts
        self._unbounded = {route.key: _unbounded(route) for route in routes if route.kind == "job"}

    def release(self) -> None:
        """Begin nothing more: what runs is given back by the app's drain, and does not wait for a reader."""
        self._released = True
        for delivery in self._deliveries:
            delivery.read_no_more()

    def give_up(self) -> None:
        """Wait no more for functions that did not stop."""
        for delivery in self._deliveries:
            delivery.end()

    async def run(self, envelope: Envelope, named: Named, line: Line) -> Outcome:
        """Return what became of a job; when this task is cancelled, so is the job."""
        route = named.route
        job, ours = await self._accept(envelope, named)
        progress = Progress(line, self._app.settings.progress_interval)
        # of a function that yields nothing nobody reads the events, so it must not wait for a reader
        follows = route.plan.is_generator and not job.terminal
        reader = self._store.follow(job.id) if follows else None
        delivery = _Delivery(envelope, route, job, ours, progress, Chunks(line), reader)
        loop = asyncio.get_running_loop()
        leave = self._service.hub.subscribe(job.id, lambda new: _tell(loop, delivery, new))
        self._deliveries.add(delivery)
        try:
            job = await self._followed(delivery)
        except asyncio.CancelledError:
            delivery.hush()
            await self._cancel(delivery)
            raise
        finally:
            leave()
            self._deliveries.discard(delivery)
            if reader is not None:
                self._store.leave(job.id, reader)
            await progress.close()
            await delivery.chunks.drop()
        if job.state is not State.SUCCEEDED:
            raise job_error(job, "")
        return await self._results.of_job(job, envelope.sync, stream=route.plan.is_generator)

    # -- accepting -----------------------------------------------------------------------------------

    async def _accept(self, envelope: Envelope, named: Named) -> tuple[Job, bool]:
        route = named.route
        key = take_key(named, envelope.policy)
        if key and not self._shared:
            raise _no_keys()
        inputs = route.plan.collect_input(named.arguments, self._intake)
        options = SubmitOptions(
            key=key or _as_key(envelope.id), method="POST" if key else "RUNPOD", request_id=envelope.id,
            cancel_after=_ttl(envelope),
        ).check()  # fmt: skip
        for generation in range(1, _MAX_GENERATIONS):
            submit = self._service.submit(
                self._unbounded[route.key], inputs, principal=ANONYMOUS, options=options,
                content_type="application/json", fetch=lambda links: route.plan.fetch(links, self._intake),
            )  # fmt: skip
            try:
                added = await submit
            except Gone:  # its record is forgotten, early or late
                if key:
                    raise
            else:
                if key or not added.replayed or added.job.state not in _AGAIN:
                    return added.job, not key or not added.replayed
            options = replace(options, method=f"RUNPOD-{generation}")
        raise Conflict("this job was retried too often")

    # -- running -------------------------------------------------------------------------------------

    async def _followed(self, delivery: _Delivery) -> Job:
        """Run or await the job, and post what it yields meanwhile."""
        follower: asyncio.Task[None] | None = None
        # what was yielded before this delivery was posted then, or its worker died: the output has all of it
        if delivery.reader is not None:
            follower = asyncio.create_task(self._follow(delivery, delivery.reader))
        try:
            job = await self._to_its_end(delivery)
        finally:
            if follower is not None:
                follower.cancel()
                await asyncio.wait({follower})
        if follower is not None:
            if not delivery.chunks.broken:
                await self._post_kept(delivery)
            await delivery.chunks.flush()
        if delivery.refused is not None:
            raise delivery.refused
        return job

    async def _to_its_end(self, delivery: _Delivery) -> Job:
        job = delivery.job
        while not job.terminal:
            if self._released:
                raise draining()
            job = await self._attempt(delivery, job) if self._is_due(job) else await self._change(job)
            delivery.job = job
        return job

    def _is_due(self, job: Job) -> bool:
        return job.state in WAITING and job.not_before <= self._app.parts.clock.now()

    async def _attempt(self, delivery: _Delivery, job: Job) -> Job:
        """Claim the job and run it once; the slot is free again when its function has really ended."""
        give_back = await self._slots.take(delivery.route)
        if self._released:
            give_back()
            raise draining()
        # not cancelled with this task: a cancel goes through the record, so that all see the same end
        delivery.here = True
        run = asyncio.create_task(self._claimed(job.id, give_back))
        self._runs.add(run)
        run.add_done_callback(self._runs.discard)
        try:
            await asyncio.wait({run, delivery.ended}, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            delivery.hush()
            await self._cancel(delivery)
            await asyncio.wait({run}, timeout=CANCEL_GRACE + 2)
            raise
        if run.done():
            run.result()
        return await self._read(job.id)

    async def _claimed(self, job_id: str, give_back: Callable[[], None]) -> None:
        parts = self._app.parts
        claimed = False
        try:
            at = parts.clock.monotonic()
            claim = Claim(self._worker_id, self._app.settings.lease, job_id=job_id)
            for job in await self._patiently(lambda: parts.store.claim(claim)):
                claimed = True
                parts.runner.claimed(job.id, at, give_back)
                await parts.runner.run(job)
        finally:
            if not claimed:
                give_back()

    async def _change(self, job: Job) -> Job:
        """Wait until a job that cannot be claimed now may be: it is not due, or another worker runs it."""
        pause = _LOOK_AGAIN
        if job.state in WAITING:
            pause = min(pause, max(0.01, job.not_before - self._app.parts.clock.now() + 0.002))
        wait = lambda: self._service.wait(job.id, ANONYMOUS, pause, version=job.version)  # noqa: E731
        return await self._patiently(wait)

    async def _read(self, job_id: str) -> Job:
        return await self._patiently(lambda: self._service.get(job_id, ANONYMOUS))

    async def _cancel(self, delivery: _Delivery) -> None:
        """Have the record cancelled; whoever runs it hears of it."""
        if not delivery.ours:
            return
        try:
            await asyncio.shield(self._service.cancel(delivery.job.id, ANONYMOUS))
        except Conflict:
            return  # it has ended
        except Exception as error:
            fields = {"job_id": delivery.job.id, "request_id": delivery.envelope.id}
            self._service.note(
                Note("cancel_failed", "warning", "a job could not be cancelled", fields, error)
            )

    async def _patiently(self, work: Callable[[], Awaitable[T]]) -> T:
        """Do something that may meet a store which is away for a while."""
        clock = self._app.parts.clock
        until, pause = clock.monotonic() + PATIENCE, 0.1
        while True:
            try:
                return await work()
            except StoreError:
                if self._released or clock.monotonic() >= until:
                    raise
            await asyncio.sleep(pause)
            pause = min(_LONGEST_PAUSE, pause * 2)

    # -- what it yields ------------------------------------------------------------------------------

    async def _follow(self, delivery: _Delivery, reader: Reader) -> None:
        """Post outputs as they are recorded, until cancelled."""
        try:
            while not delivery.chunks.broken:
                await self._post_kept(delivery)
                await reader.arrived(self._look)
        finally:
            reader.leave()  # else its generator would wait for ever

    async def _post_kept(self, delivery: _Delivery) -> None:
        try:
            await self._post_outputs(delivery)
        except StoreError as error:
            fields = {"job_id": delivery.job.id, "request_id": delivery.envelope.id}
            text = "what a job yields cannot be read; its stream ends, the output is whole"
            self._service.note(Note("stream_unread", "warning", text, fields, error))
            delivery.chunks.stop()

    async def _post_outputs(self, delivery: _Delivery) -> None:
        while True:
            page = await self._patiently(
                lambda: self._service.events(delivery.job.id, delivery.followed, _PAGE)
            )
            await self._mind_gap(delivery, page)
            for event in page.events:
                delivery.followed = event.seq
                if event.type == "output":
                    await self._post_output(delivery, event.data)
            if not page.events:
                delivery.followed = max(delivery.followed, page.last_seq)
            if delivery.reader is not None:
                delivery.reader.read(delivery.followed)
            if len(page.events) < _PAGE:
                return

    async def _mind_gap(self, delivery: _Delivery, page: EventPage) -> None:
        """End the stream where a part of it is gone; here, where the generator is paced, only one that is
        larger than a record keeps can be."""
        kept = page.events[0].seq if page.events else page.last_seq + 1
        if kept <= delivery.followed + 1 or delivery.chunks.broken:
            return
        delivery.chunks.stop()
        if delivery.here:
            await self._refuse(delivery, too_large())
            return
        fields = {"job_id": delivery.job.id, "request_id": delivery.envelope.id}
        text = "parts of a stream were gone before they could be posted; it ends, the output is whole"
        self._service.note(Note("stream_gap", "warning", text, fields))

    async def _post_output(self, delivery: _Delivery, data: bytes) -> None:
        if delivery.refused is not None:
            return
        try:
            await delivery.chunks.put(data)
        except RouterError as error:
            await self._refuse(delivery, error)

    async def _refuse(self, delivery: _Delivery, error: RouterError) -> None:
        delivery.refused = error
        delivery.read_no_more()
        await self._cancel(delivery)


def _paced(app: App) -> PacedStore:
    """Return the store that paces generators; an app that was built without one has them run free."""
    inner = getattr(app.parts.store, "inner", None)
    return inner if isinstance(inner, PacedStore) else PacedStore(app.parts.store)


def _tell(loop: asyncio.AbstractEventLoop, delivery: _Delivery, job: Job) -> None:
    """React to a version of the record, in the thread of its writer."""
    if job.terminal:
        loop.call_soon_threadsafe(delivery.end)
    elif job.state is State.RUNNING and (job.progress or job.message):
        delivery.progress.set(job.progress, job.message)


def _ttl(envelope: Envelope) -> float:
    """Return after how many seconds a waiting record is given up: the platform forgets its job by then."""
    ttl = envelope.policy.get("ttl")
    if isinstance(ttl, (int, float)) and not isinstance(ttl, bool) and ttl > 0:
        return min(float(ttl) / 1000, MAX_DELAY)
    return _TTL


def _unbounded(route: Route) -> Route:
    return replace(route, job=replace(route.job, queue_size=1_000_000_000))


def _as_key(job_id: str) -> str:
    """Return the platform's id as a key; one that could not be one is hashed."""
    fits = 0 < len(job_id) <= 200 and job_id.isascii() and job_id.isprintable()
    return job_id if fits else hashlib.sha256(job_id.encode("utf-8", "replace")).hexdigest()


def _no_keys() -> ValidationFailed:
    text = (
        "idempotency keys need records that all workers share, and this service keeps none: leave the key "
        "out, or have its operator set ROUTER_JOBS=dynamodb://table"
    )
    error = {"loc": ["input", "idempotency_key"], "msg": text, "type": "idempotency_unsupported"}
    return ValidationFailed(text, errors=[error], code="idempotency_unsupported")
