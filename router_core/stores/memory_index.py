"""The records of the memory store and every order in which it looks at them."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import Counter, OrderedDict

from router_core.jobs.job import Job, State
from router_core.stores.agenda import Agenda
from router_core.stores.blob_refs import blob_keys

__all__ = ["MemoryIndex"]

_COUNTED = frozenset({State.QUEUED, State.SCHEDULED})
_LEASED = frozenset({State.RUNNING, State.CANCELLING})
_WAITING = frozenset({State.SCHEDULED, State.QUEUED, State.RETRYING})


class MemoryIndex:
    """Keeps the orders in step with the records; the store's lock guards it."""

    def __init__(self) -> None:
        self.jobs: dict[str, Job] = {}
        self.ready: dict[str, Agenda] = {}
        self.retrying: dict[str, Agenda] = {}
        self.retry_due = Agenda()
        self.scheduled = Agenda()
        self.leases = Agenda()
        self.deadlines = Agenda()
        self.expiry = Agenda()
        self.finished: OrderedDict[str, int] = OrderedDict()
        """Ended records, least recently used first -> their bytes."""
        self.finished_bytes = 0
        self.depth: Counter[str] = Counter()
        """Route -> jobs queued or scheduled."""
        self._ids: list[str] = []
        self._by_owner: dict[str, list[str]] = {}
        self._blob_users: Counter[str] = Counter()

    def put(self, job: Job) -> None:
        """Add a record, or replace it by its next version."""
        before = self.jobs.get(job.id)
        self.jobs[job.id] = job
        if before is None:
            insort(self._ids, job.id)
            insort(self._by_owner.setdefault(job.owner, []), job.id)
            self._blob_users.update(blob_keys(job))
        elif before.state is job.state and before.lease_until == job.lease_until:
            return
        else:
            self._leave(before)
        if job.terminal and before is not None:
            self._blob_users.update(blob_keys(job) - blob_keys(before))
        self._enter(job)

    def remove(self, job: Job) -> list[str]:
        """Forget a record; returns the blobs that no other record needs."""
        del self.jobs[job.id]
        self._leave(job)
        del self._ids[bisect_left(self._ids, job.id)]
        owned = self._by_owner[job.owner]
        del owned[bisect_left(owned, job.id)]
        if not owned:
            del self._by_owner[job.owner]
        keys = blob_keys(job)
        self._blob_users.subtract(keys)
        unused = [key for key in keys if self._blob_users[key] <= 0]
        for key in unused:
            del self._blob_users[key]
        return unused

    def names_blob(self, key: str) -> bool:
        """Return whether a record refers to the blob."""
        return self._blob_users[key] > 0

    def newest_first(self, owner: str | None, before: str) -> list[str]:
        """Return ids lower than ``before`` (empty: all), highest last."""
        ids = self._ids if owner is None else self._by_owner.get(owner, [])
        return ids[: bisect_left(ids, before)] if before else ids

    def _enter(self, job: Job) -> None:
        if job.state in _COUNTED:
            self.depth[job.route] += 1
        if job.state is State.QUEUED:
            self.ready.setdefault(job.route, Agenda()).put(job.id, job.rank)
        elif job.state is State.RETRYING:
            self.retrying.setdefault(job.route, Agenda()).put(job.id, job.not_before)
            self.retry_due.put(job.id, job.not_before)
        elif job.state is State.SCHEDULED:
            self.scheduled.put(job.id, job.not_before)
        elif job.state in _LEASED:
            self.leases.put(job.id, job.lease_until)
        else:
            self.finished[job.id] = size = len(job.input) + len(job.result)
            self.finished_bytes += size
            if job.expires_at:
                self.expiry.put(job.id, job.expires_at)
        if job.state in _WAITING and job.deadline_at:
            self.deadlines.put(job.id, job.deadline_at)

    def _leave(self, job: Job) -> None:
        if job.state in _COUNTED:
            self.depth[job.route] -= 1
            if not self.depth[job.route]:
                del self.depth[job.route]
        for by_route in (self.ready, self.retrying):
            agenda = by_route.get(job.route)
            if agenda is not None:
                agenda.discard(job.id)
        for agenda in (self.retry_due, self.scheduled, self.leases, self.deadlines, self.expiry):
            agenda.discard(job.id)
        self.finished_bytes -= self.finished.pop(job.id, 0)
