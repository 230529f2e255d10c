"""Hostile bytes from both sides, over raw sockets, through both doors of the local server."""

from __future__ import annotations

import gzip
import json
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, Final, NamedTuple

import pytest

from handlers.local.server import ServeOptions
from router_core.gateway.transport.answer import Names
from router_core.testing.upstream import Seen, Upstream, in_thread
from router_core.testing.upstream_faults import ok, raw
from tests.gateway.serving import House, chat, models_yaml, on_socket

PATH = "/v1/chat/completions"
TYPE = "application/json"
BODY = json.dumps(chat()).encode()
ANSWER = b'{"choices":[{"message":{"content":"hi"}}]}'
ODD = "\u6a21\u578b-\u00e9"
NAMED: Final = f"""
  - id: "{ODD}"
    type: text-generation
    clients:
      - {{id: "d-{ODD}", model: up, type: openai, args: {{base_url: 'URL/v1', api_key: key}}}}
"""


class Door(NamedTuple):
    """A gateway behind one of the doors."""

    upstream: Upstream
    house: House
    port: int

    def talk(self, data: bytes) -> bytes:
        """Send bytes and return all that comes back."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=60) as peer:
            with suppress(ConnectionError):
                peer.sendall(data)
            found = b""
            with suppress(ConnectionError):
                while got := peer.recv(65536):
                    found += got
        return found

    def sent(self, data: bytes) -> tuple[list[int], int]:
        """Return the statuses of the answers, and how many requests the upstream saw."""
        before = self.calls
        answers = self.talk(data).split(b"HTTP/1.1 ")[1:]
        return [int(answer[:3]) for answer in answers], self.calls - before

    @property
    def calls(self) -> int:
        """Count the calls that the upstream saw; probes are none."""
        return sum(each.method == "POST" for each in self.upstream.requests)

    def until_closed(self) -> None:
        """Wait until the gateway has no connection to the upstream."""
        transport: Any = self.house.gateway.transport
        until = time.monotonic() + 60
        while any(lane.open for lane in transport.stats().values()):
            assert time.monotonic() < until
            time.sleep(0.002)


@pytest.fixture(scope="module", params=[True, False], ids=["direct", "asgi"])
def door(request: pytest.FixtureRequest) -> Iterator[Door]:
    """Serve one gateway for all tests of this file."""
    upstream = Upstream(ok(ANSWER))
    with in_thread(upstream):
        text = models_yaml(upstream.url, model="retry: {max_attempts: 1}\nbreaker: {minimum: 9999, "
                           "in_a_row: 9999}") + NAMED.replace("URL", upstream.url)  # fmt: skip
        with on_socket(text, options=ServeOptions(direct=request.param)) as (house, url):
            yield Door(upstream, house, int(url.rpartition(":")[2]))


@pytest.fixture(autouse=True)
def _well(door: Door) -> None:
    door.upstream.script = ok(ANSWER)


def call(body: bytes = BODY, *lines: str, start: str = f"POST {PATH} HTTP/1.1", kind: str = TYPE) -> bytes:
    """Return the bytes of a request."""
    head = [start, "host: 127.0.0.1", f"content-type: {kind}", f"content-length: {len(body)}", *lines]
    return "\r\n".join([*head, "", ""]).encode("latin-1") + body


LAST = call(BODY, "connection: close")
HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
CHUNKED = HEAD + b"transfer-encoding: chunked\r\n\r\n"
SIZE = len(BODY)
SMUGGLED: Final = {
    "both lengths": HEAD + b"content-length: 4\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "two lengths": HEAD + b"content-length: 3\r\ncontent-length: %d\r\n\r\n" % SIZE + BODY,
    "listed lengths": HEAD + b"content-length: %d, %d\r\n\r\n" % (SIZE, SIZE) + BODY,
    "signed length": HEAD + b"content-length: +%d\r\n\r\n" % SIZE + BODY,
    "unknown coding": HEAD + b"transfer-encoding: xchunked\r\n\r\n0\r\n\r\n",
    "two codings": HEAD + b"transfer-encoding: chunked\r\ntransfer-encoding: identity\r\n\r\n0\r\n\r\n",
    "listed codings": HEAD + b"transfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "bare line feeds": call().replace(b"\r\n", b"\n"),
    "folded": HEAD + b"x: a\r\n b\r\ncontent-length: %d\r\n\r\n" % SIZE + BODY,
    "space before colon": HEAD + b"content-length : %d\r\n\r\n" % SIZE + BODY,
    "NUL": HEAD + b"x-router-tags: a\0b\r\ncontent-length: %d\r\n\r\n" % SIZE + BODY,
    "hex prefix": CHUNKED + b"0x%x\r\n%b\r\n0\r\n\r\n" % (SIZE, BODY),
    "negative chunk": CHUNKED + b"-1\r\n%b\r\n0\r\n\r\n" % BODY,
    "chunks in 1.0": CHUNKED.replace(b"/1.1", b"/1.0") + b"0\r\n\r\n",
}


@pytest.mark.parametrize("data", SMUGGLED.values(), ids=SMUGGLED)
def test_what_two_readers_could_read_differently(door: Door, data: bytes) -> None:
    """It is refused, nothing of it reaches an upstream, and nothing that follows it is read."""
    statuses, seen = door.sent(data + LAST)
    assert statuses in ([400], [501])
    assert seen == 0


@pytest.mark.parametrize("count", [1, 2, 40])
def test_requests_sent_at_once(door: Door, count: int) -> None:
    """They are answered each, in their order, also after a head that is known already."""
    assert door.sent(call() * count + LAST) == ([200] * (count + 1), count + 1)
    mixed = call(json.dumps(chat(stream=True)).encode()) + CHUNKED + b"%x\r\n%b\r\n0\r\n\r\n" % (SIZE, BODY)
    assert door.sent(call() + mixed * count + LAST)[1] == 2 * count + 2


def test_a_known_head_hides_nothing(door: Door) -> None:
    """What differs from the head before by as little as a byte is parsed anew."""
    tricks = [
        call().replace(b"content-length: ", b"content-length: 0x"),
        call().replace(b"content-length: %d" % SIZE, b"content-length: %d" % (SIZE - 1)),
        call().replace(b"content-length", b"content-lengtH").replace(b": %d\r" % SIZE, b": %d \0\r" % SIZE),
    ]
    for trick in tricks:
        with socket.create_connection(("127.0.0.1", door.port), timeout=60) as peer:
            for _ in range(3):
                peer.sendall(call())
                found = b""
                while not found.endswith(ANSWER):
                    found += peer.recv(65536)
                assert found.startswith(b"HTTP/1.1 200")
            before = door.calls
            peer.sendall(trick)
            assert peer.recv(65536).startswith(b"HTTP/1.1 400")
            assert door.calls == before


BODIES: Final = {
    "a mark of byte order": b"\xef\xbb\xbf" + BODY,
    "UTF-16": BODY.decode().encode("utf-16"),
    "NaN": b'{"model":"m","x":NaN}',
    "no UTF-8": b'{"model":"m","x":"\xff"}',
    "half a pair": b'{"model":"\\ud800"}',
    "something after it": BODY + b"x",
    "a list": b"[]",
    "nothing": b"",
    "deep": b'{"model":"m","messages":' + b"[" * 50_000 + b"]" * 50_000 + b"}",
    "a huge number": b'{"model":"m","max_tokens":' + b"9" * 50_000 + b"}",
    "NUL in the name": b'{"model":"m\\u0000"}',
    "lines in the name": b'{"model":"m\\r\\nx: y"}',
    "no name": b'{"model":["m"]}',
    "a long name": b'{"model":"' + b"m" * 10_000 + b'"}',
    "Model": b'{"model":"m","Model":"other"}',
    "MODEL": b'{"MODEL":"other","model":"m"}',
    "a long s": '{"model":"m","\u017ftream":true}'.encode(),
    "Max_Tokens": b'{"model":"m","max_tokens":1,"Max_Tokens":99999}',
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_bodies_that_are_refused(door: Door, body: bytes) -> None:
    """They are the caller's mistake, and no upstream hears of them."""
    assert door.sent(call(body, "connection: close")) == ([400], 0)


def _last(door: Door) -> Seen:
    return next(each for each in reversed(door.upstream.requests) if each.method == "POST")


def test_equal_names_are_sent_once(door: Door) -> None:
    """The model that was judged is the one that is sent, however its name is written."""
    for body in (b'{"model":"other","model":"m"}', b'{"model":"x","mod\\u0065l":"m"}'):
        assert door.sent(call(body, "connection: close")) == ([200], 1)
        assert _last(door).body == b'{"model":"up"}'
    assert door.sent(call(b'{"model":"m","model":"other"}', "connection: close")) == ([404], 0)


def test_compressed_bodies_are_not_unpacked(door: Door) -> None:
    """Nor are bodies of another type taken for JSON: a page of another site could send these unasked."""
    bomb = gzip.compress(b" " * 10_000_000 + BODY)
    assert door.sent(call(bomb, "content-encoding: gzip", "connection: close")) == ([415], 0)
    assert door.sent(call(BODY, "connection: close", kind="text/plain; x=json")) == ([415], 0)
    assert door.sent(call(BODY, "connection: close", "origin: https://evil.example")) == ([403], 0)


WISHES: Final = {
    "x-router-timeout: nan": 400, "x-router-timeout: inf": 400, "x-router-timeout: -1": 400,
    "x-router-max-cost: 1e99999999999999999999": 400, "x-router-max-cost: sNaN": 400,
    "x-router-max-cost: " + "9" * 5000: 400, "x-router-max-cost: \xb2": 400,
    "x-router-tags: " + "a," * 3000: 422, "x-router-tags: \xe9\xff": 422, "x-router-region: \x80": 422,
    "x-router-session: " + "s" * 7000: 200, "idempotency-key: \xe9": 200, "traceparent: a\tb": 200,
}  # fmt: skip


@pytest.mark.parametrize(("line", "status"), WISHES.items(), ids=[each[:30] for each in WISHES])
def test_headers_that_ask_for_something(door: Door, line: str, status: int) -> None:
    """Odd values are refused or do no harm; what could break a line does not go on."""
    assert door.sent(call(BODY, line, "connection: close"))[0] == [status]
    if status == 200:
        sent = repr(_last(door).headers)
        assert "\\xe9" not in sent
        assert "\\t" not in sent


def _answer(kind: bytes, status: bytes = b"200 OK", more: bytes = b"", length: int = len(ANSWER)) -> bytes:
    head = b"HTTP/1.1 %b\r\ncontent-type: %b\r\ncontent-length: %d\r\n%b\r\n" % (status, kind, length, more)
    return head + ANSWER


JS = b"application/json"
HOSTILE: Final[dict[str, tuple[bytes, int]]] = {
    "control character": (_answer(b"application/json\x01evil"), 502),
    "NUL": (_answer(b"application/json\0"), 502),
    "bare CR": (_answer(b"application/json\rset-cookie: a=b"), 502),
    "Latin-1": (_answer(b"application/json; x=\xe9\xff"), 200),
    "long type": (_answer(b"application/json; x=" + b"a" * 60_000), 200),
    "a page": (_answer(b"text/html"), 200),
    "205": (_answer(JS, b"205 Reset Content"), 200),
    "299": (_answer(JS, b"299 Odd"), 200),
    "600": (_answer(JS, b"600 Odd"), 502),
    "000": (_answer(JS, b"000 Odd"), 502),
    "101": (_answer(JS, b"101 Switching Protocols"), 502),
    "1xx without end": (b"HTTP/1.1 103 Early Hints\r\nlink: a\r\n\r\n" * 1000 + _answer(JS), 502),
    "many fields": (_answer(JS, more=b"".join(b"x-%d: y\r\n" % number for number in range(4000))), 502),
    "a long field": (_answer(JS, more=b"x: " + b"y" * 100_000 + b"\r\n"), 502),
    "both lengths": (_answer(JS, more=b"transfer-encoding: chunked\r\n"), 502),
    "two lengths": (_answer(JS, more=b"content-length: 3\r\n"), 502),
    "too long": (_answer(JS, length=10**15), 502),
    "cut": (_answer(JS, length=len(ANSWER) + 1), 502),
    "more than said": (_answer(JS) + b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil", 200),
    "hop by hop": (_answer(JS, more=b"set-cookie: a=b\r\nlocation: /x\r\nx-router-model: evil\r\n"), 200),
    "no HTTP": (b"\x16\x03\x01\x02\x00\x01", 502),
    "HTTP/2": (b"HTTP/2.0 200\r\n\r\n", 502),
}  # fmt: skip


@pytest.mark.parametrize(("data", "status"), HOSTILE.values(), ids=HOSTILE)
def test_answers_of_a_hostile_upstream(door: Door, data: bytes, status: int) -> None:
    """Nothing of it but what is meant goes on, and the next call gets an answer of its own."""
    door.upstream.script = raw(data)
    found = door.talk(LAST)
    head, _, body = found.partition(b"\r\n\r\n")
    fields = dict(line.split(b": ", 1) for line in head.lower().split(b"\r\n")[1:])
    assert found.startswith(b"HTTP/1.1 %d " % status), found[:300]
    assert found.count(b"HTTP/1.1 ") == 1
    assert fields[b"content-type"] in (JS, b"application/octet-stream", b"application/problem+json")
    assert not {b"set-cookie", b"location"} & set(fields)
    assert len(head) < 1500
    assert head.isascii()
    assert b"evil" not in head
    assert int(fields[b"content-length"]) == len(body)
    door.until_closed()  # else the next call may be sent on the connection that is just being closed
    door.upstream.script = ok(ANSWER)
    assert door.talk(LAST).endswith(ANSWER)
    assert door.house.in_flight() == 0


def test_names_of_fields_are_remembered_within_bounds() -> None:
    """An upstream cannot have this process keep long names, or ever more of them."""
    names = Names()
    for number in range(5000):
        assert names.lower(b"X-%d" % number) == f"x-{number}"
        assert names.lower(b"Y" * 60_000) == "y" * 60_000
    assert len(names.known) <= 1024
    assert max(map(len, names.known)) <= 64


def test_names_that_no_header_can_hold(door: Door) -> None:
    """Models and deployments may be named in any language; their answers arrive."""
    for more in ({}, {"stream": True}):
        body = json.dumps({"model": ODD, "messages": [], **more}).encode()
        found = door.talk(call(body, "connection: close"))
        assert found.startswith(b"HTTP/1.1 200")
        assert found.partition(b"\r\n\r\n")[0].isascii()


BOUNDARY = 'multipart/form-data; boundary="b"'
PART = b'--b\r\ncontent-disposition: form-data; name="%b"\r\n\r\n%b\r\n'
FORMS: Final[dict[str, tuple[str, bytes]]] = {
    "two models": (BOUNDARY, PART % (b"model", b"m") + PART % (b"model", b"x") + b"--b--\r\n"),
    "model as a file": (BOUNDARY, (PART % (b"model", b"m")).replace(b'"model"', b'"model"; filename="x"')),
    "no end": (BOUNDARY, PART % (b"model", b"m")),
    "many parts": (BOUNDARY, PART % (b"x", b"") * 5000 + b"--b--\r\n"),
    "two boundaries": (BOUNDARY + "; boundary=c", PART % (b"model", b"m") + b"--b--\r\n"),
    "a long boundary": ("multipart/form-data; boundary=" + "b" * 5000, b""),
    "no boundary": ("multipart/form-data", PART % (b"model", b"m") + b"--b--\r\n"),
    "a long head": (BOUNDARY, (PART % (b"model", b"m")).replace(b"--b\r\n", b"--b\r\nx: " + b"y" * 99_999)),
    "a charset in the name": (BOUNDARY, (PART % (b"model", b"m")).replace(b"name=", b"name*=utf-8''")),
    "a bare line feed": (BOUNDARY, (PART % (b"model", b"m") + b"--b--\r\n").replace(b"\r\n", b"\n")),
}


@pytest.mark.parametrize(("kind", "body"), FORMS.values(), ids=FORMS)
def test_forms_that_two_readers_could_read_differently(door: Door, kind: str, body: bytes) -> None:
    """They are refused, quickly, and no upstream hears of them."""
    data = call(body, "connection: close", start="POST /v1/audio/transcriptions HTTP/1.1", kind=kind)
    statuses, seen = door.sent(data)
    assert statuses in ([400], [413], [415])
    assert seen == 0
