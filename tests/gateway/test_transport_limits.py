"""Connections, calls that wait for one, buffers and time are bounded."""

from __future__ import annotations

import asyncio
import os
import random
from contextlib import suppress

import pytest

from router_core.gateway.reply import Reply, UpstreamFailure
from router_core.gateway.transport.chunks import HIGH_WATER, Chunks
from router_core.gateway.transport.protocol import Origin
from router_core.testing.upstream import Behaviour, Exchange
from router_core.testing.upstream_faults import (
    after,
    endless_line,
    gzip_bomb,
    hang,
    ok,
    reset_before,
    stall_in_stream,
    status,
    then_close,
)
from router_core.testing.upstream_openai import openai_stream
from tests.gateway.transport_kit import Kit, both_loops, gate, settle, whole

# How many.


@both_loops
async def test_never_more_connections_than_allowed_and_calls_wait_in_order(kit: Kit) -> None:
    """Those that wait get a connection as soon as one is free, first come first served."""
    await kit.use(max_per_origin=3)
    opened = asyncio.Event()
    kit.upstream.script = gate(opened)
    done: list[int] = []

    async def call(number: int) -> None:
        await kit.send(b"%d" % number)
        done.append(number)

    tasks = []
    for number in range(12):
        tasks.append(asyncio.create_task(call(number)))
        await asyncio.sleep(0)
    await kit.upstream.until(lambda: kit.upstream.in_flight == 3)
    assert kit.stats == (3, 0, 3, 9)
    opened.set()
    await asyncio.gather(*tasks)
    assert [int(each.body) for each in kit.upstream.requests[3:]] == list(range(3, 12))
    assert kit.upstream.max_in_flight == 3
    assert kit.upstream.connections == 3
    assert kit.stats == (3, 3, 0, 0)


@both_loops
async def test_a_call_does_not_wait_for_a_connection_for_ever(kit: Kit) -> None:
    """It fails as one that was not sent, and for no fault of the upstream."""
    await kit.use(max_per_origin=1)
    kit.upstream.queue(hang())
    first = asyncio.create_task(kit.send())
    await kit.upstream.until(lambda: kit.upstream.in_flight == 1)
    failure = await kit.failure(connect=0.02)
    assert (failure.kind, failure.phase, failure.sent) == ("busy", "connect", False)
    failure = await kit.failure(within=0.02)
    assert (failure.kind, failure.phase, failure.sent) == ("busy", "total", False)
    assert kit.stats == (1, 0, 1, 0)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    assert (await kit.send()).status == 200


@both_loops
async def test_a_call_that_fails_makes_room(kit: Kit) -> None:
    """Whatever ends a connection, the next call opens another."""
    await kit.use(max_per_origin=1)
    kit.upstream.queue(reset_before(), hang(), ok(b"third"))
    calls = [kit.send(), kit.send(first_byte=0.02), kit.send()]
    first, second, third = await asyncio.gather(*calls, return_exceptions=True)
    assert isinstance(first, UpstreamFailure)
    assert isinstance(second, UpstreamFailure)
    assert isinstance(third, Reply)
    assert third.body == b"third"
    assert kit.upstream.connections == 3
    assert kit.stats == (1, 1, 0, 0)


@both_loops
async def test_idle_connections_are_closed_in_time_and_beyond_their_number(kit: Kit) -> None:
    """A burst leaves no crowd, a pause leaves none at all."""
    await kit.use(max_idle=3, idle_timeout=0.1)
    kit.upstream.script = after(0.05, ok())
    await asyncio.gather(*(kit.send() for _ in range(10)))
    assert kit.upstream.connections == 10
    await kit.upstream.until(lambda: kit.upstream.open <= 3)
    await kit.upstream.until(lambda: kit.upstream.open == 0)
    await settle()
    assert kit.stats.open == 0
    assert (await kit.send()).status == 200


@both_loops
async def test_old_connections_are_replaced_while_they_are_busy(kit: Kit) -> None:
    """One that never rests would otherwise never follow a name that moved."""
    await kit.use(max_age=0.05)
    for _ in range(20):
        await kit.send()
        await asyncio.sleep(0.01)
    assert kit.upstream.connections >= 2


@both_loops
async def test_origins_have_nothing_to_do_with_each_other(kit: Kit) -> None:
    """One that hangs takes no connection from another; equal origins share theirs."""
    await kit.use(max_per_origin=1)
    kit.upstream.queue(hang())
    other = Origin("http", "localhost", kit.upstream.port)
    stuck = asyncio.create_task(kit.send())
    await kit.upstream.until(lambda: kit.upstream.in_flight == 1)
    assert (await kit.send(origin=other)).status == 200
    assert (await kit.send(origin=Origin("http", "localhost", kit.upstream.port))).status == 200
    assert kit.upstream.connections == 2
    assert [each.open for each in kit.pool.stats().values()] == [1, 1]
    stuck.cancel()
    await asyncio.gather(stuck, return_exceptions=True)


# How much.


@both_loops
async def test_a_reader_that_is_slow_slows_the_upstream_down(kit: Kit) -> None:
    """No more is held for it than the mark and one read."""
    sent = 0

    async def run(exchange: Exchange) -> None:
        nonlocal sent
        await exchange.head(200, {"content-type": "text/event-stream", "transfer-encoding": "chunked"})
        for _ in range(1000):
            await exchange.chunk(b"x" * 65536)
            sent += 65536
        await exchange.chunk(b"")

    kit.upstream.queue(Behaviour("fast", run))
    reply = await kit.send(stream=True)
    assert isinstance(reply.chunks, Chunks)
    before = -1
    while sent != before:
        before = sent
        await asyncio.sleep(0.02)
    assert sent < 20_000_000
    assert reply.chunks._size <= HIGH_WATER + 256 * 1024
    sizes = [len(chunk) async for chunk in reply.chunks]
    assert sum(sizes) == 65_536_000
    assert max(sizes) <= HIGH_WATER + 256 * 1024
    assert kit.stats == (1, 1, 0, 0)


def resident() -> int:
    """Return the bytes of memory that this process holds."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@both_loops
@pytest.mark.parametrize("way", ["bomb", "bomb streamed", "endless line"])
async def test_what_is_endless_is_given_up_without_being_held(kit: Kit, way: str) -> None:
    """10 GB out of a bomb, and 256 MB without a newline: the process does not grow by 20 MB."""
    kit.upstream.queue(
        {"endless line": endless_line()}.get(way) or gzip_bomb(10 << 30, f"text/{way.split()[-1]}")
    )
    before = resident()
    if way == "bomb":
        failure = await kit.failure()
        assert failure.kind == "too_large"
    else:
        reply = await kit.send(stream=True)
        assert reply.chunks is not None
        read = 0
        with suppress(UpstreamFailure):
            async for chunk in reply.chunks:
                read += len(chunk)
                if read > 40 << 20:
                    break
        await reply.aclose()
        assert read > 3 << 20
    assert resident() - before < 20 << 20
    assert kit.stats.open == 0


@both_loops
async def test_a_crowd_with_all_kinds_of_endings_leaves_nothing(kit: Kit) -> None:
    """Calls end in every way at random; the counts come out, and the pool works on."""
    await kit.use(max_per_origin=20, max_idle=5)
    draw = random.Random(7)
    endings = [
        ok(), openai_stream(delay=0.001), status(503), hang(), reset_before(), then_close(ok()),
        after(0.005, ok()), stall_in_stream(2),
    ]  # fmt: skip
    kit.upstream.script = lambda _: draw.choice(endings)

    async def one() -> None:
        await asyncio.sleep(draw.random() * 0.1)
        stream = draw.random() < 0.5
        reply = await kit.send(stream=stream, first_byte=0.05, idle=0.03, within=draw.choice([0.02, 5.0]))
        if reply.chunks is not None:
            await (whole(reply) if draw.random() < 0.7 else reply.aclose())

    tasks = [asyncio.create_task(one()) for _ in range(300)]
    for task in draw.sample(tasks, 60):
        asyncio.get_running_loop().call_later(draw.random() * 0.2, task.cancel)
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert {type(each) for each in results} <= {type(None), UpstreamFailure, asyncio.CancelledError}
    assert kit.upstream.max_in_flight <= 20
    await settle()
    stats = kit.stats
    assert (stats.in_use, stats.waiting) == (0, 0)
    await kit.upstream.until(lambda: kit.upstream.in_flight == 0)
    kit.upstream.script = ok(b"alive")
    assert (await kit.send()).body == b"alive"
