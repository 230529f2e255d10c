"""What becomes of each message of a batch: the record decides."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from dataclasses import replace
from typing import Any

import pytest

from handlers.aws import sqs, upkeep
from handlers.aws.messages import read_messages
from handlers.aws.sqs import run_batch
from router_core import JobContext, Router
from router_core.errors import StoreError, Unavailable
from router_core.jobs import moves
from router_core.jobs.job import Reason, State
from router_core.jobs.store import Claim
from router_core.jobs.submission import SubmitOptions
from router_core.types import ANONYMOUS
from tests.aws.batches import ARN, Context, FakeQueue, Site, event_of, kept, message_for, record

HOUR = 3600.0
router = Router()
ran: list[int] = []
gate, begun = asyncio.Event(), asyncio.Event()
inside = {"now": 0, "most": 0}


@router.route("/double")
async def double(n: int) -> int:
    """Double, and remember it."""
    ran.append(n)
    return 2 * n


@router.route("/flaky", max_attempts=3, backoff=100.0)
async def flaky() -> str:
    """Fail."""
    raise ConnectionError("try again")


@router.route("/slow", max_attempts=5)
async def slow(job: JobContext) -> str:
    """Wait until somebody stops it; it could keep steps, and go on from them."""
    begun.set()
    await asyncio.Event().wait()
    return "never"


@router.route("/endless")
async def endless() -> None:
    """Take longer than any invocation."""
    await asyncio.Event().wait()


@router.route("/deaf")
async def deaf() -> str:
    """Go on whatever happens."""
    end = time.monotonic() + 30
    while time.monotonic() < end and not gate.is_set():
        try:
            await asyncio.sleep(0.05)
        except asyncio.CancelledError:
            continue
    return "late"


@router.route("/one", concurrency=1)
async def one(n: int) -> int:
    """Count how many run at once."""
    return await _counted(n)


@router.route("/three", concurrency=3)
async def three(n: int) -> int:
    """Count how many run at once."""
    return await _counted(n)


async def _counted(n: int) -> int:
    inside["now"] += 1
    inside["most"] = max(inside["most"], inside["now"])
    await asyncio.sleep(0.01)
    inside["now"] -= 1
    return n


@router.route("/patient")
def patient(job: JobContext) -> str:
    """End when it is asked to."""
    pause = threading.Event()
    for _ in range(2000):
        if job.cancelled:
            return "early"
        pause.wait(0.01)
    return "never asked"


@pytest.fixture
async def site(hidden: list[tuple[str, float]]) -> Any:
    """Return a service whose clock stands still."""
    ran.clear()
    inside.update(now=0, most=0)
    gate.clear()
    made = Site(router)
    await made.app.start(background=False)
    yield made
    await made.app.stop(0)


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let an invocation wait for what it stops: on a busy machine that takes longer than it has left."""
    monkeypatch.setattr(sqs, "RESERVE", -60.0)


async def deliver(site: Site, *records: Any, seconds: float = 60.0) -> list[int]:
    """Hand over a batch; returns the places of those that are kept."""
    event = event_of(*records)
    answer = await run_batch(site.app, event, Context(seconds, site.clock), draw=lambda: 0.5)
    assert set(answer) == {"batchItemFailures"}
    return kept(answer, event)


async def test_a_job_is_run_and_its_message_forgotten(site: Site, hidden: list[Any]) -> None:
    """Meanwhile it is hidden until shortly after the end of the invocation, when the lease has ended."""
    job_id = await site.submit("/double", n=4)
    message = message_for(job_id)
    assert await deliver(site, message, seconds=60) == []
    job = await site.job(job_id)
    assert (job.state, job.result, ran) == (State.SUCCEEDED, b"8", [4])
    assert hidden == [(message["receiptHandle"], 70.0)]


async def test_the_lease_lasts_until_the_invocation_has_ended(site: Site) -> None:
    """And five seconds more; nobody renews it."""
    leases = []
    claim = site.store.claim

    async def seen(wanted: Claim) -> Any:
        leases.append((wanted.lease, wanted.worker_id))
        return await claim(wanted)

    site.store.claim = seen
    context = Context(60, site.clock)
    event = event_of(message_for(await site.submit("/double", n=1)))
    await run_batch(site.app, event, context)
    assert leases == [(65.0, context.aws_request_id)]


async def test_a_repeated_message_runs_nothing(site: Site) -> None:
    """Also within one batch, and after the record has been forgotten."""
    job_id = await site.submit("/double", n=4)
    assert await deliver(site, *[message_for(job_id) for _ in range(5)]) == []
    assert await deliver(site, message_for(job_id)) == []
    site.clock.advance(25 * HOUR)
    assert await deliver(site, message_for(job_id)) == []
    await site.app.tend()
    assert await deliver(site, message_for(job_id)) == []
    assert (ran, site.ends[job_id]) == ([4], 1)


async def test_a_message_of_a_running_job_is_kept_until_its_lease_has_ended(
    site: Site, hidden: list[Any]
) -> None:
    """Deleting it would lose the job, should its worker die."""
    job_id = await site.submit("/double", n=4)
    await site.store.claim(Claim("other", 40, job_id=job_id))
    site.clock.advance(10)
    message = message_for(job_id)
    assert await deliver(site, message) == [0]
    assert hidden[-1] == (message["receiptHandle"], 30 + 1 + 2.5)
    await site.app.service.cancel(job_id, ANONYMOUS)
    assert await deliver(site, message_for(job_id)) == [0]
    assert ran == []


async def test_a_dead_worker_is_noticed_by_its_message(site: Site, hidden: list[Any]) -> None:
    """The job is taken back at once, waits out its backoff, and is run by the same message."""
    job_id = await site.submit("/double", n=4)
    await site.store.claim(Claim("other", 40, job_id=job_id))
    site.clock.advance(41)
    assert await deliver(site, message_for(job_id)) == [0]
    job = await site.job(job_id)
    assert (job.state, job.crash_count, job.dispatch_pending) == (State.RETRYING, 1, True)
    assert hidden[-1][1] == pytest.approx(job.not_before - site.clock.now() + 0.5)
    site.clock.advance(5)
    assert await deliver(site, message_for(job_id)) == []
    assert (await site.job(job_id)).state is State.SUCCEEDED
    assert site.queue.told == [job_id]


async def test_a_cancelled_job_of_a_dead_worker_ends(site: Site) -> None:
    """Its message is what finishes it."""
    job_id = await site.submit("/double", n=4)
    await site.store.claim(Claim("other", 40, job_id=job_id))
    await site.app.service.cancel(job_id, ANONYMOUS)
    site.clock.advance(41)
    assert await deliver(site, message_for(job_id)) == []
    assert (await site.job(job_id)).state is State.CANCELLED


async def test_a_retry_waits_in_the_queue(site: Site, hidden: list[Any]) -> None:
    """The message is hidden for the backoff; the sweeper sends a second one only should that get lost."""
    job_id = await site.submit("/flaky")
    assert await deliver(site, message_for(job_id)) == [0]
    job = await site.job(job_id)
    assert (job.state, job.attempt, job.dispatch_pending) == (State.RETRYING, 1, True)
    left = job.not_before - site.clock.now()
    assert hidden[-1][1] == pytest.approx(left + 0.5)
    if left > 0:
        assert await deliver(site, message_for(job_id)) == [0]
        assert (await site.job(job_id)).attempt == 1
    for _ in range(2):
        site.clock.advance(301)
        await deliver(site, message_for(job_id))
    job = await site.job(job_id)
    assert (job.state, job.reason, job.attempt) == (State.FAILED, "attempts_exhausted", 3)
    assert site.ends[job_id] == 1


async def test_a_wait_that_sqs_cannot_hold_is_left_to_the_sweeper(site: Site) -> None:
    """The message is deleted once the record says that the queue does not know."""
    retried = await site.submit("/flaky")
    (held,) = await site.store.claim(Claim("w", 60, job_id=retried))
    later = site.clock.now() + 13 * HOUR
    move = moves.retry(held.fence, now=0, not_before=later, rank=later, attempts=b"", error=b"{}")
    assert (await site.store.move(retried, move)).applied
    scheduled = await site.submit("/double", SubmitOptions(delay=14 * HOUR), n=1)
    assert await deliver(site, message_for(retried), message_for(scheduled)) == []
    assert (await site.job(retried)).dispatch_pending
    site.queue.told.clear()
    site.clock.advance(13 * HOUR + 11)
    await site.app.tend()
    assert site.queue.told == [retried]
    site.clock.advance(HOUR)
    await site.app.tend()
    assert site.queue.told == [retried, scheduled]


async def test_a_mark_that_cannot_be_written_keeps_the_message(site: Site) -> None:
    """Or the job would be lost between the queue and the sweeper."""
    job_id = await site.submit("/flaky")
    (held,) = await site.store.claim(Claim("w", 60, job_id=job_id))
    later = site.clock.now() + 13 * HOUR
    move = moves.retry(held.fence, now=0, not_before=later, rank=later, attempts=b"", error=b"{}")
    assert (await site.store.move(job_id, move)).applied

    async def fail(*_: Any) -> Any:
        raise StoreError("no answer")

    write, site.store.move = site.store.move, fail
    assert await deliver(site, message_for(job_id)) == [0]
    site.store.move = write


async def test_a_scheduled_job_is_run_when_its_message_is_due(site: Site, hidden: list[Any]) -> None:
    """No sweeper has to come by first; a message that comes too early is hidden until then."""
    job_id = await site.submit("/double", SubmitOptions(delay=60), n=4)
    assert site.queue.told == [job_id]
    assert await deliver(site, message_for(job_id)) == [0]
    assert hidden[-1][1] == 60.5
    site.clock.advance(61)
    assert await deliver(site, message_for(job_id)) == []
    assert (await site.job(job_id)).result == b"8"


async def test_a_job_past_its_deadline_ends_without_being_run(site: Site) -> None:
    """Never started: expired."""
    job_id = await site.submit("/double", SubmitOptions(cancel_after=60), n=4)
    site.clock.advance(61)
    assert await deliver(site, message_for(job_id)) == []
    assert ((await site.job(job_id)).state, ran) == (State.EXPIRED, [])


@pytest.mark.usefixtures("waits")
async def test_an_attempt_is_given_back_before_the_end(site: Site, hidden: list[Any]) -> None:
    """Uncounted; a new message, received by nobody yet, replaces the one that was."""
    job_id = await site.submit("/slow")
    site.queue.told.clear()
    assert await deliver(site, message_for(job_id), seconds=0.4) == []
    job = await site.job(job_id)
    assert (job.state, job.attempt, job.releases, job.dispatch_pending) == (State.QUEUED, 0, 1, False)
    assert site.queue.told == [job_id]


@pytest.mark.parametrize("why", ["fifo", "queue down", "no queue of ours"])
@pytest.mark.usefixtures("waits")
async def test_what_cannot_be_replaced_is_kept(site: Site, hidden: list[Any], why: str) -> None:
    """And comes back at once."""
    job_id = await site.submit("/slow")
    site.queue.told.clear()
    if why == "queue down":
        site.queue.down = Unavailable("no")
    elif why == "no queue of ours":
        site.queue.abilities = replace(site.queue.abilities, external=False)
    fifo = {"arn": f"{ARN}.fifo", "group": "/slow"} if why == "fifo" else {}
    assert await deliver(site, message_for(job_id, **fifo), seconds=0.4) == [0]
    assert (hidden[-1][1], site.queue.told) == (0.5, [])
    assert (await site.job(job_id)).dispatch_pending


@pytest.mark.usefixtures("waits")
async def test_an_attempt_that_had_all_the_time_there_is_has_timed_out(site: Site) -> None:
    """Without steps it would begin again and again, and each time is paid for."""
    job_id = await site.submit("/endless")
    assert await deliver(site, message_for(job_id), seconds=0.4) == []
    job = await site.job(job_id)
    assert (job.state, job.reason, job.attempt) == (State.FAILED, Reason.TIMEOUT, 1)
    assert b"the function ran longer than 0.2" in job.error


@pytest.mark.usefixtures("waits")
async def test_a_job_that_is_released_too_often_ends(site: Site) -> None:
    """The core counts, not the queue."""
    job_id = await site.submit("/slow")
    job = await site.job(job_id)
    site.store._index.put(replace(job, releases=20))
    assert await deliver(site, message_for(job_id), seconds=0.3) == []
    assert (await site.job(job_id)).state is State.FAILED


@pytest.mark.usefixtures("waits")
async def test_a_sync_function_hears_of_the_end(site: Site) -> None:
    """What ends by itself in the time left has ended."""
    job_id = await site.submit("/patient")
    assert await deliver(site, message_for(job_id), seconds=2.0) == []
    assert (await site.job(job_id)).result == b'"early"'


@pytest.mark.parametrize("seconds", [0.0, 0.0001])
async def test_no_time_is_a_number(site: Site, seconds: float) -> None:
    """Nothing is begun, no attempt is counted, no lease is taken that nobody would end."""
    job_id = await site.submit("/double", n=4)
    event = event_of(message_for(job_id))
    site.app.parts.clock.advance(0)  # type: ignore[attr-defined]
    context = Context(seconds, site.clock)
    assert context.get_remaining_time_in_millis() == 0
    answer = await run_batch(site.app, event, context)
    assert kept(answer, event) == [0]
    job = await site.job(job_id)
    assert (job.state, job.attempt, job.epoch, ran) == (State.QUEUED, 0, 0, [])


async def test_a_message_that_finds_no_time_again_and_again_is_replaced(
    site: Site, hidden: list[Any]
) -> None:
    """So that waiting uses up no receives; it is no endless loop at full speed either."""
    job_id = await site.submit("/one", n=1)
    site.queue.told.clear()
    held = asyncio.Semaphore(0)
    batch = sqs._Batch(site.app, Context(60, site.clock), lambda: 0.5)
    batch._slots["/one"] = held
    early, late = (message_for(job_id, receives=count) for count in (3, 4))
    task = asyncio.ensure_future(batch.run(read_messages(event_of(early, late))))
    await asyncio.sleep(0)
    site.clock.advance(51)
    held.release()
    answer = await task
    assert kept(answer, event_of(early, late)) == [0]
    assert site.queue.told == [job_id]
    assert (await site.job(job_id)).attempt == 0


@pytest.mark.parametrize(
    "body",
    [
        "", "null", "[]", "3", "{", "\x00", "not json", '{"job_id": null}', '{"job_id": 7}',
        '{"job_id": ["x"]}', '{"job_id": "short"}', '{"job_id": "../../etc/passwd"}', '{"id": "x"}',
        '{"job_id": "' + "a" * 5000 + '"}', "[" * 900, '{"job_id": "\ud800aaaaaaaaaa"}',
        '{"job_id": "' + "f" * 32 + '"}', "9" * 1000,
    ],
    ids=lambda body: repr(body[:20]),
)  # fmt: skip
async def test_a_poison_message_troubles_no_other(site: Site, hidden: list[Any], body: str) -> None:
    """It stays, for the queue to give it up soon, and the log says why."""
    before, after = await site.submit("/double", n=1), await site.submit("/double", n=2)
    poison = record(body, sent_at=site.clock.now())
    assert await deliver(site, message_for(before), poison, message_for(after)) == [1]
    assert await site.states([before, after]) == [State.SUCCEEDED] * 2
    (note,) = site.noted("poison_message")
    assert (note.level, note.fields["message_id"]) == ("error", poison["messageId"])
    assert len(note.fields["body"]) <= 500
    assert (poison["receiptHandle"], 2.0) in hidden


async def test_a_message_older_than_all_graves_is_forgotten(site: Site) -> None:
    """Its job has ended long ago, or never was: nobody can say."""
    old = message_for("f" * 32, sent_at=site.clock.now() - 8 * 24 * HOUR)
    assert await deliver(site, old) == []


@pytest.mark.parametrize(
    "event",
    [
        {}, {"Records": None}, {"Records": {}}, {"Records": [None, 3, "x", {}]},
        {"Records": [{"messageId": 4}]}, {"Records": [{"messageId": ""}]},
    ],
)  # fmt: skip
async def test_an_event_of_another_shape_harms_nothing(site: Site, event: Any) -> None:
    """There is nothing to report about a record without an id."""
    assert await run_batch(site.app, event, Context(60, site.clock)) == {"batchItemFailures": []}


async def test_a_record_with_little_in_it_is_kept(site: Site) -> None:
    """Members that are missing or of another type are no error of the batch."""
    event = {
        "Records": [
            {"messageId": "m1"},
            {"messageId": "m2", "body": 5, "attributes": [], "eventSourceARN": 7},
            {"messageId": "m3", "body": "{}", "attributes": {"ApproximateReceiveCount": "x"}},
            {"messageId": "m4", "body": "{}", "attributes": {"SentTimestamp": "1e999"}},
        ]
    }
    answer = await run_batch(site.app, event, Context(60, site.clock))
    assert [item["itemIdentifier"] for item in answer["batchItemFailures"]] == ["m1", "m2", "m3", "m4"]


async def test_a_store_that_does_not_answer_keeps_messages_ever_longer(site: Site, hidden: list[Any]) -> None:
    """Other jobs of the batch are run."""
    lost, fine = await site.submit("/double", n=1), await site.submit("/double", n=2)
    get = site.store.get

    async def fail_one(job_id: str) -> Any:
        if job_id == lost:
            raise StoreError("no answer")
        return await get(job_id)

    site.store.get = fail_one
    pauses = []
    for receives in (1, 2, 3, 50):
        message = message_for(lost, receives=receives)
        assert await deliver(site, message, message_for(fine)) == [0]
        pauses += [seconds for receipt, seconds in hidden if receipt == message["receiptHandle"]]
    assert pauses == [3.75, 7.5, 15.0, 225.0]
    assert (await get(fine)).state is State.SUCCEEDED
    site.store.get = get
    assert await deliver(site, message_for(lost)) == []


async def test_a_claim_that_fails_keeps_the_message(site: Site) -> None:
    """Whatever the error was; it is logged."""
    job_id = await site.submit("/double", n=1)
    claim = site.store.claim

    async def fail(_: Claim) -> Any:
        raise RuntimeError("a bug")

    site.store.claim = fail
    assert await deliver(site, message_for(job_id)) == [0]
    assert [note.level for note in site.noted("message_failed")] == ["error"]
    site.store.claim = claim


async def test_jobs_run_side_by_side_as_their_route_allows(site: Site) -> None:
    """A model that is not safe for threads is not asked twice at once."""
    for path, most in (("/one", 1), ("/three", 3)):
        inside.update(now=0, most=0)
        ids = [await site.submit(path, n=n) for n in range(8)]
        assert await deliver(site, *[message_for(job_id) for job_id in ids]) == []
        assert inside["most"] == most
        assert await site.states(ids) == [State.SUCCEEDED] * 8


async def test_a_function_that_hears_nothing_costs_the_batch_no_more_than_its_own_message(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer is given before the platform would throw all of it away."""
    stuck, fine = await site.submit("/deaf"), await site.submit("/double", n=2)
    monkeypatch.setattr("router_core.jobs.runner.RELEASE_GRACE", 0.05)
    begun = time.monotonic()
    assert await deliver(site, message_for(stuck), message_for(fine), seconds=2.5) == [0]
    assert time.monotonic() - begun < 20
    assert (await site.job(fine)).state is State.SUCCEEDED
    gate.set()


async def test_a_cancel_reaches_a_running_job(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Written by another process: there is no heartbeat to bring it."""
    monkeypatch.setattr(upkeep, "_LOOKS", (0.02,))
    begun.clear()
    job_id = await site.submit("/slow")
    task = asyncio.ensure_future(deliver(site, message_for(job_id)))
    await begun.wait()
    assert (await site.store.move(job_id, moves.cancel_running(now=site.clock.now()))).applied
    assert await task == []
    assert (await site.job(job_id)).state is State.CANCELLED


async def test_on_a_fifo_queue_nothing_overtakes(site: Site) -> None:
    """What stands behind a kept message of its group is kept too; other groups go on."""
    fifo = {"arn": f"{ARN}.fifo"}
    bad = await site.submit("/flaky")
    behind, other = await site.submit("/double", n=1), await site.submit("/double", n=2)
    batch = [
        message_for(bad, group="a", **fifo), message_for(behind, group="a", **fifo),
        message_for(other, group="b", **fifo),
    ]  # fmt: skip
    assert await deliver(site, *batch) == [0, 1]
    assert ran == [2]


async def test_a_message_that_cannot_be_hidden_is_no_failure(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The queue's own timeout hides it; the job runs."""

    async def refuse(*_: Any) -> None:
        raise ConnectionResetError("cut")

    monkeypatch.setattr("handlers.aws.messages.hide", refuse)
    job_id = await site.submit("/double", n=4)
    assert await deliver(site, message_for(job_id)) == []
    assert [note.level for note in site.noted("hide_failed")] == ["warning"]


async def test_a_message_of_ours_is_read_back(site: Site) -> None:
    """Whatever else may stand in it one day."""
    job_id = await site.submit("/double", n=3)
    assert await deliver(site, record(json.dumps({"job_id": job_id, "v": 2}))) == []
    assert ran == [3]


def test_the_queue_of_these_tests_is_one_that_dispatchers_are_like() -> None:
    """SQS and this one declare the same."""
    from router_core.queues.sqs import SqsDispatcher

    assert SqsDispatcher("jobs").abilities == FakeQueue().abilities
