"""The one judgement of answers and failures, over what upstreams really write."""

from __future__ import annotations

import json
from typing import Any, get_args

import pytest

from router_core.gateway.outcome import KINDS, OK, Kind, Outcome
from router_core.gateway.reply import FailureKind, Phase, Reply, UpstreamFailure
from router_core.gateway.resilience.classify import classify, classify_error, classify_failure

_JSON = {"content-type": "application/json"}
_HTML = {"content-type": "text/html; charset=utf-8"}


def _reply(status: int, body: Any = b"", headers: dict[str, str] | None = None) -> Reply:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Reply(status, _JSON if headers is None else headers, raw)


def _error(message: str = "no", **more: Any) -> dict[str, Any]:
    return {"error": {"message": message, **more}}


def test_kinds_are_listed_once_more_for_metrics() -> None:
    """The tuple of kinds and the type say the same words."""
    assert get_args(Kind) == KINDS


# --- answers of 2xx ------------------------------------------------------------------------------

_GOOD = {
    "chat": b'{"id":"c","object":"chat.completion","choices":[{"message":{"content":"hi"}}]}',
    "trailing newline": b'{"id":"c","choices":[]}\n',
    "leading space": b' \n{"id":"c"}',
    "null error": b'{"id":"resp_1","object":"response","status":"completed","error":null,"output":[]}',
    "the word in the text": b'{"choices":[{"message":{"content":"\\"error\\" is a word"}}]}',
    "the name further in": b'{"data":[{"error":"boom"}],"ok":true}',
    "empty error": b'{"error":{},"choices":[]}',
    "a list": b'[{"index":0,"score":0.5}]',
}


@pytest.mark.parametrize("body", _GOOD.values(), ids=_GOOD.keys())
def test_good_answers_are_ok(body: bytes) -> None:
    """An answer is not taken for an error because the word stands somewhere in it."""
    assert classify(_reply(200, body)) is OK


def test_text_answers_are_ok() -> None:
    """Transcriptions come as plain text or subtitles, and subtitles hold angle brackets."""
    assert classify(_reply(200, b"hello world", {"content-type": "text/plain"})) is OK
    assert classify(_reply(200, b"WEBVTT\n\n00:00.000 --> 00:01.000\n<b>hi</b>", {})) is OK
    assert classify(_reply(200, b"<i>hi</i> there", {"content-type": "text/plain"})) is OK


def test_a_stream_is_left_to_be_judged_as_it_comes() -> None:
    """There is no body to look at yet."""
    assert classify(Reply(200, {}, None, chunks=None)) is OK


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (b"", _JSON),
        (b"  \r\n", {}),
        (b"<!DOCTYPE html><title>Sign in</title>", _HTML),
        (b"\n\n<HTML><body>", {}),
        (b"<div>busy</div>", _HTML),
        (b'{"id":"c","choices":[{"mess', _JSON),
        (b'{"error":{"mess', _JSON),
        (b"\x00\x01\x02\x03", _JSON),
    ],
    ids=["empty", "blank", "doctype", "html", "html by type", "cut json", "cut error", "binary"],
)
def test_what_no_model_answers_is_malformed(body: bytes, headers: dict[str, str]) -> None:
    """Something else has answered in the place of the model: elsewhere it may be better."""
    outcome = classify(_reply(200, body, headers))
    assert (outcome.kind, outcome.move, outcome.failure, outcome.safe) == ("malformed", "retry", True, True)


@pytest.mark.parametrize(
    ("body", "kind", "move"),
    [
        (_error("slow down", type="rate_limit_error"), "rate_limited", "retry"),
        (_error("boom", code=503), "overloaded", "retry"),
        (_error("boom", code="502"), "unclear", "retry"),
        (_error("boom", status="RESOURCE_EXHAUSTED"), "rate_limited", "retry"),
        (_error("overloaded", type="overloaded_error"), "overloaded", "retry"),
        (_error("who are you", code="invalid_api_key"), "auth", "retry"),
        (_error("?", type="invalid_request_error"), "client_error", "stop"),
        (_error("too long", code="context_length_exceeded"), "context_window", "context"),
        (_error("no", code="content_filter"), "content_policy", "policy"),
        (_error("no such model", code="model_not_found"), "not_found", "retry"),
        (_error("boom"), "server_error", "retry"),
        ({"error": "boom"}, "server_error", "retry"),
        ({"type": "error", "error": {"type": "api_error", "message": "x"}}, "server_error", "retry"),
        ({"object": "error", "message": "bad", "code": 400}, "client_error", "stop"),
        ({"error": "Input validation error: `inputs` must have less than 512 tokens",
          "error_type": "validation"}, "context_window", "context"),
    ],
)  # fmt: skip
def test_an_error_inside_200_is_judged_by_what_it_says(body: Any, kind: Kind, move: str) -> None:
    """The status lies; the codes inside do not."""
    outcome = classify(_reply(200, body))
    assert (outcome.kind, outcome.move) == (kind, move)


def test_a_failed_response_object_is_a_failure() -> None:
    """The Responses API answers 200 with a status of failed."""
    body = {"id": "resp_1", "object": "response", "status": "failed",
            "error": {"code": "server_error", "message": "x"}, "output": []}  # fmt: skip
    assert classify(_reply(200, body)).kind == "server_error"


# --- errors by status ----------------------------------------------------------------------------

_BY_STATUS: list[tuple[int, Kind, str, bool, bool]] = [
    (100, "malformed", "retry", True, True),
    (301, "malformed", "retry", True, True),
    (304, "malformed", "retry", True, True),
    (400, "client_error", "stop", False, True),
    (401, "auth", "retry", True, True),
    (402, "auth", "retry", True, True),
    (403, "auth", "retry", True, True),
    (404, "not_found", "retry", True, True),
    (405, "client_error", "stop", False, True),
    (408, "timeout", "retry", True, True),
    (409, "client_error", "retry", False, True),
    (413, "context_window", "context", False, True),
    (415, "client_error", "stop", False, True),
    (422, "client_error", "stop", False, True),
    (425, "rate_limited", "retry", False, True),
    (429, "rate_limited", "retry", False, True),
    (451, "client_error", "stop", False, True),
    (500, "server_error", "retry", True, True),
    (501, "server_error", "retry", False, True),
    (502, "unclear", "retry", True, False),
    (503, "overloaded", "retry", True, True),
    (504, "unclear", "retry", True, False),
    (507, "server_error", "retry", True, True),
    (520, "unclear", "retry", True, False),
    (521, "connect", "retry", True, True),
    (524, "unclear", "retry", True, False),
    (529, "overloaded", "retry", True, True),
    (599, "server_error", "retry", True, True),
    (700, "malformed", "retry", True, True),
]


@pytest.mark.parametrize(("status", "kind", "move", "failure", "safe"), _BY_STATUS)
def test_status_alone(status: int, kind: Kind, move: str, failure: bool, safe: bool) -> None:
    """An error that says nothing special is judged by its status."""
    outcome = classify(_reply(status, _error("something", type="x")))
    assert (outcome.kind, outcome.move, outcome.failure, outcome.safe) == (kind, move, failure, safe)
    assert outcome.status == status


@pytest.mark.parametrize(
    "body",
    [b"", b"not json", b"[]", b"[1]", b"null", b'{"error":', b"\xff\xfe", b"[" * 5000, b'"x"', b"{}",
     b'{"error":[]}', b'{"error":{"message":{"a":[1]}}}', b'{"detail":[[1],{"msg":5}]}',
     b'{"error":{"code":true,"status":1e999}}', b"x" * 300_000],
    ids=["empty", "text", "list", "list of one", "null", "cut", "no utf-8", "deep", "string", "object",
         "list error", "object message", "odd detail", "odd code", "large"],
)  # fmt: skip
@pytest.mark.parametrize("status", [400, 403, 404, 429, 500])
def test_any_body_can_be_judged(status: int, body: bytes) -> None:
    """What an upstream writes beside its status never breaks the judgement."""
    outcome = classify(_reply(status, body, {}))
    assert outcome.status == status
    assert outcome.kind in KINDS


# --- context and policy --------------------------------------------------------------------------

_TOO_LONG: dict[str, tuple[int, Any]] = {
    "openai": (400, _error("This model's maximum context length is 8192 tokens. However, your messages "
                           "resulted in 9000 tokens.", code="context_length_exceeded", param="messages")),
    "openai responses": (400, _error("Your input exceeds the context window of this model.")),
    "vllm": (400, {"object": "error", "type": "BadRequestError", "code": 400, "param": None,
                   "message": "This model's maximum context length is 4096 tokens. However, you requested "
                              "5000 tokens. Please reduce the length of the messages."}),
    "vllm engine": (400, _error("The decoder prompt (length 5000) is longer than the maximum model length "
                                "of 4096.", type="BadRequestError", code=400)),
    "anthropic": (400, {"type": "error", "error": {
        "type": "invalid_request_error", "message": "prompt is too long: 210000 tokens > 200000 maximum"}}),
    "anthropic limit": (400, _error("input length and `max_tokens` exceed context limit: 190000 + 20000")),
    "anthropic bytes": (413, {"type": "error", "error": {"type": "request_too_large", "message": "x"}}),
    "azure": (400, _error("This model's maximum context length is 4096", code="context_length_exceeded",
                          type="invalid_request_error")),
    "mistral": (400, {"object": "error", "type": "invalid_request_error", "message":
                      "Prompt contains 40000 tokens, too large for model with 32768 maximum context length"}),
    "mistral detail": (422, {"object": "error", "message": {"detail": [
        {"msg": "the prompt exceeds the context window", "type": "value_error", "loc": ["body"]}]}}),
    "tgi": (422, {"error": "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096 "
                           "Given: 5000 `inputs` and 20 `max_new_tokens`", "error_type": "validation"}),
    "tei": (413, {"error": "Input validation error: `inputs` must have less than 512 tokens. Given: 600",
                  "error_type": "Validation"}),
    "bedrock": (400, {"message": "Input is too long for requested model.", "__type": "ValidationException"}),
    "gemini": (400, [{"error": {"code": 400, "status": "INVALID_ARGUMENT", "message":
                                "The input token count (9) exceeds the maximum number of tokens allowed"}}]),
    "llama.cpp": (400, _error("the request exceeds the available context size", code=400,
                              type="exceed_context_size_error")),
    "nginx": (413, b"<html><center><h1>413 Request Entity Too Large</h1></center></html>"),
}  # fmt: skip

_REFUSED: dict[str, tuple[int, Any]] = {
    "azure": (400, _error("The response was filtered due to the prompt triggering Azure OpenAI's content "
                          "management policy.", code="content_filter", param="prompt", status=400,
                          innererror={"code": "ResponsibleAIPolicyViolation",
                                      "content_filter_result": {"hate": {"filtered": True}}})),
    "azure inner": (400, _error("no", code="BadRequest",
                                innererror={"code": "ResponsibleAIPolicyViolation"})),
    "openai": (400, _error("x", code="content_policy_violation")),
    "openai images": (400, _error("Your request was rejected as a result of our safety system.")),
    "openai reasoning": (400, _error("Invalid prompt: your prompt was flagged as potentially violating our "
                                     "usage policy.", code="invalid_prompt")),
    "anthropic": (400, {"type": "error", "error": {
        "type": "invalid_request_error", "message": "Output blocked by content filtering policy"}}),
    "openrouter": (403, _error("openai/gpt requires moderation. Your input was flagged", code=403)),
    "dashscope": (400, _error("Input may contain inappropriate content.", code="data_inspection_failed")),
}  # fmt: skip


@pytest.mark.parametrize(("status", "body"), _TOO_LONG.values(), ids=_TOO_LONG.keys())
def test_prompts_that_are_too_long(status: int, body: Any) -> None:
    """Every upstream has words of its own for it; a model with more room may do."""
    outcome = classify(_reply(status, body))
    assert (outcome.kind, outcome.move, outcome.failure) == ("context_window", "context", False)


@pytest.mark.parametrize(("status", "body"), _REFUSED.values(), ids=_REFUSED.keys())
def test_prompts_that_are_refused(status: int, body: Any) -> None:
    """A content filter speaks about the prompt, not about the deployment."""
    outcome = classify(_reply(status, body))
    assert (outcome.kind, outcome.move, outcome.failure) == ("content_policy", "policy", False)


@pytest.mark.parametrize(
    "body",
    [
        _error("'messages' is a required property", type="invalid_request_error"),
        _error("Unsupported value: 'temperature'", code="unsupported_value", param="temperature"),
        {"detail": [{"loc": ["body", "messages"], "msg": "field required", "type": "missing",
                     "input": "maximum context length, content policy"}]},
    ],
)  # fmt: skip
def test_mistakes_of_the_caller_stop(body: Any) -> None:
    """Nobody would do better with them; what the caller himself wrote is not read as a message."""
    outcome = classify(_reply(400, body))
    assert (outcome.kind, outcome.move, outcome.failure) == ("client_error", "stop", False)


# --- keys, models, limits ------------------------------------------------------------------------


@pytest.mark.parametrize("status", [401, 402, 403])
def test_a_refused_key_is_ours(status: int) -> None:
    """It speaks against the deployment for a while, and the message cannot be read as the caller's 401."""
    body = _error("Incorrect API key provided: sk-canary123456789", code="invalid_api_key")
    outcome = classify(_reply(status, body))
    assert (outcome.kind, outcome.move, outcome.failure) == ("auth", "retry", True)
    assert outcome.cooldown >= 30
    assert "credentials of this gateway" in outcome.message
    assert "canary" not in repr(outcome)


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (b"<html>Attention Required!</html>", _HTML),
        (b"", {}),
        (_error("the upstream answered 403 Forbidden", type="permission_error", code=None), _JSON),
    ],
    ids=["html", "empty", "as the clients word it"],
)
def test_a_firewall_does_not_take_the_deployment_out(body: Any, headers: dict[str, str]) -> None:
    """It disliked one prompt; a caller must not be able to shut a model down with it."""
    outcome = classify(_reply(403, body, headers))
    assert (outcome.kind, outcome.move, outcome.failure, outcome.cooldown) == ("auth", "retry", False, 0.0)


@pytest.mark.parametrize(
    "body",
    [
        _error("The model `gpt-9` does not exist or you do not have access to it.", code="model_not_found"),
        _error("The API deployment for this resource does not exist.", code="DeploymentNotFound"),
        {"type": "error", "error": {"type": "not_found_error", "message": "model: claude-9"}},
        _error('model "llama9" not found, try pulling it first'),
    ],
)
def test_a_missing_model_is_looked_for_elsewhere(body: Any) -> None:
    """The deployment is left alone for a moment: it is not going to have it the next second."""
    outcome = classify(_reply(404, body))
    assert (outcome.kind, outcome.move, outcome.failure) == ("not_found", "retry", True)
    assert outcome.cooldown > 0


@pytest.mark.parametrize(
    "body",
    [
        _error("Previous response with id 'resp_1' not found.", code="previous_response_not_found"),
        _error("No such File object: file-1", param="file_id"),
        _error("Not there", param="input[0].file_id"),
    ],
)
def test_a_missing_thing_of_the_caller_is_his(body: Any) -> None:
    """He named something that is not there; the model is."""
    outcome = classify(_reply(404, body))
    assert (outcome.kind, outcome.move, outcome.failure) == ("client_error", "stop", False)


def test_rate_limits_cool_down_and_are_no_failure() -> None:
    """A 429 asks for time; without a header it gets a second, and never more than the cap."""
    assert classify(_reply(429, _error())).cooldown == 1.0
    assert classify(_reply(429, _error(), {"retry-after": "7"})).cooldown == 7.0
    assert classify(_reply(429, _error(), {"retry-after": "0"})).cooldown == 0.0
    assert classify(_reply(429, _error(), {"retry-after": "soon"})).cooldown == 1.0
    assert classify(_reply(429, _error(), {"retry-after": "-3"})).cooldown == 1.0
    assert classify(_reply(429, _error(), {"retry-after": "1e9"})).cooldown == 60.0
    assert classify(_reply(429, _error(), {"retry-after": "1e9"}), max_cooldown=5.0).cooldown == 5.0
    assert classify(_reply(503, _error(), {"retry-after": "9"})).cooldown == 9.0
    assert classify(_reply(503, _error())).cooldown == 0.0
    assert classify(_reply(500, _error(), {"retry-after": "9"})).cooldown == 0.0


def test_an_unpaid_account_cools_down_long() -> None:
    """OpenAI calls it 429 too, and a second does not fill an account."""
    assert classify(_reply(429, _error(code="insufficient_quota"))).cooldown == 60.0


def test_messages_hold_codes_and_no_words() -> None:
    """Messages may hold parts of the prompt, codes may hold line breaks: neither gets through."""
    outcome = classify(_reply(400, _error("you wrote: my canary", code="invalid_value")))
    assert outcome.message == "the upstream answered 400 (invalid_value)"
    evil = classify(_reply(500, _error("x", code='a\n{"level":"info"}', type="t" * 9000)))
    assert evil.message == "the upstream answered 500"


def test_an_error_event_is_judged_with_the_headers_of_its_stream() -> None:
    """Errors inside a stream go the same way."""
    outcome = classify_error(b'{"error":{"code":"rate_limit_exceeded"}}', {"retry-after": "4"})
    assert (outcome.kind, outcome.cooldown) == ("rate_limited", 4.0)
    assert classify_error(b"boom") == Outcome(
        "server_error", "retry", True, status=500, message="the upstream answered 500"
    )


# --- no answer -----------------------------------------------------------------------------------

_FAILURES: list[tuple[FailureKind, Phase, bool, bool, Kind, bool]] = [
    ("refused", "connect", False, False, "connect", True),
    ("unreachable", "connect", False, False, "connect", True),
    ("dns", "dns", False, False, "connect", True),
    ("tls", "tls", False, False, "connect", True),
    ("timeout", "connect", False, False, "timeout", True),
    ("timeout", "dns", False, False, "timeout", True),
    ("timeout", "tls", False, False, "timeout", True),
    ("timeout", "send", True, False, "timeout", False),
    ("timeout", "first_byte", True, False, "timeout", False),
    ("timeout", "body", True, True, "timeout", False),
    ("reset", "send", False, False, "connect", True),
    ("reset", "send", True, False, "unclear", False),
    ("reset", "first_byte", True, False, "unclear", False),
    ("reset", "body", True, True, "unclear", False),
    ("malformed", "first_byte", True, True, "malformed", True),
    ("too_large", "body", True, True, "malformed", False),
]


@pytest.mark.parametrize(("kind", "phase", "sent", "started", "expected", "safe"), _FAILURES)
def test_failures(
    kind: FailureKind, phase: Phase, sent: bool, started: bool, expected: Kind, safe: bool
) -> None:
    """Whether something was sent decides whether the work may have been done."""
    outcome = classify_failure(UpstreamFailure(kind, phase, "10.0.0.7: secret", sent=sent, started=started))
    assert (outcome.kind, outcome.move, outcome.failure, outcome.safe) == (expected, "retry", True, safe)
    assert outcome.status == 0
    assert "10.0.0.7" not in outcome.message


def test_a_caller_in_a_hurry_does_not_speak_against_the_deployment() -> None:
    """The time of the whole call ran out; only the deployment's own total limit is its failure."""
    over = UpstreamFailure("timeout", "total", sent=True)
    outcome = classify_failure(over)
    assert (outcome.kind, outcome.failure, outcome.safe) == ("timeout", False, False)
    assert classify_failure(over, own_limit=True).failure


def test_every_kind_of_failure_is_in_the_table() -> None:
    """A new kind of failure has to be judged before it can happen."""
    assert {row[0] for row in _FAILURES} | {"busy"} == set(get_args(FailureKind))


def test_no_free_connection_does_not_speak_against_the_deployment() -> None:
    """It was never asked: others may be, and nothing is held against it."""
    outcome = classify_failure(UpstreamFailure("busy", "connect", "10.0.0.7: secret"))
    assert (outcome.kind, outcome.move, outcome.failure, outcome.safe) == ("overloaded", "retry", False, True)
    assert "10.0.0.7" not in outcome.message
