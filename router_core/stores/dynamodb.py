"""The job store on one DynamoDB table: for Lambda, and wherever several machines share their jobs.

``python -m router_core.stores.dynamodb TABLE`` creates the table.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final, TypeVar

from router_core.clock import Clock, SystemClock
from router_core.errors import StoreError, Unavailable
from router_core.jobs.job import Fence, Job, Tombstone
from router_core.jobs.moves import Move
from router_core.jobs.store import (
    Added,
    Claim,
    Delivery,
    EventPage,
    IdempotencyKey,
    JobQuery,
    Moved,
    NewEvent,
    Page,
    Purged,
    Renewal,
    StoreStats,
)
from router_core.stores.dynamodb_blobs import BlobRefs
from router_core.stores.dynamodb_calls import PATIENCE, Table
from router_core.stores.dynamodb_claims import Claims
from router_core.stores.dynamodb_events import EventPacks
from router_core.stores.dynamodb_listing import Listings
from router_core.stores.dynamodb_moves import Moves
from router_core.stores.dynamodb_queues import Queues
from router_core.stores.dynamodb_records import Records
from router_core.stores.dynamodb_submit import Submissions
from router_core.stores.dynamodb_table import TTL_ATTRIBUTE, check, create, table_definition
from router_core.stores.dynamodb_upkeep import Upkeep
from router_core.vendors import boto3

__all__ = ["TTL_ATTRIBUTE", "DynamoJobStore", "create_table", "table_definition"]

_T = TypeVar("_T")
_COMMAND: Final = "router_core.stores.dynamodb"


class DynamoJobStore:
    """Job records in one table, whose layout ``dynamodb_table`` describes.

    Every change of a record is one conditional write, decided by the record alone (C1, C2, C4); every write
    carries an id by which it is found again when its answer was lost (C3). A transaction is needed only for a
    submission with an idempotency key or a large input, and for events. Nothing ever scans.

    An operation is run whole in a thread, so that a caller who gives up leaves nothing half done.
    """

    multi_process = True
    """Several processes, on several machines, may use the table at once."""

    def __init__(self, table: str, clock: Clock | None = None, *, patience: float = PATIENCE) -> None:
        clock = clock or SystemClock()
        self._patience = patience
        self._now = clock.now
        self._table = Table(table)
        records = self._records = Records(self._table, clock)
        queues = Queues(self._table, clock)
        blobs = self._blobs = BlobRefs(records)
        self._submissions = Submissions(records, queues, blobs)
        self._claims = Claims(records, queues)
        self._moves = Moves(records, queues, blobs)
        self._events = EventPacks(records)
        self._listings = Listings(records)
        self._upkeep = Upkeep(records, queues, blobs)
        self._closed = False

    async def _run(self, work: Callable[..., _T], *args: Any, **named: Any) -> _T:
        if self._closed:
            raise StoreError("the job store is closed")
        until = time.monotonic() + self._patience
        try:
            answer: _T = await boto3.call(partial(self._within, until, work, *args, **named))
        except StoreError:
            raise
        except Unavailable as error:
            raise StoreError(error.detail, retry_after=error.retry_after) from error
        return answer

    def _within(self, until: float, work: Callable[..., _T], *args: Any, **named: Any) -> _T:
        with self._table.patience(until):
            return work(*args, **named)

    # --- life -------------------------------------------------------------------------------

    async def open(self) -> None:
        """Look at the table; raises Misconfigured when it is missing or has not the keys and indexes."""
        await self._run(check, self._table, table_definition(self._table.name), _COMMAND)

    async def close(self) -> None:
        """Refuse what comes later; what was begun ends by itself."""
        self._closed = True

    async def ping(self) -> None:
        """Write something."""
        item = {"pk": {"S": "P"}, "sk": {"S": "P"}, "at": {"N": repr(self._now())}}
        await self._run(self._table.put, item)

    # --- JobStore ---------------------------------------------------------------------------

    async def add(
        self, job: Job, *, queue_limit: int | None = None, key: IdempotencyKey | None = None
    ) -> Added:
        """Write a new record. An idempotency key whose job was deleted or purged early raises Gone."""
        return await self._run(self._submissions.add, job, queue_limit, key)

    async def foresee(
        self, route: str, *, queue_limit: int | None = None, key: IdempotencyKey | None = None
    ) -> Job | None:
        """Answer as ``add`` would, and write nothing."""
        return await self._run(self._submissions.foresee, route, queue_limit, key)

    async def get(self, job_id: str) -> Job | Tombstone | None:
        """Return the record, its tombstone, or None."""
        return await self._run(self._records.get, job_id)

    async def claim(self, claim: Claim) -> Sequence[Job]:
        """Take ready jobs, best rank first."""
        return await self._run(self._claims.take, claim)

    async def move(self, job_id: str, move: Move) -> Moved:
        """Apply a move if its guards hold."""
        return await self._run(self._moves.move, job_id, move)

    async def renew(self, fences: Sequence[Fence], lease: float) -> Sequence[Renewal]:
        """Extend the leases that still belong to these fences."""
        return await self._run(self._moves.renew, tuple(fences), lease)

    async def find(self, query: JobQuery) -> Page:
        """List records, newest first; a page may be short and still have a cursor."""
        return await self._run(self._listings.find, query)

    async def append(self, fence: Fence, events: Sequence[NewEvent]) -> int:
        """Number and keep events of a running job."""
        return await self._run(self._events.append, fence, tuple(events))

    async def events(self, job_id: str, after: int = 0, limit: int = 100) -> EventPage:
        """Return kept events after a number."""
        return await self._run(self._events.events, job_id, after, limit)

    # --- JobUpkeep --------------------------------------------------------------------------

    async def overdue(self, limit: int = 100) -> Sequence[Job]:
        """Return jobs whose lease has ended."""
        return await self._run(self._upkeep.overdue, limit)

    async def due(self, limit: int = 100) -> Sequence[Job]:
        """Return jobs that the sweeper has to move."""
        return await self._run(self._upkeep.due, limit)

    async def next_due(self) -> float | None:
        """Return the earliest start time of scheduled and retrying jobs."""
        return await self._run(self._upkeep.next_due)

    async def purge(self, limit: int = 500) -> Purged:
        """Turn expired records into tombstones, and correct the counters of queues."""
        return await self._run(self._upkeep.purge, limit)

    async def delete(self, job_id: str) -> Job | None:
        """Turn one terminal record into a tombstone."""
        return await self._run(self._upkeep.delete, job_id)

    async def unreferenced(self, keys: Sequence[str]) -> Sequence[str]:
        """Return those of the blob keys that no record names."""
        return await self._run(self._blobs.unnamed, tuple(keys))

    async def undispatched(self, before: float, limit: int = 100) -> Sequence[Job]:
        """Return jobs that have been waiting since before a time, and that the queue was not told of."""
        return await self._run(self._listings.undispatched, before, limit)

    async def stats(self) -> StoreStats:
        """Count the open jobs."""
        return await self._run(self._listings.stats)

    # --- Outbox -----------------------------------------------------------------------------

    async def deliveries(self, limit: int = 100) -> Sequence[Delivery]:
        """Return webhooks to send now."""
        return await self._run(self._upkeep.deliveries, limit)

    async def delivered(self, delivery_id: str) -> None:
        """Forget a webhook."""
        await self._run(self._upkeep.delivered, delivery_id)

    async def postpone(self, delivery_id: str, *, attempt: int, next_at: float) -> None:
        """Note a failed try of a webhook."""
        await self._run(self._upkeep.postpone, delivery_id, attempt=attempt, next_at=next_at)


def create_table(name: str, *, expire: bool = True) -> None:
    """Create the table and wait until it can be used; does nothing where it exists. Blocks.

    ``expire`` lets DynamoDB delete what its ``ttl`` says. Production creates the table from a template, which
    also encrypts it and keeps backups.
    """
    create(table_definition(name), expire=expire)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m router_core.stores.dynamodb TABLE")
    create_table(sys.argv[1])
