"""Real servers on this machine for what is fetched and posted: honest, broken, hostile and slow ones."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from router_core.security.fetch import GuardedHttp
from router_core.security.url_guard import Target, UrlGuard

__all__ = [
    "OneOrigin", "Server", "Talk", "answer", "client", "drops", "half_a_head", "redirect", "serving",
    "silence", "to_loopback",
]  # fmt: skip

Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Server:
    """A server on loopback, with what it was asked."""

    port: int = 0
    requests: list[bytes] = field(default_factory=list)

    @property
    def url(self) -> str:
        """Return its address."""
        return f"http://127.0.0.1:{self.port}"


@asynccontextmanager
async def serving(
    answer: bytes | Talk, *, host: str = "127.0.0.1", port: int = 0, tls: ssl.SSLContext | None = None
) -> AsyncIterator[Server]:
    """Serve one fixed answer, or whatever a coroutine writes, until the block ends."""
    server = Server()
    tasks: set[asyncio.Task[None]] = set()

    async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            length = 0
            for line in head.split(b"\r\n"):
                if line.lower().startswith(b"content-length:"):
                    length = int(line.split(b":")[1])
            server.requests.append(head + (await reader.readexactly(length) if length else b""))
            if isinstance(answer, bytes):
                writer.write(answer)
                await writer.drain()
            else:
                await answer(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.transport.abort()

    listener = await asyncio.start_server(client, host, port, ssl=tls)
    server.port = listener.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listener.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await listener.wait_closed()


def answer(body: bytes, *headers: str, status: str = "200 OK") -> bytes:
    """Return the bytes of an answer with a length."""
    lines = [f"HTTP/1.1 {status}", *headers, f"Content-Length: {len(body)}", "", ""]
    return "\r\n".join(lines).encode() + body


def redirect(location: str, status: str = "302 Found") -> bytes:
    """Return the bytes of a redirect."""
    return answer(b"", f"Location: {location}", status=status)


def client(**options: object) -> GuardedHttp:
    """Return a client that may connect to loopback, where the servers of these tests are."""
    return GuardedHttp(UrlGuard(allow_private=True), timeout=10, **options)  # type: ignore[arg-type]


async def to_loopback(host: str, port: int) -> Sequence[str]:
    """Resolve every name to this machine."""
    return ["127.0.0.1"]


class OneOrigin(UrlGuard):
    """The strict guard, but for one origin, which stands for a public server."""

    def __init__(self, server: Server) -> None:
        super().__init__(resolve=to_loopback)
        self._port = server.port

    async def check(self, url: str) -> Target:
        """Pass the one origin; hold everything else to the rules."""
        target = UrlGuard(allow_private=True).parse(url)
        if (target.host, target.port) == ("public.example.com", self._port):
            return Target(target.scheme, target.host, target.port, target.path, ("127.0.0.1",))
        return await super().check(url)


async def silence(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await asyncio.Event().wait()


async def half_a_head(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Le")
    await asyncio.Event().wait()


async def drops(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
    while True:
        writer.write(b"x")
        await writer.drain()
        await asyncio.sleep(0.01)
