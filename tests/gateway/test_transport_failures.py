"""Whatever goes wrong is told honestly: what, when, and whether the request may have been read."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from router_core.testing.upstream import Behaviour, Exchange
from router_core.testing.upstream_faults import (
    after,
    cut_chunked,
    cut_in_body,
    hang,
    ok,
    raw,
    reset_after_first_byte,
    reset_before,
    reset_in_stream,
    slow_head,
    stall_in_stream,
    trickle,
)
from tests.gateway.transport_kit import Kit, both_loops, broken, told, whole

OK = b"HTTP/1.1 200 OK\r\n"


# What breaks: the behaviour, the options of the call, and what the failure says.

BROKEN: list[tuple[str, Behaviour, dict[str, float], tuple[str, str, bool, bool]]] = [
    ("hang", hang(), {"first_byte": 0.1}, ("timeout", "first_byte", True, False)),
    ("hang, no time left", hang(), {"within": 0.1, "first_byte": 900.0}, ("timeout", "total", True, False)),
    ("late", after(5.0, ok()), {"first_byte": 0.1}, ("timeout", "first_byte", True, False)),
    ("slow head", slow_head(0.01), {"first_byte": 0.1}, ("timeout", "first_byte", True, True)),
    (
        "stall in the head",
        raw(OK, b"", pause=5.0),
        {"first_byte": 0.1},
        ("timeout", "first_byte", True, True),
    ),
    ("stall in the body", trickle(5.0), {"idle": 0.1}, ("timeout", "body", True, True)),
    ("trickle", trickle(0.001), {"within": 0.2}, ("timeout", "total", True, True)),
    ("reset before", reset_before(), {}, ("reset", "first_byte", True, False)),
    ("reset in the head", reset_after_first_byte(), {}, ("reset", "first_byte", True, True)),
    ("closed before", raw(), {}, ("reset", "first_byte", True, False)),
    ("closed in the head", raw(OK), {}, ("reset", "first_byte", True, True)),
    ("cut in the body", cut_in_body(), {}, ("reset", "body", True, True)),
    ("cut without a body", raw(OK + b"content-length: 5\r\n\r\n"), {}, ("reset", "body", True, True)),
    ("cut between chunks", cut_chunked(), {}, ("reset", "body", True, True)),
    (
        "reset in a body without a length",
        reset_after_first_byte(OK + b"\r\nabc"),
        {},
        ("reset", "body", True, True),
    ),
    ("cut after an interim answer", raw(b"HTTP/1.1 100 C\r\n\r\n"), {}, ("reset", "first_byte", True, True)),
]


@both_loops
@pytest.mark.parametrize(
    ("behaviour", "options", "expected"), [each[1:] for each in BROKEN], ids=[each[0] for each in BROKEN]
)
async def test_a_call_that_breaks_says_how(
    kit: Kit, behaviour: Behaviour, options: dict[str, Any], expected: tuple[str, str, bool, bool]
) -> None:
    """The upstream sees the connection closed, and no second request."""
    kit.upstream.queue(behaviour)
    assert told(await kit.failure(**options)) == expected
    await kit.upstream.until(lambda: kit.upstream.in_flight == 0)
    assert len(kit.upstream.requests) == 1
    assert kit.stats.open == 0


STREAMS: list[tuple[str, Behaviour, dict[str, float], tuple[str, str, bool, bool], int]] = [
    ("reset", reset_in_stream(2), {}, ("reset", "body", True, True), 2),
    ("cut", cut_chunked(2), {}, ("reset", "body", True, True), 2),
    ("stall", stall_in_stream(2), {"idle": 0.1}, ("timeout", "body", True, True), 2),
    ("no content", stall_in_stream(0), {"first_byte": 0.1}, ("timeout", "first_byte", True, True), 0),
    ("no time left", stall_in_stream(1), {"within": 0.2}, ("timeout", "total", True, True), 1),
    ("bad chunk", raw(OK + b"transfer-encoding: chunked\r\n\r\n9\r\npiece 0\n\n\r\nZZ\r\n"), {},
     ("malformed", "body", True, True), 1),
]  # fmt: skip


@both_loops
@pytest.mark.parametrize(
    ("behaviour", "options", "expected", "events"),
    [each[1:] for each in STREAMS],
    ids=[each[0] for each in STREAMS],
)
async def test_a_stream_that_breaks_gives_what_came_and_then_says_how(
    kit: Kit,
    behaviour: Behaviour,
    options: dict[str, Any],
    expected: tuple[str, str, bool, bool],
    events: int,
) -> None:
    """It never ends as if it were whole."""
    kit.upstream.queue(behaviour)
    reply = await kit.send(stream=True, **options)
    assert reply.chunks is not None
    got: list[bytes] = []
    assert told(await broken(reply, got)) == expected
    assert b"".join(got).count(b"piece") == events
    assert getattr(reply.chunks, "ended_by", None) == ""
    assert kit.stats.open == 0
    # Whoever asks again is told again.
    assert told(await broken(reply)) == expected


@both_loops
async def test_a_head_that_comes_at_once_does_not_shorten_the_wait_for_content(kit: Kit) -> None:
    """Servers of models answer 200 and then think: that is the time to the first byte, not an idle one."""

    async def run(exchange: Exchange) -> None:
        await exchange.head(200, {"content-type": "text/event-stream", "content-length": "4"})
        await asyncio.sleep(0.2)
        await exchange.send(b"late")

    kit.upstream.queue(Behaviour("thinks", run))
    reply = await kit.send(stream=True, idle=0.01, first_byte=5.0)
    assert await whole(reply) == b"late"


@both_loops
async def test_a_reader_that_is_slow_is_not_an_upstream_that_is(kit: Kit) -> None:
    """While we do not read, its silence says nothing."""
    kit.upstream.queue(ok(b"x" * 3_000_000, headers={"content-type": "text/plain"}))
    reply = await kit.send(stream=True, idle=0.02)
    await asyncio.sleep(0.2)
    assert len(await whole(reply)) == 3_000_000
    assert kit.stats.idle == 1


@both_loops
async def test_a_request_that_nobody_reads_times_out_in_sending(kit: Kit) -> None:
    """An upstream that stops reading is told from one that thinks."""
    kit.upstream.queue(Behaviour("deaf", hang().run, early=True))
    failure = await kit.failure(b"x" * 20_000_000, first_byte=0.05, idle=0.05)
    assert told(failure) == ("timeout", "send", True, False)
    # As it does not read, it does not see us hang up.
    kit.upstream.hang_up()


@both_loops
async def test_a_request_that_is_read_slowly_is_sent(kit: Kit) -> None:
    """Each piece that goes out gives it more time; the answer has its own."""

    async def run(exchange: Exchange) -> None:
        for _ in range(40):
            await asyncio.sleep(0.015)
            await exchange.read_some(1_000_000)
        await exchange.whole(200, b"read")
        exchange.close()

    kit.upstream.queue(Behaviour("slow reader", run, early=True))
    reply = await kit.send(b"x" * 40_000_000, first_byte=0.4, idle=0.4)
    assert reply.body == b"read"


@both_loops
async def test_without_time_nothing_is_sent(kit: Kit) -> None:
    """A deadline that has passed costs the upstream nothing."""
    assert told(await kit.failure(within=0.0)) == ("timeout", "total", False, False)
    assert kit.upstream.connections == 0
