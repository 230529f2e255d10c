"""The gateway behind every door, held to its contract."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from typing import Any, ClassVar, Final

import pytest
import uvicorn
from fastapi import FastAPI

from handlers.aws.function import LambdaApp
from handlers.aws.runtime import serve
from handlers.aws.runtime_api import RuntimeApi as ApiClient
from handlers.local.asgi import AsgiApp
from handlers.local.protocol_h11 import StrictH11Protocol
from handlers.local.server import ServeOptions
from handlers.runpod.worker import Worker
from router_core.client.portal import Portal
from router_core.http.sse import SseParser
from router_core.testing.client import TestClient
from router_core.testing.gateway_contract import (
    LEAVING,
    PIECES,
    READER,
    Answer,
    Case,
    Door,
    GatewayContract,
    Site,
    contract_site,
    plain,
    until,
)
from router_core.testing.lambda_runtime_api import RuntimeApi
from tests.aws.lambda_events import SHAPES
from tests.contract.gateway_doors import ClientDoor, EventDoor, JobDoor, SocketDoor, StreamingDoor, running
from tests.local.tiny_app import served

_WHOLE: Final = "this front door takes whole answers: a stream comes as one, and nobody learns who has left"


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    """What stands behind all of the gateways."""
    with contract_site() as found:
        yield found


class TestDirect(GatewayContract):
    """The local server, below ASGI."""

    @pytest.fixture(scope="class")
    @classmethod
    def door(cls, site: Site) -> Iterator[Door]:
        """Serve."""
        app, gateway = site.app(log_level="error")
        with served(app) as port:
            yield SocketDoor(gateway, port)


class TestAsgi(GatewayContract):
    """The local server with its direct door shut."""

    @pytest.fixture(scope="class")
    @classmethod
    def door(cls, site: Site) -> Iterator[Door]:
        """Serve."""
        app, gateway = site.app(log_level="error")
        with served(app, options=ServeOptions(direct=False)) as port:
            yield SocketDoor(gateway, port)


class TestH11(GatewayContract):
    """The local server without httptools."""

    @pytest.fixture(scope="class")
    @classmethod
    def door(cls, site: Site) -> Iterator[Door]:
        """Serve."""
        app, gateway = site.app(log_level="error")
        with served(app, options=ServeOptions(direct=False), protocol=StrictH11Protocol) as port:
            yield SocketDoor(gateway, port)


class TestFastApi(GatewayContract):
    """Mounted in somebody else's application, under somebody else's server."""

    @pytest.fixture(scope="class")
    @classmethod
    def door(cls, site: Site) -> Iterator[Door]:
        """Serve."""
        app, gateway = site.app()
        inner = AsgiApp(app)
        api = FastAPI(lifespan=inner.lifespan)
        api.mount("/ai", inner)
        server = uvicorn.Server(uvicorn.Config(api, log_config=None))
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            thread = running(lambda: server.run([sock]))
            until(lambda: server.started)
            yield SocketDoor(gateway, sock.getsockname()[1], "/ai")
            server.should_exit = True
            thread.join(60)


class TestTestClient(GatewayContract):
    """In process."""

    skip: ClassVar = {
        LEAVING: "a call in process has nobody who could leave; closing a stream is tested",
        "huge body": "what a body may have is for a server to see to",
    }

    @pytest.fixture(scope="class")
    @classmethod
    def door(cls, site: Site) -> Iterator[Door]:
        """Start."""
        app, gateway = site.app()
        with TestClient(app) as client:
            yield ClientDoor(gateway, client)


class TestLambda(GatewayContract):
    """A function that is frozen between its calls."""

    skip: ClassVar = {PIECES: _WHOLE, READER: _WHOLE, LEAVING: _WHOLE}

    @pytest.fixture(scope="class", params=list(SHAPES))
    @classmethod
    def door(cls, site: Site, request: pytest.FixtureRequest) -> Iterator[Door]:
        """Start without anything beside the calls."""
        app, gateway = site.app(provider="lambda")
        function = LambdaApp(app)
        function.start()
        yield EventDoor(gateway, function, request.param)
        function.stop()


class TestLambdaStreaming(GatewayContract):
    """A function behind a URL, in our own runtime."""

    skip: ClassVar = {LEAVING: "Lambda tells a function that its reader has gone when it writes, not before"}

    @pytest.fixture(scope="class")
    @classmethod
    def door(cls, site: Site) -> Iterator[Door]:
        """Run the runtime beside a stand-in for what surrounds it."""
        app, gateway = site.app(provider="lambda")
        function = LambdaApp(app)
        function.start()
        with RuntimeApi() as api:
            thread = running(lambda: _runtime(function, api.address))
            yield StreamingDoor(gateway, api)
        thread.join(60)
        function.stop()


def _runtime(function: LambdaApp, address: str) -> None:
    try:
        function.loop.start(serve(function, ApiClient(address)))
    except (ConnectionError, EOFError):
        return


_NO_WIRE: Final = "the input is JSON that the platform has parsed: there are no bytes to be wrong"
_NO_HEADERS: Final = "a job has no headers"
_NO_PATHS: Final = "a job names its route in the input: a wrong name is a wrong value"
_OWN: Final = ("instance", "request_id", "requestId")
_NO_KEYS: Final = "RunPod itself asks for a key, and knows no scopes"


class TestRunPod(GatewayContract):
    """A worker, whose jobs name a path."""

    skip: ClassVar = {
        "no json": _NO_WIRE, "a list": _NO_WIRE, "not utf-8": _NO_WIRE, "not called json": _NO_WIRE,
        "empty body": _NO_WIRE,
        "huge body": "RunPod itself limits what a job may hold",
        "transcription": "an upload is a form, and an input is JSON",
        "narrowed by headers": _NO_HEADERS, "left to the rules": _NO_HEADERS,
        "header without sense": _NO_HEADERS, "nobody fits": _NO_HEADERS, "unknown path": _NO_PATHS,
        "wrong method": _NO_PATHS, "wrong method for models": _NO_PATHS, "head": _NO_PATHS,
        "options": _NO_PATHS, "no key": _NO_KEYS, "wrong key": _NO_KEYS, "no key for the list": _NO_KEYS,
        "wake without the scope": _NO_KEYS, "wake of all without the scope": _NO_KEYS,
        "sleep without the scope": _NO_KEYS,
    }  # fmt: skip

    @pytest.fixture(scope="class")
    @classmethod
    def door(cls, site: Site) -> Iterator[Door]:
        """Start a worker."""
        app, gateway = site.app(queue="runpod", provider="runpod")
        portal = Portal()
        worker = Worker(app)
        portal.run(worker.start())
        yield JobDoor(gateway, worker, portal)
        portal.run(worker.stop())
        portal.close()

    def check_equal(self, case: Case, got: Answer, expected: Answer) -> None:
        """Compare values: of a stream, those of its events."""
        if expected.all("content-type")[0].startswith("text/event-stream"):
            events = SseParser().feed(expected.body)
            wanted: Any = [json.loads(event.data) for event in events if event.data != "[DONE]"]
        else:
            wanted = json.loads(expected.body)
        value = json.loads(got.body)
        if "response" in value and "response" not in wanted:
            value = value["response"]  # of an upstream that refused the request
        assert _shape(value) == _shape(wanted)


def _shape(value: Any) -> Any:
    """Leave out ids, nulls, addresses that a job does not have, and where in a request a value stood."""
    value = json.loads(plain(json.dumps(value, separators=(",", ":")).encode()))
    if isinstance(value, dict):
        for error in value.get("errors", ()):
            error["loc"][:1] = ["input"]
        return _filled({key: each for key, each in value.items() if key not in _OWN})
    return value


def _filled(value: Any) -> Any:
    """Leave out what is null, as the worker does in errors."""
    if isinstance(value, dict):
        return {key: _filled(each) for key, each in value.items() if each is not None}
    return [_filled(each) for each in value] if isinstance(value, list) else value
