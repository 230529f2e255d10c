"""The job store as a remote worker sees it: its coordinator, over HTTP.

A worker claims, renews, moves, appends and reads the jobs it leases. It has no other part of a store, and its
coordinator offers none.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import pydantic_core

from router_core.clock import Clock
from router_core.errors import Fenced, Misconfigured, StoreError
from router_core.jobs.job import Fence, Job, Reason, State, Tombstone
from router_core.jobs.moves import Move
from router_core.jobs.remote_wire import PROTOCOL, job_from_wire, signature_of
from router_core.jobs.store import (
    Added,
    Claim,
    EventPage,
    IdempotencyKey,
    JobQuery,
    Moved,
    NewEvent,
    Page,
    Renewal,
)
from router_core.routing.route import Route
from router_core.stores.coordinator_link import SILENCE, CoordinatorLink, NotACoordinator, Refused
from router_core.stores.coordinator_wire import record_of, said_of
from router_core.telemetry.events import Events, JobMoved, Note
from router_core.types import new_id

__all__ = ["CoordinatorStore", "Terms"]

_GONE: Final = frozenset({"fenced", "not_found"})
_UNFIT: Final = frozenset({413, 422})
_EVENTS: Final = 1_000
_EVENT_BYTES: Final = 512 * 1024
"""In one request; JSON inside JSON may make twice as much of it."""
_ASSEMBLY: Final = 60.0
"""Seconds that the coordinator has to put a large result together."""
_MOST_HELD: Final = 10_000
_LEASES: Final = 100
"""In one heartbeat: a coordinator may have to write each of them, and is not waited for for long."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What the coordinator has said about how to work with it."""

    service: str
    worker: str
    """Name of the worker key."""
    routes: tuple[str, ...]
    refused: Mapping[str, str]
    """Routes that this worker has and may not serve, and why not."""
    lease: float
    beat: float
    wait: float
    """Seconds that the question for work may be held there; 0: not at all."""
    poll: float
    piece: int
    download: int
    """Bytes of a file that one answer may have; 0: all."""


class _Held:
    """A job that was claimed here."""

    __slots__ = ("fence", "job", "number", "refused", "since")

    def __init__(self, job: Job, since: float) -> None:
        self.job = replace(job, input=b"", steps=b"")
        self.fence = job.fence
        self.number = job.event_seq
        """Of its last event."""
        self.refused = 0
        """Events that the coordinator does not take. They count as kept here: nobody sends them again."""
        self.since = since


class CoordinatorStore:
    """The part of a ``JobStore`` that workers use."""

    multi_process = True

    def __init__(
        self, link: CoordinatorLink, routes: Mapping[str, Route], clock: Clock, events: Events
    ) -> None:
        self._link = link
        self._clock = clock
        self._events = events
        self._signatures = {key: signature_of(route) for key, route in routes.items()}
        self._claim_id = ""
        """Of a claim whose answer has not come: asked again under the same id it is the same claim."""
        self._held: dict[str, _Held] = {}
        self._told: dict[str, str] = {}
        self.seen = ""
        """How far the count of new jobs was, in the process of the coordinator that was last asked."""
        self.elsewhere = False
        """Whether that process is not the one that was asked before it: there are several, or it is new."""

    # -- before work -------------------------------------------------------------------------------

    async def hello(self, worker_id: str) -> Terms:
        """Introduce the worker. Raises Unauthorized, Forbidden, Refused, StoreError, NotACoordinator."""
        said = {"protocol": PROTOCOL, "worker_id": worker_id, "routes": self._signatures}
        answer = await self._link.ask("/worker/hello", said, opening=True)
        try:
            return Terms(
                service=str(answer["service"]), worker=str(answer["worker"]), routes=tuple(answer["routes"]),
                refused=dict(answer["refused"]), lease=float(answer["lease"]), beat=float(answer["beat"]),
                wait=float(answer["wait"]), poll=float(answer["poll"]), piece=int(answer["piece"]),
                download=int(answer["download"]),
            )  # fmt: skip
        except (KeyError, TypeError, ValueError):
            raise NotACoordinator("what answers there is no coordinator of this version") from None

    async def wait(self, worker_id: str, routes: Sequence[str], seconds: float) -> bool:
        """Return True once the coordinator believes that there may be a job of one of the routes."""
        said = {"worker_id": worker_id, "routes": list(routes), "seen": self.seen, "wait": seconds}
        asked, answer = self.seen, await self._link.ask("/worker/wait", said, silence=seconds + 9.0)
        self.seen = str(answer.get("seen", ""))
        self.elsewhere = bool(asked) and _process(asked) != _process(self.seen)
        return bool(answer.get("ready"))

    # -- what workers do ---------------------------------------------------------------------------

    async def claim(self, claim: Claim) -> Sequence[Job]:
        """C1, batch after batch until there are no more jobs or no more slots."""
        jobs: list[Job] = []
        slots = dict(claim.slots)
        while slots:
            try:
                found, more = await self._batch(claim, slots)
            except StoreError:
                if jobs:
                    break  # these are ours: the rest is asked for later, under the same id
                raise
            jobs += found
            for job in found:
                slots[job.route] = slots.get(job.route, 0) - 1
            slots = {key: free for key, free in slots.items() if free > 0}
            if not more:
                break
        return jobs

    async def _batch(self, claim: Claim, slots: Mapping[str, int]) -> tuple[list[Job], bool]:
        self._claim_id = self._claim_id or new_id()
        said = {
            "worker_id": claim.worker_id, "claim_id": self._claim_id, "lease": claim.lease, "slots": slots,
            "signatures": {key: self._signatures[key] for key in slots},
        }  # fmt: skip
        try:
            answer = await self._link.ask("/worker/claim", said)
        except Refused as refused:  # another version may be deployed there tomorrow: go on asking
            raise StoreError(f"the coordinator hands out no jobs: {refused.detail}") from refused
        self._claim_id = ""
        try:
            jobs = [job_from_wire(each) for each in answer["jobs"]]
        except (KeyError, TypeError, AttributeError):
            raise NotACoordinator("the coordinator hands out jobs that this version cannot read") from None
        seen = str(answer.get("seen", ""))
        if _process(seen) == _process(self.seen):  # the count of another one says nothing to it
            self.seen = seen
        self._warn(answer.get("refused", {}))
        for job in jobs:
            self._tell(self._hold(job), "claim", State.RUNNING)
        return jobs, bool(answer.get("more"))

    def _hold(self, job: Job) -> _Held:
        if len(self._held) >= _MOST_HELD:  # of jobs that were taken away and never heard of again
            del self._held[next(iter(self._held))]
        held = self._held[job.id] = _Held(job, self._clock.monotonic())
        return held

    def _warn(self, refused: Mapping[str, str]) -> None:
        """Say once of each route why it gets no jobs any more, and again when the reason changes."""
        for key, why in refused.items():
            if self._told.get(key) != why:
                self._events.emit(Note("route_refused", "warning", f"no jobs of {key}: {why}"))
        self._told = dict(refused)

    async def renew(self, fences: Sequence[Fence], lease: float) -> Sequence[Renewal]:
        """Heartbeat."""
        renewals: list[Renewal] = []
        for start in range(0, len(fences), _LEASES):
            page = fences[start : start + _LEASES]
            said = {"lease": lease, "fences": [(each.job_id, each.epoch, each.token) for each in page]}
            try:
                # short, so that there is time for another before the lease ends
                answer = await self._link.ask("/worker/heartbeat", said, silence=max(1.0, lease / 6))
            except StoreError:
                if not renewals:
                    raise
                break  # those that were renewed are; the others are due still
            renewals += [Renewal(str(i), bool(held), bool(cancel)) for i, held, cancel in answer["renewals"]]
        return renewals

    async def get(self, job_id: str) -> Job | Tombstone | None:
        """Return how a job stands that was claimed here; None when it is not ours any more."""
        held = self._held.get(job_id)
        if held is None:
            return None
        before = held.number
        try:
            answer = await self._link.read(f"/worker/jobs/{job_id}", lease=held.fence)
        except Refused as refused:
            self._gone(job_id, refused)
            return None
        record = record_of(held.fence, answer)
        if held.number == before:  # else events were appended since, and that answer knows better
            held.number = record.event_seq
        return replace(record, event_seq=record.event_seq + held.refused)

    async def move(self, job_id: str, move: Move) -> Moved:
        """Have the coordinator make one of the changes that a worker may make."""
        fence = move.fence
        if fence is None:
            raise _not_here(f"the move {move.name}")
        said = said_of(move, self._clock.now())
        path, silence = f"/worker/jobs/{job_id}/move", _ASSEMBLY if "upload" in said else SILENCE
        try:
            answer = await self._link.ask(path, said, lease=fence, silence=silence)
        except Refused as refused:
            if said["move"] == "succeed" and refused.status in _UNFIT:
                return await self.move(job_id, _unfit(move, refused))
            self._gone(job_id, refused)
            return Moved(False, None)
        record = record_of(fence, answer)
        if move.to is not None and not answer.get("held"):
            held = self._held.pop(job_id, None)
            if answer.get("applied") and held is not None:
                self._tell(held, move.name, record.state, record.reason)
        return Moved(bool(answer.get("applied")), record)

    def _gone(self, job_id: str, refused: Refused) -> None:
        """Forget a job that is not ours any more; raises the refusal if it says something else."""
        if refused.code not in _GONE:
            raise refused
        self._held.pop(job_id, None)

    def _tell(self, held: _Held, move: str, state: State, reason: str = "") -> None:
        job = held.job
        seconds = self._clock.monotonic() - held.since
        self._events.emit(
            JobMoved(job.id, job.route, move, state.value, reason, job.attempt, seconds, job.request_id)
        )

    async def append(self, fence: Fence, events: Sequence[NewEvent]) -> int:
        """Have the coordinator number and keep events. Raises Fenced, StoreError."""
        held = self._held.get(fence.job_id)
        if held is None:
            raise Fenced("this lease does not hold the job any more")
        for batch in _batches(events):
            told = [{"type": event.type, "data": event.data.decode()} for event in batch]
            said = {"after": held.number, "events": told}
            try:
                answer = await self._link.ask(f"/worker/jobs/{fence.job_id}/events", said, lease=fence)
            except Refused as refused:
                if refused.status in _UNFIT:  # it would be refused for ever
                    fields = {"job_id": fence.job_id}
                    self._events.emit(Note("events_refused", "warning", refused.detail, fields))
                    held.refused += len(batch)
                    continue
                self._gone(fence.job_id, refused)
                raise Fenced("this lease does not hold the job any more") from None
            held.number = int(answer["last"])
        return held.number + held.refused

    # -- what they do not do -----------------------------------------------------------------------

    async def add(
        self, job: Job, *, queue_limit: int | None = None, key: IdempotencyKey | None = None
    ) -> Added:
        """Refuse: jobs are submitted to the coordinator."""
        raise _not_here("add")

    async def foresee(
        self, route: str, *, queue_limit: int | None = None, key: IdempotencyKey | None = None
    ) -> Job | None:
        """Refuse: jobs are submitted to the coordinator."""
        raise _not_here("foresee")

    async def find(self, query: JobQuery) -> Page:
        """Refuse: a worker does not see the jobs of others."""
        raise _not_here("find")

    async def events(self, job_id: str, after: int = 0, limit: int = 100) -> EventPage:
        """Refuse: events are read at the coordinator."""
        raise _not_here("events")


def _process(seen: str) -> str:
    return seen.partition(".")[0]


def _unfit(move: Move, refused: Refused) -> Move:
    """Return the failure of a job whose result the coordinator does not take."""
    error = {"type": "ResultRefused", "message": refused.detail, "retryable": False}
    sets = {"error": pydantic_core.to_json(error), "reason": Reason.ERROR.value}
    return replace(move, name="fail", to=State.FAILED, sets=sets)


def _batches(events: Sequence[NewEvent]) -> Iterator[Sequence[NewEvent]]:
    """Cut events into what one request takes."""
    start = size = 0
    for at, event in enumerate(events):
        if at > start and (size + len(event.data) > _EVENT_BYTES or at - start >= _EVENTS):
            yield events[start:at]
            start, size = at, 0
        size += len(event.data)
    yield events[start:]


def _not_here(what: str) -> Misconfigured:
    return Misconfigured(f"a remote worker cannot do this, its coordinator does: {what}")
