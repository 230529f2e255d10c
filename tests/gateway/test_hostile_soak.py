"""Minutes of everything at once, and what is left of it; the ends that a process can come to."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import random
import resource
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import pytest

from router_core.gateway.config.load import parse_config
from router_core.testing.upstream import Seen, Upstream, in_thread
from router_core.testing.upstream_faults import (
    Behaviour,
    after,
    cut_chunked,
    cut_in_body,
    error_in_stream,
    garbage_sse,
    hang,
    junk_after,
    reset_before,
    reset_in_stream,
    stall_in_stream,
    status,
)
from router_core.testing.upstream_openai import models, openai_chat, openai_stream
from tests.gateway.serving import House, chat, models_yaml, on_socket
from tests.served import free_port

pytestmark = pytest.mark.soak

SECONDS: Final = float(os.environ.get("GATEWAY_SOAK_SECONDS", "90"))
CALLERS: Final = 24
QUICK: Final = "timeouts: {connect: 1.0, first_byte: 0.4, idle: 0.4, total: 3}"
PIECES: Final = tuple("some words that are streamed".split())
FAULTS: Final = (
    status(500), status(503), status(429, retry_after="0"), status(400), hang(), reset_before(),
    cut_in_body(), junk_after(), cut_chunked(), garbage_sse(), error_in_stream(0), error_in_stream(2),
    reset_in_stream(), stall_in_stream(1),
)  # fmt: skip


def call(body: dict[str, Any], *lines: str) -> bytes:
    """Return the bytes of a request."""
    data = json.dumps(body).encode()
    head = ["POST /v1/chat/completions HTTP/1.1", "host: 127.0.0.1", "content-type: application/json"]
    return "\r\n".join([*head, f"content-length: {len(data)}", *lines, "", ""]).encode() + data


def rss() -> int:
    """Return the bytes of memory that this process uses, after what can be freed was."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


class Chaos:
    """An upstream that mostly works, and callers that mostly behave."""

    def __init__(self) -> None:
        self.random = random.Random(11)
        self.seen: Counter[str] = Counter()
        self.going = True

    def answer(self, seen: Seen) -> Behaviour:
        """Choose what an upstream does."""
        if seen.method != "POST":
            return models()
        if self.random.random() < 0.2:
            return self.random.choice(FAULTS)
        if b'"stream":true' in seen.body.replace(b" ", b""):
            return openai_stream(PIECES, delay=self.random.choice((0, 0, 0.01)))
        return after(self.random.random() * 0.02, openai_chat("hi"))

    async def caller(self, port: int) -> None:
        """Call again and again, now and then without waiting for the end."""
        while self.going:
            with suppress(OSError, asyncio.IncompleteReadError):
                await self.once(port)

    async def once(self, port: int) -> None:
        """Make one call on a connection of its own."""
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        draw = self.random.random()
        stream = draw < 0.5
        data = call(chat(stream=stream, user=f"u{draw}"), "connection: close", f"x-router-session: {draw}")
        try:
            patience = self.random.choice((0.0, 0.005, 0.05, 20, 20, 20, 20, 20))
            if self.random.random() < 0.05:
                data, patience = data[: self.random.randrange(len(data))], 0.05
            writer.write(data)
            with suppress(TimeoutError):
                async with asyncio.timeout(patience):
                    head = await reader.readuntil(b"\r\n\r\n")
                    self.seen[head[9:12].decode()] += 1
                    await reader.read(-1)
        finally:
            writer.transport.abort()

    async def reload(self, made: House, texts: list[str]) -> None:
        """Take another configuration twice a second."""
        number = 0
        loop = made.gateway.transport._loop  # type: ignore[attr-defined]
        while self.going:
            await asyncio.sleep(0.5)
            number += 1
            config = parse_config(texts[number % len(texts)], "gateway.yaml", {})
            loop.call_soon_threadsafe(made.gateway.apply, config)


def test_a_minute_of_chaos_leaves_nothing_behind() -> None:
    """Faults, streams, callers that leave, new configurations: afterwards no call is in flight, no task and
    no connection is left, and memory has stopped to grow."""
    chaos = Chaos()
    first, second = Upstream(chaos.answer), Upstream(chaos.answer)
    with in_thread(first), in_thread(second):
        texts = [
            models_yaml(first.url, second.url, args=QUICK),
            models_yaml(second.url, first.url, args=QUICK),
        ]
        with on_socket(texts[0], probing=True) as (made, url):
            port = int(url.rpartition(":")[2])
            sizes: list[int] = []
            usual: list[int] = []

            async def run() -> None:
                await chaos.once(port)
                while made.gateway.transport._loop is None:  # type: ignore[attr-defined]
                    await chaos.once(port)
                await asyncio.sleep(1)
                usual.append(len(asyncio.all_tasks(made.gateway.transport._loop)))  # type: ignore[attr-defined]
                tasks = [asyncio.create_task(chaos.caller(port)) for _ in range(CALLERS)]
                tasks.append(asyncio.create_task(chaos.reload(made, texts)))
                for _ in range(10):
                    await asyncio.sleep(SECONDS / 10)
                    for upstream in (first, second):
                        upstream.requests.clear()
                    made.seen.clear()
                    sizes.append(rss())
                chaos.going = False
                await asyncio.gather(*tasks)

            asyncio.run(run())
            loop = made.gateway.transport._loop  # type: ignore[attr-defined]
            end = time.monotonic() + 10
            while (made.in_flight() or len(asyncio.all_tasks(loop)) > usual[0]) and time.monotonic() < end:
                time.sleep(0.05)
            print(dict(chaos.seen), [size // 2**20 for size in sizes], len(asyncio.all_tasks(loop)))
            assert made.in_flight() == 0
            assert len(asyncio.all_tasks(loop)) <= usual[0], asyncio.all_tasks(loop)
            stats = made.gateway.transport.stats()  # type: ignore[attr-defined]
            assert sum(each.in_use for each in stats.values()) == 0
            assert len(made.gateway.standings) == 2
            assert chaos.seen["200"] > sum(chaos.seen.values()) * 0.8
            assert sizes[-1] - sizes[4] < 12 * 2**20


@contextmanager
def process(folder: Path, url: str) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """Run the gateway as its users do; yields the process and its port."""
    (folder / "gateway.yaml").write_text(models_yaml(url))
    port = free_port()
    environ = {
        **os.environ, "ROUTER_GATEWAY": str(folder / "gateway.yaml"),
        "ROUTER_GATEWAY_RECORDS": str(folder / "records.jsonl"),
    }  # fmt: skip
    words = ["serve", "router_core.gateway.app:create_app", "--port", str(port)]
    made = subprocess.Popen(
        [sys.executable, "-m", "handlers.cli", *words], env=environ, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        for _ in range(200):
            with suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
            time.sleep(0.05)
        yield made, port
    finally:
        made.kill()
        made.wait(10)


def _streams(port: int) -> list[socket.socket]:
    peers = [socket.create_connection(("127.0.0.1", port), timeout=15) for _ in range(20)]
    for peer in peers:
        peer.sendall(call(chat(stream=True)))
    for peer in peers:
        assert peer.recv(65536).startswith(b"HTTP/1.1 200")
    return peers


def _rest(peer: socket.socket) -> bytes:
    found = b""
    with peer, suppress(ConnectionError):
        while got := peer.recv(65536):
            found += got
    return found


def _slow() -> Upstream:
    pieces = tuple("abcdefghij")
    return Upstream(lambda seen: openai_stream(pieces, delay=0.2) if seen.method == "POST" else models())


def test_streams_end_before_a_process_that_is_told_to_end(tmp_path: Path) -> None:
    """After SIGTERM all of them come to their end, and every call stands in the records."""
    upstream = _slow()
    with in_thread(upstream), process(tmp_path, upstream.url) as (made, port):
        peers = _streams(port)
        made.send_signal(signal.SIGTERM)
        ends = [_rest(peer) for peer in peers]
        assert all(b"data: [DONE]" in end for end in ends)
        assert made.wait(10) == 0
    assert len((tmp_path / "records.jsonl").read_text().splitlines()) == len(peers)


def test_the_upstream_learns_that_a_process_was_killed(tmp_path: Path) -> None:
    """Nothing is left of streams whose process is gone, and no caller takes its part for the whole."""
    upstream = _slow()
    with in_thread(upstream), process(tmp_path, upstream.url) as (made, port):
        peers = _streams(port)
        made.kill()
        ends = [_rest(peer) for peer in peers]
        assert not any(b"[DONE]" in each for each in ends)
        end = time.monotonic() + 5
        while upstream.in_flight and time.monotonic() < end:
            time.sleep(0.01)
        assert upstream.in_flight == 0
        assert upstream.cancelled == len(peers)
