"""Records, claims and walks through the states, for tests of job stores."""

from __future__ import annotations

from typing import Any

from router_core.jobs import moves
from router_core.jobs.job import Fence, Job, Reason, State
from router_core.jobs.moves import Move
from router_core.jobs.store import Claim, Store
from router_core.testing.clock import FakeClock
from router_core.types import new_id

__all__ = ["LEASE", "RETENTION", "ROUTE", "claim_one", "ended", "new_job", "running", "worker_moves"]

ROUTE = "/predict"
LEASE = 30.0
RETENTION = 3600.0


def new_job(clock: FakeClock, **values: Any) -> Job:
    """Return a queued job that is ready now."""
    now = clock.now()
    fields: dict[str, Any] = {
        "id": new_id(), "owner": "alice", "route": ROUTE, "state": State.QUEUED, "created_at": now,
        "rank": now, "input": b'{"a":1}',
    }  # fmt: skip
    return Job(**{**fields, **values})


async def claim_one(store: Store, route: str = ROUTE, *, worker: str = "w1") -> Job | None:
    """Claim the best job of a route, or nothing."""
    jobs = await store.claim(Claim(worker, LEASE, {route: 1}))
    return jobs[0] if jobs else None


async def running(store: Store, clock: FakeClock, **values: Any) -> Job:
    """Return a job that was added and claimed."""
    job = (await store.add(new_job(clock, **values))).job
    (claimed,) = await store.claim(Claim("w1", LEASE, job_id=job.id))
    return claimed


async def ended(store: Store, clock: FakeClock, **values: Any) -> Job:
    """Return a job that succeeded."""
    job = await running(store, clock, **values)
    move = moves.succeed(job.fence, now=clock.now(), retention=RETENTION, attempts=b"[]", result=b'"done"')
    moved = await store.move(job.id, move)
    assert moved.applied
    assert moved.job is not None
    return moved.job


def worker_moves(fence: Fence, now: float) -> list[Move]:
    """Return one move of every kind that a worker makes under its fence."""
    kept = {"now": now, "retention": RETENTION, "attempts": b"[]"}
    return [
        moves.succeed(fence, result=b'"late"', **kept),  # type: ignore[arg-type]
        moves.fail(fence, error=b"{}", reason=Reason.ERROR, **kept),  # type: ignore[arg-type]
        moves.retry(fence, now=now, not_before=now, rank=now, attempts=b"[]", error=b"{}"),
        moves.release(fence, attempts=b"[]"),
        moves.cancelled(fence, **kept),  # type: ignore[arg-type]
        moves.progress(fence, fraction=0.9, message="late"),
        moves.step(fence, steps=b"{}"),
    ]
