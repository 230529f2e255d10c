"""A queue that another package brings: found by its scheme, told of jobs, without workers here."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from importlib.metadata import EntryPoint

import pytest

from router_core import Misconfigured, Request, Router, Settings, build_app
from router_core.clock import Clock
from router_core.http.message import Headers
from router_core.jobs.dispatch import Abilities
from router_core.jobs.job import Job, State
from router_core.telemetry.events import Events, Note

GROUP = "router_core.queues"
router = Router()


@router.route("/double")
def double(n: int) -> int:
    """Double."""
    return 2 * n


class FakeQueue:
    """Keeps the ids that it was told, for somebody else to fetch."""

    abilities = Abilities(delay=False, priority=False, cancel=False, stream=False)

    def __init__(self, url: str) -> None:
        self.url = url
        self.told: list[str] = []
        self.stopped = False

    async def dispatch(self, job: Job) -> None:
        """Take an id."""
        self.told.append(job.id)

    async def start(self, run: Callable[[Job], Awaitable[None]]) -> None:
        """Consume nothing here."""

    async def stop(self, grace: float) -> None:
        """Let go."""
        self.stopped = True


def open_queue(url: str, settings: Settings, clock: Clock) -> FakeQueue:
    """Stand for what a package offers."""
    assert clock.now() > 0
    assert settings.queue == url
    return FakeQueue(url)


@pytest.fixture
def offered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Install packages that offer the schemes fake and broken."""
    points = [
        EntryPoint("fake", f"{__name__}:open_queue", GROUP),
        EntryPoint("broken", "no_such_package:open", GROUP),
    ]
    monkeypatch.setitem(sys.modules, __name__, sys.modules[__name__])
    monkeypatch.setattr(
        "importlib.metadata.entry_points",
        lambda group, name: [point for point in points if (point.group, point.name) == (group, name)],
    )


def settings_with(queue: str) -> Settings:
    """Return settings that leave nothing on disk."""
    return Settings(queue=queue, jobs="memory://", blobs="memory://")


@pytest.mark.usefixtures("offered")
async def test_jobs_go_to_the_queue_and_run_where_it_is_read() -> None:
    """The queue is told the id; whoever reads it runs the job by that. This process needs no workers."""
    app = build_app(router, settings_with("fake://place"))
    await app.start()
    try:
        queue = app.parts.dispatcher
        assert isinstance(queue, FakeQueue)
        assert queue.url == "fake://place"
        answer = await app.handle(
            Request(
                "POST",
                "/double",
                headers=Headers([("content-type", "application/json")]),
                body=b'{"n": 21}',
                id="r",
            )
        )
        assert answer.status == 202
        (job_id,) = queue.told
        ready = await app.ready()
        assert ready["ready"], ready
        assert "worker" not in ready["checks"]
        job = await app.run(job_id, "elsewhere")
        assert job is not None
        assert (job.state, job.result) == (State.SUCCEEDED, b"42")
    finally:
        await app.stop(1)
    assert queue.stopped


@pytest.mark.usefixtures("offered")
@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("fake", "ROUTER_QUEUE is 'fake'; it must be inprocess, pull, runpod, or a URL"),
        ("nobody://x", "ROUTER_QUEUE is 'nobody://x'; .*entry-point group router_core.queues"),
        ("broken://x", "no_such_package:open of the group router_core.queues cannot be loaded"),
    ],
)
def test_a_queue_that_is_not_there_says_what_to_write(url: str, said: str) -> None:
    """One sentence that names the variable, or the package."""
    with pytest.raises(Misconfigured, match=said):
        build_app(router, settings_with(url))


@pytest.mark.usefixtures("offered")
@pytest.mark.parametrize(
    ("header", "code"), [("x-job-priority", "no_priorities"), ("x-job-delay", "no_delays")]
)
async def test_what_the_queue_cannot_do_is_refused(header: str, code: str) -> None:
    """Neither is passed over in silence."""
    app = build_app(router, settings_with("fake://x"))
    await app.start()
    try:
        headers = Headers([("content-type", "application/json"), (header, "5"), ("host", "localhost")])
        answer = await app.handle(Request("POST", "/double", "", headers, b'{"n": 1}'))
        assert answer.status == 400
        assert isinstance(answer.body, bytes)
        assert code in answer.body.decode()
    finally:
        await app.stop(1)


@pytest.mark.usefixtures("offered")
async def test_a_priority_that_the_queue_does_not_know_is_remarked_upon_at_the_start() -> None:
    """The router runs unchanged, in the order in which jobs come, and the operator is told of the route."""
    urgent = Router()

    @urgent.route("/now", priority=9)
    def now() -> int:
        """Hurry."""
        return 1

    @urgent.route("/later")
    def later() -> None:
        """Do not."""

    events, said = Events(), list[Note]()
    events.subscribe(lambda event: said.append(event) if isinstance(event, Note) else None)
    app = build_app(urgent, settings_with("fake://x"), events=events)
    assert not said
    await app.start()
    try:
        await app.start()
        (note,) = [note for note in said if note.name == "priority_ignored"]
        assert note.level == "warning"
        assert "/now has priority=9, and the queue of ROUTER_QUEUE=fake://x knows no" in note.message
        headers = Headers([("content-type", "application/json"), ("host", "localhost")])
        answer = await app.handle(Request("POST", "/now", "", headers, b"{}"))
        assert answer.status == 202
        (job_id,) = app.parts.dispatcher.told  # type: ignore[attr-defined]
        job = await app.run(job_id, "elsewhere")
        assert job is not None
        assert job.state is State.SUCCEEDED
    finally:
        await app.stop(1)


async def test_a_priority_where_the_queue_knows_it_is_nothing_to_talk_about() -> None:
    """Not a word in this process's own queue."""
    urgent, events, said = Router(), Events(), list[Note]()
    urgent.route("/now", priority=9)(lambda: 1)
    events.subscribe(lambda event: said.append(event) if isinstance(event, Note) else None)
    app = build_app(urgent, settings_with("inprocess"), events=events)
    await app.start()
    await app.stop(1)
    assert "priority_ignored" not in [note.name for note in said]


async def test_a_service_without_a_store_takes_no_jobs() -> None:
    """``none://`` answers calls, and refuses one that asks to become a job."""
    router = Router()

    @router.get("/add")
    def add(a: int, b: int) -> int:
        return a + b

    app = build_app(router, Settings(jobs="none://", blobs="memory://"))
    await app.start()
    assert (await app.handle(Request("GET", "/add", "a=1&b=2"))).status == 200
    asked = Headers([("prefer", "respond-async")])
    assert (await app.handle(Request("GET", "/add", "a=1&b=2", asked))).status == 501
    await app.stop(0)


def test_job_routes_need_a_store() -> None:
    """Said when the app is built, naming the route."""
    with pytest.raises(Misconfigured, match="/double"):
        build_app(router, Settings(jobs="none://", blobs="memory://"))
