"""Callers that go away, read slowly, or never ask the same twice: nothing of them stays behind."""

from __future__ import annotations

import asyncio
import gc
import json
import resource
import socket
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

import pytest

from handlers.local.direct_cycle import DirectCycle
from handlers.local.server import ServeOptions
from router_core.gateway.config.load import parse_config
from router_core.http.message import Response
from router_core.http.taskless import Prompt
from router_core.testing.upstream import Upstream, in_thread
from router_core.testing.upstream_faults import SSE, Behaviour, hang, stall_in_stream
from router_core.testing.upstream_openai import models, openai_chat
from router_core.testing.upstream_wire import Exchange
from tests.gateway.serving import chat, house, models_yaml, on_socket

PATH = "/v1/chat/completions"
LENIENT = "retry: {max_attempts: 1}\nbreaker: {minimum: 9999, in_a_row: 9999}"
EVENT = b'data: {"choices":[{"index":0,"delta":{"content":"%b"}}]}\n\n' % (b"x" * 4000)
LEAVING: Final = 12


def call(more: dict[str, Any] | None = None, path: str = PATH) -> bytes:
    """Return the bytes of a request."""
    body = json.dumps(chat(**(more or {}))).encode()
    head = f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
    return f"{head}content-length: {len(body)}\r\n\r\n".encode() + body


def rss() -> int:
    """Return the bytes of memory that this process uses."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    """Wait for something that another thread brings about."""
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    assert condition()


def endless() -> Behaviour:
    """Stream content as fast as it is taken."""

    async def run(exchange: Exchange) -> None:
        await exchange.head(200, SSE)
        while True:
            await exchange.chunk(EVENT * 16)

    return Behaviour("endless", run)


PHASES: Final = {
    "in the body": (hang(), call()[:-5], 0),
    "before the answer": (hang(), call(), 0),
    "before the first content": (stall_in_stream(0), call({"stream": True}), 0),
    "in the stream": (stall_in_stream(2), call({"stream": True}), 200),
    "in a fast stream": (endless(), call({"stream": True}), 200),
    "behind another request": (hang(), call() + call(), 0),
}


@pytest.mark.parametrize("direct", [True, False], ids=["direct", "asgi"])
def test_callers_that_go_away(direct: bool) -> None:
    """In whatever phase they go: the upstream is let go, and no call, task, or connection stays behind."""
    chosen: Behaviour = openai_chat("x")
    upstream = Upstream(lambda seen: chosen if seen.method == "POST" else models())
    with in_thread(upstream):
        text = models_yaml(upstream.url, model=LENIENT)
        with on_socket(text, options=ServeOptions(direct=direct)) as (made, url):
            port = int(url.rpartition(":")[2])
            with socket.create_connection(("127.0.0.1", port), timeout=60) as peer:
                peer.sendall(call())
                assert peer.recv(65536).startswith(b"HTTP/1.1 200")
            loop = made.gateway.transport._loop  # type: ignore[attr-defined]
            tasks = len(asyncio.all_tasks(loop))
            for behaviour, data, size in PHASES.values():
                chosen = behaviour
                peers = [socket.create_connection(("127.0.0.1", port), timeout=60) for _ in range(LEAVING)]
                for peer in peers:
                    peer.sendall(data)
                for peer in peers:
                    while size and len(peer.recv(65536)) < size:
                        pass
                if data.endswith(call()[-5:]):
                    until(lambda: made.in_flight() == LEAVING)
                for peer in peers:
                    peer.close()
                until(lambda: made.in_flight() == 0 and upstream.in_flight == 0)
                until(lambda: len(asyncio.all_tasks(loop)) <= tasks + 1)
            assert made.standing("d1").failed == 0
            stats = made.gateway.transport.stats()  # type: ignore[attr-defined]
            assert sum(each.in_use for each in stats.values()) == 0


class _Protocol:
    """As much of a connection as an answer needs that never comes to be written."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.tasks: set[asyncio.Task[None]] = set()

    async def answer(self, cycle: DirectCycle, coming: Awaitable[Response]) -> None:
        await coming


async def test_a_caller_that_goes_as_its_call_moves_into_a_task() -> None:
    """What had begun without a task learns of it, although the task was cancelled before its first step."""
    seen: list[str] = []
    loop = asyncio.get_running_loop()
    prompt: Prompt[None] = Prompt(loop)

    async def call_of_a_model() -> Response:
        cycle.interrupts = True
        try:
            await prompt
            seen.append("goes on")
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            seen.append("cancelled")
        return Response(499, (), b"")

    protocol: Any = _Protocol()
    cycle = DirectCycle(protocol, None, "POST", b"/", "1.1", True, "id")  # type: ignore[arg-type]
    cycle.begin(call_of_a_model())
    prompt.set_result(None)  # as the upstream answers,
    cycle.interrupt()  # the caller is gone
    await asyncio.wait(protocol.tasks, timeout=5)
    assert seen == ["goes on", "cancelled"]


@pytest.mark.soak
def test_readers_that_are_slower_than_their_upstream() -> None:
    """What an upstream sends as fast as it can waits there, and not in the memory of the gateway."""
    upstream = Upstream(lambda seen: endless() if seen.method == "POST" else models())
    readers = 40
    with in_thread(upstream), on_socket(models_yaml(upstream.url)) as (made, url):
        port = int(url.rpartition(":")[2])
        peers = []
        for _ in range(readers):
            peer = socket.socket()
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            peer.connect(("127.0.0.1", port))
            peer.sendall(call({"stream": True}))
            peers.append(peer)
        until(lambda: made.in_flight() == readers)
        sizes = [rss()]
        until(lambda: _has_settled(sizes), 15)
        for peer in peers:
            peer.close()
        until(lambda: made.in_flight() == 0)
    assert sizes[-1] - sizes[0] < readers * 3 * 2**20  # those of the upstream among them


def _has_settled(sizes: list[int]) -> bool:
    """Take another look at the memory; whether it has stopped to grow."""
    time.sleep(0.3)
    sizes.append(rss())
    return len(sizes) > 3 and sizes[-1] - sizes[-3] < 2**19


async def test_callers_that_never_ask_the_same_twice() -> None:
    """Tags, sessions, and names of models that nobody knows are remembered within bounds."""
    async with Upstream() as upstream, house(models_yaml(upstream.url)) as made:

        async def ask(number: int) -> None:
            odd = {
                name: f"{name}-{number}"
                for name in ("x-router-tags", "x-router-region", "x-router-compliance")
            }
            session = {"x-router-session": f"s{number}", "x-router-workspace": f"w{number}"}
            assert (await made.ask(PATH, chat(), headers=odd)).status == 422
            assert (await made.ask(PATH, chat(f"model-{number}"))).status == 404
            assert (await made.ask(PATH, chat(user=f"u{number}"), headers=session)).status == 200

        async def size() -> tuple[int, int]:
            gc.collect()
            return (await made.ask("/metrics")).body.count(b"\n"), len(gc.get_objects())

        for number in range(260):
            await ask(number)
        await size()  # counts itself
        before = await size()
        for number in range(260, 560):
            await ask(number)
        after = await size()
    assert after[0] - before[0] < 5
    assert after[1] - before[1] < 6000


async def test_configurations_that_change_while_calls_are_made() -> None:
    """No call fails, and of what was replaced nothing is left."""
    async with Upstream() as upstream, Upstream() as other:
        texts = [
            models_yaml(upstream.url), models_yaml(upstream.url, other.url),
            models_yaml(other.url, args="timeout: 9"), models_yaml(upstream.url) + "# again\n",
        ]  # fmt: skip
        async with house(texts[0]) as made:
            statuses: set[int] = set()
            going = True

            async def caller(stream: bool) -> None:
                while going:
                    statuses.add((await made.ask(PATH, chat(stream=stream))).status)

            callers = [asyncio.create_task(caller(number % 2 == 0)) for number in range(16)]
            for number in range(40):
                made.gateway.apply(parse_config(texts[number % len(texts)], "gateway.yaml", {}))
                await asyncio.sleep(0.005)
            going = False
            await asyncio.gather(*callers)
            assert statuses == {200}
            assert made.in_flight() == 0
            made.gateway.apply(parse_config(texts[0], "gateway.yaml", {}))
            await made.gateway.registry.drain(time.monotonic())
            assert len(made.gateway.standings) == 1
            assert not made.gateway.registry._retired
