"""Connections, calls that wait for one, buffers and time are bounded; who goes away leaves nothing behind."""

from __future__ import annotations

import asyncio
import os
import random
from contextlib import suppress
from typing import Any

import pytest

from router_core.gateway.reply import Reply, UpstreamFailure
from router_core.gateway.transport.chunks import HIGH_WATER, Chunks
from router_core.gateway.transport.connection import Connection
from router_core.gateway.transport.protocol import Origin
from router_core.http.taskless import Prompt
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
from tests.gateway.transport_kit import Kit, both_loops, broken, whole


def gate(opened: asyncio.Event) -> Behaviour:
    """Answer when the event is set."""

    async def run(exchange: Exchange) -> None:
        await opened.wait()
        await exchange.whole(200, b"%d" % exchange.request.number)

    return Behaviour("gate", run)


async def settle() -> None:
    """Let everything that is ready run."""
    for _ in range(10):
        await asyncio.sleep(0)


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


# Who goes away.


@both_loops
async def test_a_cancelled_call_closes_its_connection_at_once(kit: Kit) -> None:
    """While it waits for the first byte: the upstream notices."""
    kit.upstream.queue(hang())
    task = asyncio.create_task(kit.send())
    await kit.upstream.until(lambda: kit.upstream.in_flight == 1)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert kit.stats.open == 0
    await kit.upstream.until(lambda: kit.upstream.cancelled == 1)


@both_loops
@pytest.mark.parametrize("way", ["cancel", "aclose", "timeout"])
async def test_a_stream_that_is_given_up_closes_its_connection_at_once(kit: Kit, way: str) -> None:
    """By its reader being cancelled, or by closing it."""
    kit.upstream.queue(stall_in_stream(1))
    reply = await kit.send(stream=True)
    assert reply.chunks is not None
    await anext(reply.chunks)
    if way == "aclose":
        await reply.aclose()
    elif way == "timeout":
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await anext(reply.chunks)
    else:
        task = asyncio.ensure_future(anext(reply.chunks))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert kit.stats.open == 0
    await kit.upstream.until(lambda: kit.upstream.cancelled == 1)
    await reply.aclose()
    with pytest.raises(StopAsyncIteration):
        await anext(reply.chunks)


@both_loops
@pytest.mark.parametrize("behaviour", [stall_in_stream(1), ok()], ids=["stream", "whole"])
async def test_a_call_cancelled_in_the_moment_of_its_answer_leaks_nothing(
    kit: Kit, behaviour: Behaviour, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer has come, and nobody is there any more to read it."""
    kit.upstream.queue(behaviour)
    ask = Connection.ask

    def watched(self: Connection, *args: Any) -> Prompt[Reply]:
        reply = ask(self, *args)
        # Runs before the task is woken, which waits for the same.
        reply.add_done_callback(lambda _: task.cancel())
        return reply

    monkeypatch.setattr(Connection, "ask", watched)
    task = asyncio.create_task(kit.send(stream=True))
    with pytest.raises(asyncio.CancelledError):
        await task
    assert kit.stats.in_use == 0
    await kit.upstream.until(lambda: kit.upstream.in_flight == 0)


@both_loops
async def test_an_answer_to_a_call_that_was_just_cancelled_is_thrown_away(kit: Kit) -> None:
    """It comes before the call has heard of its end."""
    kit.upstream.queue(hang())
    task = asyncio.create_task(kit.send(stream=True))
    await kit.upstream.until(lambda: kit.upstream.in_flight == 1)
    (lane,) = kit.pool._lanes.values()
    (connection,) = lane._connections
    task.cancel()
    connection.data_received(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\ndata: x")
    assert kit.stats.open == 0
    with pytest.raises(asyncio.CancelledError):
        await task


@both_loops
async def test_a_stream_that_has_come_frees_its_connection_before_it_is_read(kit: Kit) -> None:
    """Also one that is more than a reader may have waiting: the next answer does not wait for it."""
    kit.upstream.queue(hang())
    task = asyncio.create_task(kit.send(stream=True))
    await kit.upstream.until(lambda: kit.upstream.in_flight == 1)
    (lane,) = kit.pool._lanes.values()
    (connection,) = lane._connections
    body = b"x" * 200_000
    connection.data_received(b"HTTP/1.1 200 OK\r\ncontent-length: 200000\r\n\r\n" + body)
    assert kit.stats == (1, 1, 0, 0)
    assert connection._transport.is_reading()
    assert await whole(await task) == body


@both_loops
@pytest.mark.parametrize("way", ["overdue", "closing"])
async def test_an_idle_connection_that_cannot_be_trusted_is_passed_over(kit: Kit, way: str) -> None:
    """One that a process which slept kept for too long, and one whose socket has just failed."""
    await kit.send()
    (lane,) = kit.pool._lanes.values()
    if way == "overdue":
        lane.idle[0].due = 0.0
    else:
        lane.idle[0]._transport.close()
    assert (await kit.send()).status == 200
    assert kit.upstream.connections == 2


@both_loops
async def test_a_connection_that_ends_as_it_is_handed_to_a_waiting_call_is_replaced(kit: Kit) -> None:
    """The call goes on waiting, and is served."""
    await kit.use(max_per_origin=1)
    opened = asyncio.Event()
    kit.upstream.queue(gate(opened))
    calls = [asyncio.create_task(kit.send()) for _ in range(2)]
    await kit.upstream.until(lambda: kit.upstream.in_flight == 1)
    (lane,) = kit.pool._lanes.values()
    released = lane.released

    def drop(connection: Connection) -> None:
        released(connection)
        connection.drop()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lane, "released", drop)
        opened.set()
        assert [each.status for each in await asyncio.gather(*calls)] == [200, 200]
    assert kit.upstream.connections == 2


@both_loops
async def test_a_connection_that_ends_as_it_is_opened_was_never_asked(kit: Kit) -> None:
    """The call fails at once, as one that was not sent."""
    dial = kit.pool._dialer.dial

    async def slammed(*args: Any) -> Connection:
        connection = await dial(*args)
        connection.drop()
        return connection

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kit.pool._dialer, "dial", slammed)
        failure = await kit.failure()
    assert (failure.kind, failure.phase, failure.sent) == ("reset", "connect", False)
    assert kit.stats.open == 0
    assert (await kit.send()).status == 200


@both_loops
async def test_an_idle_connection_that_ends_is_not_handed_out(kit: Kit) -> None:
    """Not even before the event loop has closed it."""
    await kit.send()
    (lane,) = kit.pool._lanes.values()
    lane.idle[0].eof_received()
    assert kit.stats.open == 0


@both_loops
async def test_a_call_cancelled_while_it_waits_for_a_connection_leaves_the_queue(kit: Kit) -> None:
    """Those behind it move up."""
    await kit.use(max_per_origin=1)
    opened = asyncio.Event()
    kit.upstream.queue(gate(opened))
    first = asyncio.create_task(kit.send())
    await kit.upstream.until(lambda: kit.upstream.in_flight == 1)
    second, third = asyncio.create_task(kit.send()), asyncio.create_task(kit.send())
    await settle()
    assert kit.stats.waiting == 2
    second.cancel()
    await settle()
    assert kit.stats.waiting == 1
    opened.set()
    assert (await first).status == 200
    assert (await third).status == 200
    assert kit.stats == (1, 1, 0, 0)
    assert len(kit.upstream.requests) == 2


@both_loops
async def test_a_call_cancelled_as_it_is_given_a_connection_passes_it_on(kit: Kit) -> None:
    """A connection, or the leave to open one, is never lost."""
    await kit.use(max_per_origin=1)
    for ending in (ok(), then_close(ok()), reset_before()):
        opened = asyncio.Event()

        async def run(exchange: Exchange, opened: asyncio.Event = opened, ending: Behaviour = ending) -> None:
            await opened.wait()
            await ending.run(exchange)

        kit.upstream.queue(Behaviour("gate", run))
        first = asyncio.create_task(kit.send())
        await kit.upstream.until(lambda: kit.upstream.in_flight == 1)
        second, third = asyncio.create_task(kit.send()), asyncio.create_task(kit.send())
        await settle()
        (lane,) = kit.pool._lanes.values()
        granted = lane._waiters[0].granted
        granted.add_done_callback(lambda _, task=second: task.cancel())  # type: ignore[misc]
        opened.set()
        await asyncio.gather(first, second, return_exceptions=True)
        assert (await third).status == 200
        assert kit.stats.waiting == 0
        assert kit.stats.open <= 1


@both_loops
async def test_a_call_cancelled_while_it_connects_leaves_no_socket(kit: Kit) -> None:
    """At whatever moment."""
    for turns in range(12):
        before = len(os.listdir("/proc/self/fd"))
        task = asyncio.create_task(kit.send(origin=Origin("http", "127.0.0.1", kit.upstream.port)))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        (result,) = await asyncio.gather(task, return_exceptions=True)
        assert isinstance(result, asyncio.CancelledError | Reply)
        assert (kit.stats.in_use, kit.stats.waiting) == (0, 0)
        await kit.pool.aclose()
        await kit.use()
        await kit.upstream.until(lambda: kit.upstream.open == 0)
        await settle()
        assert len(os.listdir("/proc/self/fd")) <= before


@both_loops
async def test_closing_the_pool_fails_what_is_under_way(kit: Kit) -> None:
    """Calls that wait for an answer, for a connection, and streams; then it sends nothing any more."""
    await kit.use(max_per_origin=2)
    kit.upstream.queue(stall_in_stream(1), hang())
    stream = await kit.send(stream=True)
    tasks = [asyncio.create_task(kit.send()) for _ in range(3)]
    await kit.upstream.until(lambda: kit.upstream.in_flight == 2)
    await settle()
    await kit.pool.aclose()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(each) for each in results] == [UpstreamFailure] * 3
    assert (await broken(stream)).started is True
    failure = await kit.failure()
    assert (failure.kind, failure.sent) == ("unreachable", False)
    await kit.pool.aclose()


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
