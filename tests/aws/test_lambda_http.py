"""What is particular to HTTP on Lambda: shapes of events, limits of time and size, bad events."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from handlers.aws.function import LambdaApp
from handlers.aws.limits import HTTP_DOOR, REST_DOOR, URL_DOOR, answer_seconds
from router_core import Request, Response, Router, Settings, build_app
from router_core.testing.adapter_contract import Call
from tests.aws.lambda_events import SHAPES, Context, alb, alb_multi, http_api, received, rest_api, url

JSON = (("content-type", "application/json"),)


def _router() -> Router:
    router = Router()

    @router.get("/seen/{rest:path}")
    async def seen(request: Request) -> dict[str, Any]:
        return {
            "path": request.path, "query": request.query_items(), "root": request.root,
            "client": request.client, "scheme": request.scheme, "host": request.headers.get("host"),
            "id": request.id, "native": sorted(request.native), "cookie": request.headers.get("cookie"),
        }  # fmt: skip

    @router.post("/echo")
    async def echo(request: Request) -> Response:
        kind = request.headers.get("content-type", "")
        return Response(200, (("content-type", kind),) if kind else (), request.body)

    @router.get("/large")
    async def large(size: int, text: str = "x") -> Response:
        return Response(200, (("content-type", "text/plain"),), (text * size).encode())

    @router.get("/stream")
    async def stream(size: int = 1, pause: float = 0.0) -> AsyncIterator[str]:
        for _ in range(size):
            await asyncio.sleep(pause)
            yield "x" * 1000

    @router.get("/forged")
    async def forged() -> Response:
        return Response(200, (("x-a", "b\r\nset-cookie: c=1"),), b"x")

    @router.get("/plain")
    def plain() -> int:
        return asyncio.run(_three())  # sync code may have a loop of its own

    @router.route("/job")
    async def job(seconds: float = 0.0) -> str:
        await asyncio.sleep(seconds)
        return "done"

    return router


async def _three() -> int:
    await asyncio.sleep(0)
    return 3


@pytest.fixture(scope="module")
def served() -> Iterator[LambdaApp]:
    """Run a service with its jobs beside the calls."""
    settings = Settings(jobs="memory://", blobs="memory://", provider="lambda", max_body_bytes=1000)
    handler = LambdaApp(build_app(_router(), settings))
    handler.start(background=True)
    yield handler
    handler.stop()


def _seen(served: LambdaApp, event: dict[str, Any]) -> dict[str, Any]:
    reply = served(event, Context())
    assert reply["statusCode"] == 200, reply
    value: dict[str, Any] = json.loads(reply["body"])
    return value


@pytest.mark.parametrize("shape", list(SHAPES))
def test_every_shape_says_the_same_of_a_request(served: LambdaApp, shape: str) -> None:
    """Path, query, caller, scheme, cookies; the request has the id of the invocation."""
    call = Call("GET", "/seen/a%20b", "x=1%2B1&y=%C3%A9&z=", (("cookie", "a=1; b=2"),))
    seen = _seen(served, SHAPES[shape](call))
    assert seen["path"] == "/seen/a b"
    assert sorted(seen["query"]) == [["x", "1+1"], ["y", "é"], ["z", ""]]
    assert (seen["client"], seen["scheme"], seen["cookie"]) == ("192.0.2.7", "https", "a=1; b=2")
    assert seen["id"] == Context().aws_request_id
    assert seen["native"] == ["context", "event"]
    assert seen["host"].endswith((".amazonaws.com", ".on.aws"))


def test_the_path_is_decoded_once(served: LambdaApp) -> None:
    """An HTTP API has decoded it, the others have not: %2541 is %41 in the end."""
    for shape in SHAPES.values():
        assert _seen(served, shape(Call("GET", "/seen/%2541")))["path"] == "/seen/%41"


def test_the_stage_is_no_part_of_the_path(served: LambdaApp) -> None:
    """Nor is the base path of a mapping; both stand before links that go out."""
    event = rest_api(Call("GET", "/seen/a"), stage="/prod")
    assert (_seen(served, event)["path"], _seen(served, event)["root"]) == ("/seen/a", "/prod")
    event = http_api(Call("GET", "/dev/seen/a"))
    event["requestContext"]["stage"] = "dev"
    assert (_seen(served, event)["path"], _seen(served, event)["root"]) == ("/seen/a", "/dev")
    event = rest_api(Call("GET", "/base/seen/a"))
    event["requestContext"]["domainName"] = "api.example.com"
    event["pathParameters"] = {"proxy": "seen/a"}
    assert (_seen(served, event)["path"], _seen(served, event)["root"]) == ("/seen/a", "/base")
    event = {**rest_api(Call("GET", "/dev/seen/a")), "version": "1.0"}  # an HTTP API with the older format
    event["requestContext"]["stage"] = "dev"
    assert (_seen(served, event)["path"], _seen(served, event)["root"]) == ("/seen/a", "/dev")


def test_a_missing_host_is_that_of_the_door(served: LambdaApp) -> None:
    """Where the event has no such header."""
    event = http_api(Call("GET", "/seen/a"))
    del event["headers"]["host"]
    assert _seen(served, event)["host"] == "id.execute-api.us-east-1.amazonaws.com"


@pytest.mark.parametrize("shape", [http_api, rest_api, alb, alb_multi])
def test_what_is_missing_or_null_is_nothing(
    served: LambdaApp, shape: Callable[[Call], dict[str, Any]]
) -> None:
    """A test event of the console has hardly any members."""
    event = shape(Call("GET", "/seen/a"))
    for name in ("headers", "multiValueHeaders", "queryStringParameters", "body", "cookies",
                 "multiValueQueryStringParameters", "rawQueryString", "isBase64Encoded"):  # fmt: skip
        assert served({**event, name: None}, Context())["statusCode"] == 200
        event.pop(name, None)
        assert served(event, Context())["statusCode"] == 200


_WRONG: list[dict[str, Any]] = [
    {"headers": []}, {"headers": {"x": 1}}, {"headers": {"x": ["a"]}}, {"multiValueHeaders": {"x": "a"}},
    {"multiValueHeaders": []}, {"body": 1}, {"body": {}}, {"body": "%%%", "isBase64Encoded": True},
    {"body": "YQ", "isBase64Encoded": True}, {"body": "\ud800"}, {"rawPath": 7, "path": 7},
    {"rawQueryString": 5, "queryStringParameters": 5}, {"queryStringParameters": {"a": 1}},
    {"multiValueQueryStringParameters": {"a": "b"}}, {"cookies": "a=1"}, {"cookies": [1]}, {"httpMethod": 3},
    {"httpMethod": ""}, {"httpMethod": "GET /"}, {"rawPath": "/a%", "path": "/a%"},
    {"headers": {"x": "\ud800"}},
    {"rawPath": "/a\0", "path": "/a%00"}, {"queryStringParameters": {"\ud800": "a"}},
]  # fmt: skip


@pytest.mark.parametrize("shape", list(SHAPES))
@pytest.mark.parametrize("wrong", _WRONG, ids=str)
def test_a_wrong_member_is_a_problem_and_never_a_crash(
    served: LambdaApp, shape: str, wrong: dict[str, Any]
) -> None:
    """400, or as if it were not there where the shape does not read it."""
    event = {**SHAPES[shape](Call("GET", "/seen/a")), **wrong}
    if shape in ("http api", "function url") and "httpMethod" in wrong:
        event["requestContext"]["http"]["method"] = wrong["httpMethod"]
    answer = received(served(event, Context()))
    assert answer.status in (200, 400, 404), answer.body
    if answer.status == 400:
        assert answer.all("content-type") == ["application/problem+json"]
        assert json.loads(answer.body)["request_id"]


@pytest.mark.parametrize("wrong", [{"timeEpoch": 10**400}, {"timeEpoch": float("nan")}, {"timeEpoch": "x"},
                                   {"domainName": 5}, {"stage": 5}, {"http": {"method": "GET"}}])  # fmt: skip
def test_odd_facts_about_the_call_harm_nobody(served: LambdaApp, wrong: dict[str, Any]) -> None:
    """They are the platform's, and some tools make them up."""
    event = http_api(Call("GET", "/seen/a"))
    event["requestContext"].update(wrong)
    assert served(event, Context())["statusCode"] in (200, 400)
    event["requestContext"]["http"] = 5
    assert served(event, Context())["statusCode"] == 400


def test_the_limits_of_a_request_hold(served: LambdaApp) -> None:
    """Body, head, codings: the same answers as everywhere."""
    cases = [
        (Call("POST", "/echo", "", JSON, b"x" * 1001), 413),
        (Call("POST", "/nowhere", "", JSON, b"x" * 1001), 404),
        (Call("POST", "/echo", "", (*JSON, ("content-encoding", "gzip")), b"x"), 415),
        (Call("GET", "/seen/a", "x=" + "y" * 9000), 414),
        (Call("GET", "/seen/a", "", tuple((f"x-{n}", "y") for n in range(120))), 431),
        (Call("GET", "/seen/a%2Fb"), 404),
    ]
    for call, status in cases:
        assert served(url(call), Context())["statusCode"] == status, call


@pytest.mark.parametrize("shape", list(SHAPES))
@pytest.mark.parametrize(
    ("media", "body", "is_text"),
    [
        ("application/json", b'{"a": "\xc3\xa9"}', True), ("text/plain; charset=utf-8", b"a\0b", True),
        ("text/plain; charset=latin-1", b"\xe9", False), ("application/vnd.api+json", b"{}", True),
        ("text/plain", b"\xff", False), ("image/png", b"\x89PNG", False), ("", b"abc", False),
    ],
)  # fmt: skip
def test_a_body_is_text_only_where_it_is_one(
    served: LambdaApp, shape: str, media: str, body: bytes, is_text: bool
) -> None:
    """Everything else goes as base64; the client gets the same bytes."""
    headers = (("content-type", media),) if media else ()
    reply = served(SHAPES[shape](Call("POST", "/echo", "", headers, body)), Context())
    assert reply["isBase64Encoded"] is not is_text
    assert received(reply).body == body


def test_a_coded_body_is_never_taken_for_text() -> None:
    """A compressed answer says text/html, and is none."""
    from handlers.aws.reply import Fields, make

    reply = make(200, Fields((("Content-Type", "text/html"), ("content-encoding", "br"))), "", b"abc")
    assert (reply.body, reply.is_base64) == (base64.b64encode(b"abc").decode(), True)


def test_a_forged_header_is_not_sent(served: LambdaApp) -> None:
    """A line break in a value would begin another header."""
    reply = served(http_api(Call("GET", "/forged")), Context())
    assert reply["statusCode"] == 500
    assert "x-a" not in reply["headers"]


def test_a_reply_too_large_is_a_problem_that_says_what_to_do(served: LambdaApp) -> None:
    """Just under the limit it is sent; escapes count, and base64 is taken where it is shorter."""
    assert len(served(url(Call("GET", "/large", "size=6280000")), Context())["body"]) == 6_280_000
    reply = served(url(Call("GET", "/large", "size=6300000")), Context())
    assert (reply["statusCode"], json.loads(reply["body"])["code"]) == (500, "reply_too_large")
    assert "ROUTER_BLOBS" in json.loads(reply["body"])["detail"]
    quoted = served(url(Call("GET", "/large", "size=4000000&text=%22")), Context())
    assert (quoted["statusCode"], quoted["isBase64Encoded"]) == (200, True)
    assert received(quoted).body == b'"' * 4_000_000
    assert served(alb(Call("GET", "/large", "size=1100000")), Context())["statusCode"] == 500


def test_a_stream_is_collected_in_bounds(served: LambdaApp) -> None:
    """Of time and size; what does not end is a problem, and the next call is answered."""
    assert received(served(http_api(Call("GET", "/stream", "size=3")), Context())).body.count(b"\n") == 3
    large = served(http_api(Call("GET", "/stream", "size=9000")), Context())
    assert json.loads(large["body"])["code"] == "reply_too_large"
    started = time.monotonic()
    slow = served(http_api(Call("GET", "/stream", "size=9000&pause=0.1")), Context(1.3))
    assert (slow["statusCode"], json.loads(slow["body"])["code"]) == (504, "stream_unfinished")
    assert time.monotonic() - started < 10
    assert served(http_api(Call("GET", "/stream")), Context())["statusCode"] == 200


def test_a_wait_ends_before_the_function_does(served: LambdaApp) -> None:
    """202 with the job in time, whatever the caller asked for; a follower gets what there is."""
    started = time.monotonic()
    slow = Call("POST", "/job", "sync=true", JSON, b'{"seconds": 30}')
    reply = served(url(slow), Context(1.4))
    assert reply["statusCode"] == 202
    job = json.loads(reply["body"])
    follow = served(url(Call("GET", f"/jobs/{job['job_id']}/events")), Context(1.4))
    assert follow["statusCode"] == 200
    assert follow["body"].startswith("event: job")
    assert time.monotonic() - started < 15
    quick = served(url(Call("POST", "/job", "sync=true", JSON, b"{}")), Context(30))
    assert (quick["statusCode"], quick["body"]) == (200, '"done"')
    served(url(Call("POST", f"/jobs/{job['job_id']}/cancel")), Context(30))


def test_a_sync_function_may_have_a_loop_of_its_own(served: LambdaApp) -> None:
    """As it may everywhere else."""
    assert served(url(Call("GET", "/plain")), Context())["body"] == "3"


def test_how_long_an_answer_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each front door has its patience; a cold start has used some of it, the function may have less."""
    monkeypatch.setattr("handlers.aws.limits.time.time", lambda: 1000.0)
    assert answer_seconds(REST_DOOR, None, Context(900)) == 28.0
    assert answer_seconds(HTTP_DOOR, 1000_000.0 - 6000, Context(900)) == 23.0
    assert answer_seconds(URL_DOOR, 1000_000.0 - 6000, Context(900)) == 899.0
    assert answer_seconds(REST_DOOR, 5, Context(10)) == 9.0  # an event from long ago
    assert answer_seconds(REST_DOOR, None, Context(0)) == 0.0
    assert answer_seconds(HTTP_DOOR, None, None) == 29.0
