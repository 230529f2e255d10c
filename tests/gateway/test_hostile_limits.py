"""Limits of our own, and the haste of callers: neither speaks against an upstream."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace

import pytest
import uvloop

from router_core.gateway.reply import Reply
from router_core.gateway.streams.gate import hold
from router_core.testing.upstream import Upstream, in_thread
from router_core.testing.upstream_faults import after, hang
from router_core.testing.upstream_openai import openai_chat
from tests.gateway.serving import House, chat, house, models_yaml

PATH = "/v1/chat/completions"
EVENT = b'data: {"choices":[{"index":0,"delta":{"content":"x"}}]}\n\n'
CALLS = 12


def _allow(house_: House, connections: int) -> None:
    transport = house_.gateway.transport
    transport._limits = replace(transport._limits, max_connections=connections)  # type: ignore[attr-defined]


async def test_calls_that_find_no_free_connection_do_not_open_the_circuit() -> None:
    """As many calls as there are connections hang; those that wait in vain get 503, and nobody is blamed."""
    async with Upstream(hang()) as upstream:
        async with house(models_yaml(upstream.url, args="timeouts: {connect: 0.1}")) as made:
            _allow(made, 2)
            hanging = [asyncio.create_task(made.ask(PATH, chat())) for _ in range(2)]
            await upstream.until(lambda: upstream.in_flight == 2)
            answers = await asyncio.gather(*[made.ask(PATH, chat()) for _ in range(CALLS)])
            assert {answer.status for answer in answers} == {503}
            assert all("retry-after" in answer.headers for answer in answers)
            standing = made.standing("d1")
            assert (standing.circuit, standing.failed) == ("closed", 0)
            for each in hanging:
                each.cancel()
            await asyncio.gather(*hanging, return_exceptions=True)
            assert made.in_flight() == 0


async def test_callers_in_a_hurry_do_not_open_the_circuit() -> None:
    """Time limits that callers give, however short, run out without speaking against the deployment."""
    async with Upstream(hang()) as upstream, house(models_yaml(upstream.url)) as made:
        hurried = {"x-router-timeout": "0.05"}
        answers = await asyncio.gather(*[made.ask(PATH, chat(), headers=hurried) for _ in range(CALLS)])
        assert {answer.status for answer in answers} == {504}
        standing = made.standing("d1")
        assert (standing.circuit, standing.failed, standing.inflight) == ("closed", 0, 0)


async def test_the_total_time_of_a_deployment_does_speak_against_it() -> None:
    """A limit that is configured for the deployment is its own."""
    async with Upstream(hang()) as upstream:
        async with house(models_yaml(upstream.url, args="timeouts: {total: 0.1}")) as made:
            assert (await made.ask(PATH, chat())).status == 504
            assert made.standing("d1").failed > 0


@pytest.mark.parametrize(
    "loop",
    [
        pytest.param(asyncio.SelectorEventLoop, id="asyncio", marks=pytest.mark.soak),
        pytest.param(uvloop.new_event_loop, id="uvloop"),
    ],
)
def test_a_pause_of_this_process_opens_no_circuit(loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    """While connections are opened and answers are awaited, the process stands still for longer than they
    may take: all calls are served."""
    upstream = Upstream(lambda seen: after(0.05, openai_chat("x")))

    async def calls(made: House) -> None:
        waiting = [asyncio.create_task(made.ask(PATH, chat())) for _ in range(CALLS)]
        for _ in range(2):
            await asyncio.sleep(0)
        time.sleep(0.5)  # noqa: ASYNC251 - this is the pause
        answers = await asyncio.gather(*waiting)
        assert {answer.status for answer in answers} == {200}

    async def run() -> None:
        limits = "timeouts: {connect: 0.2, first_byte: 0.2, idle: 0.2}"
        async with house(models_yaml(upstream.url, args=limits)) as made:
            await calls(made)  # that have to connect
            await calls(made)  # that need not
            standing = made.standing("d1")
            assert (standing.circuit, standing.failed, standing.inflight) == ("closed", 0, 0)

    with in_thread(upstream), asyncio.Runner(loop_factory=loop) as runner:
        runner.run(run())


async def test_a_pause_of_this_process_is_not_held_against_a_stream() -> None:
    """Content that came during the pause counts, although the time for it is over when anybody looks."""
    loop = asyncio.get_running_loop()
    pieces: asyncio.Queue[bytes] = asyncio.Queue()
    here, there = socket.socketpair()
    loop.add_reader(here, lambda: pieces.put_nowait(here.recv(4096)))

    async def chunks() -> AsyncIterator[bytes]:
        while True:
            yield await pieces.get()

    def pause() -> None:
        there.send(EVENT)
        time.sleep(0.4)

    loop.call_later(0.01, pause)
    try:
        held = await hold(Reply(200, {}, None, chunks()), deadline=loop.time() + 0.05)
        assert held.first_failure is None
        await held.aclose()
    finally:
        loop.remove_reader(here)
        here.close()
        there.close()
