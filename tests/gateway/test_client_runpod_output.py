"""What jobs at RunPod put out, read as answers of OpenAI: every known shape, and any other without harm."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from router_core.gateway.clients.runpod_output import OutputError, UnknownOutput, answer_of, error_of
from router_core.gateway.clients.runpod_stream import PieceWriter, events_of

CHAT = {"id": "x", "object": "chat.completion", "choices": [{"index": 0, "message": {"content": "Hi"}}]}
TEXT = {"id": "x", "object": "text_completion", "choices": [{"index": 0, "text": "Hi"}]}
VECTORS = {"object": "list", "data": [{"embedding": [1.0]}]}


def chunk(delta: dict[str, Any], finish: str | None = None, index: int = 0) -> dict[str, Any]:
    """Return a chunk of a chat completion."""
    choice = {"index": index, "delta": delta, "finish_reason": finish}
    return {"id": "x", "object": "chat.completion.chunk", "model": "up", "choices": [choice]}


USAGE = {"id": "x", "object": "chat.completion.chunk", "choices": [], "usage": {"prompt_tokens": 1}}
CALLS = [
    chunk({"role": "assistant", "content": None}),
    chunk({"tool_calls": [{"index": 0, "id": "t", "function": {"name": "add", "arguments": ""}}]}),
    chunk({"tool_calls": [{"index": 0, "function": {"arguments": '{"a":'}}]}),
    chunk({"tool_calls": [{"index": 0, "function": {"arguments": "1}"}}]}),
    chunk({"tool_calls": [{"index": 7, "function": {"arguments": "lost"}}]}),
    chunk({"reasoning_content": "hm"}), chunk({}, "tool_calls"), USAGE,
]  # fmt: skip


def answer(output: Any, endpoint: str = "chat/completions") -> dict[str, Any]:
    """Return the answer that an output is."""
    return answer_of(output, endpoint, "m", "i", 7)


@pytest.mark.parametrize(
    ("endpoint", "output"),
    [
        ("chat/completions", CHAT), ("chat/completions", [CHAT]), ("chat/completions", [[CHAT]]),
        ("completions", TEXT), ("completions", [TEXT]), ("embeddings", VECTORS), ("embeddings", [VECTORS]),
        ("rerank", {"results": []}), ("rerank", {"data": []}), ("images/generations", {"data": []}),
        ("responses", {"output": []}), ("audio/transcriptions", {"text": "x"}),
    ],
)  # fmt: skip
def test_answers_of_openai_pass(endpoint: str, output: Any) -> None:
    """What has the shape already stays as it is, in lists of one or not."""
    wanted = output
    while isinstance(wanted, list):
        wanted = wanted[0]
    assert answer([output], endpoint) == answer(output, endpoint) == wanted


@pytest.mark.parametrize(
    "output",
    [
        "Hi",
        ["H", "i"],
        {"text": "Hi"},
        {"text": ["H", "i"]},
        {"generated_text": "Hi"},
        [{"generated_text": "Hi"}],
        {"response": "Hi"},
        {"output": "Hi"},
        {"choices": [{"tokens": ["H", "i"]}]},
        [{"choices": [{"tokens": "Hi"}]}],
    ],
)
def test_texts_become_completions(output: Any) -> None:
    """Every form of a text is wrapped in the shape of the endpoint."""
    chat, text = answer(output), answer(output, "completions")
    assert chat["choices"][0]["message"]["content"] == text["choices"][0]["text"] == "Hi"
    assert (chat["object"], text["object"]) == ("chat.completion", "text_completion")
    assert (chat["model"], chat["id"], chat["created"]) == ("m", "i", 7)
    assert "usage" not in chat


def test_usage_of_workers_for_vllm() -> None:
    """Their counts are taken over; what counts nothing is not."""
    output = {"choices": [{"tokens": ["x"]}], "usage": {"input": 3, "output": 4}}
    assert answer([output])["usage"]["total_tokens"] == 7
    assert "usage" not in answer({"text": "x", "usage": {"input": "3"}})


@pytest.mark.parametrize("form", ["objects", "events"])
def test_chunks_are_put_together(form: str) -> None:
    """A list of chunks, as objects or as texts of events, is one answer."""
    output: list[Any] = list(CALLS)
    if form == "events":
        output = [f"data: {json.dumps(each)}\n\n" for each in CALLS] + ["\n", "data: [DONE]\n\n"]
    got = answer(output)
    assert got["object"] == "chat.completion"
    assert got["model"] == "up"
    assert got["usage"] == {"prompt_tokens": 1}
    choice = got["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["reasoning_content"] == "hm"
    function = {"name": "add", "arguments": '{"a":1}'}
    assert choice["message"]["tool_calls"] == [{"id": "t", "type": "function", "function": function}]
    pieces = [{"object": "text_completion", "choices": [{"index": 0, "text": each}]} for each in "Hi"]
    assert answer(pieces, "completions")["choices"][0]["text"] == "Hi"


def test_choices_of_chunks_are_kept_apart() -> None:
    """Several choices come out in their order."""
    late = chunk({"content": "B"}, index=1)
    got = answer([chunk({"content": "b"}, index=1), chunk({"content": "a"}), late])
    assert [each["message"]["content"] for each in got["choices"]] == ["a", "bB"]


@pytest.mark.parametrize(
    ("output", "status", "message"),
    [
        ({"error": "oh"}, 500, "oh"),
        ({"error": {"message": "m", "code": 404}}, 404, "m"),
        ({"error": {"message": "m", "status_code": 429}}, 429, "m"),
        ({"error": 5}, 500, "the job failed"),
        ({"error": {"message": "m", "type": "invalid_request_error"}}, 400, "m"),
        ({"object": "error", "message": "m", "code": 400}, 400, "m"),
        ({"error": {}, "object": "error"}, 500, "the job"),
        ({"error": '{"error": {"message": "m", "code": 422}}'}, 422, "m"),
        ({"error": '{"message": "m"}'}, 500, "m"),
        ({"error": "{broken"}, 500, "{broken"),
        ({"error": "handler: x \ntraceback: secret"}, 500, "handler: x"),
        ({"error": '{"error_message": "m", "error_traceback": "secret"}'}, 500, "m"),
    ],
)
def test_errors(output: dict[str, Any], status: int, message: str) -> None:
    """Errors keep their status where they say one, and never their traceback."""
    error = error_of(output)
    assert error is not None
    assert error.status == status
    assert error.message.startswith(message)
    assert "secret" not in error.message


@pytest.mark.parametrize(
    ("endpoint", "output"),
    [
        ("chat/completions", None),
        ("chat/completions", 5),
        ("chat/completions", []),
        ("chat/completions", {}),
        ("chat/completions", {"x": 1}),
        ("chat/completions", {"choices": 5}),
        ("chat/completions", [CHAT, CHAT]),
        ("chat/completions", {"choices": [{"index": 0}]}),
        ("embeddings", [[0.5]]),
        ("embeddings", "x"),
        ("rerank", {"x": 1}),
        ("chat/completions", ["a", [[[[[[[[[["b"]]]]]]]]]]]),
    ],
)
def test_other_shapes_are_not_guessed_at(endpoint: str, output: Any) -> None:
    """What is none of the known shapes is said to be none."""
    with pytest.raises(UnknownOutput):
        answer(output, endpoint)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(max_size=20)
    | st.sampled_from(["data: {}", "data: x", "{"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                [
                    "error",
                    "object",
                    "choices",
                    "delta",
                    "message",
                    "text",
                    "tokens",
                    "usage",
                    "index",
                    "tool_calls",
                    "content",
                    "function",
                    "arguments",
                    "output",
                    "input",
                    "code",
                    "finish_reason",
                    "id",
                ]
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=20,
)


@settings(max_examples=40)
@example({"choices": [{"message": None}, None]}, "chat/completions")
@given(JSON, st.sampled_from(["chat/completions", "completions", "embeddings"]))
def test_no_output_does_harm(output: Any, endpoint: str) -> None:
    """Whatever a worker puts out is an answer, an error, or unknown: whole and streamed."""
    with suppress(OutputError, UnknownOutput):
        events_of(answer_of(output, endpoint, "m", "i", 7))
    writer = PieceWriter(endpoint, "i", "m", 7)
    with suppress(OutputError, UnknownOutput):
        writer.write(output)
        writer.end()
