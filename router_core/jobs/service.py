"""What callers can do with jobs, whatever way they came in: submit, read, wait, cancel, retry, delete."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import pydantic_core

from router_core.clock import Clock
from router_core.errors import (
    BadRequest,
    Conflict,
    Draining,
    Gone,
    NotFound,
    QueueFull,
    RouterError,
    StoreError,
    Unavailable,
)
from router_core.jobs import moves
from router_core.jobs.blobs import BlobStore
from router_core.jobs.dispatch import Dispatcher, foretell, tell
from router_core.jobs.failpoints import failpoint
from router_core.jobs.inputs import Dumped, blob_keys, copy_input, fingerprint, pack
from router_core.jobs.job import MAX_CRASHES, TERMINAL, Job, State, Tombstone
from router_core.jobs.owners import may_see, seen_by, to_change
from router_core.jobs.result import Result
from router_core.jobs.store import Added, EventPage, IdempotencyKey, JobQuery, Page, Store
from router_core.jobs.submission import DEFAULT_OPTIONS, SubmitOptions, rank, scope_hash
from router_core.jobs.watch import Hub
from router_core.routing.permission import check_permission
from router_core.routing.route import Route
from router_core.settings import Settings
from router_core.telemetry.events import Events, Note
from router_core.types import ID_PATTERN, Principal, new_id

if TYPE_CHECKING:
    from router_core.binding.inputs import Inputs

__all__ = ["FetchLinks", "JobService", "NoRoute"]

_KEY_RETENTION: Final = 24 * 3600.0
_FIRST_POLL: Final = 0.1
_LAST_POLL: Final = 1.0
_RETRYABLE: Final = frozenset({State.FAILED, State.CANCELLED, State.EXPIRED})

CheckUrl = Callable[[str], Awaitable[object]]
FetchLinks = Callable[["Inputs"], Awaitable[None]]


class NoRoute(Conflict):
    """The function of a stored job is not part of this service any more."""

    code = "route_gone"


class JobService:
    """Jobs as their owners see them, and those who manage the jobs of all owners.

    To everybody else a record of another owner is answered exactly like one that does not exist.
    """

    def __init__(
        self, *, store: Store, hub: Hub, dispatcher: Dispatcher, blobs: BlobStore,
        routes: Mapping[str, Route], clock: Clock, settings: Settings, events: Events,
        check_url: CheckUrl | None = None,
    ) -> None:  # fmt: skip
        """``check_url`` refuses a webhook URL by raising; without it, or without a secret to sign with,
        webhooks are refused."""
        self.store = store
        self.hub = hub
        self.blobs = blobs
        self.routes = routes
        self.clock = clock
        self.settings = settings
        self.draining = False
        """Set when the process is going away: no more jobs are taken, those that exist can be read."""
        self.released = False
        """Set when nothing runs here any more and the process ends: nobody may hold it up by waiting."""
        self._dispatcher = dispatcher
        self._events = events
        self._check_url = check_url

    # -- submit ------------------------------------------------------------------------------------

    async def submit(
        self, route: Route, inputs: Inputs, *, principal: Principal,
        options: SubmitOptions = DEFAULT_OPTIONS, content_type: str = "", fetch: FetchLinks | None = None,
    ) -> Added:  # fmt: skip
        """Accept one job: durable when this returns.

        ``fetch`` replaces the URLs noted in ``inputs`` by files. A key belongs to the URLs, so a repetition
        is answered without fetching them, also when they are dead or give something else by now.

        Validates, looks the key up, counts the queue, writes the record, tells the queue; a refusal at any
        step leaves neither record nor key behind. Raises ValidationFailed, BadRequest, KeyReused, QueueFull,
        Draining, StoreError, and Unavailable with ``job_id`` when the record exists and the queue has not
        taken it yet (it will be told again).
        """
        if self.draining:
            raise Draining("this server is going away; another one takes the job", retry_after=2)
        options = options.check().allowed_by(self._dispatcher.abilities)
        await self._check_webhook(options)
        if options.key and not options.fingerprint:
            options = replace(options, fingerprint=fingerprint(inputs, content_type))
        foreseen = fetch is not None and bool(inputs.links)
        if foreseen and (earlier := await self._foresee(route, principal, options)):
            return earlier
        if fetch is not None:
            await fetch(inputs)
        route.plan.validate(inputs)
        packed = await pack(inputs)
        if packed.large and not foreseen and (earlier := await self._foresee(route, principal, options)):
            return earlier
        dumped = await packed.write(self.blobs)
        return await self._add(route, dumped, principal, options)

    async def _check_webhook(self, options: SubmitOptions) -> None:
        if not options.webhook:
            return
        if self._check_url is None or not self.settings.webhook_secret:
            raise BadRequest("this server has no secret to sign webhooks with", code="no_webhooks")
        await self._check_url(options.webhook)

    async def _foresee(self, route: Route, principal: Principal, options: SubmitOptions) -> Added | None:
        """Return the job of a repeated submission, refuse what a full queue would refuse: before anything is
        written for it. What passes here is still up to the store's ``add``."""
        key = self._key(route, principal, options)
        try:
            job = await self.store.foresee(route.key, queue_limit=route.job.queue_size, key=key)
        except QueueFull as full:
            raise _with_limits(full) from None
        return None if job is None else await self._tell(Added(job, replayed=True), options)

    async def _add(self, route: Route, dumped: Dumped, principal: Principal, options: SubmitOptions) -> Added:
        job, key = self._record(route, dumped, principal, options)
        try:
            added = await self.store.add(job, queue_limit=route.job.queue_size, key=key)
        except QueueFull as full:
            await dumped.discard(self.blobs)
            raise _with_limits(full) from None
        except StoreError:
            # the record may exist all the same: its blobs are left to the sweeper
            raise
        except RouterError:
            await dumped.discard(self.blobs)
            raise
        failpoint("after_add")
        if added.replayed:
            await dumped.discard(self.blobs)
        return await self._tell(added, options)

    async def _tell(self, added: Added, options: SubmitOptions) -> Added:
        job = added.job
        if not options.tell:
            return added
        if job.state is State.QUEUED and (job.dispatch_pending or not added.replayed):
            return replace(added, job=await self._dispatch(job))
        if job.state is State.SCHEDULED and not added.replayed:
            await foretell(self._dispatcher, job, self.clock.now(), self._events)
        return added

    def _record(
        self, route: Route, dumped: Dumped, principal: Principal, options: SubmitOptions
    ) -> tuple[Job, IdempotencyKey | None]:
        now = self.clock.now()
        ready = now + options.delay
        priority = route.job.priority if options.priority is None else options.priority
        deadline = now + options.cancel_after if options.cancel_after else 0.0
        key = self._key(route, principal, options)
        job = Job(
            id=new_id(), owner=principal.id, route=route.key,
            state=State.SCHEDULED if options.delay > 0 else State.QUEUED, created_at=now,
            input=dumped.data, input_ref=dumped.ref,
            max_attempts=options.max_attempts or route.job.max_attempts or MAX_CRASHES,
            priority=priority, rank=rank(ready, priority), not_before=ready if options.delay > 0 else 0.0,
            deadline_at=deadline, timeout=_shorter(route.job.timeout, options.timeout),
            idem_hash=key.scope_hash if key else "",
            webhook=pydantic_core.to_json({"url": options.webhook}).decode() if options.webhook else "",
            dispatch_pending=self._dispatcher.abilities.external and options.delay <= 0,
            request_id=options.request_id, meta=options.meta,
        )  # fmt: skip
        return job, key

    def _key(self, route: Route, principal: Principal, options: SubmitOptions) -> IdempotencyKey | None:
        if not options.key:
            return None
        scope = scope_hash(principal.id, options.method, route.key, options.key)
        kept = options.delay + max(_KEY_RETENTION, self.retention(route))
        return IdempotencyKey(scope, options.fingerprint, self.clock.now() + kept)

    async def _dispatch(self, job: Job) -> Job:
        """Tell the queue; the record says so until it knows."""
        try:
            return await tell(self._dispatcher, self.store, job)
        except Exception as error:
            text = f"job {job.id} waits for the sweeper"
            self._events.emit(Note("dispatch_failed", "error", text, error=error))
            raise Unavailable(
                "the job is recorded and its queue cannot be told at the moment; it will be told again",
                code="dispatch_failed", retry_after=10,
                extra={"job_id": job.id},
            ) from error  # fmt: skip

    # -- read --------------------------------------------------------------------------------------

    def note(self, note: Note) -> None:
        """Report something to the operator."""
        self._events.emit(note)

    def release(self) -> None:
        """End all waits and live answers, each where it is: callers go on at another process."""
        self.released = True
        self.hub.wake()

    def prefix(self, root: str = "") -> str:
        """Return what stands before every link: the public address if set, else where the app is mounted."""
        return self.settings.server_url.rstrip("/") or root

    def streams(self, job: Job) -> bool:
        """Return whether the function of a job yields output while it runs."""
        route = self.routes.get(job.route)
        return route is not None and route.plan.is_generator

    def retention(self, route: Route | None) -> float:
        """Return for how long finished jobs of a route stay readable."""
        own = None if route is None else route.job.retention
        return self.settings.retention if own is None else own

    async def get(self, job_id: str, principal: Principal) -> Job:
        """Return a job that the caller may see. Raises NotFound, or Gone after its retention."""
        if not ID_PATTERN.match(job_id):
            raise _unknown()
        found = await self.store.get(job_id)
        if found is None or not may_see(found.owner, principal):
            raise _unknown()
        if isinstance(found, Tombstone):
            raise Gone("this job has ended and its result is not kept any more", code="job_gone")
        return found

    async def wait(
        self, job_id: str, principal: Principal, timeout: float, *, version: int | None = None
    ) -> Job:
        """Return the job once it has ended (or has left ``version``), or as it is after ``timeout`` seconds.

        Woken by writes of this process; writes of others are seen by reading again, after 0.1 s and then less
        often, up to every second. When too many callers wait already, or the process ends, the job is
        returned as it is.
        """
        timeout = min(max(0.0, timeout), self.settings.sync_wait_max)
        if timeout <= 0 or not ID_PATTERN.match(job_id):
            return await self.get(job_id, principal)
        end = self.clock.monotonic() + timeout
        try:
            watch = self.hub.watch(job_id)
        except Unavailable:
            return await self.get(job_id, principal)
        with watch:
            job = await self.get(job_id, principal)
            pause = _FIRST_POLL
            while not _arrived(job, version) and (left := end - self.clock.monotonic()) > 0:
                if self.released:
                    break
                changed = await watch.changed(min(pause, left), self.clock)
                pause = _FIRST_POLL if changed else min(_LAST_POLL, pause * 2)
                job = watch.newer(job) or await self.get(job_id, principal)
        return job

    async def find(self, query: JobQuery, principal: Principal) -> Page:
        """List jobs, newest first: the caller's, or those of ``query.owner`` that he manages."""
        return await self.store.find(seen_by(query, principal))

    async def result(self, job: Job) -> Result:
        """Return the result of a job. Raises Gone when its blob is gone."""
        if not job.result_ref:
            return Result(job.result or b"null")
        ref = pydantic_core.from_json(job.result_ref)
        try:
            data = await self.blobs.get(ref["key"])
        except NotFound:
            raise Gone("the result of this job is not kept any more", code="result_gone") from None
        if len(data) != ref.get("size", len(data)):
            raise StoreError("the stored result of this job is cut short")
        return Result.stored(data, ref)

    async def events(self, job_id: str, after: int = 0, limit: int = 100) -> EventPage:
        """Return kept events of a job whose owner was checked with ``get``."""
        return await self.store.events(job_id, after, limit)

    # -- change ------------------------------------------------------------------------------------

    async def cancel(self, job_id: str, principal: Principal) -> Job:
        """Cancel at once what waits; ask what runs to stop (state ``cancelling``).

        Repeating it is no error. Raises Conflict when the job has ended otherwise.
        """
        for _ in range(_CANCEL_TRIES):
            job = to_change(await self.get(job_id, principal), principal)
            if job.state in (State.CANCELLED, State.CANCELLING):
                return job
            if job.terminal:
                raise _ended(job)
            now = self.clock.now()
            if job.state is State.RUNNING:
                move = moves.cancel_running(now=now)
            else:
                move = moves.cancel_waiting(now=now, retention=self.retention(self.routes.get(job.route)))
            moved = await self.store.move(job_id, move)
            if moved.applied and moved.job is not None:
                return moved.job
        raise Unavailable("the job changes state too fast to be cancelled now", code="cancel_contended")

    async def retry(
        self, job_id: str, principal: Principal, options: SubmitOptions = DEFAULT_OPTIONS
    ) -> Added:
        """Run the input of a failed, cancelled or expired job again, as a new job.

        The old record stays as it is; the new one names it, and has the same owner. Raises Conflict for a job
        in another state, and Forbidden for a route that the caller may not call (any more).
        """
        if self.draining:
            raise Draining("this server is going away; another one takes the job", retry_after=2)
        job = to_change(await self.get(job_id, principal), principal)
        if job.state not in _RETRYABLE:
            raise _not_retryable(job)
        route = self.routes.get(job.route)
        if route is None:
            raise NoRoute(f"this service has no route {job.route!r} any more")
        check_permission(route, principal)
        if job.owner != principal.id:
            principal = replace(principal, id=job.owner)
        options = options.check().allowed_by(self._dispatcher.abilities)
        await self._check_webhook(options)
        webhook = options.webhook or (pydantic_core.from_json(job.webhook)["url"] if job.webhook else "")
        options = replace(
            options, webhook=webhook, method="RETRY", fingerprint=job.id,
            priority=job.priority if options.priority is None else options.priority,
            meta={**options.meta, "retry_of": job.id},
        )  # fmt: skip
        if blob_keys(job):
            earlier = await self._foresee(route, principal, options)
            if earlier is not None:
                return earlier
        try:
            dumped = await copy_input(job, self.blobs)
        except NotFound:
            raise Gone("the input of this job is not kept any more", code="input_gone") from None
        return await self._add(route, dumped, principal, options)

    async def delete(self, job_id: str, principal: Principal) -> None:
        """Delete a job that has ended, with its input and result. Raises Conflict for one that has not."""
        job = to_change(await self.get(job_id, principal), principal)
        if not job.terminal or await self.store.delete(job_id) is None:
            extra = {"job_id": job_id, "job_status": job.state.value}
            raise Conflict("the job has not ended; cancel it first", code="job_open", extra=extra)
        for key in blob_keys(job):
            try:
                await self.blobs.delete(key)
            except StoreError as error:
                text = f"blob {key} of a deleted job is left to the sweeper"
                self._events.emit(Note("blob_left", "warning", text, error=error))


_CANCEL_TRIES: Final = 10


def _arrived(job: Job, version: int | None) -> bool:
    return job.state in TERMINAL if version is None else job.version != version


def _shorter(limit: float | None, wanted: float | None) -> float:
    """Return the smaller of two limits in seconds; 0 when there is neither."""
    return min((seconds for seconds in (limit, wanted) if seconds), default=0.0)


def _unknown() -> NotFound:
    return NotFound("there is no such job", code="job_not_found")


def _with_limits(full: QueueFull) -> QueueFull:
    seconds = full.headers.get("Retry-After", "1")
    full.headers["RateLimit"] = f'"queue";r=0;t={seconds}'
    return full


def _ended(job: Job) -> Conflict:
    extra = {"job_id": job.id, "job_status": job.state.value}
    return Conflict(f"the job has {job.state.value} already", code="job_ended", extra=extra)


def _not_retryable(job: Job) -> Conflict:
    extra = {"job_id": job.id, "job_status": job.state.value}
    text = f"only a failed, cancelled or expired job can be retried, and this one is {job.state.value}"
    return Conflict(text, code="job_not_retryable", extra=extra)
