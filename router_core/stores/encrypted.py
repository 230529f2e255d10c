"""Job records whose contents are encrypted: inputs, results, errors, steps, messages, events.

What the store itself works with stays readable: ids, owners, routes, states, times, addresses of webhooks,
and the keys of blobs, by which it tells which of them are still needed.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from router_core.jobs.job import Event, Fence, Job, Tombstone
from router_core.jobs.moves import Move
from router_core.jobs.store import (
    Added,
    Claim,
    EventPage,
    IdempotencyKey,
    JobQuery,
    Moved,
    NewEvent,
    Page,
    Store,
)
from router_core.security.encryption import MARK, Cipher
from router_core.stores.blob_refs import input_keys

__all__ = ["EncryptedJobStore"]

_BYTES: Final = ("input", "result", "error", "attempts", "steps")
"""Fields of a record that hold what callers and functions say."""
_SEALED: Final = "$sealed"
_FILES: Final = "files"
_START: Final = b'{"$sealed":'


class EncryptedJobStore:
    """A store in front of another one; records that were written before it are read as they are."""

    def __init__(self, store: Store, cipher: Cipher) -> None:
        self._store = store
        self._cipher = cipher
        # Everything else is the store's, what only some stores can do included. Not by __getattr__: whoever
        # asks with isinstance for a protocol looks at attributes that are there (Python 3.12).
        for name in dir(store):
            if not name.startswith("_") and not hasattr(self, name):
                setattr(self, name, getattr(store, name))

    async def add(
        self, job: Job, *, queue_limit: int | None = None, key: IdempotencyKey | None = None
    ) -> Added:
        """Write a new record."""
        added = await self._store.add(self._sealed(job), queue_limit=queue_limit, key=key)
        return replace(added, job=self._readable(added.job))

    async def foresee(
        self, route: str, *, queue_limit: int | None = None, key: IdempotencyKey | None = None
    ) -> Job | None:
        """Return the job that ``add`` would replay."""
        found = await self._store.foresee(route, queue_limit=queue_limit, key=key)
        return None if found is None else self._readable(found)

    async def get(self, job_id: str) -> Job | Tombstone | None:
        """Return the record."""
        found = await self._store.get(job_id)
        return self._readable(found) if isinstance(found, Job) else found

    async def claim(self, claim: Claim) -> Sequence[Job]:
        """Take jobs that are ready."""
        return self._all(await self._store.claim(claim))

    async def move(self, job_id: str, move: Move) -> Moved:
        """Apply a move."""
        moved = await self._store.move(job_id, replace(move, sets=self._sets(job_id, move.sets)))
        return moved if moved.job is None else replace(moved, job=self._readable(moved.job))

    async def find(self, query: JobQuery) -> Page:
        """List records."""
        page = await self._store.find(query)
        return replace(page, jobs=self._all(page.jobs))

    async def append(self, fence: Fence, events: Sequence[NewEvent]) -> int:
        """Number and keep events."""
        place = f"job/{fence.job_id}/event"
        sealed = [NewEvent(event.type, self._cipher.seal(event.data, place)) for event in events]
        return await self._store.append(fence, sealed)

    async def events(self, job_id: str, after: int = 0, limit: int = 100) -> EventPage:
        """Return kept events."""
        page, place = await self._store.events(job_id, after, limit), f"job/{job_id}/event"
        return replace(page, events=tuple(self._event(event, place) for event in page.events))

    async def overdue(self, limit: int = 100) -> Sequence[Job]:
        """Return jobs whose lease has ended."""
        return self._all(await self._store.overdue(limit))

    async def due(self, limit: int = 100) -> Sequence[Job]:
        """Return jobs whose time has come."""
        return self._all(await self._store.due(limit))

    async def delete(self, job_id: str) -> Job | None:
        """Turn one terminal record into a tombstone."""
        found = await self._store.delete(job_id)
        return None if found is None else self._readable(found)

    # --- records ------------------------------------------------------------------------------------

    def _all(self, jobs: Sequence[Job]) -> Sequence[Job]:
        return tuple(self._readable(job) for job in jobs)

    def _sealed(self, job: Job) -> Job:
        given = {name: getattr(job, name) for name in (*_BYTES, "message")}
        sealed = self._sets(job.id, given)
        if files := sorted(input_keys(job) - {job.input_ref}):
            # the store looks for them, to know when their blobs are needed no more
            named = [{"$file": {"key": key}} for key in files]
            sealed["input"] = json.dumps(json.loads(sealed["input"]) | {_FILES: named}).encode()
        return replace(job, **sealed)

    def _sets(self, job_id: str, sets: Mapping[str, Any]) -> dict[str, Any]:
        found = dict(sets)
        for name in _BYTES:
            if found.get(name) and (name != "input" or found[name] != b"{}"):
                found[name] = self._seal(found[name], f"job/{job_id}/{name}")
        if message := found.get("message"):
            found["message"] = self._seal(message.encode(), f"job/{job_id}/message").decode()
        return found

    def _readable(self, job: Job) -> Job:
        read: dict[str, Any] = {}
        for name in _BYTES:
            value = getattr(job, name)
            if value.startswith(_START):
                read[name] = self._unseal(value, f"job/{job.id}/{name}")
        if job.message.startswith(_START.decode()):
            read["message"] = self._unseal(job.message.encode(), f"job/{job.id}/message").decode()
        return replace(job, **read) if read else job

    def _event(self, event: Event, place: str) -> Event:
        data = self._cipher.unseal(event.data, place)
        return event if data is event.data else replace(event, data=data)

    # --- JSON, which stores and their readers expect ---------------------------------------------------

    def _seal(self, data: bytes, place: str) -> bytes:
        return _START + b'"' + base64.b64encode(self._cipher.seal(data, place)) + b'"}'

    def _unseal(self, data: bytes, place: str) -> bytes:
        try:
            sealed = base64.b64decode(json.loads(data)[_SEALED], validate=True)
        except (ValueError, LookupError, TypeError, binascii.Error):
            return data
        # else it only looks like ours, from before anything was encrypted
        return self._cipher.unseal(sealed, place) if sealed.startswith(MARK) else data
