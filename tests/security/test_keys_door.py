"""Keys on connections that are kept: a head that is known is believed no longer than its caller."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from router_core import Router, Settings, build_app
from router_core.http.message import Request, Response
from router_core.http.taskless import TASKLESS
from router_core.telemetry.events import Events, RequestDone
from router_core.testing.clock import FakeClock
from tests.local.tiny_app import one_answer, served, watched_heads

ADMIN = "0123456789abcdef-root"
router = Router()


@router.post("/who", scopes=["read"], meta={TASKLESS: True})
async def who(request: Request) -> Response:
    """Say who is asking."""
    return Response.json({"who": request.principal.id})


class Door:
    """A served app, its clock, and connections to it."""

    def __init__(self, port: int, clock: FakeClock, done: list[RequestDone]) -> None:
        self.port = port
        self.clock = clock
        self.done = done
        self.sockets: list[socket.socket] = []

    def connect(self) -> socket.socket:
        """Open a connection."""
        made = socket.create_connection(("127.0.0.1", self.port), timeout=10)
        self.sockets.append(made)
        return made

    def api(self, method: str, path: str, **body: Any) -> Any:
        """Ask as the administrator, on a connection of its own."""
        status, value = ask(self.connect(), ADMIN, method, path, json.dumps(body).encode() if body else b"")
        assert status < 300, value
        return value


def ask(
    sock: socket.socket, key: str, method: str = "POST", path: str = "/who", body: bytes = b"{}"
) -> tuple[int, Any]:
    """Send a request with the same head each time; return status and value."""
    head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {key}\r\n"
    sock.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    if method == "DELETE":
        return int(sock.recv(4096).split(b" ")[1]), None
    answer = one_answer(sock)
    return int(answer.split(b" ")[1]), json.loads(answer.partition(b"\r\n\r\n")[2])


@pytest.fixture(params=[True, False], ids=["direct", "asgi"])
def door(request: pytest.FixtureRequest) -> Iterator[Door]:
    """A service whose keys are in its state, by each of its doors."""
    from handlers.local.server import ServeOptions

    clock = FakeClock()
    settings = Settings(
        jobs="memory://", blobs="memory://", keys="state", api_keys=f"root:{ADMIN}", port=0, drain_grace=2.0
    )
    done: list[RequestDone] = []
    events = Events()
    events.subscribe(lambda event: done.append(event) if isinstance(event, RequestDone) else None)
    app = build_app(router, settings, clock=clock, events=events)
    with served(app, options=ServeOptions(direct=request.param)) as port:
        made = Door(port, clock, done)
        yield made
        for each in made.sockets:
            each.close()


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Note for each request that is compared whether its head was known."""
    return watched_heads(monkeypatch)


@pytest.mark.parametrize("end", ["revoked", "expired", "rotated"])
def test_a_kept_connection_outlives_its_key_by_no_more_than_belief(
    door: Door, known: list[bool], end: str
) -> None:
    """And it goes on to answer: the next key on it is another's."""
    made = door.api("POST", "/api/keys", roles=["viewer"])
    key, path, holder = made["key"], f"/api/keys/{made['id']}", {"who": f"key:{made['id']}"}
    sock = door.connect()
    for _ in range(4):
        assert ask(sock, key) == (200, holder)
    if end == "revoked":
        door.api("DELETE", path)
    elif end == "expired":
        door.api("PATCH", path, expiresIn=0)
    else:
        key_now = door.api("POST", f"{path}/rotate", overlapSeconds=0)["key"]
        assert ask(door.connect(), key_now) == (200, holder)
    door.clock.advance(5.01)
    for _ in range(3):
        status, problem = ask(sock, key)
        assert (status, problem["code"]) == (401, "unauthorized")
        assert (door.done[-1].status, door.done[-1].principal) == (401, "")
    assert ask(sock, ADMIN) == (200, {"who": "root"})
    assert any(known) == bool(known)  # through the door below ASGI the head was known


def test_a_key_in_use_goes_on(door: Door, known: list[bool]) -> None:
    """It is looked up again now and then, on a head that is known all the while."""
    made = door.api("POST", "/api/keys", roles=["viewer"], expiresIn=60)
    sock = door.connect()
    for _ in range(19):
        assert ask(sock, made["key"])[0] == 200
        door.clock.advance(3.1)
    assert ask(sock, made["key"])[0] == 200
    before = len(known)
    assert all(known[2:])
    door.clock.advance(1.2)  # 60.1 since it was made
    assert ask(sock, made["key"])[0] == 401
    assert len(known) >= before


def test_what_a_caller_may_do_changes_on_a_known_head(door: Door) -> None:
    """Not who he is alone: he is asked for the scopes again."""
    made = door.api("POST", "/api/keys", roles=["viewer"])
    sock = door.connect()
    for _ in range(3):
        assert ask(sock, made["key"])[0] == 200
    door.api("PATCH", f"/api/keys/{made['id']}", roles=[], scopes=["paint"])
    door.clock.advance(5.01)
    assert ask(sock, made["key"])[0] == 403
    door.api("PATCH", f"/api/keys/{made['id']}", roles=["developer"])
    door.clock.advance(5.01)
    assert ask(sock, made["key"])[0] == 200
