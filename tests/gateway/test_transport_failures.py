"""Whatever goes wrong is told honestly: what, when, and whether the request may have been read."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import trustme

from router_core.gateway.reply import UpstreamFailure
from router_core.gateway.transport.protocol import Origin
from router_core.testing.upstream import UNRESOLVABLE, Behaviour, Exchange, Upstream, closed_port, in_thread
from router_core.testing.upstream_faults import (
    after,
    close_delimited,
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
    then_close,
    trickle,
)
from tests.gateway.transport_kit import Kit, both_loops, broken, whole

OK = b"HTTP/1.1 200 OK\r\n"


def told(failure: UpstreamFailure) -> tuple[str, str, bool, bool]:
    """Return everything that a failure says."""
    return failure.kind, failure.phase, failure.sent, failure.started


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


# Getting there.


@both_loops
async def test_a_closed_port_refuses(kit: Kit) -> None:
    """Nothing was sent, so that another may be asked without a doubt."""
    with closed_port() as port:
        failure = await kit.failure(origin=Origin("http", "127.0.0.1", port))
        assert told(failure) == ("refused", "connect", False, False)
        assert str(port) in str(failure)


@both_loops
async def test_an_unknown_name_is_a_failure_of_dns(kit: Kit) -> None:
    """And so is what cannot be a name."""
    for host in (UNRESOLVABLE, "a" * 64 + ".example", "", "two words"):
        # A machine without a network takes its time to find out.
        failure = await kit.failure(origin=Origin("http", host, 80), connect=60.0, within=60.0)
        assert told(failure)[0] in {"dns", "refused", "unreachable"}, host
        assert failure.sent is False
        if host == UNRESOLVABLE:
            assert told(failure) == ("dns", "dns", False, False)


@both_loops
async def test_a_resolver_that_hangs_times_out(kit: Kit) -> None:
    """Within the time to connect, for each call that waits for the same name."""

    async def hangs(*_: Any, **__: Any) -> None:
        await asyncio.Event().wait()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(asyncio.get_running_loop(), "getaddrinfo", hangs)
        origin = Origin("http", "slow.example", 80)
        failures = await asyncio.gather(*(kit.failure(origin=origin, connect=0.02) for _ in range(3)))
        assert [told(each) for each in failures] == [("timeout", "dns", False, False)] * 3
        await kit.pool.aclose()


@both_loops
async def test_a_connection_that_is_never_accepted_times_out(kit: Kit) -> None:
    """With a backlog that is full the handshake gets no answer."""
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        waiting = [socket.socket() for _ in range(3)]
        for each in waiting:
            each.setblocking(False)
            each.connect_ex(deaf.getsockname())
        origin = Origin("http", "127.0.0.1", deaf.getsockname()[1])
        failure = await kit.failure(origin=origin, connect=0.05)
        assert told(failure) == ("timeout", "connect", False, False)
        assert told(await kit.failure(origin=origin, within=0.05)) == ("timeout", "total", False, False)
        for each in waiting:
            each.close()
    assert not kit.pool.stats() or kit.pool.stats()[origin].open == 0


@both_loops
async def test_all_addresses_of_a_name_are_tried_and_used_in_turn(kit: Kit) -> None:
    """One that does not answer costs one attempt, and is tried last from then on."""
    loop = asyncio.get_running_loop()
    asked: list[str] = []
    connect, getaddrinfo = loop.sock_connect, loop.getaddrinfo

    async def lookup(host: str, *others: Any, **named: Any) -> list[Any]:
        if host != "many.example":
            return await getaddrinfo(host, *others, **named)
        hosts = ("127.0.0.4", "127.0.0.1", "127.0.0.2", "127.0.0.3")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, kit.upstream.port)) for each in hosts]

    async def watched(sock: socket.socket, address: tuple[str, int]) -> None:
        asked.append(address[0])
        if address[0] == "127.0.0.4":
            raise ConnectionRefusedError
        await connect(sock, ("127.0.0.1", address[1]))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "getaddrinfo", lookup)
        patch.setattr(loop, "sock_connect", watched)
        origin = Origin("http", "many.example", kit.upstream.port)
        for _ in range(8):
            await kit.send(origin=origin)
            kit.pool._lanes[origin].idle[0].drop()
    assert asked[0] == "127.0.0.4"
    assert asked.count("127.0.0.4") == 1
    assert len(set(asked)) == 4


@both_loops
async def test_a_port_that_cannot_be_is_unreachable(kit: Kit) -> None:
    """It is refused before anything is sent."""
    assert told(await kit.failure(origin=Origin("http", "127.0.0.1", 70_000)))[:3] == (
        "unreachable",
        "connect",
        False,
    )


@both_loops
async def test_a_server_that_hangs_up_at_once_has_read_nothing(kit: Kit) -> None:
    """It may accept connections and close them: that is no timeout, and nobody waits for one."""
    server = await asyncio.get_running_loop().create_server(Slammer, "127.0.0.1", 0)
    origin = Origin("http", "127.0.0.1", server.sockets[0].getsockname()[1])
    failure = await kit.failure(origin=origin)
    assert failure.kind == "reset"
    assert failure.started is False
    server.close()
    await server.wait_closed()


class Slammer(asyncio.Protocol):
    """Closes what it accepts."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()


# TLS.


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> tuple[trustme.CA, Path]:
    """Make an authority of our own, and a folder for what it issues."""
    folder = tmp_path_factory.mktemp("tls")
    made = trustme.CA()
    made.cert_pem.write_to_path(folder / "ca.pem")
    return made, folder


def issue(authority: tuple[trustme.CA, Path], name: str, *hosts: str, expired: bool = False) -> str:
    """Write a certificate with its key, and return the file."""
    made, folder = authority
    certificate = made.issue_cert(
        *hosts,
        not_before=datetime(2020, 1, 1, tzinfo=UTC) if expired else None,
        not_after=datetime(2021, 1, 1, tzinfo=UTC) if expired else None,
    )
    certificate.private_key_and_cert_chain_pem.write_to_path(folder / name)
    return str(folder / name)


@both_loops
async def test_speaks_tls_to_who_can_prove_its_name(kit: Kit, authority: tuple[trustme.CA, Path]) -> None:
    """With a private authority; the connection is kept, streams too."""
    async with Upstream(certificate=issue(authority, "good.pem", "127.0.0.1")) as upstream:
        origin = Origin("https", "127.0.0.1", upstream.port, str(authority[1] / "ca.pem"))
        assert (await kit.send(origin=origin)).status == 200
        reply = await kit.send(b'{"stream": true}', stream=True, origin=origin)
        assert b"[DONE]" in await whole(reply)
        assert (await kit.send(b"x" * 1_000_000, origin=origin)).status == 200
        assert upstream.connections == 1
        upstream.queue(then_close(ok()), ok(b"again"))
        await kit.send(origin=origin)
        await upstream.until(lambda: upstream.open == 0)
        assert (await kit.send(origin=origin)).body == b"again"
        upstream.queue(close_delimited(b"to the end"))
        assert (await kit.send(origin=origin)).body == b"to the end"
        await kit.pool.aclose()


@both_loops
@pytest.mark.parametrize(
    ("hosts", "expired", "trusted", "word"),
    [
        (("127.0.0.1",), True, True, "expired"),
        (("other.example",), False, True, "127.0.0.1"),
        (("127.0.0.1",), False, False, "certificate"),
    ],
    ids=["expired", "wrong host", "unknown authority"],
)
async def test_who_cannot_prove_its_name_gets_nothing(
    kit: Kit,
    authority: tuple[trustme.CA, Path],
    hosts: tuple[str, ...],
    expired: bool,
    trusted: bool,
    word: str,
) -> None:
    """Not one byte of the request is sent."""
    certificate = issue(authority, "bad.pem", *hosts, expired=expired)
    async with Upstream(certificate=certificate) as upstream:
        ca_file = str(authority[1] / "ca.pem") if trusted else ""
        failure = await kit.failure(origin=Origin("https", "127.0.0.1", upstream.port, ca_file))
        assert told(failure) == ("tls", "tls", False, False)
        assert word in str(failure)
        assert upstream.requests == []


@both_loops
async def test_other_ways_in_which_tls_fails(kit: Kit, tmp_path: Path) -> None:
    """No TLS at the other side, no handshake in time, no file of authorities."""
    kit.upstream.script = hang()
    plain = Origin("https", "127.0.0.1", kit.upstream.port)
    assert told(await kit.failure(origin=plain, connect=0.3))[:3] in {
        ("timeout", "tls", False),
        ("reset", "tls", False),
    }
    missing = Origin("https", "127.0.0.1", kit.upstream.port, str(tmp_path / "none.pem"))
    assert told(await kit.failure(origin=missing)) == ("tls", "tls", False, False)
    (tmp_path / "bad.pem").write_text("not a certificate")
    broken_file = Origin("https", "127.0.0.1", kit.upstream.port, str(tmp_path / "bad.pem"))
    assert told(await kit.failure(origin=broken_file)) == ("tls", "tls", False, False)
    server = await asyncio.get_running_loop().create_server(Slammer, "127.0.0.1", 0)
    slammed = Origin("https", "127.0.0.1", server.sockets[0].getsockname()[1])
    assert told(await kit.failure(origin=slammed))[:3] == ("reset", "tls", False)
    server.close()
    await server.wait_closed()


# A connection that was given up while it was idle.


@both_loops
async def test_a_connection_closed_in_the_last_moment_is_replaced_once(kit: Kit) -> None:
    """Its end is in the kernel already and the event loop does not know: the request is not lost."""
    peers: list[socket.socket] = []
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        server.setblocking(False)
        loop = asyncio.get_running_loop()
        origin = Origin("http", "127.0.0.1", server.getsockname()[1])

        async def serve() -> None:
            peer, _ = await loop.sock_accept(server)
            peers.append(peer)
            await loop.sock_recv(peer, 65536)
            await loop.sock_sendall(peer, OK + b"content-length: 1\r\n\r\n%d" % len(peers))

        task = asyncio.create_task(serve())
        assert (await kit.send(origin=origin)).body == b"1"
        await task
        task = asyncio.create_task(serve())
        await asyncio.sleep(0.01)
        peers[0].close()
        # No turn of the loop in between: the pool cannot know.
        assert (await kit.send(origin=origin)).body == b"2"
        await task
        peers[1].close()
    await kit.pool.aclose()


@both_loops
@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_all_idle_connections_may_be_gone_in_one_moment(
    kit: Kit, authority: tuple[trustme.CA, Path], scheme: str
) -> None:
    """Every call is served, under TLS too: those on a dead connection each over one of their own."""
    certificate = issue(authority, "good.pem", "127.0.0.1") if scheme == "https" else ""
    with in_thread(Upstream(certificate=certificate)) as upstream:
        origin = Origin(scheme, "127.0.0.1", upstream.port, str(authority[1] / "ca.pem"))
        for body in (b"x", b"x" * 400_000):
            upstream.queue(*(after(0.05, ok()) for _ in range(8)))
            await asyncio.gather(*(kit.send(origin=origin) for _ in range(8)))
            before, idle = upstream.connections, kit.pool.stats()[origin].idle
            assert idle > 1
            assert upstream.loop is not None
            upstream.loop.call_soon_threadsafe(upstream.close_connections)
            # Our loop stands still until the upstream, in its thread, has closed what is idle.
            while upstream.open:
                threading.Event().wait(0.001)
            replies = await asyncio.gather(*(kit.send(body, origin=origin) for _ in range(8)))
            assert [each.status for each in replies] == [200] * 8
            assert upstream.connections >= before + idle
            assert len([each for each in upstream.requests if each.body == body]) == 8
        await kit.pool.aclose()


@both_loops
@pytest.mark.parametrize("way", ["close", "reset"])
async def test_a_request_that_was_read_is_not_sent_again(kit: Kit, way: str) -> None:
    """The other side took it and then closed: it may have done the work."""

    async def run(exchange: Exchange) -> None:
        if way == "reset":
            exchange.reset()
        exchange.close()

    kit.upstream.queue(ok(), Behaviour(way, run))
    await kit.send()
    assert told(await kit.failure()) == ("reset", "first_byte", True, False)
    assert len(kit.upstream.requests) == 2
    assert kit.upstream.connections == 1


@both_loops
@pytest.mark.parametrize("way", ["reset", "junk"])
async def test_a_connection_that_broke_before_the_request_left_is_replaced(kit: Kit, way: str) -> None:
    """A reset, or an answer nobody asked for, that is in the kernel before the request is written."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        server.setblocking(False)
        loop = asyncio.get_running_loop()
        origin = Origin("http", "127.0.0.1", server.getsockname()[1])

        async def serve(answer: bytes) -> socket.socket:
            peer, _ = await loop.sock_accept(server)
            await loop.sock_recv(peer, 65536)
            await loop.sock_sendall(peer, OK + b"content-length: 1\r\n\r\n" + answer)
            return peer

        task = asyncio.create_task(serve(b"1"))
        await kit.send(origin=origin)
        first = await task
        task = asyncio.create_task(serve(b"2"))
        await asyncio.sleep(0.01)
        if way == "junk":
            first.send(b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        else:
            first.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        first.close()
        assert (await kit.send(origin=origin)).body == b"2"
        (await task).close()
    await kit.pool.aclose()


@both_loops
async def test_an_answer_nobody_asked_for_is_not_taken_for_one(kit: Kit) -> None:
    """It is there before the next request is: that one fails, and says that it may have been read."""
    answer = OK + b"content-length: 4\r\n\r\n"
    loop = asyncio.get_running_loop()
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        server.setblocking(False)
        origin = Origin("http", "127.0.0.1", server.getsockname()[1])
        first = asyncio.create_task(kit.send(origin=origin))
        peer, _ = await loop.sock_accept(server)
        await loop.sock_recv(peer, 65536)
        await loop.sock_sendall(peer, answer + b"mine")
        await first
        peer.send(answer + b"evil")
        # No turn of the loop in between: the pool cannot know.
        failure = await kit.failure(origin=origin)
        assert told(failure) == ("malformed", "first_byte", True, True)
        assert kit.pool.stats()[origin].open == 0
        peer.close()


@both_loops
async def test_408_to_a_request_is_an_answer(kit: Kit) -> None:
    """On a connection that had been used, to a request that was read."""
    kit.upstream.queue(
        ok(), raw(b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
    )
    await kit.send()
    assert (await kit.send()).status == 408
    assert len(kit.upstream.requests) == 2
