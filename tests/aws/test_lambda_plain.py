"""The short way in for plain events and the long one lead to the same request and the same answer."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from handlers.aws.function import LambdaApp
from handlers.aws.plain import PlainDoor
from router_core import Router
from router_core.calls import CallService
from router_core.http.message import Request, Response
from router_core.settings import Settings
from router_core.testing.adapter_contract import CASES, Call, contract_app
from tests.aws.lambda_events import Context, http_api, received, round_trip, url

Event = dict[str, Any]
Change = Callable[[Event], Any]

_CALL = Call("POST", "/a/b", "x=1&y=%20", (("content-type", "application/json"),), b'{"a": 1}')
PLAIN: dict[str, Change] = {
    "nothing": lambda event: None,
    "no body": lambda event: event.update(body=None),
    "empty body": lambda event: event.update(body=""),
    "no query": lambda event: event.update(rawQueryString=""),
    "query missing": lambda event: event.pop("rawQueryString"),
    "length stated": lambda event: event["headers"].update({"content-length": "8"}),
    "no address": lambda event: event["requestContext"]["http"].pop("sourceIp"),
    "odd address": lambda event: event["requestContext"]["http"].update(sourceIp=5),
    "no time": lambda event: event["requestContext"].pop("timeEpoch"),
    "body of several bytes a character": lambda event: event.update(body='"é€😀"'),
    "dots": lambda event: event.update(rawPath="/a/../b"),
    "slashes": lambda event: event.update(rawPath="//a"),
    "forged fields": lambda event: event["headers"].update(
        {"x-forwarded-for": "1.2.3.4", "origin": "http://a"}
    ),
}
"""What goes the short way."""
ODD: dict[str, Change] = {
    "request id": lambda event: event["headers"].update({"x-request-id": "mine-1"}),
    "bad request id": lambda event: event["headers"].update({"x-request-id": "no good"}),
    "wish for a job": lambda event: event["headers"].update(prefer="respond-async"),
    "coding": lambda event: event["headers"].update({"content-encoding": "gzip"}),
    "chunked": lambda event: event["headers"].update({"transfer-encoding": "chunked"}),
    "wrong length": lambda event: event["headers"].update({"content-length": "9"}),
    "length without body": lambda event: (
        event["headers"].update({"content-length": "0"}),
        event.pop("body"),
    ),
    "length of letters": lambda event: (event["headers"].update({"content-length": "x"}), event.pop("body")),
    "name in capitals": lambda event: event["headers"].update({"X-Own": "1"}),
    "host in capitals": lambda event: event["headers"].update(Host=event["headers"].pop("host")),
    "no host": lambda event: event["headers"].pop("host"),
    "value beyond ascii": lambda event: event["headers"].update({"x-own": "é"}),
    "value beyond latin": lambda event: event["headers"].update({"x-own": "€"}),
    "name beyond ascii": lambda event: event["headers"].update({"x-é": "1"}),
    "many headers": lambda event: event["headers"].update({f"x-{n}": "1" for n in range(120)}),
    "almost too many": lambda event: event["headers"].update({f"x-{n}": "1" for n in range(97)}),
    "large header": lambda event: event["headers"].update({"x-own": "x" * 40_000}),
    "almost too large": lambda event: event["headers"].update({"x-own": "x" * 32_700}),
    "number as header": lambda event: event["headers"].update({"x-own": 5}),
    "null as header": lambda event: event["headers"].update({"x-own": None}),
    "no headers": lambda event: event.update(headers=None),
    "headers in a list": lambda event: event.update(headers=["host"]),
    "headers as text": lambda event: event.update(headers="host"),
    "lists of headers": lambda event: event.update(multiValueHeaders={"host": ["a"], "x": ["1", "2"]}),
    "cookies": lambda event: event.update(cookies=["a=1", "b=2"]),
    "cookies of another kind": lambda event: event.update(cookies="a=1"),
    "base64": lambda event: event.update(body="eyJhIjogMX0=", isBase64Encoded=True),
    "no base64": lambda event: event.update(body="%", isBase64Encoded=True),
    "half a character": lambda event: event.update(body="\ud800"),
    "body as object": lambda event: event.update(body={"a": 1}),
    "body as false": lambda event: event.update(body=False),
    "body too large": lambda event: event.update(body="x" * 2000),
    "body too large in bytes": lambda event: event.update(body="€" * 500),
    "escaped path": lambda event: event.update(rawPath="/caf%C3%A9"),
    "bad escape": lambda event: event.update(rawPath="/%zz"),
    "path beyond ascii": lambda event: event.update(rawPath="/café"),
    "path with a NUL": lambda event: event.update(rawPath="/a\0b"),
    "path without slash": lambda event: event.update(rawPath="a"),
    "empty path": lambda event: event.update(rawPath=""),
    "path too long": lambda event: event.update(rawPath="/" + "a" * 9000),
    "path as list": lambda event: event.update(rawPath=["/", "a"]),
    "path as number": lambda event: event.update(rawPath=5),
    "no path": lambda event: event.pop("rawPath"),
    "query too long": lambda event: event.update(rawQueryString="a" * 9000),
    "query beyond ascii": lambda event: event.update(rawQueryString="a=é"),
    "query as list": lambda event: event.update(rawQueryString=["a"]),
    "query as false": lambda event: event.update(rawQueryString=False),
    "method in small letters": lambda event: event["requestContext"]["http"].update(method="post"),
    "own method": lambda event: event["requestContext"]["http"].update(method="PURGE"),
    "method as list": lambda event: event["requestContext"]["http"].update(method=["GET"]),
    "no method": lambda event: event["requestContext"]["http"].pop("method"),
    "stage": lambda event: (event["requestContext"].update(stage="v1"), event.update(rawPath="/v1/a")),
    "own domain": lambda event: event["requestContext"].update(domainName="api.example.com"),
    "no domain": lambda event: event["requestContext"].pop("domainName"),
    "domain as number": lambda event: event["requestContext"].update(domainName=5),
    "time of a year that is none": lambda event: event["requestContext"].update(timeEpoch=10**400),
}
"""What has to be looked at more closely, mostly."""


class Mirror(CallService):
    """Keeps what it is asked."""

    def __init__(self) -> None:
        super().__init__(Router(), Settings(max_body_bytes=1000, max_upload_bytes=1000))
        self.seen: Request | None = None

    async def handle(self, request: Request) -> Response:
        """Answer with nothing much."""
        self.seen = request
        return Response.text("ok", headers=[("x-request-id", request.id)])

    async def admit(self, _request: Request) -> int | None:
        """Leave it to the settings."""
        return None


@pytest.fixture
def mirror() -> Iterator[tuple[Mirror, LambdaApp]]:
    """Run a service that only looks."""
    service = Mirror()
    handler = LambdaApp(service)
    yield service, handler
    handler.loop.close()


def _told(request: Request | None) -> Any:
    if request is None:
        return None
    return (
        request.method, request.path, request.query, request.headers.items_list(), dict(request.headers),
        request.body, request.id, request.client, request.scheme, request.principal, request.path_params,
        request.root, request.disconnected, request.max_reply_bytes, round(request.answer_by, 1),
    )  # fmt: skip


@pytest.mark.parametrize("front", [http_api, url])
@pytest.mark.parametrize("name", [*PLAIN, *ODD])
def test_both_ways_read_an_event_alike(
    mirror: tuple[Mirror, LambdaApp],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    front: Callable[[Call], Event],
) -> None:
    """The request that the app gets, or the problem that the caller gets."""
    service, handler = mirror
    service.clock = _Still()
    handler = LambdaApp(service)
    event = front(_CALL)
    (PLAIN.get(name) or ODD[name])(event)
    with monkeypatch.context() as patch:
        patch.setattr(PlainDoor, "read", lambda *_: None)
        reply = handler(copy.deepcopy(event), Context())
    seen, service.seen = service.seen, None
    assert handler(event, Context()) == reply
    assert _told(service.seen) == _told(seen)
    handler.loop.close()


class _Still:
    """A clock that stands."""

    def now(self) -> float:
        """Return always the same."""
        return 1000.0

    def monotonic(self) -> float:
        """Return always the same."""
        return 1000.0

    async def sleep(self, _seconds: float) -> None:
        """Return."""


@pytest.mark.parametrize("front", [http_api, url])
def test_plain_events_go_the_short_way(
    mirror: tuple[Mirror, LambdaApp], monkeypatch: pytest.MonkeyPatch, front: Callable[[Call], Event]
) -> None:
    """Else nothing here would be worth its lines: the long way is closed."""
    service, handler = mirror
    monkeypatch.setattr("handlers.aws.http.HttpCalls._answer", None)
    for name, change in PLAIN.items():
        event = front(_CALL)
        change(event)
        assert handler(event, Context())["body"] == "ok", name
        assert service.seen is not None
        assert service.seen.native["event"] is event


def test_a_header_name_with_a_break_in_it_is_not_taken_for_two(mirror: tuple[Mirror, LambdaApp]) -> None:
    """Known sets of names are known by their names in a row."""
    service, handler = mirror
    event = http_api(_CALL)
    event["headers"] = {"host": "a", "x-own": "1"}
    handler(event, Context())
    event["headers"] = {"host\nx-own": "1"}
    handler(event, Context())
    assert service.seen is not None
    assert service.seen.headers["host"].endswith("amazonaws.com")


def test_headers_read_as_any_others(mirror: tuple[Mirror, LambdaApp]) -> None:
    """By any spelling of the name; they are not those of the event, where something was added."""
    service, handler = mirror
    event = http_api(_CALL)
    handler(event, Context())
    assert service.seen is not None
    headers = service.seen.headers
    assert headers["Content-Type"] == headers.get("CONTENT-TYPE") == "application/json"
    assert "Host" in headers
    assert "x-none" not in headers
    assert "X-None" not in headers
    assert headers.getlist("Content-Length") == ["8"]
    assert headers.get("x-none", "a") == "a"
    assert "content-length" not in event["headers"]


@pytest.mark.parametrize("front", [http_api, url])
def test_the_contract_holds_on_both_ways(
    monkeypatch: pytest.MonkeyPatch, front: Callable[[Call], Event]
) -> None:
    """Every case of the adapters' contract gets the same reply, ids and times aside."""
    handler = LambdaApp(contract_app())
    handler.start(background=True)
    for name, call in CASES.items():
        replies = []
        for way in ("long", "short"):
            with monkeypatch.context() as patch:
                if way == "long":
                    patch.setattr(PlainDoor, "read", lambda *_: None)
                replies.append(received(round_trip(handler(round_trip(front(call)), Context()))))
        long, short = replies
        assert short.status == long.status, name
        assert [key for key, _ in short.headers] == [key for key, _ in long.headers], name
        if "job" not in name and "async" not in name and "health" not in name:
            assert short == long, name
    handler.stop()
