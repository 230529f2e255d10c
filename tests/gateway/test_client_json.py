"""Reading the body of a call: what is judged is what is sent, and wrong bodies are named."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router_core.errors import BadRequest
from router_core.gateway.json import (
    MAX_DEPTH,
    count_of,
    max_tokens_of,
    model_of,
    needs_of,
    read_fields,
    stream_of,
    text_of,
    wants_usage_of,
)


@pytest.mark.parametrize(
    ("body", "word"),
    [
        (b"", "empty"),
        (b"  \n", "empty"),
        (b"[]", "object"),
        (b"null", "object"),
        (b'"text"', "object"),
        (b"{", "not valid JSON"),
        (b'{"a":1}x', "trailing"),
        (b'{"a":NaN}', "not valid JSON"),
        (b'{"a":[1,-Infinity]}', "not valid JSON"),
        (b'{"a":{"b":tru}}', "not valid JSON"),
        (b'{"a":"\xff"}', "UTF-8"),
        (b'{"\xff":1}', "UTF-8"),
        (b'{"a":{"b":["\xc3("]}}', "UTF-8"),
        (b'{"a":"\x01"}', "not valid JSON"),
        (b'{"a":"\\ud800"}', "not valid JSON"),
        (b"\xef\xbb\xbf{}", "not valid JSON"),
        (b"<html>", "not valid JSON"),
    ],
    ids=lambda value: None if isinstance(value, bytes) else str(value),
)
def test_what_is_no_object_is_refused_with_a_reason(body: bytes, word: str) -> None:
    """Each wrong body gets a 400 that says what is wrong with it."""
    with pytest.raises(BadRequest, match=word) as caught:
        read_fields(body)
    assert caught.value.status == 400
    assert caught.value.code == "invalid_json"


def test_values_stay_as_they_came() -> None:
    """Numbers, spaces and escapes inside of values are not written anew."""
    fields = read_fields(b'{"model":"m","x":{"a" : 1.50, "b":"\\u00e9"},"y":1e2}')
    assert {name: bytes(value) for name, value in fields.items()} == {
        "model": b'"m"', "x": b'{"a" : 1.50, "b":"\\u00e9"}', "y": b"1e2",
    }  # fmt: skip


def test_of_a_name_given_twice_the_last_counts_for_judging_and_for_sending() -> None:
    """There is one value for both, however the name is spelled."""
    fields = read_fields(b'{"model":"cheap","\\u006dodel":"dear"}')
    assert model_of(fields) == "dear"
    assert len(fields) == 1


@pytest.mark.parametrize("open_close", [("[", "]"), ('{"a":', "}")], ids=["lists", "objects"])
def test_nesting_is_bounded(open_close: tuple[str, str]) -> None:
    """A body of exactly the allowed depth passes, one level more does not, nor do a hundred thousand."""
    start, end = open_close

    def nested(levels: int) -> bytes:
        return ('{"a":' + start * (levels - 1) + "0" + end * (levels - 1) + "}").encode()

    read_fields(nested(MAX_DEPTH))
    for levels in (MAX_DEPTH + 1, 900, 100_000):
        with pytest.raises(BadRequest, match="nested") as caught:
            read_fields(nested(levels))
        assert caught.value.code == "json_too_deep"


def test_brackets_inside_of_texts_are_no_nesting() -> None:
    """Neither plain ones nor those beside escaped quotes and backslashes count."""
    texts = ["[{" * 300, '"' + "[" * 300, "\\" + "]{" * 300, '\\"[' * 300, "[" * 200 + "\\"]
    read_fields(json.dumps({"model": "m", "messages": texts}).encode())


_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text('[]{}"\\a', max_size=12),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text('[{"\\', max_size=3), inner, max_size=3)
    ),
    max_leaves=20,
)


@given(_values)
def test_any_shallow_value_passes_and_its_deep_wrapping_does_not(value: object) -> None:
    """Whatever texts hold, only true nesting is counted."""
    read_fields(json.dumps({"a": value, "pad": "[{" * 70}).encode())
    deep = "[" * MAX_DEPTH + json.dumps(value) + "]" * MAX_DEPTH
    with pytest.raises(BadRequest, match="nested"):
        read_fields(('{"a":' + deep + "}").encode())


def test_more_arrays_than_anybody_needs_are_refused() -> None:
    """Quickly, however they are mixed with texts; one long text may hold as many brackets as it likes."""
    pieces = (b"[],", b'["["],', b"[[[[]]]],", b'{"a":{}},')
    for piece in pieces:
        with pytest.raises(BadRequest, match="arrays and objects"):
            read_fields(b'{"a":[' + piece * 500_000 + b"1]}")
    for piece in pieces:
        read_fields(b'{"a":[' + piece * 20_000 + b"1]}")
    read_fields(b'{"a":"' + b"[{" * 1_000_000 + b'","b":["x","[","]"]}')


def test_too_many_fields_are_refused() -> None:
    """A body of a thousand names is not one of a model's."""
    with pytest.raises(BadRequest, match="fields"):
        read_fields(json.dumps({str(number): 1 for number in range(1000)}).encode())


@pytest.mark.parametrize(
    ("value", "word"),
    [
        ("null", "string"),
        ("5", "string"),
        ('""', "1 to 256"),
        ('"a\\nb"', "printable"),
        (f'"{"x" * 257}"', "1 to"),
    ],
    ids=["null", "number", "empty", "line break", "long"],
)
def test_a_wrong_model_is_named(value: str, word: str) -> None:
    """The error carries the parameter, as errors of OpenAI do."""
    with pytest.raises(BadRequest, match=word) as caught:
        model_of(read_fields(f'{{"model":{value}}}'.encode()))
    assert caught.value.extra["param"] == "model"


def test_a_missing_model_is_named() -> None:
    """Without a model nothing can be chosen."""
    with pytest.raises(BadRequest, match="provide a model") as caught:
        model_of({})
    assert caught.value.code == "missing_model"


def test_names_of_models_may_hold_what_providers_use() -> None:
    """Slashes, colons, spaces and letters of all languages are fine."""
    for name in ("meta-llama/Llama-3.1-8B-Instruct:novita", "modèle été", "a b"):
        assert model_of(read_fields(json.dumps({"model": name}).encode())) == name


@pytest.mark.parametrize(
    ("text", "expected"), [("{}", False), ('{"stream":true}', True), ('{"stream":false}', False),
                           ('{"stream":null}', False)],
)  # fmt: skip
def test_stream_is_read(text: str, expected: bool) -> None:
    """Null is as good as absent."""
    assert stream_of(read_fields(text.encode())) is expected


@pytest.mark.parametrize("value", ['"true"', "1", "[]"])
def test_a_stream_that_is_not_a_truth_value_is_refused(value: str) -> None:
    """Guessing would answer some callers in a form that they cannot read."""
    with pytest.raises(BadRequest, match="true or false") as caught:
        stream_of(read_fields(f'{{"stream":{value}}}'.encode()))
    assert caught.value.extra["param"] == "stream"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{}", None), ('{"max_tokens":7}', 7), ('{"max_completion_tokens":9,"max_tokens":7}', 9),
        ('{"max_completion_tokens":null,"max_tokens":7}', 7), ('{"max_output_tokens":3}', 3),
        ('{"max_tokens":0}', 0),
    ],
)  # fmt: skip
def test_the_limit_of_tokens_is_read(text: str, expected: int | None) -> None:
    """All three names that it has are known; the newer wins."""
    assert max_tokens_of(read_fields(text.encode())) == expected


@pytest.mark.parametrize(
    "value", ['"100"', "-1", "1.5", "true", "1e999", "9" * 400, "9" * 5000, "2147483648", "[]"]
)
def test_a_wrong_limit_of_tokens_is_refused(value: str) -> None:
    """Too large, too small or no whole number: 400, and never a crash."""
    with pytest.raises(BadRequest) as caught:
        max_tokens_of(read_fields(f'{{"max_tokens":{value}}}'.encode()))
    assert caught.value.extra["param"] == "max_tokens"


def test_the_count_of_answers_is_bounded() -> None:
    """It multiplies what a call costs."""
    assert count_of({}) == 1
    assert count_of(read_fields(b'{"n":null}')) == 1
    assert count_of(read_fields(b'{"n":3}')) == 3
    for value in ("0", "-2", "129", "1e9", '"2"'):
        with pytest.raises(BadRequest) as caught:
            count_of(read_fields(f'{{"n":{value}}}'.encode()))
        assert caught.value.extra["param"] == "n"


def test_the_wish_for_usage_is_read() -> None:
    """Only a plain true asks for it; garbage is refused."""
    for text, expected in (
        ("{}", False), ('{"stream_options":null}', False), ('{"stream_options":{}}', False),
        ('{"stream_options":{"include_usage":true,"x":1}}', True),
        ('{"stream_options":{"include_usage":false}}', False),
    ):  # fmt: skip
        assert wants_usage_of(read_fields(text.encode())) is expected
    for value in ("[]", '"x"', '{"include_usage":1}'):
        with pytest.raises(BadRequest):
            wants_usage_of(read_fields(f'{{"stream_options":{value}}}'.encode()))


def test_texts_are_cut() -> None:
    """What keeps calls together is no place for megabytes."""
    assert text_of(read_fields(b'{"user":"u1"}'), "user") == "u1"
    assert text_of({}, "user") == ""
    assert text_of(read_fields(b'{"user":null}'), "user") == ""
    assert len(text_of(read_fields(b'{"user":"' + b"x" * 9999 + b'"}'), "user")) == 256
    with pytest.raises(BadRequest):
        text_of(read_fields(b'{"user":{}}'), "user")


def _chat(*content: object) -> dict[str, object]:
    return {"messages": [{"role": "user", "content": each} for each in content]}


@pytest.mark.parametrize(
    ("body", "needs"),
    [
        ({}, set()),
        ({"tools": [], "functions": None}, set()),
        ({"tools": [{"type": "function"}]}, {"tools"}),
        ({"functions": [{}]}, {"tools"}),
        ({"response_format": {"type": "text"}}, set()),
        ({"response_format": {"type": "json_object"}}, {"json"}),
        ({"response_format": {"type": "json_schema", "json_schema": {}}}, {"json"}),
        ({"response_format": "json"}, set()),
        ({"text": {"format": {"type": "json_schema"}}}, {"json"}),
        (_chat("plain [with] brackets"), set()),
        (_chat('a text of "image_url"', "image_url"), set()),
        (_chat([{"type": "text", "text": "image_url"}]), set()),
        (_chat("x", [{"type": "text", "text": "y"}, {"type": "image_url", "image_url": {}}]), {"vision"}),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, {"vision"}),
        ({"input": ["image_url", ["x"]]}, set()),
        ({"messages": "image_url"}, set()),
        ({"tools": [1], **_chat([{"type": "image_url"}])}, {"tools", "vision"}),
    ],
    ids=lambda value: str(sorted(value) if isinstance(value, set) else value),  # alike in each process
)  # fmt: skip
def test_what_a_call_needs_is_seen(body: dict[str, object], needs: set[str]) -> None:
    """Tools, JSON and images are found; texts that speak of them are not taken for them."""
    assert needs_of(read_fields(json.dumps(body).encode())) == needs
