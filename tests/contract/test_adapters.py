"""Our own adapters pass the suite that a stranger's adapter can run."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import threading
from collections.abc import AsyncIterator, Iterator

import pytest

from handlers.local.asgi import AsgiApp
from handlers.local.server import LocalServer, ServeOptions, make_config
from router_core.testing.adapter_contract import AdapterContract, Answer, Call, Send, contract_app


class TestAsgi(AdapterContract):
    """The ASGI app, called in process."""

    @pytest.fixture
    async def call(self) -> AsyncIterator[Send]:
        """Go through scope, receive and send."""
        app = contract_app()
        asgi = AsgiApp(app)
        await app.start()

        async def through(call: Call) -> Answer:
            return await _asgi(asgi, call)

        yield through
        await app.stop(1)


async def _asgi(asgi: AsgiApp, call: Call) -> Answer:
    from urllib.parse import unquote

    headers = [(b"host", b"localhost"), *((k.encode(), v.encode("latin-1")) for k, v in call.headers)]
    if call.body or call.method == "POST":
        headers.append((b"content-length", str(len(call.body)).encode()))
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": call.method,
        "path": unquote(call.path, errors="replace"), "raw_path": call.path.encode(), "root_path": "",
        "query_string": call.query.encode(), "headers": headers, "client": ("127.0.0.1", 1), "scheme": "http",
        "server": ("127.0.0.1", 80),
    }  # fmt: skip
    sent: list[dict[str, object]] = []
    given = False

    async def receive() -> dict[str, object]:
        nonlocal given
        if given:
            await asyncio.Event().wait()
        given = True
        return {"type": "http.request", "body": call.body, "more_body": False}

    async def send(message: object) -> None:
        assert isinstance(message, dict)
        sent.append(message)

    await asgi(scope, receive, send)
    status, raw = sent[0]["status"], sent[0]["headers"]
    assert isinstance(status, int)
    assert isinstance(raw, list)
    body = b"".join(message.get("body", b"") for message in sent[1:])  # type: ignore[misc]
    return Answer(status, tuple((key.decode(), value.decode("latin-1")) for key, value in raw), body)


@contextlib.contextmanager
def _served(direct: bool) -> Iterator[int]:
    app = contract_app()
    config = make_config(AsgiApp(app), app, ServeOptions(direct=direct))
    config.port = 0
    server = LocalServer(config, app, lambda _signal: None)
    server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            threading.Event().wait(0.01)
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(60)


async def _over_http(port: int, call: Call) -> Answer:
    def ask() -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        target = call.path + (f"?{call.query}" if call.query else "")
        connection.request(call.method, target, call.body or None, dict(call.headers))
        answer = connection.getresponse()
        got = Answer(answer.status, tuple((k.lower(), v) for k, v in answer.getheaders()), answer.read())
        connection.close()
        return got

    return await asyncio.to_thread(ask)


@pytest.fixture(scope="module", params=[True, False], ids=["direct door", "asgi under uvicorn"])
def port(request: pytest.FixtureRequest) -> Iterator[int]:
    """Serve the contract's service for real."""
    with _served(request.param) as number:
        yield number


class TestServed(AdapterContract):
    """The server, over a socket, with its direct door open and shut."""

    @pytest.fixture
    def call(self, port: int) -> Send:
        """Go through a socket."""

        async def through(call: Call) -> Answer:
            return await _over_http(port, call)

        return through
