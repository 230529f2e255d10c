"""A function that dies between any two writes of an invocation: to the store, to the queue, to a message.

The same job is submitted and delivered again and again; each time the process dies one write later. Another
process gets what SQS delivers then and does the scheduled rounds, and the job ends, once.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Mapping
from itertools import count
from typing import Any

import pytest

from handlers.aws.sqs import run_batch
from router_core import App, Router
from router_core.jobs.context import JobContext
from router_core.jobs.job import Job, State
from router_core.jobs.store import JobQuery
from router_core.jobs.submission import SubmitOptions
from router_core.stores.memory import MemoryJobStore
from router_core.testing.clock import FakeClock
from tests.aws.batches import Context, Site, event_of
from tests.aws.test_sqs_chaos import SimQueue

router = Router()
_WRITES = frozenset({"add", "claim", "move", "append", "renew", "dispatch", "hide"})
_ROUNDS = 20
_leaving: list[Callable[[str], bool]] = []
"""How the process that runs gives jobs back, where that is what the test is about."""


@router.route("/quick")
async def quick(n: int) -> int:
    """Return at once."""
    return n


@router.route("/flaky", max_attempts=5, backoff=2.0)
async def flaky(job: JobContext, n: int) -> int:
    """Fail the first time."""
    if job.attempt < 2:
        raise ConnectionError("again")
    return n


@router.route("/steps")
async def steps(job: JobContext, n: int) -> int:
    """Record a step."""
    return int(await job.once("double", lambda: n)) if n else 0


@router.route("/leave")
async def leave(job: JobContext, n: int) -> int:
    """Be given back by the first process, as if its time were over."""
    for release in _leaving:
        release(job.job_id)
        await asyncio.sleep(30)
    return n


class Killed(BaseException):
    """Stands for the end of the process."""


class Process:
    """Counts what a process writes, and ends it."""

    def __init__(self, writes: int | None) -> None:
        self.left = writes
        self.dead = False

    def mortal(self, part: Any) -> Any:
        """Return a part as this process has it."""
        return _Mortal(part, self)

    def writes(self, name: str) -> None:
        """Die, or go on; who is dead does not even read."""
        if self.left is None:
            return
        if name in _WRITES:
            self.left -= 1
        self.dead = self.dead or self.left < 0
        if self.dead:
            raise Killed


class _Mortal:
    def __init__(self, part: Any, process: Process) -> None:
        self.__dict__.update(_part=part, _process=process)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._part, name)
        if not inspect.iscoroutinefunction(found):
            return found

        async def called(*args: Any, **named: Any) -> Any:
            self._process.writes(name)
            return await found(*args, **named)

        return called


class World:
    """One store and one queue, and a process after the other."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.clock = FakeClock()
        self.store = MemoryJobStore(self.clock)
        self.queue = SimQueue(self.clock)
        self.process = Process(None)
        self.site = Site(router, clock=self.clock, store=self.store, queue=self.queue)
        patch.setattr("handlers.aws.messages.hide", self._hide)
        patch.setattr("handlers.aws.messages.url_of", _url_of)

    async def _hide(self, url: str, receipt: str, seconds: float) -> None:
        self.process.writes("hide")
        await self.queue.hide(url, receipt, seconds)

    async def begin(self, writes: int | None) -> App:
        """Start a process that dies after so many writes."""
        self.process = Process(writes)
        self.site.store, self.site.queue = self.process.mortal(self.store), self.process.mortal(self.queue)
        app = self.site.app = self.site.another()
        await app.start(background=False)
        return app

    async def deliver(self, app: App, *, delete: bool) -> None:
        """Deliver what is visible; ``delete`` lets SQS hear the answer."""
        batch = [self.queue.take(letter) for letter in self.queue.visible()]
        if not batch:
            return
        answer = await run_batch(app, event_of(*batch), Context(60, self.clock))
        kept = {item["itemIdentifier"] for item in answer["batchItemFailures"]}
        for one in batch:
            if delete and one["messageId"] not in kept:
                del self.queue.letters[one["messageId"]]

    async def jobs(self) -> list[Job]:
        """Return all records."""
        found = [await self.store.get(job.id) for job in (await self.store.find(JobQuery())).jobs]
        return [job for job in found if isinstance(job, Job)]


async def _url_of(arn: str) -> str:
    return arn


async def lived(world: World, path: str, options: SubmitOptions, writes: int) -> str:
    """Submit and deliver in a process that dies at some time; returns the id of what was accepted."""
    app = await world.begin(writes)
    _leaving[:] = [app.parts.runner.release]
    accepted = ""
    try:
        accepted = await world.site.submit(path, options, n=7)
        world.clock.advance(options.delay)
        for _ in range(3):
            await world.deliver(app, delete=False)
            await app.tend()
            world.clock.advance(11)
    except Killed:
        pass
    return accepted


async def repaired(world: World) -> list[Job]:
    """Let another process do the rounds and get the messages, until nothing is open; returns the records."""
    app = await world.begin(None)
    _leaving.clear()
    jobs: list[Job] = []
    for _ in range(_ROUNDS):
        world.clock.advance(60)
        await app.tend()
        await world.deliver(app, delete=True)
        jobs = await world.jobs()
        if all(job.terminal for job in jobs) and not world.queue.letters:
            return jobs
    raise AssertionError(([(job.state, job.reason) for job in jobs], world.queue.letters))


CASES: Mapping[str, tuple[str, SubmitOptions, Callable[[Job], bool]]] = {
    "quick": ("/quick", SubmitOptions(), lambda job: job.attempt <= 2),
    "retried": ("/flaky", SubmitOptions(), lambda job: job.attempt in (2, 3)),
    "given back": ("/leave", SubmitOptions(), lambda job: job.attempt <= 2 and job.releases <= 3),
    "with a step": ("/steps", SubmitOptions(), lambda job: job.attempt <= 2),
    "for later": ("/quick", SubmitOptions(delay=5), lambda job: job.attempt <= 2),
    "for much later": ("/quick", SubmitOptions(delay=1000), lambda job: job.attempt <= 2),
}


@pytest.mark.parametrize("name", CASES)
async def test_a_function_may_die_between_any_two_writes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was accepted ends once, with its result, in bounded time; no message is left."""
    path, options, fits = CASES[name]
    # what was going on in a process that died is never looked at
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
    for writes in count():
        world = World(monkeypatch)
        accepted = await lived(world, path, options, writes)
        dead = world.process.dead
        before = await world.jobs()
        jobs = await repaired(world)
        assert len(jobs) == 1 or not accepted
        for job in jobs:
            assert (job.state, job.result) == (State.SUCCEEDED, b"7")
            assert fits(job), (writes, job.attempt)
            assert job.crash_count <= 1
            assert all(job == old for old in before if old.terminal)
        if not dead:
            assert writes > 2
            assert (name == "given back") == any(job.releases for job in jobs)
            return
