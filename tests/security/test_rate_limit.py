"""The rate limit of a whole service: who is counted as whom, what is never refused, both doors alike."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from handlers.local.provider import local_routes
from router_core import App, Router, Settings, build_app
from router_core.errors import RateLimited, Unauthorized
from router_core.http.message import Headers, Request, Response
from router_core.stores.state_memory import MemoryStateStore
from router_core.telemetry.events import Note
from router_core.testing.clock import FakeClock
from tests.gateway.serving import House, chat, models_yaml
from tests.local.tiny_app import one_answer, served

ANN, BEN = "0123456789abcdef-ann", "0123456789abcdef-ben"
KEYS = f"ann:{ANN},ben:{BEN}:call|read"

router = Router()


@router.get("/hello", public=True)
def hello() -> str:
    """Be there for everybody."""
    return "hello"


@router.post("/work")
def work() -> str:
    """Be there for those with a key."""
    return "done"


@router.post("/secret", scopes=["secret"])
def secret() -> str:
    """Be there for few."""
    return "done"


@asynccontextmanager
async def service(clock: FakeClock | None = None, **settings: Any) -> AsyncIterator[App]:
    """Serve these routes."""
    given = Settings(jobs="memory://", blobs="memory://", **settings)
    app = build_app(router, given, clock=clock, extra_routes=local_routes)
    await app.start()
    try:
        yield app
    finally:
        await app.stop(0)


async def ask(
    app: App, path: str, method: str = "POST", key: str = "", client: str = "192.0.2.1", forwarded: str = ""
) -> Response:
    """Send one request."""
    headers = [("authorization", f"Bearer {key}")] if key else []
    headers += [("x-forwarded-for", forwarded)] if forwarded else []
    return await app.handle(Request(method, path, headers=Headers(headers), client=client))


async def statuses(app: App, count: int, path: str, method: str = "POST", **more: str) -> list[int]:
    """Return the statuses of so many requests."""
    return [(await ask(app, path, method, **more)).status for _ in range(count)]


async def test_without_the_settings_nothing_is_counted() -> None:
    """Neither is there a layer for it."""
    async with service(api_keys=KEYS) as app:
        assert not {"guard", "limit"} & set(app.parts.stack.layers)
        assert set(await statuses(app, 30, "/work", key="x" * 20)) == {401}


async def test_callers_are_counted_by_their_name() -> None:
    """From wherever they ask; others are not affected, and it is over when the window is."""
    clock = FakeClock()
    async with service(clock, api_keys=KEYS, rate_limit_max=4, rate_limit_window_ms=60_000) as app:
        assert app.parts.stack.layers[-4:] == ("scopes", "limit", "audit", "dispatch")
        for number in range(4):
            assert (await ask(app, "/work", key=ANN, client=f"192.0.2.{number}")).status == 200
        refused = await ask(app, "/work", key=ANN, client="192.0.2.9")
        assert refused.status == 429
        problem = json.loads(refused.body if isinstance(refused.body, bytes) else b"")
        assert (problem["code"], problem["retryable"]) == ("rate_limited", True)
        assert 60 <= int(refused.header("Retry-After") or 0) <= 62
        assert refused.header("ratelimit-policy") == '"default";q=4;w=60'
        assert (refused.header("ratelimit") or "").startswith('"default";r=0;t=')
        assert refused.header("x-ratelimit-remaining") == "0"
        assert refused.header("x-content-type-options") == "nosniff"
        assert (await ask(app, "/work", key=BEN)).status == 200
        clock.advance(63)
        assert (await ask(app, "/work", key=ANN)).status == 200


async def test_what_is_left_stands_in_answers_when_it_is_little() -> None:
    """So that a client may slow down before it is refused."""
    async with service(api_keys=KEYS, rate_limit_max=5) as app:
        left = [(await ask(app, "/work", key=ANN)).header("x-ratelimit-remaining") for _ in range(6)]
    assert left == [None, None, None, None, "0", "0"]


async def test_what_a_gate_refuses_counts_too() -> None:
    """Routes without the scope, paths that lead nowhere; and it does not count twice."""
    async with service(api_keys=KEYS, rate_limit_max=3) as app:
        assert await statuses(app, 4, "/secret", key=BEN) == [403, 403, 403, 429]
        assert await statuses(app, 4, "/nowhere", client="198.51.100.1") == [404, 404, 404, 429]
        assert await statuses(app, 4, "/hello", "DELETE", client="198.51.100.2") == [405, 405, 405, 429]


async def test_strangers_are_counted_by_address() -> None:
    """On public routes, and on all where nobody has to say who he is."""
    for keys in (KEYS, ""):
        async with service(rate_limit_max=2, api_keys=keys) as app:
            assert await statuses(app, 3, "/hello", "GET") == [200, 200, 429]
            assert await statuses(app, 3, "/hello", "GET", client="192.0.2.2") == [200, 200, 429]
            assert await statuses(app, 1, "/hello", "GET", client="192.0.2.3", forwarded="192.0.2.1") == [200]


async def test_an_address_behind_a_trusted_proxy() -> None:
    """Its header says who it is, and nobody else's."""
    async with service(rate_limit_max=1, trusted_proxies="10.0.0.0/8") as app:
        for caller in ("198.51.100.1", "198.51.100.2"):
            asked = await statuses(app, 2, "/hello", "GET", client="10.0.0.1", forwarded=f"1.1.1.1, {caller}")
            assert asked == [200, 429]


async def test_probes_are_never_refused() -> None:
    """Whoever asks, and however often."""
    async with service(rate_limit_max=1) as app:
        assert await statuses(app, 2, "/hello", "GET") == [200, 429]
        for path in ("/health", "/health/ready"):
            assert set(await statuses(app, 20, path, "GET")) == {200}


async def test_guessing_ends_soon() -> None:
    """An address that was wrong ten times is not asked any more, also if it is right at last."""
    clock = FakeClock()
    async with service(clock, api_keys=KEYS, rate_limit_max=50, rate_limit_window_ms=60_000) as app:
        notes: list[Note] = []
        app.events.subscribe(lambda event: notes.append(event) if isinstance(event, Note) else None)
        assert await statuses(app, 11, "/work", key="w" * 20) == [401] * 10 + [429]
        assert await statuses(app, 2, "/work") == [429, 429]
        late = await ask(app, "/work", key=BEN)
        assert (late.status, late.header("Retry-After")) == (429, late.header("retry-after"))
        assert await statuses(app, 1, "/work", key=BEN, client="192.0.2.2") == [200]
        assert await statuses(app, 1, "/hello", "GET") == [200]
        clock.advance(63)
        assert await statuses(app, 2, "/work", key=BEN) == [200, 200]
    assert [note.fields["client"] for note in notes if note.name == "address_barred"] == ["192.0.2.1"]


async def test_who_was_right_lately_is_heard_beside_one_who_guesses() -> None:
    """They may share the address of a proxy."""
    async with service(api_keys=KEYS, rate_limit_max=50) as app:
        assert await statuses(app, 1, "/work", key=ANN) == [200]
        assert (await statuses(app, 12, "/work", key="w" * 20))[-1] == 429
        assert await statuses(app, 3, "/work", key=ANN) == [200] * 3
        assert await statuses(app, 2, "/work", key=BEN) == [429] * 2


async def test_an_error_of_the_function_is_no_guess() -> None:
    """A route that refuses callers itself, for reasons of its own."""
    own = Router()

    @own.post("/own")
    async def refuse() -> None:
        raise Unauthorized("of my own")

    given = Settings(jobs="memory://", blobs="memory://", api_keys=KEYS, rate_limit_max=500)
    app = build_app(own, given)
    await app.start()
    try:
        assert await statuses(app, 60, "/own", key=ANN) == [401] * 60
        assert await statuses(app, 1, "/own", key=BEN) == [401]
        known = Request("POST", "/own", headers=Headers([("x-api-key", BEN)]), client="192.0.2.5")
        admission = app.admission(known)
        assert admission is not None
        assert {(await app.admitted(known, admission)).status for _ in range(60)} == {401}
        assert await statuses(app, 1, "/own", key="w" * 20, client="192.0.2.5") == [401]
    finally:
        await app.stop(0)


async def test_a_body_that_is_still_to_come_is_judged_and_not_counted() -> None:
    """It is counted when it has come; a wrong key is counted at once, for nothing comes after it."""
    async with service(api_keys=KEYS, rate_limit_max=2) as app:
        asked = Request("POST", "/work", headers=Headers([("x-api-key", ANN)]), client="192.0.2.1")
        for _ in range(5):
            await app.admit(asked)
        assert await statuses(app, 2, "/work", key=ANN) == [200, 200]
        with pytest.raises(RateLimited):
            await app.admit(asked)
        wrong = Request("POST", "/work", headers=Headers([("x-api-key", "w" * 20)]), client="192.0.2.7")
        for _ in range(2):
            with pytest.raises(Unauthorized):
                await app.admit(wrong)
        with pytest.raises(RateLimited):
            await app.admit(wrong)


def test_a_known_head_is_counted_each_time() -> None:
    """At the door below ASGI, where gates are judged once; refusals look as clients of the route expect."""
    house = House(models_yaml("http://127.0.0.1:9"), api_keys=KEYS, rate_limit_max=6)
    body = json.dumps(chat("nothing")).encode()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    head += b"Authorization: Bearer %b\r\nContent-Length: %d\r\n\r\n" % (ANN.encode(), len(body))
    with served(house.app) as port:
        with socket.create_connection(("127.0.0.1", port), timeout=60) as sock:
            answers = []
            for _ in range(8):
                sock.sendall(head + body)
                answers.append(one_answer(sock))
    assert [answer.split(b" ")[1] for answer in answers] == [b"404"] * 6 + [b"429"] * 2
    assert b"x-ratelimit-remaining: 1\r\n" in answers[4]
    assert b"x-ratelimit-remaining: 0\r\n" in answers[5]
    assert b"ratelimit" not in answers[3]
    assert b'"error":{"message":"this is more than 6 requests' in answers[7]
    assert b"retry-after: " in answers[7].lower()


class SharedState(MemoryStateStore):
    """A state that two apps see, and that is never late."""

    multi_process = True


async def test_processes_count_a_caller_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the shared state; addresses of strangers are counted by each, who are to write nothing there."""
    state = SharedState()
    monkeypatch.setattr("router_core.wiring.open_state", lambda *_: state)
    shared: dict[str, Any] = {"state": "redis://shared", "rate_limit_max": 40, "api_keys": KEYS}
    async with service(**shared) as one, service(**shared) as other:
        found = []
        for _ in range(30):
            answers = await asyncio.gather(ask(one, "/work", key=ANN), ask(other, "/work", key=ANN))
            found += [answer.status for answer in answers]
        assert (found.count(200), found.count(429)) == (40, 20)
        refused = await ask(one, "/work", key=ANN)
        assert refused.header("ratelimit-policy") == '"default";q=40;w=900'
        assert int(refused.header("retry-after") or 0) > 800
        assert await statuses(one, 1, "/work", key=BEN) == [200]
        for app in (one, other):
            assert (await statuses(app, 41, "/hello", "GET")).count(200) == 40
        written = [entry.key for entry in (await state.entries("rate/")).entries]
    assert sorted(written) == ["rate/p:ann", "rate/p:ben"]


async def test_without_the_shared_state_each_goes_on_by_itself(tmp_path: Path) -> None:
    """Requests do not fail because they cannot be counted together."""
    shared: dict[str, Any] = {
        "state": f"sqlite:///{tmp_path}/none/state.db",
        "rate_limit_max": 5,
        "api_keys": KEYS,
    }
    (tmp_path / "none").touch()  # no folder, so that the file cannot be made
    async with service(**shared) as app:
        found = await statuses(app, 7, "/work", key=ANN)
    assert (found.count(200), found.count(429)) == (5, 2)


def test_a_known_head_is_counted_by_all_processes(tmp_path: Path) -> None:
    """Where the store has to be asked now and then."""
    house = House(
        models_yaml("http://127.0.0.1:9"), api_keys=KEYS, rate_limit_max=6,
        state=f"sqlite:///{tmp_path}/state.db",
    )  # fmt: skip
    body = json.dumps(chat("nothing")).encode()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    head += b"Authorization: Bearer %b\r\nContent-Length: %d\r\n\r\n" % (ANN.encode(), len(body))
    with served(house.app) as port, socket.create_connection(("127.0.0.1", port), timeout=5) as sock:
        answers = []
        for _ in range(8):
            sock.sendall(head + body)
            answers.append(one_answer(sock))
    assert [answer.split(b" ")[1] for answer in answers] == [b"404"] * 6 + [b"429"] * 2


@pytest.mark.parametrize("proxies", ["nonsense", "10.0.0.0/99"])
def test_a_wrong_setting_is_told_at_the_start(proxies: str) -> None:
    """Also where nothing is limited."""
    with pytest.raises(Exception, match="ROUTER_TRUSTED_PROXIES"):
        build_app(router, Settings(jobs="memory://", blobs="memory://", trusted_proxies=proxies))
