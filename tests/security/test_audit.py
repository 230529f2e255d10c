"""The audit log: which requests become entries, what is in them, and what happens without the store."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest

from router_core import App, Router, Settings
from router_core.errors import Conflict, StoreError
from router_core.http.message import Headers, Request
from router_core.security.audit import GENESIS, AuditTrail, Draft, audited, breaks_of
from router_core.stores.state_memory import MemoryStateStore
from router_core.telemetry.events import Events, Note
from router_core.testing.clock import FakeClock
from router_core.wiring import build_app

ROOT, PLAIN = "0123456789abcdef-root", "0123456789abcdef-plain"
KEYS = f"root:{ROOT},plain:{PLAIN}:read|call"
SECRET = "rk_abcdefgh_" + "s" * 43


def make_router(begun: asyncio.Event | None = None) -> Router:
    """Return routes of which some change something; with ``begun`` they never end."""
    router = Router()

    @router.put("/things/{name}", scopes=["things:manage"])
    async def change(request: Request, name: str) -> str:
        audited(before=6, after=7, owner="ann")
        if begun is not None:
            begun.set()
            await asyncio.Event().wait()
        if name == "taken":
            raise Conflict("taken")
        if name == "broken":
            raise RuntimeError("broken")
        return name

    @router.get("/things/{name}", scopes=["things:manage"])
    async def read(name: str) -> str:
        audited(before=1)
        return name

    @router.post("/work")
    async def work() -> str:
        return "done"

    @router.route("/paint")
    async def paint() -> str:
        await asyncio.sleep(60)
        return "never"

    return router


class House:
    """A service and what it wrote down."""

    def __init__(self, app: App, notes: list[Note]) -> None:
        self.app = app
        self._notes = notes

    @property
    def notes(self) -> list[Mapping[str, Any]]:
        """Entries as the log has them, in their order."""
        return [note.fields for note in self._notes if note.name == "audit"]

    @property
    def messages(self) -> list[str]:
        """What the log says of entries."""
        return [note.message for note in self._notes if note.name == "audit"]

    async def ask(
        self, method: str, path: str, key: str = ROOT, body: bytes = b"", query: str = "", **more: str
    ) -> tuple[int, Any]:
        """Send a request; return status and JSON."""
        headers = [("authorization", f"Bearer {key}")] if key else []
        headers += [
            ("content-type", "application/json"),
            *((k.replace("_", "-"), v) for k, v in more.items()),
        ]
        request = Request(method, path, query, Headers(headers), body, client="192.0.2.7")
        answer = await self.app.handle(request)
        assert isinstance(answer.body, bytes)
        return answer.status, json.loads(answer.body) if answer.body else None

    async def entries(self, query: str = "") -> list[dict[str, Any]]:
        """Return the entries of the API, newest first, once all are written."""
        await next(each for each in self.app.parts.upkeep if each.name == "audit").tick()
        status, page = await self.ask("GET", "/api/audit", query=query)
        assert status == 200, page
        found: list[dict[str, Any]] = page["entries"]
        return found


@asynccontextmanager
async def house(
    router: Router | None = None, *, background: bool = True, clock: FakeClock | None = None, **settings: Any
) -> AsyncIterator[House]:
    """Serve the routes."""
    notes: list[Note] = []
    events = Events(lambda event: notes.append(event) if isinstance(event, Note) else None)
    given = {"jobs": "memory://", "blobs": "memory://", "api_keys": KEYS, **settings}
    app = build_app(router or make_router(), Settings(**given), events=events, clock=clock)
    await app.start(background=background)
    try:
        yield House(app, notes)
    finally:
        await app.stop(0)


async def test_each_change_is_an_entry_and_nothing_else_is() -> None:
    """Done, failed and refused ones; not reads, and not calls."""
    async with house() as made:
        await made.ask("PUT", "/things/a", x_request_id="r-1")
        await made.ask("PUT", "/things/taken")
        await made.ask("PUT", "/things/broken")
        await made.ask("PUT", "/things/b", PLAIN)
        await made.ask("PUT", "/things/c", "")
        await made.ask("GET", "/things/a")
        await made.ask("GET", "/things/a", PLAIN)
        await made.ask("POST", "/work")
        await made.ask("DELETE", "/things/a")
        entries = await made.entries()
        told = made.notes
    assert [(entry["outcome"], entry.get("status"), entry["targets"]["name"]) for entry in entries] == [
        ("refused", 401, "c"), ("refused", 403, "b"), ("failed", 500, "broken"), ("failed", 409, "taken"),
        ("done", 200, "a"),
    ]  # fmt: skip
    first = entries[-1]
    assert first["targets"] == {"name": "a", "owner": "ann"}
    assert (first["before"], first["after"]) == ("6", "7")
    assert (first["principal"], first["kind"], first["client"]) == ("root", "api_key", "192.0.2.7")
    assert (first["method"], first["route"], first["request_id"]) == ("PUT", "/things/{name}", "r-1")
    assert (entries[1]["principal"], entries[0].get("principal")) == ("plain", None)
    assert told == entries[::-1]


async def test_nothing_that_was_sent_is_in_it() -> None:
    """No body, no query, no header; what looks like a key in a path is masked, and long texts are cut."""
    async with house() as made:
        await made.ask(
            "PUT", f"/things/{SECRET}", body=b'"canary-body"', query="q=canary-query", cookie="canary-c"
        )
        await made.ask("PUT", "/things/" + "x" * 5000)
        entries = await made.entries()
        text = json.dumps([entries, [dict(note) for note in made.notes]])
    for canary in ("canary", ROOT, SECRET, "ssss"):
        assert canary not in text
    assert len(entries[0]["targets"]["name"]) == 200


async def test_nothing_in_a_name_breaks_a_line() -> None:
    """Line ends and escapes are text in the entry, and stand in no message of the log."""
    async with house() as made:
        await made.ask("PUT", '/things/a\n{"level":"error"}\x1b[2J')
        (entry,) = await made.entries()
        assert entry["targets"]["name"] == 'a\n{"level":"error"}\x1b[2J'
        assert made.messages == ["root: /things/{name} done"]


async def test_the_log_is_for_administrators() -> None:
    """``audit:read``, which no role but admin holds."""
    keys = f"{KEYS},auditor:{'a' * 20}:audit:read"
    async with house(api_keys=keys) as made:
        assert (await made.ask("GET", "/api/audit", PLAIN))[0] == 403
        assert (await made.ask("GET", "/api/audit", ""))[0] == 401
        assert (await made.ask("GET", "/api/audit", "a" * 20))[0] == 200
        assert (await made.ask("POST", "/api/audit"))[0] == 405


async def test_pages_since_and_principal() -> None:
    """Newest first; a cursor leads to what is older."""
    clock = FakeClock()
    async with house(clock=clock) as made:
        for number in range(7):
            await made.ask("PUT", f"/things/{number}", ROOT if number % 3 else PLAIN)
            clock.advance(10)
        entries = await made.entries()
        assert [entry["targets"]["name"] for entry in entries] == list("6543210")
        names, cursor = [], ""
        while True:
            _, page = await made.ask("GET", "/api/audit", query=f"limit=3&cursor={cursor}")
            names += [entry["targets"]["name"] for entry in page["entries"]]
            assert len(page["entries"]) <= 3
            cursor = page.get("cursor", "")
            if not cursor:
                break
        assert names == list("6543210")
        since = entries[2]["time"]
        assert [entry["targets"]["name"] for entry in await made.entries(f"since={since}")] == list("654")
        assert len(await made.entries("principal=plain")) == 3
        assert await made.entries("principal=nobody") == []


NONSENSE = (
    "limit=0 limit=201 limit=x since=yesterday since=2026-01-01T00:00:00 since=nan since=1e400 cursor=%00 "
    "cursor=! cursor=_w who=me limit=%ff"
)


@pytest.mark.parametrize("query", NONSENSE.split())
async def test_a_query_that_says_nothing_is_refused(query: str) -> None:
    """With 400, never 500."""
    async with house() as made:
        assert (await made.ask("GET", "/api/audit", query=query))[0] == 400


async def test_jobs_of_others() -> None:
    """What an operator does to them is written down; what owners do to theirs is not."""
    keys = f"ann:{PLAIN},boss:{ROOT}:jobs:manage|audit:read|call"
    async with house(api_keys=keys) as made:
        ids = [(await made.ask("POST", "/paint", PLAIN))[1]["job_id"] for _ in range(2)]
        for method, path in (("GET", "/jobs/"), ("POST", "/status/")):
            assert (await made.ask(method, f"{path}{ids[0]}"))[0] == 200
        assert (await made.ask("POST", f"/jobs/{ids[0]}/cancel", PLAIN))[0] in (200, 202)
        assert await made.entries() == []
        assert (await made.ask("POST", f"/jobs/{ids[1]}/cancel"))[0] in (200, 202)
        (entry,) = await made.entries()
    assert entry["targets"] == {"job_id": ids[1], "owner": "ann"}
    assert (entry["principal"], entry["route"]) == ("boss", "/jobs/{job_id}/cancel")


async def test_a_caller_who_leaves_is_written_down() -> None:
    """What he asked for may have been done."""
    begun = asyncio.Event()
    async with house(make_router(begun)) as made:
        task = asyncio.create_task(made.ask("PUT", "/things/a"))
        await asyncio.wait_for(begun.wait(), 60)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        (entry,) = await made.entries()
    assert entry["outcome"] == "interrupted"


async def test_where_nothing_works_beside_the_calls_it_is_written_before_the_answer() -> None:
    """As in a function that is frozen between its calls."""
    async with house(background=False) as made:
        await made.ask("PUT", "/things/a")
        _, page = await made.ask("GET", "/api/audit")
        assert len(page["entries"]) == 1


async def test_a_service_in_which_nothing_can_be_changed_has_none() -> None:
    """Without callers and without such routes there is no layer, and no route to read it."""
    plain = Router()

    @plain.get("/hello")
    def hello() -> str:
        return "hello"

    async with house(plain, api_keys="") as made:
        assert "audit" not in made.app.parts.stack.layers
        assert (await made.ask("GET", "/api/audit", ""))[0] == 404


# --- without the store ------------------------------------------------------------------------------


class Moody(MemoryStateStore):
    """A state that may be away."""

    away = False

    async def put(self, key: str, value: bytes, **more: Any) -> str:
        """Write, or not."""
        if self.away:
            raise StoreError("away")
        return await super().put(key, value, **more)


def trail(state: MemoryStateStore, *, waiting: int = 1000, clock: FakeClock | None = None) -> AuditTrail:
    """Return a trail of its own."""
    notes = Events()
    return AuditTrail(lambda: state, clock or FakeClock(), notes, ttl=100, waiting=waiting)


def draft(number: int = 0) -> Draft:
    """Return something to write down."""
    return Draft({"principal": "ann", "route": "/x"}, {"number": str(number)})


async def values(state: MemoryStateStore) -> list[dict[str, Any]]:
    """Return what stands in the room, newest first."""
    return [json.loads(entry.value) for entry in (await state.entries("audit/", limit=5000)).entries]


async def test_what_is_required_is_written_before_it_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or it is not done: fail closed. Reads and calls go on."""
    state = Moody()
    monkeypatch.setattr("router_core.wiring.open_state", lambda *_: state)
    async with house(audit_required=True) as made:
        assert (await made.ask("PUT", "/things/a"))[0] == 200
        assert [entry["outcome"] for entry in await made.entries()] == ["done", "begun"]
        state.away = True
        status, problem = await made.ask("PUT", "/things/b")
        assert (status, problem["code"]) == (503, "audit_unavailable")
        assert (await made.ask("PUT", "/things/b", PLAIN))[0] == 403
        assert (await made.ask("POST", "/work"))[0] == 200
        state.away = False
        assert (await made.ask("PUT", "/things/c"))[0] == 200
        entries = await made.entries()
    assert [(entry["targets"]["name"], entry["outcome"]) for entry in entries] == [
        ("c", "done"), ("c", "begun"), ("b", "refused"), ("b", "failed"), ("a", "done"), ("a", "begun"),
    ]  # fmt: skip


async def test_without_the_store_nobody_waits_and_nothing_is_lost_soon(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Entries wait, and stand in the log meanwhile."""
    state = Moody()
    monkeypatch.setattr("router_core.wiring.open_state", lambda *_: state)
    async with house() as made:
        state.away = True
        assert [(await made.ask("PUT", f"/things/{n}"))[0] for n in range(5)] == [200] * 5
        assert len(made.notes) == 5
        state.away = False
        assert len(await made.entries()) == 5


async def test_refused_ones_crowd_nobody_out() -> None:
    """They take half of the room, and twenty a second; how many were left out is said."""
    state, clock = Moody(), FakeClock()
    made = trail(state, waiting=10, clock=clock)
    for number in range(100):
        made.record(draft(number), "refused", 401)
    for number in range(5):
        made.record(draft(number), "done", 200)
    clock.advance(1)
    assert await made.flush()
    made.record(draft(), "refused", 401)
    assert await made.flush()
    found = await values(state)
    assert [entry["outcome"] for entry in found] == ["refused"] + ["done"] * 5 + ["refused"] * 5
    assert found[0]["left_out"] == 80


async def test_an_entry_that_no_store_takes_stands_in_nobodys_way() -> None:
    """It is told of, and the next ones are written."""

    class Picky(MemoryStateStore):
        async def put(self, key: str, value: bytes, **more: Any) -> str:
            if b'"number":"1"' in value:
                raise ValueError("not this one")
            return await super().put(key, value, **more)

    state = Picky()
    made = trail(state)
    for number in range(3):
        made.record(draft(number), "done", 200)
    assert await made.flush()
    assert [entry["targets"]["number"] for entry in await values(state)] == ["2", "0"]


async def test_entries_expire() -> None:
    """After the time that the setting says."""
    clock = FakeClock()
    state = MemoryStateStore(clock)
    made = trail(state, clock=clock)
    made.record(draft(), "done", 200)
    await made.flush()
    assert len(await values(state)) == 1
    clock.advance(101)
    assert await values(state) == []


# --- the chain --------------------------------------------------------------------------------------


async def test_a_chain_shows_what_was_done_to_it() -> None:
    """Changed, taken out, put in another order: each is seen; a beginning that has expired is none of it."""
    state = MemoryStateStore()
    for made in (trail(state), trail(state)):
        for number in range(6):
            made.record(draft(number), "done", 200)
        await made.flush()
    found = await values(state)
    assert len(found) == 12
    assert breaks_of(found) == []
    assert [entry["previous"] for entry in found if entry["seq"] == 1] == [GENESIS, GENESIS]
    assert breaks_of([entry for entry in found if entry["seq"] > 2]) == []
    one = found[0]["process"]
    changed = [
        {**entry, "principal": "bob"} if entry["seq"] == 3 and entry["process"] == one else entry
        for entry in found
    ]
    assert breaks_of(changed) == [f"entry 3 of process {one} is not as it was written"]
    without = [entry for entry in found if entry["seq"] != 4 or entry["process"] != one]
    assert breaks_of(without) == [f"before entry 5 of process {one} entries are missing"]


def test_a_word_outside_of_a_change_does_nothing() -> None:
    """Handlers may say it wherever they are."""
    audited(before=1, after=2, job="x")
