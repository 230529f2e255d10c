"""The adapter contract through the RunPod worker: the same good and bad requests, as jobs."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final
from urllib.parse import parse_qsl, unquote

import pytest

from handlers.runpod.worker import Worker
from router_core.app import App
from router_core.http.message import Headers, Request, Response
from router_core.http.multipart import parse_multipart
from router_core.testing.adapter_contract import CASES, Call, contract_app

_NO_WIRE: Final = "the input is JSON that the platform has parsed: there are no bytes to be wrong"
_NO_PLACE: Final = "a job has one output and no headers"
_NO_PATHS: Final = (
    "a job names its route in the input, so a wrong name is a wrong value (422), tested with the worker"
)
_PLATFORM: Final = "RunPod itself answers for jobs and health"

SKIP: Final[Mapping[str, str]] = {
    "no json": _NO_WIRE, "not utf-8": _NO_WIRE, "no content type": _NO_WIRE, "upload cut": _NO_WIRE,
    "query twice": "an object cannot hold a name twice",
    "unknown path": _NO_PATHS, "wrong method": _NO_PATHS,
    "text preferred": _NO_PLACE, "head": _NO_PLACE, "two cookies set": _NO_PLACE, "sse": _NO_PLACE,
    "job accepted": _PLATFORM, "respond-async": _PLATFORM, "unknown job": _PLATFORM,
    "job id of nobody": _PLATFORM, "health": _PLATFORM,
}  # fmt: skip
"""Case -> why it cannot be a RunPod job."""
_IDS: Final = ("instance", "request_id", "job_id")


def as_job(call: Call) -> dict[str, Any]:
    """Write a request as RunPod would hand it to a worker."""
    given: dict[str, Any] = {"path": unquote(call.path)}
    if call.method not in ("GET", "POST"):
        given["method"] = call.method
    headers = Headers(call.headers)
    for name, text in parse_qsl(call.query, keep_blank_values=True):
        if name != "sync":  # whether the caller waits is the platform's business: /run or /runsync
            given[name] = [*given[name], text] if name in given else [text] if name == "word" else text
    for name, text in call.headers:
        if name.startswith("x-"):
            given[name] = text
    for part in headers.get("cookie", "").split(";"):
        name, _, text = part.strip().partition("=")
        given |= {name: text} if name else {}
    return {
        "id": "job-1",
        "input": given | _body(call, headers),
        "webhook": "https://example.org/",
        "policy": {},
    }


def _body(call: Call, headers: Headers) -> dict[str, Any]:
    content_type = headers.get("content-type", "")
    if not call.body:
        return {}
    if content_type == "application/json":
        found: dict[str, Any] = json.loads(call.body)
        return found
    if content_type.startswith("multipart/"):
        return {name: part.to_object() for name, part in parse_multipart(call.body, content_type)}  # type: ignore[union-attr]
    return dict(parse_qsl(call.body.decode()))


@pytest.fixture
async def app() -> AsyncIterator[App]:
    """Return the contract's service."""
    app = contract_app()
    await app.start()
    yield app
    await app.stop(1)


@pytest.mark.parametrize("name", list(CASES))
async def test_the_worker_answers_like_the_core(app: App, name: str) -> None:
    """Equal values, and equal problems but for what is an address or an id."""
    if name in SKIP:
        pytest.skip(SKIP[name])
    call = CASES[name]
    headers = Headers([("host", "localhost"), *call.headers])
    wanted = await app.handle(Request(call.method, unquote(call.path), call.query, headers, call.body))
    outcome = await Worker(app).handle(as_job(call))
    got = json.loads(outcome.body())
    if wanted.status < 400:
        assert got == {"output": await _value(wanted)}
    else:
        assert set(got) == {"error"}
        assert isinstance(wanted.body, bytes)
        assert _plain(json.loads(got["error"])) == _plain(json.loads(wanted.body))


def test_every_skip_is_a_case_with_a_reason() -> None:
    """A case that was renamed is not left out silently."""
    assert set(SKIP) <= set(CASES)
    assert len(CASES) - len(SKIP) >= 15


async def _value(response: Response) -> Any:
    """Return what an answer says, as the output of a job would."""
    body = response.body
    if not isinstance(body, bytes):
        body = b"".join([piece async for piece in body])
    content_type = response.header("content-type") or ""
    if content_type.startswith("application/x-ndjson"):
        return [json.loads(line) for line in body.splitlines()]
    if content_type.startswith("application/json"):
        return json.loads(body)
    if not body:
        return None
    name = response.header("content-disposition") or ""
    file = {"content_type": content_type, "content": base64.b64encode(body).decode()}
    return {"file_name": name.partition("''")[2], **file}


def _plain(told: dict[str, Any]) -> dict[str, Any]:
    """Leave out ids, and where in a request a value stood: in a job all are in the input."""
    for error in told.get("errors", ()):
        assert error["loc"][0] in ("input", "body", "query", "path", "header", "cookie")
        del error["loc"][0]
    inner = told.get("error")
    if isinstance(inner, dict):
        inner.pop("attempt", None)
    return {key: value for key, value in told.items() if key not in _IDS}
