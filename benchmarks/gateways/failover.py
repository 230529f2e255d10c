"""Calls through a gateway while the upstreams behind it are killed, stopped and started again.

Upstreams are processes of their own, each of which says in the id of its answers which one it is. Callers go
on asking, each on a connection of its own, whole answers and streams in turn, and every call is kept.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, Literal, Self

from benchmarks.gateways.programs import request_body
from benchmarks.load import ROOT, free_port

__all__ = ["Callers", "Made", "Upstreams", "share_back_at"]

Verdict = Literal["ok", "interrupted", "failed"]

_ID: Final = re.compile(rb'"id": ?"chatcmpl-([0-9])"')
_LONGEST: Final = 90.0


class Upstreams:
    """``count`` upstreams on ports of their own, that they keep when they are started again."""

    def __init__(
        self, count: int, *, delay: float = 0.02, events: int = 10, pace: float = 0.01,
        core: int | None = None,
    ) -> None:  # fmt: skip
        self.ports = [free_port() for _ in range(count)]
        self._env = {"DELAY": str(delay), "EVENTS": str(events), "PACE": str(pace)}
        self._prefix = [] if core is None else ["taskset", "-c", str(core)]
        self._processes: dict[int, subprocess.Popen[bytes]] = {}

    @property
    def numbers(self) -> range:
        """Their numbers, from 1."""
        return range(1, len(self.ports) + 1)

    async def __aenter__(self) -> Self:
        await self.start(*self.numbers)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:  # fmt: skip
        self.kill(*list(self._processes))

    async def start(self, *numbers: int) -> None:
        """Start these and wait until they listen."""
        for number in numbers:
            self._spawn(number)
        async with asyncio.timeout(30):
            for number in numbers:
                await self._listens(self.ports[number - 1])

    def kill(self, *numbers: int) -> None:
        """Kill these as ``kill -9`` does."""
        for number in numbers:
            self._processes[number].kill()
        for number in numbers:
            self._processes.pop(number).wait()

    def pause(self, number: int) -> None:
        """Let one hang: its port takes connections, and nothing answers."""
        self._processes[number].send_signal(signal.SIGSTOP)

    def resume(self, number: int) -> None:
        """Let it go on."""
        self._processes[number].send_signal(signal.SIGCONT)

    def _spawn(self, number: int) -> None:
        command = [sys.executable, "-m", "benchmarks.gateways.upstream", str(self.ports[number - 1])]
        self._processes[number] = subprocess.Popen(
            [*self._prefix, *command], cwd=ROOT, env={**os.environ, **self._env, "NAME": str(number)},
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip

    async def _listens(self, port: int) -> None:
        while True:
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.close()
                return
            await asyncio.sleep(0.02)


@dataclass(frozen=True, slots=True)
class Made:
    """One call that was made."""

    began: float
    ended: float
    """Both in seconds of the loop's clock."""
    stream: bool
    verdict: Verdict
    """interrupted: a stream whose content had begun."""
    by: int
    """Number of the upstream that answered; 0: nobody."""
    detail: str = ""


@dataclass(slots=True)
class Callers:
    """``count`` callers that go on until told to stop."""

    port: int
    model: str
    headers: Mapping[str, str] = field(default_factory=dict)
    count: int = 64
    pause: float = 0.05
    """Seconds between two calls of one caller."""
    made: list[Made] = field(default_factory=list)
    _going: bool = True
    _requests: Sequence[bytes] = ()

    @contextlib.asynccontextmanager
    async def calling(self) -> AsyncIterator[Self]:
        """Make calls until the block ends; those under way are waited for."""
        self._requests = [self._request(stream) for stream in (False, True)]
        self._going = True
        tasks = [asyncio.create_task(self._caller(number)) for number in range(self.count)]
        try:
            yield self
        finally:
            self._going = False
            await asyncio.gather(*tasks)

    async def until(self, holds: Callable[[], bool], *, timeout: float) -> float:
        """Wait until something holds, and return when that was."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(timeout):
            while not holds():  # noqa: ASYNC110 - looks at what has come in since
                await asyncio.sleep(0.02)
        return loop.time()

    def served_since(self, at: float) -> set[int]:
        """Return the numbers of the upstreams that have answered calls which began after a moment."""
        return {each.by for each in reversed(self.made) if each.began >= at and each.verdict == "ok"}

    def of(self, verdict: Verdict, since: float = 0.0) -> list[Made]:
        """Return the calls of one verdict."""
        return [each for each in self.made if each.verdict == verdict and each.ended >= since]

    def _request(self, stream: bool) -> bytes:
        body = request_body(self.model, stream).encode()
        head = {
            "host": f"127.0.0.1:{self.port}", "content-type": "application/json",
            "content-length": str(len(body)), **self.headers,
        }  # fmt: skip
        lines = "".join(f"{name}: {value}\r\n" for name, value in head.items())
        return f"POST /v1/chat/completions HTTP/1.1\r\n{lines}\r\n".encode() + body

    async def _caller(self, number: int) -> None:
        await asyncio.sleep(self.pause * number / self.count)
        loop = asyncio.get_running_loop()
        link: _Link | None = None
        turn = number
        while self._going:
            turn += 1
            began = loop.time()
            stream = turn % 2 == 0
            try:
                async with asyncio.timeout(_LONGEST):
                    link = link or await _Link.open(self.port)
                    status, body = await link.ask(self._requests[stream])
            except (OSError, EOFError, ValueError) as error:
                status, body = 0, repr(error).encode()
            if status != 200 and link is not None:
                link.close()
                link = None
            self.made.append(_judged(began, loop.time(), stream, status, body))
            await asyncio.sleep(self.pause)
        if link is not None:
            link.close()


def _judged(began: float, ended: float, stream: bool, status: int, body: bytes) -> Made:
    found = _ID.search(body)
    by = int(found[1]) if found else 0
    complete = b"[DONE]" in body if stream else b'"choices"' in body
    # one that broke off is told from one that never began by its content
    verdict: Verdict = "failed"
    if status == 200 and complete and b'"error"' not in body:
        verdict = "ok"
    elif status == 200 and stream and b'"content"' in body:
        verdict = "interrupted"
    return Made(began, ended, stream, verdict, by, "" if verdict == "ok" else f"{status} {body[-300:]!r}")


class _Link:
    """One connection to the gateway."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, port: int) -> _Link:
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    async def ask(self, request: bytes) -> tuple[int, bytes]:
        self._writer.write(request)
        head = (await self._reader.readuntil(b"\r\n\r\n")).lower()
        status = int(head.split(b" ", 2)[1])
        length = re.search(rb"\r\ncontent-length: *(\d+)", head)
        if length is not None:
            return status, await self._reader.readexactly(int(length[1]))
        body = b""
        while True:
            size = int(await self._reader.readuntil(b"\r\n"), 16)
            body += (await self._reader.readexactly(size + 2))[:-2]
            if not size:
                return status, body

    def close(self) -> None:
        self._writer.close()


def share_back_at(made: Iterable[Made], numbers: Sequence[int], count: int, since: float) -> float | None:
    """Return when each of these upstreams had half of a fair share again over a second; None: never."""
    good = sorted(
        (each for each in made if each.verdict == "ok" and each.ended >= since), key=lambda each: each.ended
    )
    first = 0
    for last, each in enumerate(good):
        while good[first].ended < each.ended - 1.0:
            first += 1
        window = good[first : last + 1]
        if each.ended - since < 1.0 and len(window) < 4 * count:
            continue
        fair = len(window) / count
        if all(sum(one.by == number for one in window) >= 0.5 * fair for number in numbers):
            return each.ended
    return None
