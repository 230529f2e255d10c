"""The worker's side in this process, against a coordinator that it reaches without sockets."""

from __future__ import annotations

import hashlib
import json
import time
from typing import Any

import pytest

from handlers.remote.worker import served_routes
from router_core.blobs.memory import MemoryBlobStore
from router_core.errors import Misconfigured, Unauthorized
from router_core.jobs.context import JobContext
from router_core.jobs.remote_wire import PIECE
from router_core.jobs.store import JobQuery
from router_core.routing.router import Router
from router_core.stores.coordinator_link import TRIES, NotACoordinator, Refused
from router_core.stores.memory import MemoryJobStore
from router_core.vendors.httpx import Answer, NotSent
from tests.remote.remote_bench import BOX, CALLER
from tests.remote.remote_inside import service, site, turned


async def test_jobs_retries_streams_and_cancels() -> None:
    """What runs elsewhere is recorded as if it ran here."""
    async with site() as running:
        running.work()
        doubled = [await running.submit("/double", x=number) for number in range(30)]
        flaky, count = await running.submit("/flaky"), await running.submit("/count", to=3)
        assert [(await running.ended(job_id)).result for job_id in doubled] == [
            str(2 * number).encode() for number in range(30)
        ]
        assert (await running.ended(flaky)).attempt == 3
        outcomes = [each["outcome"] for each in json.loads((await running.bench.record(flaky)).attempts)]
        assert outcomes == ["error", "error", "succeeded"]
        assert (await running.ended(count)).result == b"[0,1,2]"
        page = await running.bench.app.parts.store.events(count)
        assert [(event.type, event.data) for event in page.events] == [
            ("output", b"0"), ("output", b"1"), ("output", b"2"),
        ]  # fmt: skip
        endless = await running.submit("/until")
        await running.until(endless, lambda job: job.message == "half")
        await running.bench.send("POST", f"/jobs/{endless}/cancel", key=CALLER)
        assert (await running.ended(endless)).state.value == "cancelled"


async def test_a_coordinator_that_cannot_hold_requests() -> None:
    """As on Lambda: the worker asks briefly and again, and files go in pieces."""
    async with site(background=False) as running:
        data = bytes(range(256)) * 20_000
        job_id = await running.submit("/turn", file=turned(data))
        running.work()
        await running.ended(job_id)
        assert await running.result(job_id) == data[::-1]
        assert "POST /worker/wait" not in running.sender.seen
        assert sum(line.startswith("GET ") and line.endswith("/blob") for line in running.sender.seen) == 2
        assert sum(line.startswith("PUT ") for line in running.sender.seen) == 2
        later = await running.submit("/double", x=1)
        assert (await running.ended(later)).result == b"2"


async def test_pieces_are_cleared_up() -> None:
    """Of an uploaded result one blob is left."""
    blobs = MemoryBlobStore()
    async with site(blobs=blobs) as running:
        running.work()
        job = await running.ended(await running.submit("/turn", file=turned(b"ab" * 200_000)))
        kept = await blobs.keys(time.time() + 60)
        assert len(kept) == 2, "input and result"
        assert json.loads(job.result_ref)["key"] in kept


async def test_a_front_door_that_takes_less() -> None:
    """A piece that is refused for its size is sent as two."""
    async with site() as running:
        running.sender.most = PIECE // 3
        running.work()
        data = bytes(PIECE + 5)
        job_id = await running.submit("/turn", file=turned(data))
        await running.ended(job_id)
        assert hashlib.sha256(await running.result(job_id)).digest() == hashlib.sha256(data).digest()


class Presigning(MemoryBlobStore):
    """A store whose blobs can be fetched directly."""

    presigns = True

    async def presign(self, key: str) -> str:
        """Return where."""
        return f"https://bucket.test/{key}?signature=1"


async def test_an_input_that_lies_elsewhere() -> None:
    """It is fetched where the coordinator says, and the worker key is not shown there."""
    blobs = Presigning()
    async with site(blobs=blobs) as running:
        job_id = await running.submit("/turn", file=turned(b"x" * 9_000))
        (key,) = await blobs.keys(time.time() + 60)
        running.sender.elsewhere[f"https://bucket.test/{key}?signature=1"] = await blobs.get(key)
        running.work()
        await running.ended(job_id)
        assert (await running.bench.record(job_id)).state.value == "succeeded"
        assert BOX not in str(running.sender.headers)


def other_version() -> Router:
    """Return the service with one function changed, one gone and one more."""
    router = Router()

    @router.route("/double")
    def double(x: int, y: int) -> int:
        return x * y

    @router.route("/flaky", max_attempts=3)
    def flaky(job: JobContext) -> int:
        return 7

    @router.route("/more")
    def more() -> int:
        return 1

    return router


async def test_another_version_of_the_service() -> None:
    """It gets the jobs of functions that take the same, and says which it does not get."""
    async with site() as running:
        double, flaky = await running.submit("/double", x=1), await running.submit("/flaky")
        running.work(other_version())
        assert (await running.ended(flaky)).result == b"7"
        assert (await running.bench.record(double)).state.value == "queued"
        said = [note.message for note in running.notes if note.name == "route_refused"]
        assert [("/double" in text or "/more" in text) for text in said] == [True, True]


async def test_a_service_that_shares_nothing_is_refused() -> None:
    """There would be nothing to do."""
    router = Router()

    @router.route("/else")
    def other() -> None:
        """Do something else."""

    async with site() as running:
        running.work(router)
        assert running.task is not None
        with pytest.raises(Refused, match="/else"):
            await running.task


async def test_a_key_that_is_none() -> None:
    """It is told at once."""
    async with site() as running:
        running.work(key="rw_0123456789ab_" + "x" * 43)
        assert running.task is not None
        with pytest.raises(Unauthorized, match="worker key"):
            await running.task


async def test_something_else_answers() -> None:
    """A service without worker keys is no coordinator."""
    async with site(worker_keys="", queue="inprocess") as running:
        running.work()
        assert running.task is not None
        with pytest.raises(NotACoordinator, match="ROUTER_WORKER_KEYS"):
            await running.task


async def test_a_coordinator_that_goes_away_for_a_while() -> None:
    """The worker says so, waits, and goes on."""
    async with site() as running:
        running.work()
        await running.noted("working for")
        running.sender.down = True
        await running.noted("claim_failed")
        job_id = await running.submit("/double", x=4)
        running.sender.down = False
        assert (await running.ended(job_id)).result == b"8"


async def test_the_end_of_a_worker_gives_its_jobs_back() -> None:
    """Uncounted, with the store and the hooks closed in order."""
    async with site() as running:
        job_id = await running.submit("/until")
        running.work()
        await running.until(job_id, lambda job: job.message == "half")
        running.stop.set()
        job = await running.until(job_id, lambda job: job.state.value == "queued")
        assert (job.attempt, job.releases) == (0, 1)


class LosesClaims(MemoryJobStore):
    """Counts claims."""

    claims = 0

    async def claim(self, claim: Any) -> Any:
        """Claim and count."""
        jobs = await super().claim(claim)
        self.claims += bool(jobs)
        return jobs


async def test_a_claim_whose_answer_is_lost_is_answered_again() -> None:
    """Under the same id the same jobs come, and no lease is left behind."""
    store = LosesClaims()
    async with site(store=store) as running:
        lost: list[Answer] = []
        send = running.sender.send

        async def losing(method: str, url: str, **options: Any) -> Answer:
            answer = await send(method, url, **options)
            if url.endswith("/claim") and b'"jobs":[{' in answer.body and len(lost) < 4:
                lost.append(answer)
                raise NotSent("the answer was lost")
            return answer

        running.sender.send = losing  # type: ignore[method-assign]
        job_ids = [await running.submit("/double", x=number) for number in range(3)]
        running.work()
        for job_id in job_ids:
            assert (await running.ended(job_id)).attempt == 1
        assert len(lost) == 4, "more often than one request is repeated"
        assert store.claims == 1
        page = await store.find(JobQuery())
        assert {job.crash_count for job in page.jobs} == {0}


def test_routes_are_chosen_by_name() -> None:
    """One that is none is told with those there are."""
    router = service()
    assert list(served_routes(router, ["/double"], 7)) == ["/double"]
    assert served_routes(router, ["/double"], 7)["/double"].job.concurrency == 7
    with pytest.raises(Misconfigured, match="/doubel"):
        served_routes(router, ["/doubel"])
    with pytest.raises(Misconfigured, match="no routes"):
        served_routes(Router())


async def test_a_result_that_is_not_taken_fails_its_job(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rather than being tried until it counts as lost."""
    monkeypatch.setattr("router_core.jobs.remote_moves.MAX_INLINE", 2)
    async with site() as running:
        running.work()
        job = await running.ended(await running.submit("/count", to=9))
        assert (job.state.value, job.reason) == ("failed", "error")
        assert json.loads(job.error)["type"] == "ResultRefused"


async def test_events_are_sent_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many there are at once; those that are not taken are left out."""
    monkeypatch.setattr("router_core.stores.coordinator._EVENT_BYTES", 10)
    async with site() as running:
        running.work()
        job = await running.ended(await running.submit("/count", to=200))
        page = await running.bench.app.parts.store.events(job.id, 0, 1000)
        assert [event.data for event in page.events] == [str(number).encode() for number in range(200)]


async def test_events_that_are_not_taken_count_for_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """One part is refused for good, and then the answers to the next are lost: it is not sent once more."""
    monkeypatch.setattr("router_core.stores.coordinator._EVENT_BYTES", 1)
    async with site() as running:
        send, lost = running.sender.send, 0

        async def lossy(method: str, url: str, *, body: bytes = b"", **options: Any) -> Answer:
            nonlocal lost
            if url.endswith("/events") and b'"0"' in body:
                return Answer(413, {}, b"")
            answer = await send(method, url, body=body, **options)
            if url.endswith("/events") and b'"4"' in body and lost < TRIES:
                lost += 1
                raise NotSent("the answer was lost")
            return answer

        running.sender.send = lossy  # type: ignore[method-assign]
        running.work()
        job = await running.ended(await running.submit("/count", to=9))
        page = await running.bench.app.parts.store.events(job.id, 0, 1000)
        assert lost == TRIES
        assert [event.data for event in page.events] == [b"%d" % number for number in range(1, 9)]
