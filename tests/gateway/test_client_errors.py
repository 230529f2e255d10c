"""Errors of upstreams arrive in the shape of OpenAI, bounded, and without our credentials."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from router_core.gateway.clients.errors import error_reply, masked
from router_core.gateway.resilience.classify import classify
from router_core.gateway.values import Secret
from tests.gateway.client_parts import KEY, Recorder, answer, called, client_of, error_of


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (400, {"error": {"message": "no", "type": "t", "param": "p", "code": "c"}},
         {"message": "no", "type": "t", "param": "p", "code": "c"}),
        (400, {"object": "error", "message": "too long", "type": "BadRequestError", "code": 400},
         {"message": "too long", "type": "BadRequestError", "param": None, "code": None}),
        (429, {"error": "Model is overloaded", "error_type": "overloaded"},
         {"message": "Model is overloaded", "type": "rate_limit_error", "code": "overloaded"}),
        (404, {"detail": "Model not found."},
         {"message": "Model not found.", "type": "invalid_request_error"}),
        (422, {"detail": [{"loc": ["body", "messages", 0, "role"], "msg": "field required", "type": "x"}]},
         {"message": "messages.0.role: field required", "param": "messages.0.role"}),
        (400, {"detail": {"message": "inner"}}, {"message": "inner"}),
        (403, {"message": "Forbidden", "__type": "AccessDenied"},
         {"message": "Forbidden", "type": "permission_error", "code": "AccessDenied"}),
        (400, [{"error": {"code": 400, "message": "bad key", "status": "INVALID_ARGUMENT"}}],
         {"message": "bad key", "code": "INVALID_ARGUMENT"}),
        (500, {"type": "https://example.test/e", "title": "Boom", "status": 500},
         {"message": "Boom", "type": "server_error"}),
        (500, "just text", {"message": "just text", "type": "server_error"}),
        (502, {"errors": [{"message": "first"}, {"message": "second"}]}, {"message": "first"}),
        (418, {"something": "else"},
         {"message": "the upstream answered 418 I'm a Teapot", "type": "api_error"}),
        (599, b"", {"message": "the upstream answered 599", "type": "server_error"}),
        (500, {"error": {"message": {"a": 1}, "code": ["x"]}}, {"code": None, "type": "server_error"}),
        (500, b"[]", {"type": "server_error"}),
        (500, b"[" * 100_000, {"type": "server_error"}),
    ],
    ids=["openai", "vllm", "tei", "detail", "fastapi", "detail object", "aws", "gemini", "problem", "text",
         "list", "unknown", "empty", "wrong types", "empty list", "deep"],
)  # fmt: skip
async def test_every_shape_becomes_that_of_openai(status: int, body: Any, expected: dict[str, Any]) -> None:
    """The status stays, and the words that tell what to do survive."""
    kind = "text/plain" if isinstance(body, str) else "application/json"
    reply = await client_of(Recorder(answer(body, status, kind))).send(called(), 1.0)
    error = error_of(reply)
    assert reply.status == status
    assert reply.headers["content-type"] == "application/json"
    assert {name: error[name] for name in expected} == expected


async def test_pages_are_not_passed_on() -> None:
    """HTML of a proxy on the way says less than its status."""
    page = "<html><script>alert(1)</script></html>"
    for kind in ("text/html", "text/plain"):
        reply = await client_of(Recorder(answer(page, 502, kind))).send(called(), 1.0)
        assert error_of(reply)["message"] == "the upstream answered 502 Bad Gateway"


async def test_errors_are_bounded() -> None:
    """Neither a long message nor a long word, nor megabytes of anything, reaches the caller."""
    long = {
        "error": {"message": "m" * 100_000, "type": "t" * 10_000, "param": "p" * 10_000, "code": "c" * 10_000}
    }
    for body in (long, "x" * 50_000_000):
        reply = await client_of(Recorder(answer(body, 500, "text/plain"))).send(called(), 1.0)
        assert len(reply.body or b"") < 4000


async def test_the_headers_that_no_longer_hold_are_gone() -> None:
    """Length and encoding were those of another body; Retry-After stays, cookies do not."""
    upstream = answer(
        {"error": "x"}, 429, **{"retry-after": "3", "set-cookie": "a=b", "content-encoding": "gzip"}
    )
    reply = await client_of(Recorder(upstream)).send(called(), 1.0)
    assert reply.headers == {"content-type": "application/json", "retry-after": "3"}


async def test_what_azure_says_of_its_filter_is_kept() -> None:
    """Callers read there which category it was."""
    inner = {"code": "ResponsibleAIPolicyViolation", "content_filter_result": {"hate": {"filtered": True}}}
    error = {
        "message": "filtered",
        "type": None,
        "param": "prompt",
        "code": "content_filter",
        "innererror": inner,
    }
    reply = await client_of(Recorder(answer({"error": error}, 400))).send(called(), 1.0)
    assert error_of(reply)["innererror"] == inner
    inner["echo"] = KEY
    reply = await client_of(Recorder(answer({"error": error}, 400))).send(called(), 1.0)
    assert "innererror" not in error_of(reply)


_ECHOES: dict[str, Callable[[str], Any]] = {
    "message": lambda key: {
        "error": {"message": f"wrong key {key}.", "type": "x", "param": None, "code": None}
    },
    "code": lambda key: {"error": {"message": "m", "type": key, "param": key, "code": f"bad:{key}"}},
    "header quoted": lambda key: {"detail": f"got Authorization: Bearer {key}"},
    "beginning": lambda key: {"message": f"key {key[:20]}... is unknown"},
    "starred": lambda key: {
        "error": {"message": f"Incorrect API key provided: {key[:8]}******{key[-4:]}. See"}
    },
    "text": lambda key: f"bad token {key}",
    "twice": lambda key: {"error": f"{key}{key} {key[:15]}"},
    "cut": lambda key: {"error": "x" * 1990 + key},
    "validation": lambda key: {"detail": [{"loc": ["header", key], "msg": f"bad {key}"}]},
    "title": lambda key: {"title": key},
}


@pytest.mark.parametrize("echo", list(_ECHOES))
@pytest.mark.parametrize("key", [KEY, "3f9c21d07be84a6658d1e0aa94c7b352"], ids=["openai", "azure"])
async def test_our_key_is_taken_out_of_what_an_upstream_echoes(echo: str, key: str) -> None:
    """Whole, in part or starred out by the upstream: no ten characters of it in a row are left.

    A key of hex digits looks like nothing in particular: it has to be known to be found.
    """
    body = _ECHOES[echo](key)
    kind = "text/plain" if isinstance(body, str) else "application/json"
    client = client_of(Recorder(answer(body, 401, kind)), key=Secret(key))
    reply = await client.send(called(), 1.0)
    text = (reply.body or b"").decode()
    assert not any(key[at : at + 10] in text for at in range(len(key) - 9))
    assert key[-4:] not in text
    assert error_of(reply)["message"]


@pytest.mark.parametrize("value", ["gateway-token-42", "tok-12345"])
async def test_configured_headers_are_secrets_too(value: str) -> None:
    """Some credentials travel in headers of their own."""
    client = client_of(Recorder(answer({"error": f"saw {value}"}, 400)), headers=(("x-gateway", value),))
    assert error_of(await client.send(called(), 1.0))["message"] == "saw ***"


def test_short_values_are_not_looked_for() -> None:
    """A header that says "red" must not take the word out of every error."""
    assert masked("the red one", ("red",)) == "the red one"


def test_control_characters_are_taken_out() -> None:
    """Messages end in logs and terminals; line breaks stay."""
    assert masked("a\x1b[31mb\x00c\nd") == "a [31mb c\nd"


def test_an_error_without_a_body_still_says_something() -> None:
    """The transport may give none at all."""
    reply = answer(b"", 503)
    reply.body = None
    assert json.loads(error_reply(reply).body or b"")["error"]["message"].endswith("503 Service Unavailable")


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (403, "<html>"), (403, ""), (403, "denied"), (403, {"message": "Forbidden"}), (404, "<html>no model"),
        (404, {"detail": "Not Found"}), (404, {"error": {"message": "x", "code": "model_not_found"}}),
        (404, {"error": {"code": "DeploymentNotFound", "message": "The API deployment does not exist."}}),
        (404, {"error": {"message": "response with id x", "param": "previous_response_id"}}),
        (400, {"object": "error", "message": "the maximum context length is 4096", "code": 400}),
        (400, {"error": {"code": "content_filter", "message": "x"}}),
        (400, {"error": {"message": "x", "innererror": {"code": "ResponsibleAIPolicyViolation"}}}),
        (422, {"error": "`inputs` must have less than 512 tokens", "error_type": "Validation"}),
        (429, {"error": {"message": "x", "type": "insufficient_quota", "code": None}}),
        (429, {"error": {"message": "x", "type": None, "code": "billing_not_active"}}),
        (400, [{"error": {"code": 400, "message": "exceeds the maximum number of tokens", "status": "BAD"}}]),
        (503, "<html>"), (500, {"error": "boom"}), (401, {"error": {"message": "bad key"}}),
    ],
    ids=str,
)  # fmt: skip
def test_an_error_is_judged_as_it_would_be_in_its_own_words(status: int, body: Any) -> None:
    """Rewriting takes nothing away that the judgement goes by."""
    reply = answer(body, status, "text/plain" if isinstance(body, str) else "application/json")
    raw, rewritten = classify(reply), classify(error_reply(reply))
    assert (rewritten.kind, rewritten.move, rewritten.failure) == (raw.kind, raw.move, raw.failure)
