"""Streams through the whole gateway: each endpoint that has them, each phase, and callers on sockets."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, closing
from typing import Any

import pytest

from handlers.local.server import ServeOptions
from router_core.testing.upstream import Upstream, in_thread
from router_core.testing.upstream_faults import SSE, Behaviour, hang
from router_core.testing.upstream_openai import openai_stream
from router_core.testing.upstream_wire import Exchange
from tests.gateway.serving import House, Reply, chat, house, models_yaml, on_socket

PATIENT = "timeouts: {connect: 30, first_byte: 30, idle: 30}"
PRICE = "price: {input: 1000, output: 1000}"
GOOD = "Hello from the other one."
SPARE = f"      - {{id: d2, priority: 2, model: s, type: scripted, args: {{reply: '{GOOD}'}}}}\n"


def event(data: dict[str, Any], name: str = "") -> bytes:
    """Return one event."""
    head = f"event: {name}\n" if name else ""
    return f"{head}data: {json.dumps(data)}\n\n".encode()


def chunk(**choice: Any) -> bytes:
    """Return one event of chat/completions or completions, from the deployment that fails."""
    return event({"id": "bad", "choices": [{"index": 0, "finish_reason": None, **choice}]})


def typed(kind: str, **more: Any) -> bytes:
    """Return one event of responses."""
    return event({"type": kind, **more}, kind)


STREAMS: dict[str, tuple[dict[str, Any], list[bytes], list[bytes], bytes]] = {
    # endpoint: request, events before any content, events with content, an error
    "chat/completions": (
        {"messages": [{"role": "user", "content": "Hello!"}]},
        [chunk(delta={"role": "assistant", "content": ""})],
        [chunk(delta={"content": "some words "})] * 3,
        event({"error": {"message": "overloaded", "type": "server_error", "code": None}}),
    ),
    "completions": (
        {"prompt": "Once"},
        [chunk(text="")],
        [chunk(text="some words ")] * 3,
        event({"error": {"message": "overloaded", "type": "server_error", "code": None}}),
    ),
    "responses": (
        {"input": "Hello!"},
        [typed("response.created", response={"id": "bad"}), typed("response.in_progress")],
        [typed("response.output_text.delta", item_id="bad", delta="some words ")] * 3,
        typed("response.failed", response={"id": "bad", "error": {"code": "server_error", "message": "no"}}),
    ),
}  # fmt: skip


def streaming(*events: bytes, then: str = "reset", pause: float = 0.0) -> Behaviour:
    """Stream these events, and reset the connection, end without an end, or fall silent."""

    async def run(exchange: Exchange) -> None:
        await exchange.head(200, SSE)
        for each in events:
            await exchange.chunk(each)
        if then == "reset":
            time.sleep(0.02)  # noqa: ASYNC251 - what was written is out before the reset
            exchange.reset()
        elif then == "silence":
            await exchange.forever().wait()
        else:
            await exchange.chunk(b"")

    return Behaviour(f"streaming, then {then}", run)


def text_in(reply: Reply) -> str:
    """Return what was written, of any endpoint."""
    found = ""
    for each in reply.events():
        if each == "[DONE]":
            continue
        if each.get("type") == "response.output_text.delta":
            found += each["delta"]
        for choice in each.get("choices", ()):
            found += choice.get("text") or choice.get("delta", {}).get("content") or ""
    return found


@pytest.mark.parametrize("fault", ["reset", "end", "error"])
@pytest.mark.parametrize("endpoint", STREAMS)
async def test_every_endpoint_fails_over_before_its_first_content(endpoint: str, fault: str) -> None:
    """Events without content were held back; not one of them reaches the caller."""
    body, silent, _, error = STREAMS[endpoint]
    script = streaming(*silent, *([error] if fault == "error" else []), then=fault)
    async with Upstream(script) as upstream:
        text = models_yaml(upstream.url, args=PATIENT) + SPARE
        async with house(text) as made:
            reply = await made.ask(f"/v1/{endpoint}", {"model": "m", "stream": True, **body})
            assert reply.status == 200, reply.body
            assert text_in(reply) == GOOD
            assert b"bad" not in reply.body
            assert reply.headers["x-router-deployment"] == "d2"
            assert made.standing("d1").failed == 1
            assert made.in_flight() == 0


@pytest.mark.parametrize("fault", ["reset", "end", "error", "silence"])
@pytest.mark.parametrize("endpoint", STREAMS)
async def test_every_endpoint_says_that_it_broke_off(endpoint: str, fault: str) -> None:
    """After content: an error event and no end; what was used is booked by estimate, and costs."""
    body, silent, content, error = STREAMS[endpoint]
    script = streaming(*silent, *content, *([error] if fault == "error" else []), then=fault)
    async with Upstream(script) as upstream:
        args = PATIENT.replace("idle: 30", "idle: 0.2") if fault == "silence" else PATIENT
        text = models_yaml(upstream.url, args=args).replace("priority: 1,", f"priority: 1, {PRICE},") + SPARE
        async with house(text) as made:
            reply = await made.ask(f"/v1/{endpoint}", {"model": "m", "stream": True, **body})
            assert text_in(reply) == "some words " * 3
            assert b"[DONE]" not in reply.body
            assert b"response.completed" not in reply.body
            last = reply.events()[-1]
            if fault == "error":
                assert "error" in json.dumps(last)
            else:
                assert last["error"]["code"] == "stream_interrupted" or last["code"] == "stream_interrupted"
            record = made.gateway.ledger.recent(1)[0]
            assert (record.deployment, record.estimated) == ("d1", True)
            assert record.input_tokens > 0
            assert 5 <= record.output_tokens <= 30
            assert record.cost is not None
            assert record.cost > 0
            assert (made.standing("d1").failed, made.in_flight()) == (1, 0)


@pytest.mark.parametrize("limit", ["call", "deployment"])
async def test_the_time_of_a_call_ends_its_stream(limit: str) -> None:
    """In the middle of a stream that is well: an error event, the upstream is let go, the usage booked. That
    speaks against nobody: it is long, not slow."""
    async with Upstream(openai_stream(("piece ",) * 400, delay=0.02)) as upstream:
        args = PATIENT if limit == "call" else PATIENT.replace("}", ", total: 0.6}")
        model = "total_timeout: 0.6" if limit == "call" else ""
        async with house(models_yaml(upstream.url, args=args, model=model)) as made:
            reply = await made.ask("/v1/chat/completions", chat(stream=True))
            assert reply.events()[-1]["error"]["code"] == "stream_interrupted"
            await upstream.until(lambda: upstream.cancelled == 1)
            assert made.standing("d1").failed == 0
            assert made.gateway.ledger.recent(1)[0].output_tokens > 2


async def test_streams_are_never_hedged() -> None:
    """However slow the first content is; a whole answer is."""
    async with AsyncExitStack() as stack:
        upstreams = [await stack.enter_async_context(Upstream()) for _ in range(2)]
        for each in upstreams:
            each.script = openai_stream(first_delay=0.2)
        text = models_yaml(
            *[each.url for each in upstreams], args=PATIENT, model="hedge: {after: 0.02, max_share: 1}"
        )
        made = await stack.enter_async_context(house(text))
        for _ in range(3):
            assert (await made.ask("/v1/chat/completions", chat(stream=True))).status == 200
        assert [len(each.requests) for each in upstreams] == [3, 0]


# -- callers on sockets, behind both doors -------------------------------------------------------------------


@pytest.fixture(scope="module", params=["direct", "asgi"])
def door(request: pytest.FixtureRequest) -> Iterator[tuple[House, int, Upstream]]:
    """A gateway behind each door of the local server, its port, and the upstream."""
    with in_thread(Upstream()) as upstream:
        text = models_yaml(upstream.url, args="timeouts: {connect: 5, first_byte: 30, idle: 30}")
        with on_socket(text, options=ServeOptions(direct=request.param == "direct")) as (made, url):
            yield made, int(url.rpartition(":")[2]), upstream


def opened(port: int, *, stream: bool) -> socket.socket:
    """Send a call and return the connection, on which nothing was read."""
    body = json.dumps(chat(stream=stream)).encode()
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    sock.settimeout(60)
    sock.connect(("127.0.0.1", port))
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\ncontent-type: application/json\r\n"
    )
    sock.sendall(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
    return sock


def wait(holds: Callable[[], bool], what: str) -> None:
    """Wait for what another thread does."""
    until = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < until, what
        time.sleep(0.01)


def half_a_body() -> Behaviour:
    """Send the beginning of a whole answer, and nothing more."""

    async def run(exchange: Exchange) -> None:
        await exchange.head(200, {"content-type": "application/json", "content-length": "100000"})
        await exchange.send(b'{"id":"x","choices":[')
        await exchange.forever().wait()

    return Behaviour("half_a_body", run)


PHASES: dict[str, tuple[Behaviour, bool, bytes]] = {
    # phase: behaviour, stream, what the caller has seen when it leaves
    "before the first byte": (hang(), False, b""),
    "before the first byte of a stream": (hang(), True, b""),
    "within a whole answer": (half_a_body(), False, b""),
    "within a stream": (openai_stream(("piece ",) * 5000, delay=0.02), True, b"piece"),
}


@pytest.mark.parametrize("phase", PHASES)
def test_a_caller_that_leaves_ends_the_call_upstream(door: tuple[House, int, Upstream], phase: str) -> None:
    """Through a real socket, in every phase: the upstream is hung up on, and what it used is booked."""
    made, port, upstream = door
    upstream.script, stream, seen = PHASES[phase]
    before, records = upstream.cancelled, len(made.gateway.ledger.recent(1000))
    with closing(opened(port, stream=stream)) as sock:
        wait(lambda: upstream.in_flight == 1, "the call has not arrived")
        received = b""
        while seen not in received:
            received += sock.recv(65536)
    wait(lambda: upstream.cancelled == before + 1, "the upstream is still asked")
    wait(lambda: made.in_flight() == 0, "it counts as in flight")
    wait(lambda: len(made.gateway.ledger.recent(1000)) == records + 1, "it is missing in the accounts")
    record = made.gateway.ledger.recent(1)[0]
    assert record.outcome == "cancelled"
    assert record.input_tokens > 0
    assert (record.output_tokens > 0) == (phase == "within a stream")
    assert made.standing("d1").failed == 0


class Counting:
    """A stream without end that knows how much of it was taken."""

    def __init__(self) -> None:
        self.sent = 0
        self.ended = threading.Event()

    def behaviour(self) -> Behaviour:
        """Return what an upstream does."""
        piece = chunk(delta={"content": "x" * 16_000})

        async def run(exchange: Exchange) -> None:
            await exchange.head(200, SSE)
            try:
                while True:
                    await exchange.chunk(piece)
                    self.sent += len(piece)
            finally:
                self.ended.set()

        return Behaviour("endless", run)


def test_a_slow_reader_slows_the_upstream(door: tuple[House, int, Upstream]) -> None:
    """Nothing piles up in between: while the caller does not read, the upstream is not read either."""
    made, port, upstream = door
    counting = Counting()
    upstream.script = counting.behaviour()
    with closing(opened(port, stream=True)) as sock:
        assert sock.recv(1000)
        settled = -1
        while settled != counting.sent:
            settled = counting.sent
            time.sleep(0.1)
        assert settled < 16 * 1024 * 1024, f"{settled} bytes lie somewhere"
        read = 0
        while read < settled + 4 * 1024 * 1024:
            read += len(sock.recv(1 << 20))
        assert counting.sent > settled, "it goes on when the caller does"
    assert counting.ended.wait(60)
    wait(lambda: made.in_flight() == 0, "it counts as in flight")
