"""A connection that ends, or speaks, while nobody asks: no request is lost, none is answered by mistake."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from router_core.gateway.transport.protocol import Origin
from router_core.testing.upstream import Behaviour, Exchange, Upstream, in_thread
from router_core.testing.upstream_faults import (
    after,
    ok,
    raw,
)
from tests.gateway.transport_kit import Kit, both_loops, told
from tests.gateway.transport_tls import Authority

OK = b"HTTP/1.1 200 OK\r\n"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Make an authority of our own."""
    return Authority(tmp_path_factory.mktemp("tls"))


@contextmanager
def listening() -> Iterator[tuple[socket.socket, Origin]]:
    """Listen, for a test that accepts and answers by hand."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        server.setblocking(False)
        yield server, Origin("http", "127.0.0.1", server.getsockname()[1])


@both_loops
async def test_a_connection_closed_in_the_last_moment_is_replaced_once(kit: Kit) -> None:
    """Its end is in the kernel already and the event loop does not know: the request is not lost."""
    peers: list[socket.socket] = []
    loop = asyncio.get_running_loop()
    with listening() as (server, origin):

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
    kit: Kit, authority: Authority, scheme: str
) -> None:
    """Every call is served, under TLS too: those on a dead connection each over one of their own."""
    certificate = authority.issue("127.0.0.1") if scheme == "https" else ""
    with in_thread(Upstream(certificate=certificate)) as upstream:
        origin = Origin(scheme, "127.0.0.1", upstream.port, authority.file)
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
    loop = asyncio.get_running_loop()
    with listening() as (server, origin):

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
    with listening() as (server, origin):
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
