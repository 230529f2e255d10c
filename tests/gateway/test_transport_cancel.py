"""Who goes away leaves nothing behind: no connection, no place in a queue, no socket, no task."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import pytest

from router_core.gateway.reply import Reply, UpstreamFailure
from router_core.gateway.transport.connection import Connection
from router_core.gateway.transport.protocol import Origin
from router_core.http.taskless import Prompt
from router_core.testing.upstream import Behaviour, Exchange
from router_core.testing.upstream_faults import (
    hang,
    ok,
    reset_before,
    stall_in_stream,
    then_close,
)
from tests.gateway.transport_kit import Kit, both_loops, broken, gate, settle, whole


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
