"""Submitting: what is accepted, what is refused, and what a refusal leaves behind."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from router_core.errors import (
    BadRequest,
    Draining,
    KeyReused,
    QueueFull,
    StoreError,
    Unavailable,
    ValidationFailed,
)
from router_core.http.media import File
from router_core.jobs.inputs import load
from router_core.jobs.job import Job, State
from router_core.jobs.submission import AGEING, SubmitOptions, scope_hash
from router_core.settings import Settings
from router_core.telemetry.events import JobMoved
from router_core.types import ID_PATTERN
from tests.jobs.serving import ANN, BOB, Bench

PNG = b"\x89PNG" + bytes(20_000)


async def test_a_submission_is_recorded_then_dispatched() -> None:
    """The record holds what was asked for, and the queue learns its id."""
    bench = Bench()
    added = await bench.submit(options=SubmitOptions(request_id="r1"))
    job = await bench.inner.get(added.job.id)
    assert isinstance(job, Job)
    assert (job.owner, job.route, job.state, job.request_id) == ("ann", "/paint", State.QUEUED, "r1")
    assert ID_PATTERN.match(job.id)
    assert job.timeout == 3600.0
    assert bench.queue.told == [job.id]
    assert [event.move for event in bench.seen if isinstance(event, JobMoved)] == ["add"]


async def test_an_invalid_input_leaves_nothing() -> None:
    """Validation comes first: no record, no key, no blob."""
    bench = Bench()
    options = SubmitOptions(key="k")
    with pytest.raises(ValidationFailed):
        await bench.submit({"prompt": "x", "size": "many"}, options=options)
    assert (await bench.submit(options=options)).replayed is False
    assert len(bench.queue.told) == 1


async def test_200_clients_with_one_key_get_one_job() -> None:
    """Same key, same request: one job, also when all come at once; another body is refused."""
    bench = Bench()
    options = SubmitOptions(key="order-7")
    added = await asyncio.gather(*(bench.submit(options=options) for _ in range(200)))
    assert len({one.job.id for one in added}) == 1
    assert sum(not one.replayed for one in added) == 1
    with pytest.raises(KeyReused):
        await bench.submit({"prompt": "a dog"}, options=options)


async def test_a_key_belongs_to_one_principal_method_and_route() -> None:
    """Parts are preceded by their lengths, so no two scopes read the same."""
    bench = Bench()
    options = SubmitOptions(key="k")
    ours = await bench.submit(options=options)
    theirs = await bench.submit(options=options, who=BOB)
    other = await bench.submit(options=options, route="/words")
    assert len({ours.job.id, theirs.job.id, other.job.id}) == 3
    assert scope_hash("ab", "POST", "c", "d") != scope_hash("a", "POST", "bc", "d")
    assert scope_hash("a", "POST", "/b", "cd") != scope_hash("a", "POST", "/bc", "d")


@pytest.mark.parametrize("key", ["x" * 256, "caf\u00e9", "a\nb", "a\x00", "\x7f"])
async def test_a_malformed_key_is_refused(key: str) -> None:
    """A key is 1 to 255 printable ASCII characters."""
    with pytest.raises(BadRequest, match="Idempotency-Key"):
        await Bench().submit(options=SubmitOptions(key=key))


async def test_a_full_queue_refuses_exactly_and_consumes_no_key() -> None:
    """Of 500 at once 100 are taken, the others get 429; a refused key is free again."""
    bench = Bench(queue_size=100)
    outcomes = await asyncio.gather(
        *(bench.submit(options=SubmitOptions(key=f"k{i}")) for i in range(500)), return_exceptions=True
    )
    refused = [one for one in outcomes if isinstance(one, QueueFull)]
    assert len(refused) == 400
    assert all(1 <= int(one.headers["Retry-After"]) <= 60 for one in refused)
    assert all(one.headers["RateLimit"].startswith('"queue";r=0;t=') for one in refused)
    await bench.claim(bench.queue.told[0])
    late = next(i for i, one in enumerate(outcomes) if isinstance(one, QueueFull))
    assert (await bench.submit(options=SubmitOptions(key=f"k{late}"))).replayed is False


async def test_a_replay_is_answered_although_the_queue_is_full() -> None:
    """A repetition adds nothing, so a full queue does not refuse it."""
    bench = Bench(queue_size=1)
    first = await bench.submit(options=SubmitOptions(key="k"))
    again = await bench.submit(options=SubmitOptions(key="k"))
    assert (again.job.id, again.replayed) == (first.job.id, True)


async def test_a_refused_submission_writes_no_blob() -> None:
    """The queue is looked at before an upload is written."""
    bench = Bench(queue_size=1)
    await bench.submit({"prompt": "x" * 50_000})
    assert len(bench.blobs.kept) == 1
    with pytest.raises(QueueFull):
        await bench.submit({"prompt": "y" * 50_000})
    assert bench.blobs.puts == len(bench.blobs.kept) == 1


async def test_what_the_store_refuses_after_the_blobs_leaves_none() -> None:
    """Of twenty at once that all saw room one is taken, and the others take their blobs back."""
    bench = Bench(queue_size=1)
    values = {"prompt": "x" * 50_000}
    outcomes = await asyncio.gather(*(bench.submit(values) for _ in range(20)), return_exceptions=True)
    refused = [one for one in outcomes if isinstance(one, QueueFull)]
    assert len(refused) == 19
    assert all(one.headers["RateLimit"].startswith('"queue";r=0;t=') for one in refused)
    assert len(bench.blobs.kept) == 1


async def test_a_replay_writes_no_second_blob() -> None:
    """The key is looked up before an upload is written, and a full queue does not matter to it."""
    bench = Bench(queue_size=1)
    options = SubmitOptions(key="k")
    first = await bench.submit({"prompt": "x" * 50_000}, options=options)
    again = await bench.submit({"prompt": "x" * 50_000}, options=options)
    assert again.job.input_ref == first.job.input_ref
    assert again.replayed
    assert bench.blobs.puts == 1
    assert list(bench.blobs.kept) == [first.job.input_ref]
    with pytest.raises(KeyReused):
        await bench.submit({"prompt": "y" * 50_000}, options=options)
    assert bench.blobs.puts == 1


async def test_a_dispatch_failure_names_the_job_and_keeps_it() -> None:
    """The record exists, marked for the sweeper; the retry with its key gets the same job."""
    bench = Bench(external=True)
    bench.queue.down = True
    with pytest.raises(Unavailable) as caught:
        await bench.submit(options=SubmitOptions(key="k"))
    job_id = caught.value.extra["job_id"]
    job = await bench.inner.get(job_id)
    assert isinstance(job, Job)
    assert job.dispatch_pending
    bench.queue.down = False
    again = await bench.submit(options=SubmitOptions(key="k"))
    assert (again.job.id, again.job.dispatch_pending) == (job_id, False)
    assert bench.queue.told == [job_id]


async def test_an_external_queue_clears_the_mark_and_a_local_one_never_sets_it() -> None:
    """The store is its own queue in one process: that write is saved."""
    assert (await Bench(external=True).submit()).job.version == 2
    local = (await Bench().submit()).job
    assert (local.version, local.dispatch_pending) == (1, False)


async def test_a_draining_server_takes_nothing() -> None:
    """503, and nothing is recorded."""
    bench = Bench()
    bench.service.draining = True
    with pytest.raises(Draining):
        await bench.submit()
    assert (await bench.inner.stats()).by_route == {}


async def test_a_store_that_is_down_accepts_nothing() -> None:
    """Nothing is held in memory that the store refused."""
    bench = Bench()
    await bench.inner.close()
    with pytest.raises(StoreError):
        await bench.submit()
    assert bench.queue.told == []


async def test_delay_priority_and_deadline_are_recorded() -> None:
    """A delayed job is scheduled; priority moves its place by a minute a point."""
    bench = Bench()
    now = bench.clock.now()
    options = SubmitOptions(delay=90, priority=5, cancel_after=600)
    job = (await bench.submit(options=options)).job
    assert (job.state, job.not_before, job.deadline_at) == (State.SCHEDULED, now + 90, now + 600)
    assert job.rank == now + 90 - 5 * AGEING
    assert bench.queue.told == []


@pytest.mark.parametrize(
    "options",
    [
        SubmitOptions(priority=101),
        SubmitOptions(priority=-101),
        SubmitOptions(delay=-1),
        SubmitOptions(delay=float("inf")),
        SubmitOptions(delay=float("nan")),
        SubmitOptions(delay=60, cancel_after=30),
        SubmitOptions(max_attempts=0),
        SubmitOptions(webhook="https://example.com/" + "x" * 3000),
        SubmitOptions(webhook="https://example.com/hook"),
    ],
)
async def test_impossible_options_are_refused(options: SubmitOptions) -> None:
    """Each out-of-range option is a 400, also a webhook where no secret is set."""
    with pytest.raises(BadRequest):
        await Bench().submit(options=options)


async def test_a_webhook_url_is_checked_when_it_is_registered() -> None:
    """A refused URL leaves no record; one that passes stands in it."""

    async def check(url: str) -> object:
        if "10." in url:
            raise BadRequest("not a public address")
        return None

    bench = Bench(settings=Settings(webhook_secret="whsec_x"), check_url=check)
    with pytest.raises(BadRequest, match="public"):
        await bench.submit(options=SubmitOptions(webhook="http://10.0.0.1/"))
    job = (await bench.submit(options=SubmitOptions(webhook="https://example.com/hook"))).job
    assert job.webhook == '{"url":"https://example.com/hook"}'


@pytest.mark.parametrize(
    "values",
    [
        {"prompt": "plain"},
        {"file": File.from_bytes(b"tiny", "a.txt", "text/plain")},
        {"file": File.from_bytes(PNG, "a.png", "image/png"), "n": [1, {"deep": None}]},
        {"files": [File.from_bytes(PNG, "a.png"), File.from_bytes(PNG + b"2")], "text": "x" * 40_000},
        {"$file": {"key": "stolen"}, "x": {"$file": {"key": "k", "size": 1}, "$$file": 1, "$other": 2}},
        {"nested": [{"$file": {"data": "AAAA", "size": 3, "filename": "", "content_type": ""}}]},
    ],
)
async def test_inputs_come_back_as_they_were(values: dict[str, Any]) -> None:
    """Files, large inputs and look-alikes of file references survive the record."""
    from router_core.jobs.inputs import blob_keys, dump

    bench = Bench()
    dumped = await dump(values, bench.blobs)
    job = Job("j" * 32, "ann", "/x", State.QUEUED, 0.0, input=dumped.data, input_ref=dumped.ref)
    assert len(dumped.data) <= 32 * 1024
    assert await load(job, bench.blobs) == values
    assert set(blob_keys(job)) == set(bench.blobs.kept) == set(dumped.keys)


async def test_a_blob_store_that_fails_half_way_leaves_nothing() -> None:
    """The blobs of earlier files are deleted again, and the submission is a 503."""
    from router_core.jobs.inputs import dump

    class Half(type(Bench().blobs)):  # type: ignore[misc]
        async def put(self, data: bytes, **kwargs: Any) -> Any:
            if self.kept:
                raise StoreError("full")
            return await super().put(data, **kwargs)

    blobs = Half()
    with pytest.raises(StoreError):
        await dump({"a": File.from_bytes(PNG), "b": File.from_bytes(PNG)}, blobs)
    assert blobs.kept == {}


async def test_the_fingerprint_sees_content_not_form() -> None:
    """Order of members does not matter; content of files and the media type do."""
    from router_core.jobs.inputs import fingerprint

    one = {"a": 1, "f": File.from_bytes(b"x", "n")}
    assert fingerprint(one, "application/json") == fingerprint(
        {"f": File.from_bytes(b"x", "n"), "a": 1}, "application/json; charset=utf-8"
    )
    assert fingerprint(one) != fingerprint({**one, "f": File.from_bytes(b"y", "n")})
    assert fingerprint(one, "application/json") != fingerprint(one, "multipart/form-data")


async def test_a_foreign_job_is_unknown() -> None:
    """The answer for somebody else's job is the one for no job."""
    bench = Bench()
    job = (await bench.submit()).job
    errors = []
    for job_id, who in ((job.id, BOB), ("f" * 32, BOB), ("../etc", ANN), ("", ANN)):
        with pytest.raises(Exception) as caught:  # noqa: PT011 - compared below
            await bench.service.get(job_id, who)
        errors.append((type(caught.value), str(caught.value), vars(caught.value)))
    assert all(error == errors[0] for error in errors)
