"""Translations between protocols do no harm, whatever they are given: an answer, or one of our errors."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from router_core.errors import BadRequest
from router_core.gateway.clients.anthropic_answer import read_message
from router_core.gateway.clients.anthropic_models import traits_of
from router_core.gateway.clients.anthropic_request import RequestWriter
from router_core.gateway.clients.anthropic_stream import EventTranslator
from router_core.gateway.clients.bedrock_answer import ConverseTranslator, read_converse
from router_core.gateway.clients.bedrock_request import ConverseWriter
from router_core.gateway.clients.chat_request import read_chat
from router_core.gateway.reply import UpstreamFailure
from tests.gateway.calling import make_call
from tests.gateway.eventstream import message

NUMBERS = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
LEAVES = st.none() | st.booleans() | NUMBERS | st.text(max_size=10)


def tree(names: list[str], words: list[str]) -> st.SearchStrategy[Any]:
    """Return JSON of these names and words."""
    return st.recursive(
        LEAVES | st.sampled_from(words),
        lambda inner: (
            st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(names), inner, max_size=6)
        ),
        max_leaves=25,
    )


ASKED = tree(
    (
        "role content type text image_url url file file_data tool_calls tool_call_id id function name "
        "arguments parameters json_schema schema thinking_blocks cache_control"
    ).split(),
    (
        "user assistant tool system text image_url file function auto none required json_object "
        "json_schema data:image/png;base64,AA https://x {} low high"
    ).split(),
)
FIELDS = (
    "messages tools tool_choice response_format stop temperature top_p max_tokens user "
    "reasoning_effort parallel_tool_calls thinking metadata output_config outputConfig "
    "additionalModelRequestFields n service_tier"
).split()
TOLD = tree(
    (
        "type message content content_block delta index text thinking partial_json usage id name input "
        "stop_reason stop_details error output toolUse toolUseId reasoningContent contentBlockIndex "
        "start stopReason input_tokens inputTokens signature"
    ).split(),
    (
        "message_start content_block_start content_block_delta content_block_stop message_delta "
        "text_delta input_json_delta thinking_delta tool_use text error message_stop"
    ).split(),
)
KINDS = ("messageStart contentBlockStart contentBlockDelta contentBlockStop messageStop metadata").split()
USER = [{"role": "user", "content": "x"}]


@settings(max_examples=40)
@given(st.dictionaries(st.sampled_from(FIELDS), ASKED, max_size=5), st.booleans())
def test_requests(fields: dict[str, Any], talk: bool) -> None:
    """A request is written, or refused with a 400."""
    body = {"model": "m", **fields} | ({"messages": USER} if talk else {})
    for model in ("claude-sonnet-4-5", "claude-opus-5", "amazon.nova"):
        traits = traits_of(model, {})
        with suppress(BadRequest):
            request = read_chat(make_call("chat/completions", body))
            RequestWriter(model, traits, max_tokens=9).write(request, "m")
            ConverseWriter(model, traits).write(request)


@settings(max_examples=40)
@given(TOLD)
def test_whole_answers(value: Any) -> None:
    """An answer is read, or the upstream has failed."""
    body = json.dumps(value).encode()
    with suppress(UpstreamFailure):
        json.loads(read_message(body, "m", 7, "x"))
    with suppress(UpstreamFailure):
        json.loads(read_converse(body, "i", "m", 7, "x"))


@settings(max_examples=40)
@given(st.lists(TOLD, max_size=8), st.lists(st.sampled_from(KINDS), max_size=8))
def test_streams(values: list[Any], kinds: list[str]) -> None:
    """Events are translated, or the upstream has failed."""
    anthropic = EventTranslator("m", 7, lambda error: b"data: error\n\n", "x")
    bedrock = ConverseTranslator("i", "m", 7, lambda kind, text: b"data: error\n\n", "x")
    with suppress(UpstreamFailure):
        for value in values:
            anthropic.feed(b"data: %b\n\n" % json.dumps(value).encode())
    with suppress(UpstreamFailure):
        for kind, value in zip(kinds, values, strict=False):
            bedrock.feed(message({":event-type": kind}, json.dumps(value).encode()))
        bedrock.close()
