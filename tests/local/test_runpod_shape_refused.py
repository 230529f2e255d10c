"""What the RunPod-shaped routes do not take: envelopes, arguments, callers, and jobs of others."""

from __future__ import annotations

from typing import Any

import pytest

from router_core.errors import (
    BadRequest,
    Forbidden,
    NotFound,
    QueueFull,
    RouterError,
    UnsupportedMedia,
    ValidationFailed,
)
from router_core.http.message import Headers, Request
from router_core.types import Principal
from tests.local.shape_parts import INPUT, OTHER, Endpoint


@pytest.mark.parametrize(
    ("body", "loc"),
    [
        (b"[]", ["body"]),
        (b'"text"', ["body"]),
        (b"null", ["body"]),
        ({}, ["body", "input"]),
        ({"input": None}, ["body", "input"]),
        ({"input": []}, ["body", "input"]),
        ({"input": "x"}, ["body", "input"]),
        ({"input": {}}, ["input", "path"]),
        ({"input": {"path": "/nothing"}}, ["input", "path"]),
        ({"input": {"path": "/v2/local/run"}}, ["input", "path"]),
        ({"input": {"path": 1}}, ["input", "path"]),
        ({"input": {"path": "/predict", "method": "DELETE"}}, ["input", "method"]),
        ({"input": INPUT, "webhook": 1}, ["body", "webhook"]),
        ({"input": INPUT, "policy": []}, ["body", "policy"]),
        ({"input": INPUT, "policy": {"ttl": "1h"}}, ["body", "policy", "ttl"]),
        ({"input": INPUT, "policy": {"ttl": -1}}, ["body", "policy", "ttl"]),
        ({"input": INPUT, "policy": {"ttl": True}}, ["body", "policy", "ttl"]),
        ({"input": INPUT, "policy": {"ttl": 10**30}}, ["body", "policy", "ttl"]),
        ({"input": INPUT, "policy": {"executionTimeout": 0}}, ["body", "policy", "executionTimeout"]),
        ({"input": INPUT, "policy": {"executionTimeout": 1.5}}, ["body", "policy", "executionTimeout"]),
        ({"input": INPUT, "policy": {"lowPriority": "yes"}}, ["body", "policy", "lowPriority"]),
    ],
)
@pytest.mark.parametrize("route", ["run", "runsync"])
async def test_a_wrong_envelope_is_422_and_leaves_no_job(
    endpoint: Endpoint, route: str, body: Any, loc: list[str]
) -> None:
    """The place of the fault is named, on /run and /runsync alike."""
    with pytest.raises(ValidationFailed) as caught:
        await endpoint.call("POST", route, body)
    assert caught.value.errors[0]["loc"] == loc
    assert (await endpoint.call("GET", "health"))["jobs"]["inQueue"] == 0


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b"", BadRequest),
        (b"{", BadRequest),
        (b"\xff", BadRequest),
        (b'{"input":{},"input":{}}', BadRequest),
        (b'{"input":' + b"[" * 100 + b"]" * 100 + b"}", BadRequest),
        (b'{"input":{"path":"/predict","strength":NaN}}', BadRequest),
        ({"input": {"path": "/predict", "strength": "strong"}}, ValidationFailed),
        ({"input": {"path": "/words"}}, ValidationFailed),
        ({"input": {"path": "/predict", "image": "!"}}, ValidationFailed),
        ({"input": INPUT, "webhook": "https://example.com/"}, BadRequest),
    ],
)
async def test_the_arguments_are_validated_as_everywhere_else(
    endpoint: Endpoint, body: Any, error: type[RouterError]
) -> None:
    """Bad JSON is 400, bad arguments are 422, and a webhook without a secret to sign with is refused."""
    with pytest.raises(error):
        await endpoint.call("POST", "run", body)
    assert (await endpoint.call("GET", "health"))["jobs"]["inQueue"] == 0


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", ""])
async def test_a_body_that_a_web_page_could_send_unasked_is_refused(
    endpoint: Endpoint, content_type: str
) -> None:
    """Only JSON needs a preflight in a browser."""
    headers = Headers([("content-type", content_type)] if content_type else [])
    with pytest.raises(UnsupportedMedia):
        await endpoint.send(Request("POST", "/v2/local/run", "", headers, b'{"input":{"path":"/predict"}}'))


async def test_the_scopes_of_the_named_route_hold(endpoint: Endpoint) -> None:
    """Naming a route in the input is no way around its scopes."""
    body = {"input": {"path": "/secret"}}
    with pytest.raises(Forbidden):
        await endpoint.call("POST", "run", body, principal=OTHER)
    admin = Principal("admin", frozenset({"admin"}), "api_key")
    assert (await endpoint.call("POST", "run", body, principal=admin))["status"] == "IN_QUEUE"


async def test_a_full_queue_is_429(endpoint: Endpoint) -> None:
    """The sixth job of a queue of five is refused, with the time to wait."""
    for _ in range(5):
        await endpoint.submit()
    with pytest.raises(QueueFull) as caught:
        await endpoint.submit()
    assert int(caught.value.headers["Retry-After"]) >= 1


async def test_a_job_of_somebody_else_does_not_exist(endpoint: Endpoint) -> None:
    """Every route answers 404 for foreign and for unknown ids alike, and a purge leaves them alone."""
    job_id = await endpoint.submit()
    for unknown in (job_id, "0" * 32, "../../etc/passwd", "x"):
        for method, name in (("GET", "status"), ("GET", "stream"), ("POST", "cancel"), ("POST", "retry")):
            with pytest.raises(NotFound):
                await endpoint.call(method, f"{name}/{unknown}", principal=OTHER)
    assert (await endpoint.call("POST", "purge-queue", principal=OTHER))["removed"] == 0
    assert (await endpoint.call("GET", f"status/{job_id}"))["status"] == "IN_QUEUE"
