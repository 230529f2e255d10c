"""Messages that the queue gave up on: their jobs end, unless somebody still runs them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from handlers.aws.dead_letters import bury
from handlers.aws.schedule import UpkeepFailed, tend
from handlers.aws.sqs import run_batch
from router_core import Router
from router_core.errors import StoreError
from router_core.http.message import Request
from router_core.jobs.job import State
from router_core.jobs.store import Claim
from router_core.jobs.submission import SubmitOptions
from router_core.types import ANONYMOUS
from tests.aws.batches import Context, Site, event_of, kept, message_for, record

router = Router()


@router.route("/double", max_attempts=4)
async def double(n: int) -> int:
    """Double."""
    return 2 * n


@pytest.fixture
async def site(hidden: list[tuple[str, float]]) -> AsyncIterator[Site]:
    """Return a service whose clock stands still."""
    made = Site(router)
    await made.app.start(background=False)
    yield made
    await made.app.stop(0)


async def deliver(site: Site, *records: Any) -> list[int]:
    """Hand over dead messages; returns the places of those that are kept."""
    event = event_of(*records)
    return kept(await bury(site.app, event, Context(60, site.clock), draw=lambda: 0.5), event)


@pytest.mark.parametrize("was", ["queued", "retrying", "running"])
async def test_a_job_that_nobody_runs_ends(site: Site, was: str) -> None:
    """With the reason in its record; what happened is in the log, with the body."""
    job_id = await site.submit("/double", n=4)
    if was != "queued":
        await site.store.claim(Claim("dead", 30, job_id=job_id))
        site.clock.advance(31)
    if was == "retrying":
        await site.app.tend()
    assert (await site.job(job_id)).state.value == was
    assert await deliver(site, message_for(job_id, receives=11)) == []
    job = await site.job(job_id)
    assert (job.state, job.reason, site.ends[job_id]) == (State.FAILED, "dead_letter", 1)
    error = json.loads(job.error)
    assert (error["type"], error["retryable"]) == ("DeadLetter", False)
    assert "received 11 times" in error["message"]
    (note,) = site.noted("job_dead_letter")
    assert (note.level, note.fields["was"]) == ("error", was)
    assert job_id in note.fields["body"]
    assert (len(json.loads(job.attempts)) if job.attempts else 0) == (was != "queued")


async def test_a_job_that_runs_is_left_to_its_worker(site: Site, hidden: list[Any]) -> None:
    """The message stays until its lease has ended; what it became then decides."""
    job_id = await site.submit("/double", n=4)
    (held,) = await site.store.claim(Claim("alive", 30, job_id=job_id))
    message = message_for(job_id)
    assert await deliver(site, message) == [0]
    assert hidden[-1] == (message["receiptHandle"], 30 + 1 + 2.5)
    await site.app.parts.runner.run(held)
    assert await deliver(site, message) == []
    assert (await site.job(job_id)).state is State.SUCCEEDED


async def test_a_cancelled_job_of_a_dead_worker_is_cancelled(site: Site) -> None:
    """Cancel came first."""
    job_id = await site.submit("/double", n=4)
    await site.store.claim(Claim("dead", 30, job_id=job_id))
    await site.app.service.cancel(job_id, ANONYMOUS)
    site.clock.advance(31)
    assert await deliver(site, message_for(job_id)) == []
    assert (await site.job(job_id)).state is State.CANCELLED


async def test_what_has_ended_or_is_scheduled_needs_no_message(site: Site) -> None:
    """Nothing is changed; a scheduled job gets another message when it is due."""
    scheduled = await site.submit("/double", SubmitOptions(delay=3600), n=1)
    done = await site.submit("/double", n=1)
    await run_batch(site.app, event_of(message_for(done)), Context(60, site.clock))
    before = [await site.job(scheduled), await site.job(done)]
    assert await deliver(site, message_for(scheduled), message_for(done)) == []
    assert [await site.job(scheduled), await site.job(done)] == before
    site.clock.advance(25 * 3600)
    assert await deliver(site, message_for(done)) == []


@pytest.mark.parametrize("body", ["", "nope", "[]", '{"job_id": 3}', '{"job_id": "' + "e" * 32 + '"}'])
async def test_what_names_no_job_is_kept_for_somebody_to_look_at(
    site: Site, hidden: list[Any], body: str
) -> None:
    """It may be the only copy of something; the log says so each time."""
    job_id = await site.submit("/double", n=4)
    strange = record(body, sent_at=site.clock.now())
    assert await deliver(site, strange, message_for(job_id)) == [0]
    assert (strange["receiptHandle"], 3600.0) in hidden
    assert [note.fields["body"] for note in site.noted("dead_letter_strange")] == [body]
    assert (await site.job(job_id)).reason == "dead_letter"


async def test_a_job_that_was_claimed_in_between_is_not_ended(site: Site) -> None:
    """The move repeats what was seen."""
    job_id = await site.submit("/double", n=4)
    get = site.store.get
    claimed: list[Any] = []

    async def claim_behind(wanted: str) -> Any:
        seen = await get(wanted)
        if not claimed:
            claimed.extend(await site.store.claim(Claim("alive", 30, job_id=job_id)))
        return seen

    site.store.get = claim_behind
    assert await deliver(site, message_for(job_id)) == [0]
    assert (await get(job_id)).state is State.RUNNING


async def test_a_store_that_does_not_answer_keeps_the_message(site: Site, hidden: list[Any]) -> None:
    """Others are handled."""
    lost, fine = await site.submit("/double", n=1), await site.submit("/double", n=2)
    move = site.store.move

    async def fail_one(job_id: str, wanted: Any) -> Any:
        if job_id == lost:
            raise StoreError("no answer")
        return await move(job_id, wanted)

    site.store.move = fail_one
    message = message_for(lost)
    assert await deliver(site, message, message_for(fine)) == [0]
    assert (message["receiptHandle"], 45.0) in hidden
    assert [note.level for note in site.noted("message_failed")] == ["warning"]
    site.store.move = move


async def test_a_buried_job_can_be_run_again(site: Site) -> None:
    """POST /jobs/{id}/retry: a new job with the same input; the old record stays."""
    job_id = await site.submit("/double", n=21)
    await deliver(site, message_for(job_id))
    answer = await site.app.handle(Request("POST", f"/jobs/{job_id}/retry", id="r"))
    assert isinstance(answer.body, bytes)
    again = json.loads(answer.body)["job_id"]
    assert (answer.status, site.queue.told[-1]) == (202, again)
    assert await run_batch(site.app, event_of(message_for(again)), Context(60, site.clock)) == {
        "batchItemFailures": []
    }
    assert ((await site.job(again)).result, (await site.job(job_id)).reason) == (b"42", "dead_letter")
    # its message moved back by hand does nothing
    assert await run_batch(site.app, event_of(message_for(job_id)), Context(60, site.clock)) == {
        "batchItemFailures": []
    }
    assert site.ends[job_id] == 1


@pytest.mark.parametrize("event", [{}, {"Records": "x"}, {"Records": [None, {"messageId": 3}]}])
async def test_an_event_of_another_shape_harms_nothing(site: Site, event: Any) -> None:
    """There is nothing to report."""
    assert await bury(site.app, event, Context(60, site.clock)) == {"batchItemFailures": []}


# --- the schedule ---------------------------------------------------------------------------------


async def test_a_round_does_what_time_has_brought(site: Site) -> None:
    """Rescue, what is due, what the queue does not know, what is late, what has expired."""
    dead = await site.submit("/double", n=1)
    await site.store.claim(Claim("dead", 30, job_id=dead))
    due = await site.submit("/double", SubmitOptions(delay=1000), n=2)
    late = await site.submit("/double", SubmitOptions(cancel_after=60), n=3)
    untold = await site.submit("/double", SubmitOptions(tell=False), n=4)
    site.queue.told.clear()
    site.clock.advance(1001)
    answer = await tend(site.app, {"source": "aws.events"}, Context(60, site.clock))
    assert (answer["complete"], answer["done"]) == (True, {"reaper": True, "sweeper": True})
    assert await site.states([dead, due, late, untold]) == [
        State.RETRYING, State.QUEUED, State.EXPIRED, State.QUEUED,
    ]  # fmt: skip
    assert sorted(site.queue.told) == sorted([dead, due, untold])
    site.clock.advance(25 * 3600)
    await tend(site.app, {}, Context(60, site.clock))
    assert type(await site.store.get(late)).__name__ == "Tombstone"


async def test_a_round_that_fails_is_an_error_of_the_function(site: Site) -> None:
    """Which is all that alarms can see; the parts that could work did."""
    job_id = await site.submit("/double", SubmitOptions(tell=False), n=4)

    async def fail(_limit: int = 100) -> Any:
        raise StoreError("no answer")

    site.store.overdue = fail
    site.queue.told.clear()
    site.clock.advance(20)
    with pytest.raises(UpkeepFailed, match="reaper"):
        await tend(site.app, {}, Context(60, site.clock))
    assert site.queue.told == [job_id]


async def test_a_round_ends_before_its_function_does(site: Site) -> None:
    """What is left is done in the next one; that is no error."""
    job_id = await site.submit("/double", SubmitOptions(tell=False), n=4)
    dispatch = site.queue.dispatch

    async def hang(_: Any) -> None:
        await site.clock.sleep(1e9)

    site.queue.dispatch = hang  # type: ignore[method-assign, assignment]
    site.clock.advance(20)
    answer = await tend(site.app, {}, Context(0.2, site.clock))
    assert (answer["complete"], answer["done"]) == (False, {})
    assert [note.level for note in site.noted("upkeep_unfinished")] == ["warning"]
    site.queue.dispatch = dispatch  # type: ignore[method-assign]
    site.clock.advance(60)
    site.queue.told.clear()
    assert (await tend(site.app, {}, Context(60, site.clock)))["complete"]
    assert site.queue.told == [job_id]
    assert not (await site.job(job_id)).dispatch_pending
