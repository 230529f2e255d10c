"""Estimates of tokens: near enough for text, and no picture is taken for a book."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from router_core.gateway.accounting.tokens import (
    IMAGE_TOKENS,
    estimate_answer,
    estimate_cut,
    estimate_input,
    estimate_output,
    tokens_in,
)
from router_core.gateway.call import Call, Usage
from router_core.gateway.json import read_fields

TEXT = (
    "It is a truth universally acknowledged, that a single man in possession of a good fortune, must be in "
)
PICTURE = "data:image/png;base64," + base64.b64encode(bytes(range(256)) * 4000).decode()
SOUND = base64.b64encode(bytes(range(256)) * 1000).decode()


def call(endpoint: str = "chat/completions", *, ascii_only: bool = True, **fields: Any) -> Call:
    """Return a call with these fields."""
    body = json.dumps({"model": "m", **fields}, ensure_ascii=ascii_only).encode()
    return Call(endpoint, "m", body=body, fields=read_fields(body))


def say(*parts: Any) -> list[dict[str, Any]]:
    """Return the messages of a chat with one message."""
    return [{"role": "user", "content": parts[0] if isinstance(parts[0], str) else list(parts)}]


def text_part(text: str) -> dict[str, str]:
    """Return a part of a message."""
    return {"type": "text", "text": text}


def picture_part(url: str) -> dict[str, Any]:
    """Return a part of a message."""
    return {"type": "image_url", "image_url": {"url": url}}


@pytest.mark.parametrize("copies", [1, 10, 400])
def test_text_is_near_its_size(copies: int) -> None:
    """Within a quarter of bytes divided by 3.7, once there is more than the frame around it."""
    found = estimate_input(call(messages=say(TEXT * copies)))
    expected = len(TEXT) * copies / 3.7
    assert expected <= found <= expected * 1.25 + 12


def test_it_is_written_down() -> None:
    """The call knows it afterwards."""
    made = call(messages=say("hello"))
    assert estimate_input(made) == made.input_tokens > 0


def test_all_that_the_model_reads_counts() -> None:
    """Tools too, and nothing beside."""
    bare = estimate_input(call(messages=say(TEXT)))
    tools = [{"type": "function", "function": {"name": "f", "description": TEXT * 4}}]
    assert estimate_input(call(messages=say(TEXT), tools=tools)) >= bare + len(TEXT) * 4 / 3.7
    assert estimate_input(call(messages=say(TEXT), metadata={"x": TEXT * 100}, tools=[])) == bare
    assert estimate_input(call(messages=say(TEXT), tools=None)) <= bare + 2


@pytest.mark.parametrize(
    ("endpoint", "fields"),
    [
        ("completions", {"prompt": TEXT * 8}),
        ("embeddings", {"input": TEXT * 8}),
        ("embeddings", {"input": [TEXT] * 8}),
        ("rerank", {"query": TEXT, "documents": [TEXT] * 7}),
        ("rerank", {"query": TEXT, "documents": [{"text": TEXT}] * 7}),
        ("images/generations", {"prompt": TEXT * 8}),
        ("responses", {"input": TEXT * 7, "instructions": TEXT}),
        ("something/else", {"prompt": TEXT * 8}),
    ],
)
def test_endpoints(endpoint: str, fields: dict[str, Any]) -> None:
    """Each reads its own fields."""
    expected = len(TEXT) * 8 / 3.7
    assert expected <= estimate_input(call(endpoint, **fields)) <= expected * 1.3


@pytest.mark.parametrize("ids", [[1, 2, 3], [[11, 22], [33]], [128000]])
def test_token_ids_are_counted(ids: list[Any]) -> None:
    """Whoever sends ids has counted already."""
    assert estimate_input(call("embeddings", input=ids)) == str(ids).count(",") + 1


@pytest.mark.parametrize("text", ["привет мир ", "日本語の文章です", "emoji 🎉🎉🎉 "])
def test_escapes_are_not_counted_as_written(text: str) -> None:
    """The same text, sent as \\uXXXX or as UTF-8, is estimated within two fifths of one another."""
    escaped = estimate_input(call(messages=say(text * 200)))
    plain = estimate_input(call(messages=say(text * 200), ascii_only=False))
    assert 0.6 < escaped / plain < 1.4


@pytest.mark.parametrize("count", [1, 3])
def test_pictures_are_counted_by_the_piece(count: int) -> None:
    """A megabyte of base64 is no text, inlined or not."""
    parts = [picture_part(PICTURE) for _ in range(count)]
    found = estimate_input(call(messages=say(text_part(TEXT * 50), *parts)))
    text = estimate_input(call(messages=say(text_part(TEXT * 50))))
    assert text + count * IMAGE_TOKENS <= found <= text + count * (IMAGE_TOKENS + 40)


def test_remote_pictures_count_as_well() -> None:
    """In the words of chat and in those of responses."""
    address = "https://example.com/picture.png"
    chat = estimate_input(call(messages=say(text_part("hi"), picture_part(address), picture_part(address))))
    assert 2 * IMAGE_TOKENS <= chat <= 2 * IMAGE_TOKENS + 120
    item = {"type": "input_image", "image_url": address}
    found = estimate_input(call("responses", input=say(text_part("hi"), item, item)))
    assert 2 * IMAGE_TOKENS <= found <= 2 * IMAGE_TOKENS + 120


@pytest.mark.parametrize("spaces", [(",", ":"), (", ", ": ")])
def test_sound_is_no_text(spaces: tuple[str, str]) -> None:
    """Its base64 stands behind a member called data, with or without spaces."""
    part = {"type": "input_audio", "input_audio": {"data": SOUND, "format": "mp3"}}
    body = json.dumps({"model": "m", "messages": say(text_part("hi"), part)}, separators=spaces).encode()
    made = Call("chat/completions", "m", body=body, fields=read_fields(body))
    assert len(SOUND) / 10_000 < estimate_input(made) < len(SOUND) / 1000


def test_text_about_data_is_text() -> None:
    """Neither the word nor a quoted URL hides what follows it."""
    text = 'the "data": field, and "data:image/png;base64,xyz" in quotes. ' * 200
    expected = estimate_input(call(messages=say(text)))
    assert expected * 0.95 <= estimate_input(call(messages=say(text_part(text)))) <= expected * 1.05
    table = {"type": "text", "data": "a plain sentence " * 600}
    assert estimate_input(call(messages=say(table))) >= 600 * 17 / 3.7


def test_a_file_is_no_text() -> None:
    """A document comes as a data URL that is no picture."""
    part = {"type": "file", "file": {"file_data": "data:application/pdf;base64," + SOUND}}
    assert estimate_input(call(messages=say(text_part("hi"), part))) < len(SOUND) / 1000


def test_an_unending_string_is_survived() -> None:
    """Fields hold valid JSON; should they not, nothing is raised all the same."""
    made = call(messages=say("hi"))
    made.fields = {"messages": b'[{"content":[{"url":"data:image/png;base64,' + b"A" * 5000}
    assert estimate_input(made) >= IMAGE_TOKENS


@pytest.mark.parametrize("messages", [[], None, "", 0, {}])
def test_nothing_is_said(messages: Any) -> None:
    """What is no message is next to nothing, and no error."""
    assert 0 <= estimate_input(call(messages=messages)) <= 2


def test_uploads_go_by_their_length() -> None:
    """Sound that is not JSON."""
    made = Call("audio/transcriptions", "m", body=b"\0" * 100_000, content_type="multipart/form-data")
    assert estimate_input(made) == 50


def test_output() -> None:
    """What is allowed, else a usual answer; vectors are none."""
    made = call(messages=say("hi"))
    assert estimate_output(made) == 1024
    made.max_tokens = 7
    assert estimate_output(made) == 7
    assert estimate_output(call("embeddings", input="x")) == 0


def test_a_stream_that_was_cut() -> None:
    """What was sent, and the text that had come, both marked as estimates."""
    made = call(messages=say(TEXT))
    estimate_input(made)
    assert estimate_cut(made, 370) == Usage(made.input_tokens, 101, estimated=True)
    assert estimate_cut(made, 0).output_tokens == 0
    fresh = call(messages=say(TEXT))
    assert estimate_cut(fresh, 1).input_tokens == made.input_tokens


def test_an_answer_that_counts_nothing() -> None:
    """Its size tells, but not that of vectors."""
    made = call(messages=say(TEXT))
    assert estimate_answer(made, b"x" * 4000) == Usage(estimate_input(made), 1001, estimated=True)
    assert estimate_answer(made, b"{}").output_tokens == 0
    assert estimate_answer(call("embeddings", input="x"), b"x" * 40_000).output_tokens == 0


def test_tokens_in_a_text() -> None:
    """At least one where there is any text."""
    assert [tokens_in(size) for size in (-1, 0, 1, 37)] == [0, 0, 1, 11]
