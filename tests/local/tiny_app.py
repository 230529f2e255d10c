"""A small app on the real stack, and a real server around it on a port of its own."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from handlers.local.asgi import Application, AsgiApp
from handlers.local.known_head import KnownHead
from handlers.local.limits import Limits
from handlers.local.server import LocalServer, ServeOptions, make_config
from router_core.errors import MethodNotAllowed, NotFound
from router_core.http.message import Request, Response
from router_core.http.taskless import TASKLESS
from router_core.middleware.exchange import Authenticator
from router_core.middleware.stack import Stack, build_stack
from router_core.settings import Settings
from router_core.telemetry.events import Events

if TYPE_CHECKING:
    import pytest  # which the processes that serve this app do without

Handler = Callable[[Request], Awaitable[Response]]


async def echo(request: Request) -> Response:
    """Answer with what came."""
    return Response.json(
        {
            "method": request.method,
            "path": request.path,
            "query": request.query,
            "size": len(request.body),
            "body": request.body[:200].decode("latin-1"),
            "headers": list(request.headers.items_list()),
            "principal": request.principal.id,
            "id": request.id,
        }
    )


class Table:
    """Exact paths only."""

    def __init__(self, handlers: Mapping[tuple[str, str], Handler], **route: Any) -> None:
        self.routes = {
            key: SimpleNamespace(
                key=key[1],
                func=func,
                public=False,
                scopes=(),
                kind="call",
                max_body_bytes=None,
                realm="",
                meta={},
                **route,
            )
            for key, func in handlers.items()
        }

    def match(self, method: str, path: str) -> Any:
        """Return the match."""
        found = self.routes.get(("GET" if method == "HEAD" else method, path))
        if found is not None:
            return SimpleNamespace(route=found, path_params={})
        allowed = sorted(verb for verb, known in self.routes if known == path)
        if allowed:
            raise MethodNotAllowed(headers={"Allow": ", ".join(allowed)})
        raise NotFound()


class TinyApp:
    """Has the shape of ``router_core.app.App``."""

    def __init__(
        self,
        handlers: Mapping[tuple[str, str], Handler] | None = None,
        authenticator: Authenticator | None = None,
        taskless: Collection[str] = (),
        **settings: Any,
    ) -> None:
        """``taskless`` are paths whose answers may be begun without a task."""
        self.settings = replace(Settings(port=0, log_level="error", drain_grace=2.0), **settings)
        self.events = Events()
        self.seen: list[object] = []
        self.events.subscribe(self.seen.append)
        self.life: list[str] = []
        self.table = Table(handlers or {("GET", "/echo"): echo, ("POST", "/echo"): echo})
        self.stack: Stack = build_stack(
            settings=self.settings, table=self.table, dispatch=self._dispatch, events=self.events,
            authenticator=authenticator,
        )  # fmt: skip
        self.admit = self.stack.admit
        self.admission, self.admitted = self.stack.admission, self.stack.admitted
        self.routes = [SimpleNamespace(path=path, meta={TASKLESS: True}) for path in taskless]

    async def _dispatch(self, request: Request, route: Any) -> Response:
        answer: Response = await route.func(request)
        return answer

    async def handle(self, request: Request) -> Response:
        """Answer."""
        return await self.stack.handle(request)

    async def start(self) -> None:
        """Note it."""
        self.life.append("start")

    async def drain(self, grace: float) -> None:
        """Note it."""
        self.life.append("drain")

    async def stop(self, grace: float | None = None) -> None:
        """Note it."""
        self.life.append("stop")


class Chunks:
    """A stream that says whether it was closed."""

    def __init__(self, chunks: AsyncIterator[bytes]) -> None:
        self._chunks = chunks
        self.closed = threading.Event()

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        return await self._chunks.__anext__()

    async def aclose(self) -> None:
        """Close."""
        await self._chunks.aclose()  # type: ignore[attr-defined]
        self.closed.set()


@contextmanager
def served(
    app: Application,
    *,
    limits: Limits | None = None,
    protocol: Any = None,
    options: ServeOptions | None = None,
    loop: Callable[[], asyncio.AbstractEventLoop] | None = None,
    keep_alive: float | None = None,
    on_server: Callable[[LocalServer], None] | None = None,
) -> Iterator[int]:
    """Serve the app in a thread; yields the port."""
    config = make_config(AsgiApp(app), app, options or ServeOptions())
    if limits is not None:
        config.limits = limits
    if protocol is not None:
        config.http_protocol_class = protocol
    if keep_alive is not None:
        config.timeout_keep_alive = keep_alive  # type: ignore[assignment]
    server = LocalServer(config, app, lambda _signal: None)
    if on_server is not None:
        on_server(server)
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("127.0.0.1", 0))
    ready = threading.Event()

    async def main() -> None:
        task = asyncio.create_task(server.serve([sock]))
        while not server.started and not task.done():  # noqa: ASYNC110 - uvicorn has no event for it
            await asyncio.sleep(0.005)
        ready.set()
        await task

    def run() -> None:
        with asyncio.Runner(loop_factory=loop) as runner:
            runner.run(main())

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    assert ready.wait(60)
    try:
        yield sock.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(60)
        sock.close()
        assert not thread.is_alive()


def talk(port: int, *pieces: bytes, timeout: float = 60.0, until_close: bool = True) -> bytes:
    """Send bytes over one connection and return everything that comes back until the server closes it."""
    with socket.create_connection(("127.0.0.1", port), timeout=timeout) as sock:
        for piece in pieces:
            sock.sendall(piece)
        return drain(sock) if until_close else one_answer(sock)


def one_answer(sock: socket.socket) -> bytes:
    """Read one answer that has a length; the connection stays open."""
    received = b""
    while b"\r\n\r\n" not in received:
        received += _more(sock)
    head, _, body = received.partition(b"\r\n\r\n")
    length = next(
        int(line.split(b":")[1])
        for line in head.split(b"\r\n")
        if line.lower().startswith(b"content-length:")
    )
    while len(body) < length:
        body += _more(sock)
    return head + b"\r\n\r\n" + body


def _more(sock: socket.socket) -> bytes:
    chunk = sock.recv(65536)
    if not chunk:
        raise EOFError("closed in the middle of an answer")
    return chunk


def drain(sock: socket.socket) -> bytes:
    """Read until the peer closes."""
    received = b""
    try:
        while chunk := sock.recv(65536):
            received += chunk
    except ConnectionResetError:
        received += b"<reset>"
    return received


def watched_heads(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Note for each request that is compared whether its head was known."""
    found: list[bool] = []
    read = KnownHead.read

    def watched(self: KnownHead, data: bytes, protocol: object) -> object:
        cycle = read(self, data, protocol)  # type: ignore[arg-type]
        found.append(cycle is not None)
        return cycle

    monkeypatch.setattr(KnownHead, "read", watched)
    return found
