"""Names become addresses, addresses connections, and TLS proves who is at the other end."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import Any

import pytest

from router_core.gateway.transport.protocol import Origin
from router_core.testing.upstream import UNRESOLVABLE, Upstream, closed_port
from router_core.testing.upstream_faults import (
    close_delimited,
    hang,
    ok,
    then_close,
)
from tests.gateway.transport_kit import Kit, both_loops, told, whole
from tests.gateway.transport_tls import Authority


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Make an authority of our own."""
    return Authority(tmp_path_factory.mktemp("tls"))


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


@both_loops
async def test_speaks_tls_to_who_can_prove_its_name(kit: Kit, authority: Authority) -> None:
    """With a private authority; the connection is kept, streams too."""
    async with Upstream(certificate=authority.issue("127.0.0.1")) as upstream:
        origin = Origin("https", "127.0.0.1", upstream.port, authority.file)
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
    authority: Authority,
    hosts: tuple[str, ...],
    expired: bool,
    trusted: bool,
    word: str,
) -> None:
    """Not one byte of the request is sent."""
    certificate = authority.issue(*hosts, expired=expired)
    async with Upstream(certificate=certificate) as upstream:
        ca_file = authority.file if trusted else ""
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
