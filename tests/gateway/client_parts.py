"""What the tests of the clients share: a transport that keeps what it is given, and short makers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from router_core.gateway.call import Call
from router_core.gateway.clients.factory import make_client
from router_core.gateway.clients.http import HttpClient
from router_core.gateway.json import read_fields
from router_core.gateway.reply import Reply
from router_core.gateway.transport.protocol import Origin
from router_core.gateway.values import Deployment, Secret, Timeouts

KEY = "sk-canary-0123456789abcdefghij"


class Sent:
    """One request as it left a client."""

    def __init__(self, origin: Origin, head: bytes, body: bytes, stream: bool) -> None:
        self.origin = origin
        self.head = head
        self.body = body
        self.stream = stream
        lines = head.decode("ascii").split("\r\n")
        assert lines[-2:] == ["", ""], "a head ends with an empty line"
        self.method, self.path, version = lines[0].split(" ")
        assert version == "HTTP/1.1"
        pairs = [line.split(": ", 1) for line in lines[1:-2]]
        self.headers = dict(pairs)
        assert len(self.headers) == len(pairs), "no header twice"
        if self.method == "POST":
            assert int(self.headers["content-length"]) == len(body)

    def json(self) -> Any:
        """Return the body."""
        return json.loads(self.body)


class Recorder:
    """A transport that answers out of a list, the last for ever, and keeps what was sent."""

    def __init__(self, *replies: Reply) -> None:
        self.replies = list(replies or (answer({"ok": True}),))
        self.sent: list[Sent] = []

    async def send(
        self, origin: Origin, head: bytes, body: bytes, *, timeouts: Timeouts, deadline: float,
        stream: bool = False,
    ) -> Reply:  # fmt: skip
        """Keep the request, return the next answer."""
        self.sent.append(Sent(origin, head, body, stream))
        return self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]

    async def aclose(self) -> None:
        """Close nothing."""

    @property
    def last(self) -> Sent:
        """The latest request."""
        return self.sent[-1]


def answer(body: Any, status: int = 200, content_type: str = "application/json", **headers: str) -> Reply:
    """Return an answer; a body that is neither text nor bytes becomes JSON."""
    if isinstance(body, str):
        body = body.encode()
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Reply(status, {"content-type": content_type, "content-length": str(len(data)), **headers}, data)


def deployed(kind: str = "openai", url: str = "http://upstream.test:8000/v1", **more: Any) -> Deployment:
    """Return a deployment of a type."""
    more.setdefault("model", "upstream-model")
    more.setdefault("key", Secret(KEY))
    return Deployment(id="d1", model_id="turbo", type=kind, base_url=url, **more)


def client_of(transport: Recorder, kind: str = "openai", url: str = "http://upstream.test:8000/v1",
              **more: Any) -> HttpClient:  # fmt: skip
    """Return the client of a deployment, made as the gateway makes it."""
    client = make_client(deployed(kind, url, **more), transport)
    assert isinstance(client, HttpClient)
    return client


def called(
    endpoint: str = "chat/completions", body: Mapping[str, Any] | bytes | None = None, *,
    stream: bool = False, headers: Mapping[str, str] | None = None,
) -> Call:  # fmt: skip
    """Return a call of the model ``turbo`` with a JSON body."""
    if body is None:
        body = {"model": "turbo", "messages": [{"role": "user", "content": "hi"}]}
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    call = Call(endpoint, "turbo", body=data, fields=read_fields(data), request_id="r1", stream=stream)
    call.headers = headers or {}
    return call


def error_of(reply: Reply) -> dict[str, Any]:
    """Return the error of an answer, which has to be of OpenAI's shape."""
    assert reply.body is not None
    data = json.loads(reply.body)
    assert set(data) == {"error"}
    error: dict[str, Any] = data["error"]
    assert {"message", "type", "param", "code"} <= set(error)
    return error
