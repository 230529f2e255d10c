"""Reading usage out of answers: every shape, and everything that is no usage."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router_core.gateway.accounting.usage import MAX_SECONDS, MAX_TOKENS, usage_of
from router_core.gateway.call import Usage
from router_core.gateway.values import ENDPOINTS

CHAT = "chat/completions"


def answer(usage: Any, **more: Any) -> bytes:
    """Return the body of an answer."""
    return json.dumps(
        {"object": "thing", "choices": [{"usage": "not this one"}], "usage": usage, **more}
    ).encode()


def chat_usage(given: Any, made: Any, **more: Any) -> dict[str, Any]:
    """Return the usage of a chat."""
    return {"prompt_tokens": given, "completion_tokens": made, **more}


SHAPES = {
    "chat": (CHAT, chat_usage(9, 3, total_tokens=12), Usage(9, 3)),
    "chat with details": (
        CHAT,
        chat_usage(
            100, 50, total_tokens=150,
            prompt_tokens_details={"cached_tokens": 64, "audio_tokens": 0},
            completion_tokens_details={"reasoning_tokens": 20, "accepted_prediction_tokens": 0},
        ),
        Usage(100, 50, 64, 20),
    ),
    "details that are null": (
        CHAT,
        chat_usage(9, 3, total_tokens=12, prompt_tokens_details=None, completion_tokens_details=None),
        Usage(9, 3),
    ),
    "completions": ("completions", chat_usage(4, 16, total_tokens=20), Usage(4, 16)),
    "embeddings": ("embeddings", {"prompt_tokens": 8, "total_tokens": 8}, Usage(8, 0)),
    "responses": (
        "responses",
        {
            "input_tokens": 36, "input_tokens_details": {"cached_tokens": 12},
            "output_tokens": 87, "output_tokens_details": {"reasoning_tokens": 60}, "total_tokens": 123,
        },
        Usage(36, 87, 12, 60),
    ),
    "images of gpt-image": (
        "images/generations",
        {
            "input_tokens": 50, "output_tokens": 4160, "total_tokens": 4210,
            "input_tokens_details": {"text_tokens": 10, "image_tokens": 40},
        },
        Usage(50, 4160),
    ),
    "transcription by tokens": (
        "audio/transcriptions",
        {
            "type": "tokens", "input_tokens": 14, "output_tokens": 45, "total_tokens": 59,
            "input_token_details": {"text_tokens": 0, "audio_tokens": 14},
        },
        Usage(14, 45),
    ),
    "transcription by time": ("audio/transcriptions", {"type": "duration", "seconds": 9}, Usage(seconds=9)),
    "a part of a second": ("audio/transcriptions", {"type": "duration", "seconds": 8.2}, Usage(seconds=9)),
    "rerank of vLLM": ("rerank", {"prompt_tokens": 56, "total_tokens": 56}, Usage(56, 0)),
    "rerank that tells the sum": ("rerank", {"total_tokens": 56}, Usage(56, 0, estimated=True)),
    "no total": (CHAT, chat_usage(9, 3), Usage(9, 3)),
    "no output": (CHAT, {"prompt_tokens": 9, "total_tokens": 12}, Usage(9, 3)),
    "no input": (CHAT, {"completion_tokens": 3, "total_tokens": 12}, Usage(9, 3)),
    "reasoning in the total alone": (
        CHAT,
        chat_usage(10, 5, total_tokens=40, completion_tokens_details={"reasoning_tokens": 25}),
        Usage(10, 30, 0, 25),
    ),
    "a total that is too small": (CHAT, chat_usage(10, 5, total_tokens=3), Usage(10, 5)),
    "cache in DeepSeek's words": (
        CHAT,
        chat_usage(30, 5, total_tokens=35, prompt_cache_hit_tokens=20, prompt_cache_miss_tokens=10),
        Usage(30, 5, 20),
    ),
    "more cached than read": (
        CHAT,
        chat_usage(10, 5, total_tokens=15, prompt_tokens_details={"cached_tokens": 99}),
        Usage(10, 5, 10),
    ),
    "more thought than said": (
        CHAT,
        chat_usage(10, 5, total_tokens=15, completion_tokens_details={"reasoning_tokens": 7}),
        Usage(10, 5, 0, 5),
    ),
    "whole numbers as floats": (CHAT, chat_usage(9.0, 3.0, total_tokens=12.0), Usage(9, 3)),
    "fractions of a token": (CHAT, chat_usage(8.1, 2.5), Usage(9, 3)),
    "negative details": (
        CHAT,
        chat_usage(9, 3, total_tokens=12, prompt_tokens_details={"cached_tokens": -4}),
        Usage(9, 3),
    ),
    "details of the wrong type": (
        CHAT,
        chat_usage(9, 3, total_tokens=12, prompt_tokens_details="none", completion_tokens_details=[1]),
        Usage(9, 3),
    ),
    "one nonsense, mended by the total": (CHAT, chat_usage(9, "three", total_tokens=12), Usage(9, 3)),
    "one negative, mended by the total": (CHAT, chat_usage(-9, 3, total_tokens=12), Usage(9, 3)),
}  # fmt: skip


@pytest.mark.parametrize("name", SHAPES)
def test_shapes(name: str) -> None:
    """What upstreams write, and what can be made of it."""
    endpoint, usage, expected = SHAPES[name]
    assert usage_of(endpoint, answer(usage)) == expected


NONSENSE: dict[str, Any] = {
    "null": None,
    "a number": 12,
    "text": "12 tokens",
    "a list": [9, 3],
    "empty": {},
    "zeros": chat_usage(0, 0, total_tokens=0),
    "negative": chat_usage(-9, -3, total_tokens=-12),
    "strings": chat_usage("9", "3", total_tokens="12"),
    "true": chat_usage(True, True),
    "huge": chat_usage(MAX_TOKENS + 1, 10**30),
    "huge together": chat_usage(MAX_TOKENS, MAX_TOKENS),
    "huge total": {"total_tokens": 10**400},
    "infinite": {"total_tokens": float("inf")},
    "not a number": chat_usage(float("nan"), float("nan")),
    "other words": {"tokens": 12},
    "lists for counts": chat_usage([9], {"n": 3}),
}


@pytest.mark.parametrize("name", NONSENSE)
@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_nonsense_is_no_usage(endpoint: str, name: str) -> None:
    """A count that cannot be one is not there; nothing is booked as 0."""
    assert usage_of(endpoint, answer(NONSENSE[name])) is None


BODIES = {
    "empty": b"",
    "no object": b"[]",
    "a string": b'"usage"',
    "no JSON": b"<html>502</html>",
    "cut": b'{"usage":{"prompt_tokens":9,"completion_tokens":3',
    "no usage": b'{"choices":[]}',
    "no UTF-8": b'{"usage":{"prompt_tokens":9},"x":"\xff\xfe"}',
    "deep": b'{"usage":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "subtitles": b"1\n00:00:00,000 --> 00:00:02,000\nHello\n",
    "zero bytes": b"\0" * 64,
}


@pytest.mark.parametrize("name", BODIES)
@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_bodies_without_usage(endpoint: str, name: str) -> None:
    """Whatever the body is, nothing is raised."""
    found = usage_of(endpoint, BODIES[name])
    assert found is None or name == "no UTF-8"  # a decoder need not look into what it skips


COUNTS = b'{"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}'
LYING = b'{"prompt_tokens": 8, "completion_tokens": 8, "total_tokens": 16}'


@pytest.mark.parametrize(
    "body",
    [
        b'{"usage": %b, "choices": [{"usage": %b}]}' % (COUNTS, LYING),
        b'{"usage": %b, "choices": {"usage": %b}}' % (COUNTS, LYING),
        b'{"usage": %b, "x": {"y": {"usage": %b}}, "z": 1}' % (COUNTS, LYING),
        b'{"usage": %b, "a \\"usage": %b}' % (COUNTS, LYING),
        b'{"usage": %b, "content": "\\"usage\\": {}"}' % COUNTS,
        b'{"usage": %b, "object": "usage"}' % COUNTS,
        b'{"usage": %b, "list": ["usage"]}' % COUNTS,
        b'{"usage": %b, "usage": %b}' % (LYING, COUNTS),
        b'{"data": [0.1, 0.2], "usage": %b\n}' % COUNTS,
        b'{"data": [0.1, 0.2], "usage": %b, "fingerprint": null}' % COUNTS,
        b'{"usage":%b}' % COUNTS,
    ],
    ids=["in-a-list", "in-an-object", "deeper", "longer-name", "in-a-text", "a-text", "a-text-in-a-list",
         "twice", "last", "before-the-last", "alone"],
)  # fmt: skip
def test_only_the_usage_of_the_answer_itself_counts(body: bytes) -> None:
    """Wherever else the word stands, and however near to the end."""
    assert usage_of("chat/completions", body) == Usage(3, 4)


def test_the_last_of_two_counts() -> None:
    """As with every parser that builds a dictionary."""
    first = b'{"usage":{"prompt_tokens":1,"completion_tokens":1},'
    body = first + b'"usage":{"prompt_tokens":9,"completion_tokens":3}}'
    assert usage_of(CHAT, body) == Usage(9, 3)


def test_rerank_in_the_shape_of_cohere() -> None:
    """Its usage stands in ``meta``; units of search are no tokens."""
    meta = {"billed_units": {"search_units": 1}, "tokens": {"input_tokens": 31, "output_tokens": 0}}
    assert usage_of("rerank", json.dumps({"results": [], "meta": meta}).encode()) == Usage(31, 0)
    only_units = {"billed_units": {"search_units": 1}}
    assert usage_of("rerank", json.dumps({"results": [], "meta": only_units}).encode()) is None


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"text": "hi", "duration": 8.47}, Usage(seconds=9)),
        ({"text": "hi", "duration": -1}, None),
        ({"text": "hi", "duration": "8.47"}, None),
        ({"text": "hi", "duration": MAX_SECONDS + 1}, None),
        ({"text": "hi", "usage": {"type": "duration", "seconds": 0}}, None),
        ({"text": "hi", "usage": {"type": "duration", "seconds": "9"}, "duration": 4}, None),
        ({"text": "hi", "usage": {"type": "tokens"}, "duration": 4}, Usage(seconds=4)),
    ],
)
def test_seconds_of_audio(body: dict[str, Any], expected: Usage | None) -> None:
    """Those of ``usage``, else the duration that verbose answers tell."""
    assert usage_of("audio/transcriptions", json.dumps(body).encode()) == expected


VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5),
    st.lists(st.integers(), max_size=2), st.dictionaries(st.text(max_size=5), st.integers(), max_size=2),
)  # fmt: skip
NAMES = st.sampled_from(
    [
        "prompt_tokens", "completion_tokens", "total_tokens", "input_tokens", "output_tokens", "seconds",
        "type", "prompt_tokens_details", "output_tokens_details", "prompt_cache_hit_tokens", "other",
    ]
)  # fmt: skip


@given(
    endpoint=st.sampled_from(ENDPOINTS),
    usage=st.one_of(VALUES, st.dictionaries(NAMES, VALUES, max_size=6)),
)
def test_what_comes_out_can_be_true(endpoint: str, usage: Any) -> None:
    """Whatever is written there: counts are bounded, parts no larger than the whole, and never all 0."""
    found = usage_of(endpoint, answer(usage))
    if found is None:
        return
    assert 0 <= found.cached_tokens <= found.input_tokens <= MAX_TOKENS
    assert 0 <= found.reasoning_tokens <= found.output_tokens <= MAX_TOKENS
    assert 0 <= found.seconds <= MAX_SECONDS
    assert found.input_tokens + found.output_tokens + found.seconds > 0


@given(st.binary(max_size=200))
def test_any_bytes(body: bytes) -> None:
    """Nothing is raised."""
    for endpoint in ENDPOINTS:
        usage_of(endpoint, body)
