"""The client of management APIs: what is repeated, what is left alone, and what is bounded."""

from __future__ import annotations

import json
from typing import Any

import pytest

from router_core.errors import Misconfigured
from router_core.gateway.lifecycle.circuit import Circuit
from router_core.gateway.lifecycle.driver import ManagementError
from router_core.gateway.lifecycle.http import ManagementApi, fetch, safe_url
from router_core.gateway.reply import Reply, UpstreamFailure
from router_core.gateway.transport.protocol import Origin
from router_core.gateway.values import Secret, Timeouts
from router_core.testing.clock import FakeClock
from tests.gateway.lifecycle_parts import passing

KEY = "hf_canary_secret"


class Told:
    """A Transport that answers as it is told, and keeps what it was sent."""

    def __init__(self, *answers: Reply | Exception) -> None:
        self.answers = list(answers)
        self.heads: list[bytes] = []
        self.bodies: list[bytes] = []

    async def send(
        self, origin: Origin, head: bytes, body: bytes, *, timeouts: Timeouts, deadline: float,
        stream: bool = False,
    ) -> Reply:  # fmt: skip
        self.heads.append(head)
        self.bodies.append(body)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def aclose(self) -> None:
        return


def said(value: Any, status: int = 200, **headers: str) -> Reply:
    return Reply(status, headers, json.dumps(value).encode())


def api_of(transport: Told, clock: FakeClock | None = None) -> ManagementApi:
    url = "https://api.example/v2/"
    return ManagementApi(transport, url, Secret(KEY), clock or FakeClock(), draw=lambda: 0.5)


async def test_what_is_sent() -> None:
    """A request as HTTP/1.1 wants it, with the key and the length of its body."""
    told = Told(said({"a": 1}))
    answer = await api_of(told).call("PUT", "/endpoint/ann/big", {"x": [1]})
    assert (answer.status, answer.value, answer.ok) == (200, {"a": 1}, True)
    head = told.heads[0].decode()
    assert head.startswith("PUT /v2/endpoint/ann/big HTTP/1.1\r\nhost: api.example\r\n")
    assert head.endswith("\r\n\r\n")
    assert f"authorization: Bearer {KEY}\r\n" in head
    assert "content-length: 10\r\n" in head
    assert told.bodies == [b'{"x": [1]}']


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
async def test_what_may_pass_is_tried_again(status: int) -> None:
    """A transient answer is followed by another try, some time later."""
    clock = FakeClock()
    told = Told(said({}, status), said({"a": 1}))
    answer = await passing(clock, api_of(told, clock).call("GET", "/x"))
    assert answer.ok
    assert len(told.heads) == 2
    assert clock.monotonic() > 1000.0


@pytest.mark.parametrize("kind", ["refused", "dns", "tls", "timeout", "reset", "malformed", "too_large"])
async def test_three_tries_without_an_answer(kind: Any) -> None:
    """Then it is an error, without the key and worth asking again."""
    clock = FakeClock()
    told = Told(UpstreamFailure(kind, "connect", f"{kind} happened"))
    with pytest.raises(ManagementError, match=r"api\.example") as caught:
        await passing(clock, api_of(told, clock).call("GET", "/x"))
    assert caught.value.transient
    assert len(told.heads) == 3
    assert KEY not in str(caught.value)


async def test_a_refusal_is_an_answer() -> None:
    """4xx is not repeated; checked, it is an error for good with what the API said, in one line."""
    told = Told(said({"error": "no\nsuch \x1b[31mthing" + "x" * 500}, 404))
    answer = await api_of(told).call("GET", "/x")
    assert (answer.ok, len(told.heads)) == (False, 1)
    with pytest.raises(ManagementError, match=r"reading: 404 no such  \[31mthingx") as caught:
        answer.checked("reading")
    assert (caught.value.transient, caught.value.status) == (False, 404)
    assert len(str(caught.value)) < 250


async def test_retry_after_is_honoured_within_bounds() -> None:
    """The API's own wish is a lower bound, up to eight seconds; anything that is no number is none."""
    for wish, least, most in (("3", 3.0, 4.0), ("99999", 8.0, 9.0), ("later", 0.4, 1.1), ("-5", 0.4, 1.1)):
        clock = FakeClock()
        told = Told(said({}, 429, **{"retry-after": wish}), said({}))
        await passing(clock, api_of(told, clock).call("GET", "/x"), step=0.1)
        assert least <= clock.monotonic() - 1000.0 <= most, wish


@pytest.mark.parametrize(
    "body",
    [b"<html>", b"[1]", b"null", b"{", b"\xff\xfe", b"[" * 100_000, b'{"a": "%s"}' % (b"x" * 1024 * 1024)],
    ids=["html", "list", "null", "cut", "bytes", "deep", "huge"],
)  # fmt: skip
async def test_what_is_no_json_object_is_no_answer(body: bytes) -> None:
    """A proxy's page or anything too large is an error, never an empty success."""
    with pytest.raises(ManagementError):
        await api_of(Told(Reply(200, {}, body))).call("GET", "/x")


async def test_an_api_that_keeps_failing_is_left_alone() -> None:
    """After four failed calls nobody asks for a while; then one asks for all, and closes it."""
    clock = FakeClock()
    told = Told(UpstreamFailure("refused", "connect"))
    api = api_of(told, clock)
    for _ in range(4):
        with pytest.raises(ManagementError):
            await passing(clock, api.call("GET", "/x"))
    asked = len(told.heads)
    with pytest.raises(ManagementError, match="left alone"):
        await api.call("GET", "/x")
    assert len(told.heads) == asked
    clock.advance(10.0)
    told.answers = [said({})]
    assert (await api.call("GET", "/x")).ok
    assert (await api.call("GET", "/x")).ok


def test_a_circuit_half_open_lets_one_through() -> None:
    """It opens for longer each time, up to a minute and its jitter."""
    circuit = Circuit(lambda: 1.0)
    for _ in range(4):
        circuit.begin()
        circuit.end(False, 0.0)
    assert circuit.closed_for(0.0) == pytest.approx(12.0)
    assert circuit.closed_for(12.1) is None
    circuit.begin()
    assert circuit.closed_for(12.1) is not None
    circuit.end(None, 12.1)
    assert circuit.closed_for(12.1) is None
    for _ in range(20):
        circuit.begin()
        circuit.end(False, 12.0)
    assert circuit.closed_for(12.0) == pytest.approx(72.0)
    circuit.begin()
    circuit.end(True, 84.0)
    assert circuit.closed_for(84.0) is None


async def test_no_header_can_be_smuggled() -> None:
    """A line break in a key or an address sends nothing."""
    told = Told(said({}))
    url = "https://x.example/"
    with pytest.raises(UpstreamFailure, match="a line break"):
        await fetch(told, "GET", url, Secret("k\r\nx: y"))
    with pytest.raises(UpstreamFailure, match="a line break"):
        await fetch(told, "GET", url, Secret("k"), headers={"a": "b\r\nx: y"})
    # of an address they are taken out
    await fetch(told, "GET", "https://x.example/a\r\nx: y", Secret("k"))
    assert b"\nx: y" not in told.heads[0]


@pytest.mark.parametrize(
    "url",
    ["", "x", "http://api.example/v2", "ftp://api.example", "https://", "https://u:p@api.example",
     "https://api.example/a b", "https://api.example:0/", "https://[::1", "http://127.0.0.1.evil.example",
     "https://api.example/\n"],
)  # fmt: skip
def test_addresses_that_get_no_key(url: str) -> None:
    """A key goes over https, or to this machine."""
    with pytest.raises(Misconfigured):
        safe_url(url)


@pytest.mark.parametrize("url", ["https://api.example/v2", "http://127.0.0.1:9/v2", "http://localhost:9"])
def test_addresses_that_do(url: str) -> None:
    """And nothing is made of them."""
    assert safe_url(url) == url
