"""An app on a platform that freezes the process between calls, or names the job that it hands out."""

from __future__ import annotations

import asyncio
import time

import pytest

from router_core import JobContext, Router
from router_core.jobs.job import Job, State
from router_core.jobs.moves import release
from router_core.jobs.store import Claim
from router_core.jobs.submission import SubmitOptions
from router_core.settings import Settings
from router_core.testing.clock import FakeClock
from router_core.types import Principal
from router_core.wiring import build_app

router = Router()
me = Principal("me")


@router.route("/slow", max_attempts=5)
async def slow() -> str:
    """Wait until somebody stops it."""
    await asyncio.Event().wait()
    return "never"


@router.route("/patient")
def patient(job: JobContext) -> str:
    """End by itself when it is asked to."""
    while not job.cancelled:
        time.sleep(0.01)
    return "early"


def settings() -> Settings:
    """Keep everything in memory; no job runs by itself."""
    return Settings(jobs="memory://", blobs="memory://")


async def submitted(app_jobs: object, path: str) -> str:
    """Submit a job and return its id."""
    from router_core.app import App

    assert isinstance(app_jobs, App)
    route = next(one for one in app_jobs.routes if one.path == path)
    inputs = route.plan.collect_input({})
    added = await app_jobs.service.submit(route, inputs, principal=me, options=SubmitOptions())
    return added.job.id


async def test_without_background_nothing_works_beside_the_calls() -> None:
    """No job is claimed and no loop runs, and the service is ready all the same."""
    app = build_app(router, settings())
    before = asyncio.all_tasks()
    await app.start(background=False)
    try:
        job_id = await submitted(app, "/slow")
        await asyncio.sleep(0.05)
        found = await app.parts.store.get(job_id)
        assert isinstance(found, Job)
        assert found.state is State.QUEUED
        assert asyncio.all_tasks() == before
        ready = await app.ready()
        assert ready["ready"], ready
    finally:
        await app.stop(1)


async def test_a_round_of_upkeep_takes_jobs_from_dead_workers() -> None:
    """What the loops would do is done by one call."""
    clock = FakeClock()
    app = build_app(router, settings(), clock=clock)
    await app.start(background=False)
    try:
        job_id = await submitted(app, "/slow")
        (job,) = await app.parts.store.claim(Claim("dead", 30, job_id=job_id))
        assert await app.tend() == {"reaper": True, "sweeper": True}
        assert (await app.parts.store.get(job.id)).state is State.RUNNING  # type: ignore[union-attr]
        clock.advance(31)
        assert await app.tend() == {"reaper": True, "sweeper": True}
        assert (await app.parts.store.get(job.id)).state is State.RETRYING  # type: ignore[union-attr]
    finally:
        await app.stop(1)


async def test_a_round_reports_the_part_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """One part's failure keeps no other from its work."""
    app = build_app(router, settings())
    await app.start(background=False)

    async def fail(_limit: int = 100) -> None:
        raise RuntimeError("no store")

    monkeypatch.setattr(app.parts.store.inner, "overdue", fail)  # type: ignore[attr-defined]
    try:
        assert await app.tend() == {"reaper": False, "sweeper": True}
    finally:
        await app.stop(1)


async def test_an_attempt_that_must_end_is_given_back_uncounted() -> None:
    """``within`` seconds after the claim the job is queued again, with its attempt returned."""
    app = build_app(router, settings())
    await app.start(background=False)
    try:
        job_id = await submitted(app, "/slow")
        job = await app.run(job_id, "w", lease=60, within=0.05)
        assert job is not None
        assert (job.state, job.attempt, job.releases) == (State.QUEUED, 0, 1)
        assert job.reason == "released"
    finally:
        await app.stop(1)


async def test_a_function_that_ends_when_asked_has_ended() -> None:
    """A result that comes in the time left is a result."""
    app = build_app(router, settings())
    await app.start(background=False)
    try:
        job = await app.run(await submitted(app, "/patient"), "w", lease=60, within=0.05)
        assert job is not None
        assert (job.state, job.result) == (State.SUCCEEDED, b'"early"')
    finally:
        await app.stop(1)


async def test_a_job_that_is_not_ready_is_left_alone() -> None:
    """Running elsewhere: the record as it is. Unknown: None."""
    app = build_app(router, settings())
    await app.start(background=False)
    try:
        job_id = await submitted(app, "/slow")
        (job,) = await app.parts.store.claim(Claim("other", 30, job_id=job_id))
        seen = await app.run(job_id, "w")
        assert seen is not None
        assert (seen.state, seen.worker_id) == (State.RUNNING, "other")
        assert await app.run("f" * 32, "w") is None
        await app.parts.store.move(job_id, release(job.fence, attempts=b""))
    finally:
        await app.stop(1)
