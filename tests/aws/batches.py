"""Events of SQS as Lambda makes them, an invocation's context, and an app that is called with both."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from router_core import App, Router, Settings, build_app
from router_core.clock import Clock, SystemClock
from router_core.jobs.dispatch import Abilities
from router_core.jobs.job import TERMINAL, Job, State
from router_core.jobs.submission import DEFAULT_OPTIONS, SubmitOptions
from router_core.stores.memory import MemoryJobStore
from router_core.telemetry.events import Events, JobMoved, Note
from router_core.testing.clock import FakeClock
from router_core.types import ANONYMOUS, new_id

ARN = "arn:aws:sqs:us-east-1:000000000000:jobs"


class Context:
    """What Lambda hands to a function besides the event."""

    def __init__(self, seconds: float = 60.0, clock: Clock | None = None) -> None:
        self.aws_request_id = new_id()
        self._clock = clock or SystemClock()
        self._ends = self._clock.monotonic() + seconds

    def get_remaining_time_in_millis(self) -> int:
        """Return how long the invocation may still run."""
        return max(0, int((self._ends - self._clock.monotonic()) * 1000))


def record(body: object, *, receives: int = 1, sent_at: float = 0.0, arn: str = ARN, group: str = "") -> Any:
    """Return one record of an event; a body that is no text is written as JSON."""
    facts: dict[str, str] = {
        "ApproximateReceiveCount": str(receives), "SentTimestamp": str(int(sent_at * 1000)),
        "SenderId": "AIDA", "ApproximateFirstReceiveTimestamp": "1",
    }  # fmt: skip
    if group:
        facts["MessageGroupId"] = group
    return {
        "messageId": new_id(), "receiptHandle": f"receipt-{new_id()}",
        "body": body if isinstance(body, str) else json.dumps(body), "attributes": facts,
        "messageAttributes": {}, "md5OfBody": "", "eventSource": "aws:sqs", "eventSourceARN": arn,
        "awsRegion": "us-east-1",
    }  # fmt: skip


def event_of(*records: Any) -> dict[str, Any]:
    """Return the event of a batch."""
    return {"Records": list(records)}


def kept(answer: dict[str, Any], event: dict[str, Any]) -> list[int]:
    """Return the places in the batch of the messages that stay in their queue."""
    ids = [one["messageId"] for one in event["Records"]]
    return sorted(ids.index(item["itemIdentifier"]) for item in answer["batchItemFailures"])


class FakeQueue:
    """Stands for SQS as the dispatcher sees it: remembers what it was told, and can refuse."""

    def __init__(self, **abilities: Any) -> None:
        given: dict[str, Any] = {"delay": True, "priority": False, "max_delay": 900.0, **abilities}
        self.abilities = Abilities(cancel=True, stream=True, **given)
        self.told: list[str] = []
        self.down: Exception | None = None

    async def dispatch(self, job: Job) -> None:
        """Take a job's id."""
        if self.down is not None:
            raise self.down
        self.told.append(job.id)

    async def start(self, run: Callable[[Job], Awaitable[None]]) -> None:
        """Do nothing."""

    async def stop(self, grace: float) -> None:
        """Do nothing."""


@dataclass
class Site:
    """A service on Lambda: records somewhere, a queue, and how often each job has ended."""

    router: Router
    clock: FakeClock = field(default_factory=FakeClock)
    store: Any = None
    queue: FakeQueue = field(default_factory=FakeQueue)
    settings: dict[str, Any] = field(default_factory=dict)
    ends: Counter[str] = field(default_factory=Counter)
    notes: list[Note] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.store = self.store or MemoryJobStore(self.clock)
        self.app = self.another()

    def another(self) -> App:
        """Return one more process of the same service."""
        settings = Settings(jobs="memory://", blobs="memory://", **self.settings)
        app = build_app(
            self.router, settings, clock=self.clock, store=self.store, events=Events(self._listen)
        )
        app.parts.runner.settlement.external = True
        for part in (app.service, *app.parts.upkeep):
            if hasattr(part, "_dispatcher"):
                part._dispatcher = self.queue
            if hasattr(part, "_external"):
                part._external = True
        object.__setattr__(app.parts, "dispatcher", self.queue)
        return app

    def _listen(self, event: object) -> None:
        if isinstance(event, JobMoved) and event.state in TERMINAL and event.move != "add":
            self.ends[event.job_id] += 1
        if isinstance(event, Note):
            self.notes.append(event)

    def noted(self, name: str) -> list[Note]:
        """Return the notes of one name."""
        return [note for note in self.notes if note.name == name]

    async def submit(self, path: str, options: SubmitOptions = DEFAULT_OPTIONS, /, **values: Any) -> str:
        """Submit a job; returns its id."""
        route = next(route for route in self.app.routes if route.path == path)
        inputs = route.plan.collect_input(values)
        added = await self.app.service.submit(route, inputs, principal=ANONYMOUS, options=options)
        return added.job.id

    async def job(self, job_id: str) -> Job:
        """Return the record."""
        found = await self.store.get(job_id)
        assert isinstance(found, Job)
        return found

    async def states(self, ids: Iterable[str]) -> list[State]:
        """Return the states of some jobs."""
        return [(await self.job(job_id)).state for job_id in ids]


def message_for(job_id: str, **options: Any) -> Any:
    """Return the record that names a job."""
    return record({"job_id": job_id}, **options)


def shuffled(items: Iterable[Any], seed: int) -> list[Any]:
    """Return the items in an order that depends on the seed alone."""
    found = list(items)
    random.Random(seed).shuffle(found)
    return found
