"""What Bedrock needs on the wire, held against botocore: signatures, event streams, shapes of requests."""

from __future__ import annotations

import base64
import json
import random
import struct
import zlib
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest import mock

import botocore
import botocore.auth
import botocore.awsrequest
import botocore.credentials
import botocore.eventstream
import botocore.loaders
import botocore.model
import botocore.validate
import pytest

from router_core.errors import BadRequest
from router_core.gateway.clients.anthropic_models import traits_of
from router_core.gateway.clients.bedrock_eventstream import EventStreamReader
from router_core.gateway.clients.bedrock_request import ConverseWriter
from router_core.gateway.clients.bedrock_sigv4 import Credentials, Signer
from router_core.gateway.clients.chat_request import read_chat
from tests.gateway.calling import make_call
from tests.gateway.eventstream import message

CLAUDE, NOVA, GPT = (
    "eu.anthropic.claude-sonnet-4-5-20250929-v1:0",
    "amazon.nova-pro-v1:0",
    "openai.gpt-oss-120b-1:0",
)
USER = {"role": "user", "content": "hello"}
ADD = {
    "type": "function",
    "function": {"name": "add", "description": "Add.", "parameters": {"type": "object"}},
}
NOW = 1_790_000_000.0

# -- signatures --------------------------------------------------------------------------------------


@pytest.mark.parametrize("token", ["", "session/token=="])
@pytest.mark.parametrize(
    "path",
    [
        "/model/amazon.nova-pro-v1%3A0/converse", "/model/m/converse-stream", "/",
        "/model/arn%3Aaws%3Abedrock%3Aeu-west-1%3A1%3Ainference-profile%2Fx~y/converse",
    ],
)  # fmt: skip
@pytest.mark.parametrize(
    "body", [b"", '{"ä": "  x"}'.encode(), bytes(range(256))], ids=["empty", "text", "bytes"]
)
def test_signature_is_that_of_botocore(path: str, token: str, body: bytes) -> None:
    """The same request is signed with the same signature."""
    host = "bedrock-runtime.eu-west-1.amazonaws.com"
    headers = {"host": host, "content-type": "application/json", "accept": "a  b"}
    ours = Signer("eu-west-1", "bedrock").sign(
        Credentials("AKID", "secret", token), "POST", path, headers, body, NOW
    )
    request = botocore.awsrequest.AWSRequest(
        method="POST", url=f"https://{host}{path}", data=body,
        headers={"Content-Type": "application/json", "Accept": "a  b"},
    )  # fmt: skip
    theirs = botocore.auth.SigV4Auth(
        botocore.credentials.Credentials("AKID", "secret", token or None), "bedrock", "eu-west-1"
    )
    with mock.patch("botocore.auth.get_current_datetime", return_value=datetime.fromtimestamp(NOW, UTC)):
        theirs.add_auth(request)
    assert ours["authorization"] == request.headers["Authorization"]
    assert ours["x-amz-date"] == request.headers["X-Amz-Date"]
    assert ours.get("x-amz-security-token", "") == token


def test_signing_key_is_made_anew_where_it_has_to_be() -> None:
    """Another day and other credentials give other signatures, from the same signer."""
    signer = Signer("eu-west-1", "bedrock")
    first = signer.sign(Credentials("A", "one"), "POST", "/", {"host": "h"}, b"", NOW)
    assert signer.sign(Credentials("A", "one"), "POST", "/", {"host": "h"}, b"", NOW) == first
    for credentials, now in ((Credentials("A", "two"), NOW), (Credentials("A", "one"), NOW + 86_400)):
        fresh = Signer("eu-west-1", "bedrock").sign(credentials, "POST", "/", {"host": "h"}, b"", now)
        assert signer.sign(credentials, "POST", "/", {"host": "h"}, b"", now) == fresh != first


def test_credentials_do_not_show_themselves() -> None:
    """Neither the secret nor the token is part of what is printed."""
    assert "hush" not in repr(Credentials("A", "hush", "hush"))


# -- event streams -----------------------------------------------------------------------------------


def test_messages_are_read_as_botocore_reads_them() -> None:
    """Messages that botocore can read are read alike, in whatever pieces they come."""
    draw = random.Random(7)
    data = b"".join(
        message({":event-type": f"e{n}", ":message-type": "event"}, draw.randbytes(draw.randint(0, 300)))
        for n in range(40)
    )
    theirs = botocore.eventstream.EventStreamBuffer()
    theirs.add_data(data)
    wanted = [(event.headers, event.payload) for event in theirs]
    assert len(wanted) == 40
    for size in (1, 7, 100, len(data)):
        reader = EventStreamReader()
        found = [each for at in range(0, len(data), size) for each in reader.feed(data[at : at + size])]
        assert [(each.headers, each.payload) for each in found] == wanted
        assert reader.between


def test_headers_of_every_type_are_passed_over() -> None:
    """Headers that are no texts do not hinder those that are."""
    raw = b"\x01a\x00\x01b\x01\x01c\x02x\x01d\x03xx\x01e\x04xxxx\x01f\x05xxxxxxxx\x01g\x06\x00\x02xx"
    raw += b"\x01h\x08xxxxxxxx\x01i\x09xxxxxxxxxxxxxxxx\x01j\x07\x00\x02hi"
    data = _raw(raw, b"")
    assert botocore.eventstream.EventStreamMessage is not None
    (found,) = EventStreamReader().feed(data)
    assert found.headers == {"j": "hi"}


def _raw(headers: bytes, payload: bytes) -> bytes:
    total = 16 + len(headers) + len(payload)
    prelude = struct.pack(">II", total, len(headers))
    data = prelude + struct.pack(">I", zlib.crc32(prelude)) + headers + payload
    return data + struct.pack(">I", zlib.crc32(data))


GOOD = message({":event-type": "x"}, b"payload")


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 500 Oh", GOOD[:9] + b"\x00" + GOOD[10:], GOOD[:-1] + bytes([GOOD[-1] ^ 1]),
        GOOD[:-6] + b"?" + GOOD[-5:], _raw(b"\x05ab", b""), _raw(b"\x01a", b""), _raw(b"\x01a\x63", b""),
        _raw(b"\x01a\x07\x00\xffx", b""), _raw(b"\x01a\x07\x00", b""),
    ],
)  # fmt: skip
def test_broken_messages_are_refused(data: bytes) -> None:
    """Wrong checksums and headers are not believed."""
    with pytest.raises(ValueError, match=r"checksum|header|long|shorter"):
        EventStreamReader().feed(data)


@pytest.mark.parametrize(("total", "headers"), [(2**31, 0), (200_000, 190_000), (10, 0), (20, 10)])
def test_lengths_are_bounded_before_anything_is_kept(total: int, headers: int) -> None:
    """A message that says it is too long, or shorter than itself, is refused by its first 12 bytes."""
    prelude = struct.pack(">II", total, headers)
    with pytest.raises(ValueError, match=r"long|shorter"):
        EventStreamReader().feed(prelude + struct.pack(">I", zlib.crc32(prelude)))


# -- requests ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shape() -> Any:
    """The shape of a request, as botocore knows it."""
    # by its path: looking for the newest version of a service reads the folders of all of them
    (version,) = (Path(botocore.__file__).parent / "data" / "bedrock-runtime").iterdir()
    loader = botocore.loaders.Loader(extra_search_paths=[str(version.parent.parent)])
    loaded = loader.load_data(f"bedrock-runtime/{version.name}/service-2")
    return botocore.model.ServiceModel(loaded, "bedrock-runtime").operation_model("Converse").input_shape


def write(body: dict[str, Any], model: str = CLAUDE, **args: Any) -> dict[str, Any]:
    """Return the request that is made of a chat."""
    args.setdefault("max_tokens", 0)
    writer = ConverseWriter(model, traits_of(model, {}), **args)
    call = make_call("chat/completions", {"model": "m", "messages": [USER], **body})
    return dict(json.loads(writer.write(read_chat(call))))


def with_bytes(value: Any) -> Any:
    """Return a request as botocore takes it: binary values are bytes, not base64."""
    if isinstance(value, Mapping):
        return {
            name: base64.b64decode(each) if name in ("bytes", "redactedContent") else with_bytes(each)
            for name, each in value.items()
        }
    return [with_bytes(each) for each in value] if isinstance(value, list) else value


def image(url: str) -> dict[str, Any]:
    """Return a part with an image."""
    return {"type": "image_url", "image_url": {"url": url}}


THOUGHT = {"type": "thinking", "thinking": "hm", "signature": "s"}
CALL = {"id": "call_1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
SCHEMA = {"type": "object", "properties": {}, "additionalProperties": False}
STRICT = {
    "type": "json_schema",
    "json_schema": {"name": "p", "strict": True, "schema": SCHEMA, "description": "d"},
}
CONVERSATION = [
    {"role": "system", "content": [{"type": "text", "text": "Be.", "cache_control": {"ttl": "1h"}}]},
    {"role": "user", "content": [
        {"type": "text", "text": "look", "cache_control": {"type": "ephemeral"}},
        image("data:image/png;base64,AAAA"),
        {"type": "file", "file": {
            "filename": "Q3_report (v2).pdf", "file_data": "data:application/pdf;base64,BBBB"}},
        {"type": "file", "file": {"file_data": "data:text/plain;base64,aGk="}}]},
    {"role": "assistant", "content": "Wait.", "tool_calls": [CALL], "thinking_blocks": [
        THOUGHT, {"type": "redacted_thinking", "data": "AAAA"}]},
    {"role": "tool", "tool_call_id": "call_1", "content": "2"}, {"role": "user", "content": "and?"},
]  # fmt: skip


def test_conversation() -> None:
    """Every kind of part has its counterpart."""
    got = write({"messages": CONVERSATION, "tools": [ADD | {"cache_control": {}}]})
    assert got["system"] == [{"text": "Be."}, {"cachePoint": {"type": "default", "ttl": "1h"}}]
    assert got["messages"] == [
        {"role": "user", "content": [
            {"text": "look"}, {"cachePoint": {"type": "default"}},
            {"image": {"format": "png", "source": {"bytes": "AAAA"}}},
            {"document": {"format": "pdf", "name": "Q3-report (v2)", "source": {"bytes": "BBBB"}}},
            {"document": {"format": "txt", "name": "document", "source": {"text": "hi"}}}]},
        {"role": "assistant", "content": [
            {"reasoningContent": {"reasoningText": {"text": "hm", "signature": "s"}}},
            {"reasoningContent": {"redactedContent": "AAAA"}}, {"text": "Wait."},
            {"toolUse": {"toolUseId": "call_1", "name": "add", "input": {"a": 1}}}]},
        {"role": "user", "content": [
            {"toolResult": {"toolUseId": "call_1", "content": [{"text": "2"}]}}, {"text": "and?"}]},
    ]  # fmt: skip
    spec = {"toolSpec": {"name": "add", "description": "Add.", "inputSchema": {"json": {"type": "object"}}}}
    assert got["toolConfig"] == {"tools": [spec, {"cachePoint": {"type": "default"}}]}


REQUESTS: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    (CLAUDE, {}, {}), (CLAUDE, {"max_tokens": 5}, {"inferenceConfig": {"maxTokens": 5}}),
    (NOVA, {"temperature": 2, "top_p": 0.5, "top_k": 4, "stop": ["x", " "]},
     {"inferenceConfig": {"temperature": 1.0, "topP": 0.5, "stopSequences": ["x"]}}),
    (CLAUDE, {"temperature": 0.5, "top_p": 0.5, "top_k": 4},
     {"inferenceConfig": {"temperature": 0.5}, "additionalModelRequestFields": {"top_k": 4}}),
    ("anthropic.claude-opus-5-v1:0", {"temperature": 0.5}, {}),
    (CLAUDE, {"reasoning_effort": "low"}, {
        "inferenceConfig": {"maxTokens": 6144},
        "additionalModelRequestFields": {"thinking": {"type": "enabled", "budget_tokens": 2048}}}),
    ("anthropic.claude-opus-5-v1:0", {"reasoning_effort": "high"}, {
        "outputConfig": {"effort": "high"},
        "additionalModelRequestFields": {"thinking": {"type": "adaptive"}}}),
    (GPT, {"reasoning_effort": "minimal"}, {"additionalModelRequestFields": {"reasoning_effort": "low"}}),
    (NOVA, {"reasoning_effort": "high"}, {}),
    (NOVA, {"response_format": STRICT}, {"outputConfig": {"textFormat": {"type": "json_schema", "structure": {
        "jsonSchema": {
            "schema": json.dumps(SCHEMA, separators=(",", ":")), "name": "p", "description": "d"}}}}}),
    (CLAUDE, {"guardrailConfig": {"guardrailIdentifier": "abcdef", "guardrailVersion": "1"},
              "requestMetadata": {"team": "x"}, "additionalModelRequestFields": {"x": 1}},
     {"guardrailConfig": {"guardrailIdentifier": "abcdef", "guardrailVersion": "1"},
      "requestMetadata": {"team": "x"}, "additionalModelRequestFields": {"x": 1}}),
    (CLAUDE, {"seed": 1, "user": "ann", "thinking": None, "logit_bias": {}, "guided_json": {}}, {}),
]  # fmt: skip


@pytest.mark.parametrize(("model", "body", "wanted"), REQUESTS)
def test_fields(model: str, body: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Each field becomes what Converse, or the model behind it, calls it."""
    got = write(body, model)
    got.pop("messages")
    assert got == wanted


TOOL = {
    "tools": [
        {"toolSpec": {"name": "add", "description": "Add.", "inputSchema": {"json": {"type": "object"}}}}
    ]
}
NAMED = {"type": "function", "function": {"name": "add"}}
NONE = {"tool_choice": {"type": "none"}}
ONE = {"tool_choice": {"type": "any", "disable_parallel_tool_use": True}}
CHOICES: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    (NOVA, {}, {"toolConfig": TOOL}),
    (NOVA, {"tool_choice": "required"}, {"toolConfig": TOOL | {"toolChoice": {"any": {}}}}),
    (NOVA, {"tool_choice": NAMED}, {"toolConfig": TOOL | {"toolChoice": {"tool": {"name": "add"}}}}),
    (NOVA, {"tool_choice": "none"}, {}),
    (CLAUDE, {"tool_choice": "none"}, {"toolConfig": TOOL, "additionalModelRequestFields": NONE}),
    (CLAUDE, {"tool_choice": "required", "parallel_tool_calls": False},
     {"toolConfig": TOOL, "additionalModelRequestFields": ONE}),
]  # fmt: skip


@pytest.mark.parametrize(("model", "body", "wanted"), CHOICES)
def test_choices_of_tools(model: str, body: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Choices of tools are translated, as far as the model can be told."""
    got = write({"tools": [ADD]} | body, model)
    got.pop("messages")
    assert got == wanted


def test_requests_have_the_shape_that_botocore_knows(shape: Any) -> None:
    """Everything that is written passes the validation of the AWS SDK."""
    written = [write(body, model) for model, body, _ in REQUESTS]
    written += [write({"tools": [ADD]} | body, model) for model, body, _ in CHOICES]
    written.append(write({"messages": CONVERSATION, "tools": [ADD | {"cache_control": {}}]}))
    written.append(write({"response_format": {"type": "json_object"}, "tools": [ADD]}))
    written.append(
        write({}, defaults={"guardrailConfig": {"guardrailIdentifier": "x", "guardrailVersion": "1"}})
    )
    for each in written:
        report = botocore.validate.ParamValidator().validate(with_bytes(each) | {"modelId": "m"}, shape)
        assert not report.has_errors(), report.generate_report()


@pytest.mark.parametrize(
    ("model", "body", "param"),
    [
        (CLAUDE, {"messages": [{"role": "user", "content": [image("https://example.org/a.png")]}]},
         "messages[0].content[0].image_url.url"),
        (NOVA, {"tools": [ADD], "parallel_tool_calls": False}, "parallel_tool_calls"),
        (NOVA, {"tools": [ADD], "tool_choice": "none", "messages": [
            USER, {"role": "assistant", "tool_calls": [CALL]},
            {"role": "tool", "tool_call_id": "call_1", "content": "x"}]}, "tool_choice"),
        (CLAUDE, {"additionalModelRequestFields": 5}, "additionalModelRequestFields"),
        (CLAUDE, {"n": 2}, "n"),
        (CLAUDE, {"messages": [{"role": "user", "content": [
            {"type": "file", "file": {"file_data": "data:text/plain;base64,/w=="}}]}]},
         "messages[0].content[0].file.file_data"),
    ],
)  # fmt: skip
def test_what_cannot_be_had_is_refused_by_its_name(model: str, body: dict[str, Any], param: str) -> None:
    """What the model cannot be told is a 400 that names the parameter."""
    with pytest.raises(BadRequest) as caught:
        write(body, model)
    assert caught.value.extra["param"] == param


def test_defaults_of_the_deployment_yield_to_the_caller() -> None:
    """Fields of every request stand below those of the caller's."""
    got = write(
        {"additionalModelRequestFields": {"a": 2}},
        defaults={"additionalModelRequestFields": {"a": 1, "b": 1}},
    )
    assert got["additionalModelRequestFields"] == {"a": 2, "b": 1}
    assert write({}, max_tokens=9)["inferenceConfig"] == {"maxTokens": 9}
