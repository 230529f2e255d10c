"""The parts of the transport that need no socket: decoding, parsing in any pieces, names to addresses."""

from __future__ import annotations

import asyncio
import gzip
import itertools
import socket
import zlib
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router_core.gateway.transport.answer import Answer, Names, Unusable
from router_core.gateway.transport.decode import BadCoding, Bomb, Decoder, decoder_of
from router_core.gateway.transport.resolve import Resolver


def read(decoder: Decoder, size: int = 1000) -> bytes:
    """Read all that can be read now."""
    got = b""
    while piece := decoder.read(size):
        assert len(piece) <= size
        got += piece
    return got


def bare(body: bytes) -> bytes:
    """Compress without zlib's head and tail."""
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(body) + packer.flush()


@settings(max_examples=60)
@given(
    bodies=st.lists(st.binary(max_size=3000), min_size=1, max_size=3),
    cut=st.integers(min_value=1, max_value=500),
    size=st.integers(min_value=1, max_value=2000),
    padding=st.integers(min_value=0, max_value=20),
)
def test_what_is_packed_comes_out_however_it_is_cut(
    bodies: list[bytes], cut: int, size: int, padding: int
) -> None:
    """Gzip in any number of members, with padding behind, in any pieces in and out."""
    packed = b"".join(gzip.compress(each) for each in bodies) + bytes(padding)
    decoder = decoder_of("GZIP")
    assert decoder is not None
    got = b""
    for at in range(0, len(packed), cut):
        decoder.feed(packed[at : at + cut])
        got += read(decoder, size)
    assert got == b"".join(bodies)
    assert decoder.ended


@pytest.mark.parametrize("pack", [zlib.compress, bare], ids=["zlib", "bare"])
def test_deflate_means_two_things(pack: Any) -> None:
    """With zlib's head, or without."""
    decoder = decoder_of("deflate")
    assert decoder is not None
    decoder.feed(pack(b"hello" * 1000))
    assert read(decoder, 1) == b"hello" * 1000
    assert decoder.ended


@pytest.mark.parametrize("coding", ["br", "zstd", "gzip, gzip", "compress", "*"])
def test_other_codings_are_refused(coding: str) -> None:
    """Nobody asked for them."""
    with pytest.raises(BadCoding):
        decoder_of(coding)


def test_none_needs_no_decoder() -> None:
    """Identity is what was asked for."""
    assert decoder_of("identity") is decoder_of(" ") is None


@pytest.mark.parametrize(
    ("coding", "data"),
    [
        ("gzip", b"no gzip at all"),
        ("gzip", gzip.compress(b"abc") + b"garbage"),
        ("gzip", gzip.compress(b"abc" * 100)[:30] + b"\xff" * 30),
        ("deflate", zlib.compress(b"abc") + b"more"),
    ],
    ids=["none", "garbage behind", "broken", "more behind deflate"],
)
def test_what_is_not_its_coding_is_refused(coding: str, data: bytes) -> None:
    """At once, where it can be seen."""
    decoder = decoder_of(coding)
    assert decoder is not None
    decoder.feed(data)
    with pytest.raises(BadCoding):
        read(decoder)


def test_a_cut_body_has_not_ended() -> None:
    """All that was there comes out; that it is not all shows."""
    decoder = decoder_of("gzip")
    assert decoder is not None
    assert decoder.ended
    decoder.feed(gzip.compress(b"abc" * 100)[:-4])
    assert read(decoder) == b"abc" * 100
    assert not decoder.ended


def test_bombs_are_noticed() -> None:
    """By how a body grows, and by the number of its members."""
    packer = zlib.compressobj(9, wbits=31)
    bomb = b"".join(packer.compress(bytes(1 << 20)) for _ in range(16)) + packer.flush()
    for data in (bomb, gzip.compress(b"") * 5000):
        decoder = decoder_of("gzip")
        assert decoder is not None
        decoder.feed(data)
        with pytest.raises(Bomb):
            read(decoder, 65536)


# Parsing.

ANSWERS = [
    b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello",
    b"HTTP/1.1 100 C\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n"
    b"5;a=b\r\nhello\r\n0\r\nx: y\r\n\r\n",
    b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ntransfer-encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n"
    % (len(gzip.compress(b"hello", mtime=0)), gzip.compress(b"hello", mtime=0)),
]


@settings(max_examples=100)
@given(
    answer=st.sampled_from(ANSWERS),
    cuts=st.lists(st.integers(min_value=1, max_value=140), max_size=8),
    rest=st.sampled_from([b"", b"x", b"HTTP/1.1 200 OK\r\n\r\n"]),
)
def test_an_answer_is_the_same_however_it_is_cut(answer: bytes, cuts: list[int], rest: bytes) -> None:
    """And what follows it, in the same read, only spoils the connection."""
    parsed = Answer(Names(), 1 << 20)
    marks = sorted({0, *(cut for cut in cuts if cut < len(answer)), len(answer)})
    pieces = [answer[start:end] for start, end in itertools.pairwise(marks)]
    pieces[-1] += rest
    for piece in pieces:
        assert not parsed.complete
        parsed.feed(piece)
    assert parsed.complete
    assert parsed.body() == b"hello"
    assert "x" not in parsed.headers
    assert parsed.reusable is not bool(rest)


@settings(max_examples=200)
@given(data=st.binary(max_size=200), prefix=st.sampled_from([b"", *(each[:40] for each in ANSWERS)]))
def test_garbage_is_refused_or_waited_for(data: bytes, prefix: bytes) -> None:
    """Nothing but Unusable is ever raised."""
    parsed = Answer(Names(), 1 << 20)
    with suppress(Unusable):
        parsed.feed(prefix + data)
        if parsed.complete:
            parsed.body()


def test_one_parser_serves_many_answers() -> None:
    """Nothing of one shows in the next, trailers neither."""
    parsed = Answer(Names(), 1 << 20)
    for _ in range(2):
        for answer in ANSWERS:
            parsed.begin(False)
            parsed.feed(answer)
            assert (parsed.status, parsed.complete, parsed.reusable) == (200, True, True)
            assert parsed.body() == b"hello"
    assert set(parsed.headers) == {"transfer-encoding"}


def test_small_pieces_are_put_together() -> None:
    """A body in chunks of one byte does not become a list of as many."""
    parsed = Answer(Names(), 1 << 20)
    parsed.feed(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
    for _ in range(1000):
        parsed.feed(b"1\r\na\r\n" * 3)
        assert len(parsed.pieces) <= 131
    parsed.feed(b"0\r\n\r\n")
    assert parsed.body() == b"a" * 3000


def test_names_are_remembered_within_bounds() -> None:
    """An upstream that invents names fills no memory."""
    names = Names()
    for number in range(5000):
        assert names.lower(b"X-%d" % number) == f"x-{number}"
    assert len(names.known) == 1024


# Names to addresses.


class Lookups:
    """Stands in for the system's resolver: what it answers, and what it was asked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[str] = []
        self.answer: list[str] | socket.gaierror = ["192.0.2.1"]
        self.go = asyncio.Event()
        self.go.set()
        self.at_once = 0
        self.now = 1000.0
        loop = asyncio.get_running_loop()
        monkeypatch.setattr(loop, "getaddrinfo", self._getaddrinfo)
        monkeypatch.setattr(loop, "time", lambda: self.now)

    async def _getaddrinfo(self, host: str, port: int, **_: Any) -> list[Any]:
        self.asked.append(host)
        self.at_once += 1
        try:
            await self.go.wait()
        finally:
            self.at_once -= 1
        if isinstance(self.answer, socket.gaierror):
            raise self.answer
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, port)) for each in self.answer]


@pytest.fixture
async def lookups(monkeypatch: pytest.MonkeyPatch) -> Lookups:
    """Watch what the loop is asked."""
    return Lookups(monkeypatch)


async def test_a_name_is_looked_up_once_in_its_time(lookups: Lookups) -> None:
    """For all who ask at once, and again when the time is over: a name that moves is followed."""
    resolver = Resolver(ttl=30.0)
    both = await asyncio.gather(resolver.addresses("a.example", 80), resolver.addresses("a.example", 80))
    assert both[0] == both[1]
    assert both[0][0].target == ("192.0.2.1", 80)
    lookups.answer = ["192.0.2.2", "192.0.2.3", "192.0.2.2"]
    lookups.now += 29.0
    assert len(await resolver.addresses("a.example", 80)) == 1
    assert lookups.asked == ["a.example"]
    lookups.now += 2.0
    assert [each.target[0] for each in await resolver.addresses("a.example", 80)] == [
        "192.0.2.2",
        "192.0.2.3",
    ]
    await resolver.aclose()


async def test_a_failure_is_remembered_for_a_moment(lookups: Lookups) -> None:
    """A name that is not there is not asked for by every call."""
    resolver = Resolver(negative_ttl=1.0)
    lookups.answer = socket.gaierror(socket.EAI_NONAME, "not known")
    for _ in range(3):
        with pytest.raises(socket.gaierror, match="not known"):
            await resolver.addresses("a.example", 80)
    assert len(lookups.asked) == 1
    lookups.now += 1.5
    lookups.answer = ["192.0.2.1"]
    assert len(await resolver.addresses("a.example", 80)) == 1


async def test_old_addresses_serve_while_the_resolver_is_ill(lookups: Lookups) -> None:
    """But not when it says that the name is gone, nor for ever."""
    resolver = Resolver(ttl=30.0)
    await resolver.addresses("a.example", 80)
    lookups.answer = socket.gaierror(socket.EAI_AGAIN, "try again")
    lookups.now += 60.0
    assert len(await resolver.addresses("a.example", 80)) == 1
    lookups.now += 700.0
    with pytest.raises(socket.gaierror, match="try again"):
        await resolver.addresses("a.example", 80)
    lookups.now += 2.0
    lookups.answer = ["192.0.2.1"]
    await resolver.addresses("a.example", 80)
    lookups.now += 60.0
    lookups.answer = socket.gaierror(socket.EAI_NONAME, "not known")
    with pytest.raises(socket.gaierror, match="not known"):
        await resolver.addresses("a.example", 80)


async def test_few_names_are_looked_up_at_once(lookups: Lookups) -> None:
    """A resolver that hangs holds a few threads, not all; who is cancelled spoils nothing for others."""
    resolver = Resolver()
    lookups.go.clear()
    tasks = [asyncio.create_task(resolver.addresses(f"{number % 10}.example", 80)) for number in range(20)]
    for _ in range(5):
        await asyncio.sleep(0)
    assert lookups.at_once == 3
    tasks[0].cancel()
    await asyncio.gather(tasks[0], return_exceptions=True)
    lookups.go.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [isinstance(each, tuple) for each in results] == [False] + [True] * 19
    assert len(lookups.asked) == 10


async def test_addresses_that_fail_are_asked_for_again_soon(lookups: Lookups) -> None:
    """A name that has moved is followed before its time is over, but not at every failure."""
    resolver = Resolver(ttl=30.0, negative_ttl=1.0)
    await resolver.addresses("a.example", 80)
    resolver.doubt("a.example", 80)
    resolver.doubt("b.example", 80)
    await resolver.addresses("a.example", 80)
    assert len(lookups.asked) == 1
    lookups.now += 2.0
    await resolver.addresses("a.example", 80)
    assert len(lookups.asked) == 2


async def test_closing_ends_lookups(lookups: Lookups) -> None:
    """Who waits for one is told."""
    resolver = Resolver()
    lookups.go.clear()
    task = asyncio.create_task(resolver.addresses("a.example", 80))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    await resolver.aclose()
    assert isinstance((await asyncio.gather(task, return_exceptions=True))[0], asyncio.CancelledError)


@pytest.mark.parametrize(
    ("host", "family"), [("127.0.0.1", socket.AF_INET), ("::1", socket.AF_INET6)], ids=["v4", "v6"]
)
async def test_an_address_needs_no_lookup(lookups: Lookups, host: str, family: int) -> None:
    """It is one already."""
    (address,) = await Resolver().addresses(host, 80)
    assert (address.family, address.target[:2]) == (family, (host, 80))
    assert lookups.asked == []


async def test_an_empty_answer_is_none() -> None:
    """No address is a failure to resolve."""
    resolver = Resolver()
    loop = asyncio.get_running_loop()

    async def nothing(*_: Any, **__: Any) -> list[Any]:
        return []

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "getaddrinfo", nothing)
        with pytest.raises(socket.gaierror):
            await resolver.addresses("a.example", 80)
