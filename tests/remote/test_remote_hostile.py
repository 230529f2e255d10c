"""What a hostile worker may try: it is refused, and nothing has changed."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any
from urllib.parse import urlencode

import pytest

from router_core.jobs import moves
from router_core.jobs.inputs import blob_keys
from router_core.jobs.remote_overtime import SLACK, Overtime
from router_core.jobs.remote_wire import PIECE, SHA256_HEADER
from router_core.jobs.store import Claim
from router_core.stores.memory import MemoryJobStore
from router_core.testing.clock import FakeClock
from router_core.types import new_id
from tests.jobs.running import bench_of, route_of
from tests.remote.remote_bench import BOX, CALLER, PICKY, Bench, Lease, bench, value_of

SHA = hashlib.sha256(b"abc").hexdigest()
ERROR = {"type": "E", "message": "m"}


@pytest.fixture
async def site() -> AsyncIterator[Bench]:
    async with bench() as running:
        yield running


def upload(**changes: object) -> dict[str, object]:
    """Return a succeed with an upload."""
    told = {"pieces": ["0" * 32], "sha256": SHA, "size": 3, "content_type": "text/plain", **changes}
    return {"move": "succeed", "upload": told}


MOVES: list[tuple[str, dict[str, object]]] = [
    ("no such move", {"move": "delete"}),
    ("a move of the reaper", {"move": "rescue"}),
    ("a move of the caller", {"move": "cancel"}),
    ("nothing", {}),
    ("a field of the record", {"move": "progress", "progress": 0.1, "sets": {"owner": "me"}}),
    ("progress below 0", {"move": "progress", "progress": -0.1}),
    ("progress above 1", {"move": "progress", "progress": 1.1}),
    ("progress as text", {"move": "progress", "progress": "1"}),
    ("progress NaN", {"move": "progress", "progress": float("nan")}),
    ("progress infinite", {"move": "progress", "progress": float("inf")}),
    ("a message too long", {"move": "progress", "progress": 0.1, "message": "x" * 1001}),
    ("steps that are no object", {"move": "step", "steps": "[1]"}),
    ("steps that are no JSON", {"move": "step", "steps": '{"a":'}),
    ("steps too large", {"move": "step", "steps": json.dumps({"a": "x" * 600_000})}),
    ("no result", {"move": "succeed"}),
    ("a result that is no JSON", {"move": "succeed", "result": "{"}),
    ("a result with NaN", {"move": "succeed", "result": "NaN"}),
    ("a result too large", {"move": "succeed", "result": json.dumps("x" * 300_000)}),
    ("the blob of somebody else", upload()),
    ("a path for a blob", upload(pieces=["../../etc/passwd"])),
    ("no pieces", upload(pieces=[])),
    ("a size too large", upload(size=2**40)),
    ("a size below 0", upload(size=-1)),
    ("a digest that is none", upload(sha256="x")),
    ("a header in the content type", upload(content_type="text/html\r\nset-cookie: a=b")),
    ("a header in the name", upload(filename="a\r\nb")),
    ("an unknown reason", {"move": "fail", "error": ERROR, "reason": "dead_letter"}),
    ("a delay without end", {"move": "retry", "error": ERROR, "delay": 1e9}),
    ("a delay that is none", {"move": "retry", "error": ERROR, "delay": float("nan")}),
    ("an error too long", {"move": "fail", "error": {"type": "E", "message": "m" * 3000}}),
    ("an error of another shape", {"move": "fail", "error": "it broke"}),
]


@pytest.mark.parametrize(("why", "said"), MOVES, ids=[why for why, _ in MOVES])
async def test_a_move_that_no_worker_may_make(site: Bench, why: str, said: dict[str, object]) -> None:
    """Only the named moves of a worker, with values in range."""
    lease = await site.lease(x=1)
    before = await site.record(lease.id)
    answer = await site.send("POST", f"/worker/jobs/{lease.id}/move", said, headers=lease.headers())
    assert answer.status in (413, 422), (why, answer.body)
    assert await site.record(lease.id) == before


STRANGERS: list[tuple[str, Callable[[Lease], tuple[str, dict[str, str]]], int]] = [
    ("an unknown job", lambda lease: (new_id(), lease.headers()), 409),
    ("an id that is none", lambda lease: ("..%2f", lease.headers()), 404),
    ("another token", lambda lease: (lease.id, lease.headers(token="0" * 32)), 409),
    ("an empty token", lambda lease: (lease.id, lease.headers(token="")), 422),
    ("a huge token", lambda lease: (lease.id, lease.headers(token="0" * 5000)), 422),
    ("an older epoch", lambda lease: (lease.id, lease.headers(epoch=0)), 409),
    ("a later epoch", lambda lease: (lease.id, lease.headers(epoch=2)), 409),
    ("an epoch that is none", lambda lease: (lease.id, lease.headers(epoch="-1")), 422),
    ("no lease", lambda lease: (lease.id, {}), 422),
]
REQUESTS: list[tuple[str, str, Any]] = [
    ("POST", "/move", {"move": "succeed", "result": "1"}),
    ("POST", "/events", {"after": 0, "events": [{"type": "log", "data": "1"}]}),
    ("GET", "", b""),
    ("GET", "/blob", b""),
    ("PUT", "/blob", b"abc"),
]


@pytest.mark.parametrize(("method", "tail", "body"), REQUESTS, ids=[f"{m} {t}" for m, t, _ in REQUESTS])
@pytest.mark.parametrize(("who", "told", "status"), STRANGERS, ids=[who for who, _, _ in STRANGERS])
async def test_a_job_that_is_not_leased(
    site: Bench, who: str, told: Callable[[Lease], tuple[str, dict[str, str]]], status: int, method: str,
    tail: str, body: Any,
) -> None:  # fmt: skip
    """Every route of a job asks for the lease, and tells nothing about jobs that exist."""
    lease = await site.lease(x=1)
    before = await site.record(lease.id)
    job_id, headers = told(lease)
    headers = {**headers, SHA256_HEADER: SHA}
    answer = await site.send(method, f"/worker/jobs/{job_id}{tail}", body, headers=headers, query="key=a")
    assert answer.status == status, (who, answer.body)
    if status == 409:
        assert value_of(answer)["code"] == "fenced"
        assert "state" not in value_of(answer)
    assert await site.record(lease.id) == before


async def test_the_lease_of_another_key_is_of_no_use(site: Bench) -> None:
    """A token that has leaked does not help somebody with another worker key."""
    await site.submit("/words", text="a b")
    (lease,) = await site.claim(words=1)
    said = {"move": "succeed", "result": "1"}
    answer = await site.send(
        "POST", f"/worker/jobs/{lease.id}/move", said, key=PICKY, headers=lease.headers()
    )
    assert answer.status == 409
    assert (await site.record(lease.id)).state.value == "running"


@pytest.mark.parametrize("path", ["/jobs", "/openapi.json", "/double", "/metrics"])
async def test_a_worker_key_opens_nothing_of_callers(site: Bench, path: str) -> None:
    """It is no API key."""
    answer = await site.send("GET" if path != "/double" else "POST", path, key=BOX)
    open_to_all = (await site.send("GET", path, key="")).status == 200
    assert answer.status == (200 if open_to_all else 401)


@pytest.mark.parametrize(
    "key", ["", CALLER, "rw_nobody", "x" * 600, BOX[:-1], BOX + "a"],
    ids=["none", "a caller's", "unknown", "long", "cut", "longer"],  # the keys differ in each test process
)  # fmt: skip
async def test_nothing_but_a_worker_key_opens_worker_routes(site: Bench, key: str) -> None:
    """A caller with every right is a stranger there, before the body is looked at."""
    for path in ("hello", "wait", "claim", "heartbeat", f"jobs/{new_id()}/move", f"jobs/{new_id()}/events"):
        answer = await site.send("POST", f"/worker/{path}", b"{", key=key)
        assert answer.status == 401, path
        assert value_of(answer)["code"] == "unauthorized"


async def test_a_worker_key_for_some_routes_gets_no_others(site: Bench) -> None:
    """Asked for one of its own and one of another, it gets its own; for the other alone it is refused."""
    await site.submit(x=1)
    await site.submit("/words", text="a b")
    answer = await site.send("POST", "/worker/claim", site.claim_body(double=1), key=PICKY)
    assert (answer.status, value_of(answer)["code"]) == (403, "route_not_allowed")
    both = await site.ask("/worker/claim", site.claim_body(double=1, words=1), key=PICKY)
    assert [job["route"] for job in both["jobs"]] == ["/words"]
    assert "worker key" in both["refused"]["/double"]


async def test_routes_that_differ_are_refused_by_name(site: Bench) -> None:
    """No job is given to a worker whose function takes something else, or that has a route too many."""
    await site.submit(x=1)
    body = site.claim_body(double=1)
    skewed = {**body, "signatures": {"/double": "0" * 64}}
    unknown = {**body, "slots": {"/more": 1}, "signatures": {"/more": "0" * 64}}
    unsaid = {**body, "signatures": {"/a": SHA}}
    for said, word in ((skewed, "differ"), (unknown, "no such route"), (unsaid, "differ")):
        answer = await site.send("POST", "/worker/claim", said)
        assert (answer.status, value_of(answer)["code"]) == (409, "routes_refused")
        assert word in value_of(answer)["detail"]
    hello = {"protocol": 99, "worker_id": "worker-0001", "routes": site.signatures}
    answer = await site.send("POST", "/worker/hello", hello)
    assert (answer.status, value_of(answer)["code"]) == (409, "worker_protocol")


CLAIMS: list[tuple[str, dict[str, object], int]] = [
    ("no slots", {"slots": {}}, 422),
    ("slots below 1", {"slots": {"/double": 0}}, 422),
    ("slots without end", {"slots": {"/double": 10**9}}, 422),
    ("slots as text", {"slots": {"/double": "1"}}, 422),
    ("an endless lease", {"lease": 3000.0}, 409),
    ("a lease that is no number", {"lease": float("nan")}, 422),
    ("a lease of nothing", {"lease": 0}, 422),
    ("an odd worker id", {"worker_id": "../../etc"}, 422),
    ("something more", {"job_id": "x"}, 422),
]


@pytest.mark.parametrize(("why", "changes", "status"), CLAIMS, ids=[why for why, _, _ in CLAIMS])
async def test_an_odd_claim_takes_nothing(
    site: Bench, why: str, changes: dict[str, object], status: int
) -> None:
    """The job waits for somebody else."""
    job_id = await site.submit(x=1)
    answer = await site.send("POST", "/worker/claim", {**site.claim_body(), **changes})
    assert answer.status == status, (why, answer.body)
    assert (await site.record(job_id)).state.value == "queued"


async def test_a_heartbeat_keeps_nothing_that_is_not_leased(site: Bench) -> None:
    """Foreign fences are answered as lost, a lease cannot be made longer, and there are limits."""
    lease = await site.lease(x=1)
    before = await site.record(lease.id)
    fences = [[lease.id, 1, "0" * 32], [new_id(), 1, "1" * 32], [lease.id, 9, lease.job["token"]]]
    answer = await site.ask("/worker/heartbeat", {"lease": 30.0, "fences": fences})
    assert [held for _, held, _ in answer["renewals"]] == [False] * 3
    assert await site.record(lease.id) == before
    good = [lease.id, 1, lease.job["token"]]
    for said, status in (
        ({"lease": 31.0, "fences": [good]}, 409), ({"lease": 30.0, "fences": [good] * 1001}, 422),
        ({"lease": 30.0, "fences": [["x", 1, "t"]]}, 422), ({"lease": 30.0, "fences": good}, 422),
    ):  # fmt: skip
        assert (await site.send("POST", "/worker/heartbeat", said)).status == status
    assert await site.record(lease.id) == before


EVENTS: list[tuple[str, object, int]] = [
    ("none", [], 422),
    ("too many", [{"type": "log", "data": "1"}] * 1001, 422),
    ("a type of the machinery", [{"type": "job", "data": "1"}], 422),
    ("a type with a line break", [{"type": "a\nb", "data": "1"}], 422),
    ("data that is no JSON", [{"type": "log", "data": "}"}], 422),
    ("one that is huge", [{"type": "log", "data": json.dumps("x" * 2_000_000)}], 422),
    ("more than a request may have", [{"type": "log", "data": json.dumps("x" * 9_000)}] * 1000, 413),
    ("numbers of its own", [{"type": "log", "data": "1", "seq": 7}], 422),
]


@pytest.mark.parametrize(("why", "events", "status"), EVENTS, ids=[why for why, _, _ in EVENTS])
async def test_odd_events_are_not_kept(site: Bench, why: str, events: object, status: int) -> None:
    """All of a batch, or none."""
    lease = await site.lease("/words", text="a")
    said = {"after": 0, "events": events}
    answer = await site.send("POST", f"/worker/jobs/{lease.id}/events", said, headers=lease.headers())
    assert answer.status == status, why
    assert (await site.record(lease.id)).event_seq == 0


async def test_a_flood_of_events_pushes_out_its_own(site: Bench) -> None:
    """No more is kept than of any job."""
    lease = await site.lease("/words", text="a")
    for after in range(0, 3000, 1000):
        said = {"after": after, "events": [{"type": "log", "data": "1"}] * 1000}
        await site.ask(f"/worker/jobs/{lease.id}/events", said, lease=lease)
    page = await site.app.parts.store.events(lease.id, 0, 5000)
    assert (len(page.events), page.last_seq) == (1000, 3000)


async def test_a_second_outcome_is_not_written(site: Bench) -> None:
    """Repeating the first is answered as it was; another changes nothing."""
    lease = await site.lease(x=1)
    assert (await site.move(lease, move="succeed", result="2"))["applied"] is True
    before = await site.record(lease.id)
    for said in ({"move": "succeed", "result": "2"}, {"move": "fail", "error": ERROR}, {"move": "release"}):
        again = await site.move(lease, **said)
        assert (again["applied"], again["state"]) == (False, "succeeded")
    assert await site.record(lease.id) == before
    answer = await site.send(
        "PUT", f"/worker/jobs/{lease.id}/blob", b"abc", headers={**lease.headers(), SHA256_HEADER: SHA}
    )
    assert answer.status == 409


async def test_an_attempt_is_not_given_for_nothing(site: Bench) -> None:
    """Retries and releases are counted by the coordinator: what was given back too often ends."""
    job_id = await site.submit(x=1)
    states = []
    for number in range(3):
        (lease,) = await site.claim(f"claim-{number:04}")
        states.append((await site.move(lease, move="retry", error=ERROR, delay=0.0))["state"])
    assert states == ["retrying", "retrying", "failed"]
    assert (await site.record(job_id)).reason == "attempts_exhausted"


async def test_pieces_are_checked(site: Bench) -> None:
    """Wrong digest, too large, those of another job, in another order, or left out."""
    mine, other = await site.lease("/words", text="a"), await site.lease("/words", text="b")
    wrong = {**mine.headers(), SHA256_HEADER: SHA}
    answer = await site.send("PUT", f"/worker/jobs/{mine.id}/blob", b"abd", headers=wrong)
    assert answer.status == 422
    large = await site.send("PUT", f"/worker/jobs/{mine.id}/blob", bytes(PIECE + 1), headers=wrong)
    assert large.status == 413
    first, second = await site.piece(mine, b"a"), await site.piece(mine, b"bc")
    foreign = await site.piece(other, b"abc")
    before = await site.record(mine.id)
    for pieces in ([foreign], [second, first], [first], [first, second, second]):
        said = upload(pieces=pieces)
        refused = await site.send("POST", f"/worker/jobs/{mine.id}/move", said, headers=mine.headers())
        assert (refused.status, value_of(refused)["code"]) == (422, "bad_pieces")
    assert await site.record(mine.id) == before
    assert (await site.move(mine, **upload(pieces=[first, second])))["applied"] is True
    result = await site.send("GET", f"/jobs/{mine.id}/result", key=CALLER)
    assert (result.status, result.body) == (200, b"abc")


async def test_one_attempt_cannot_fill_the_disk(site: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it may send is limited."""
    monkeypatch.setattr("router_core.jobs.remote_blobs._MOST", 10)
    lease = await site.lease(x=1)
    await site.piece(lease, b"12345678")
    told = {**lease.headers(), SHA256_HEADER: SHA}
    answer = await site.send("PUT", f"/worker/jobs/{lease.id}/blob", b"abc", headers=told)
    assert answer.status == 413


async def test_a_worker_learns_no_more_than_it_needs(site: Bench) -> None:
    """Whose job it is stays with the coordinator unless the function asks; so do webhook and key."""
    lease = await site.lease(x=1)
    assert "ann" not in json.dumps(lease.job)
    assert not {"owner", "webhook", "idem_hash", "meta", "attempts", "worker_id"} & set(lease.job)


async def test_only_inputs_of_the_leased_job_are_read(site: Bench) -> None:
    """Neither those of another job nor any other blob, and nothing once the lease has ended."""
    mine, other = await look(site, b"a"), await look(site, b"b")
    keys = {lease.id: blob_keys(await site.record(lease.id))[0] for lease in (mine, other)}

    async def read(key: str) -> tuple[int, object]:
        path = f"/worker/jobs/{mine.id}/blob"
        answer = await site.send("GET", path, query=urlencode({"key": key}), headers=mine.headers())
        return answer.status, answer.body

    status, body = await read(keys[mine.id])
    assert (status, body) == (200, b"a" * 10_000)
    for key in (keys[other.id], "", "../" + keys[mine.id], "0" * 32):
        assert (await read(key))[0] == 404
    await site.move(mine, move="release")
    assert (await read(keys[mine.id]))[0] == 409


async def look(site: Bench, byte: bytes) -> Lease:
    """Lease a job whose input is a blob."""
    content = base64.b64encode(byte * 10_000).decode()
    return await site.lease("/look", file={"file_name": "a", "content_type": "a/b", "content": content})


async def test_whose_job_it_is_is_told_where_the_function_asks(site: Bench) -> None:
    """A function with a principal gets its caller's name, as it does everywhere."""
    assert (await look(site, b"a")).job["owner"] == "ann"


async def test_a_lease_is_not_renewed_for_ever() -> None:
    """Long after its attempt should have timed out, a job is taken away; one without a timeout is not."""
    clock = FakeClock()
    store = MemoryJobStore(clock)
    overtime = Overtime(store, clock)
    bench = bench_of(route_of(lambda: None, key="/a"), store=store, clock=clock)
    limited = (await store.add(replace(bench.job("/a"), timeout=60.0))).job
    endless = (await store.add(replace(bench.job("/a"), timeout=0.0))).job
    fences = [(await store.claim(Claim("w/1", 9e9, job_id=job.id)))[0].fence for job in (limited, endless)]
    wrong = replace(fences[0], token="0" * 32)
    assert await overtime.allowed([*fences, wrong]) == fences
    clock.advance(60.0 + SLACK - 1)
    assert await overtime.allowed(fences) == fences
    clock.advance(2.0)
    assert await overtime.allowed(fences) == fences[1:]


async def test_a_cancelled_job_is_not_held_for_ever() -> None:
    """Who renews and does not stop loses the job, though it has no timeout, in whatever process is asked."""
    clock = FakeClock()
    store = MemoryJobStore(clock)
    bench = bench_of(route_of(lambda: None, key="/a"), store=store, clock=clock)
    job = (await store.add(replace(bench.job("/a"), timeout=0.0))).job
    fence = (await store.claim(Claim("w/1", 9e9, job_id=job.id)))[0].fence
    told, later = Overtime(store, clock), Overtime(store, clock)
    assert await told.allowed([fence]) == [fence]
    await store.move(job.id, moves.cancel_running(now=clock.now()))
    told.cancelled(fence)
    clock.advance(SLACK - 1)
    for overtime in (told, later):
        overtime.cancelled(fence)
        assert await overtime.allowed([fence]) == [fence]
    clock.advance(2)
    for overtime in (told, later):
        assert await overtime.allowed([fence]) == []


async def test_a_heartbeat_that_tells_of_a_cancel_limits_the_lease(
    site: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From then on its worker has so long to stop."""
    lease = await site.lease(x=1)
    said = {"lease": 30.0, "fences": [[lease.id, 1, lease.job["token"]]]}
    assert (await site.ask("/worker/heartbeat", said))["renewals"] == [[lease.id, True, False]]
    await site.send("POST", f"/jobs/{lease.id}/cancel", key=CALLER)
    monkeypatch.setattr("router_core.jobs.remote_overtime.SLACK", -1.0)
    assert (await site.ask("/worker/heartbeat", said))["renewals"] == [[lease.id, True, True]]
    assert (await site.ask("/worker/heartbeat", said))["renewals"] == [[lease.id, False, False]]


async def test_of_a_lease_that_the_store_did_not_come_to_nothing_is_said(
    site: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its worker must not take it for lost, and asks again."""
    leases = [await site.lease(x=number) for number in range(2)]
    store = site.app.parts.service.store
    renew = store.renew
    monkeypatch.setattr(store, "renew", lambda fences, lease: renew(fences[:1], lease))
    fences = [[lease.id, 1, lease.job["token"]] for lease in leases]
    answer = await site.ask("/worker/heartbeat", {"lease": 30.0, "fences": [*fences, [new_id(), 1, "0"]]})
    assert [held for _, held, _ in answer["renewals"]] == [True, False]
    assert answer["renewals"][0][0] == leases[0].id
