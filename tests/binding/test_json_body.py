"""A JSON body becomes arguments, or an error that says what to mend."""

from __future__ import annotations

import enum
import json
from collections.abc import Coroutine
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from typing_extensions import TypedDict

from router_core.binding.inputs import Intake
from router_core.binding.params import Body, Query
from router_core.binding.strict_json import loads
from router_core.errors import BadRequest, RouterError, UnsupportedMedia, ValidationFailed
from tests.binding.calling import bound, json_request, request_for, router_with


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Item(BaseModel):
    name: str
    count: int = 1


class Closed(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: str


class Strict(BaseModel):
    model_config = ConfigDict(strict=True)
    at: datetime


@dataclass
class Point:
    x: int
    y: int = 0


class Options(TypedDict):
    depth: int


def five(name: str, age: int, score: float = 1.0, ok: bool = True, tags: list[str] | None = None) -> None:
    """Take five fields."""


async def test_fields_become_arguments_and_defaults_stay_with_the_function() -> None:
    """Given fields are coerced; a default that was not given is not passed at all."""
    router = router_with("/five", five)
    assert await bound(router, json_request("/five", {"name": "a", "age": "3"})) == {"name": "a", "age": 3}


async def test_the_short_way_and_the_long_way_agree() -> None:
    """A backslash or a query sends the same body through collect and validate; the arguments are equal."""
    router = router_with("/five", five)
    plan = router.routes[0].plan
    plain = json_request("/five", b'{"name":"bob","age":3,"tags":["a","b"]}')
    escaped = json_request("/five", b'{"n\\u0061me":"bob","age":3,"tags":["a","b"]}')
    direct = plan.bind(plain)
    assert isinstance(direct, dict)
    assert (
        direct == await bound(router, escaped) == await bound(router, json_request("/five?zz=1", plain.body))
    )
    assert direct == plan.validate(await plan.collect(plain)) == {"name": "bob", "age": 3, "tags": ["a", "b"]}


async def test_unknown_fields_and_unknown_query_are_ignored() -> None:
    """What the function does not know is no error."""
    router = router_with("/five", five)
    values = await bound(
        router, json_request("/five?details_id=1", {"name": "a", "age": 1, "more": {"x": [1]}})
    )
    assert values == {"name": "a", "age": 1}


@pytest.mark.parametrize(
    ("annotation", "given", "expected"),
    [
        (Color, "blue", Color.BLUE),
        (Literal[1, "a"], 1, 1),
        (UUID, "12345678-1234-5678-1234-567812345678", UUID("12345678123456781234567812345678")),
        (datetime, "2026-01-02T03:04:05Z", datetime.fromisoformat("2026-01-02T03:04:05+00:00")),
        (Point | None, None, None),
        (tuple[int, str], [1, "a"], (1, "a")),
        (set[int], [1, 1, 2], {1, 2}),
        (dict[str, int], {"a": "1"}, {"a": 1}),
        (Annotated[int, Field(ge=1)], 1, 1),
        (Any, {"a": [1, None]}, {"a": [1, None]}),
        (list[Point], [{"x": 1}], [Point(1)]),
        (int | str, "x", "x"),
    ],
)
async def test_every_kind_of_type_is_read(annotation: Any, given: Any, expected: Any) -> None:
    """Types of pydantic and of the standard library come out as themselves."""

    def take(value, other: int = 0):  # type: ignore[no-untyped-def]
        """Take a value."""

    take.__annotations__["value"] = annotation
    router = router_with("/take", take)
    assert await bound(router, json_request("/take", {"value": given})) == {"value": expected}


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", None),
        (b"{", "invalid_json"),
        (b"\xef\xbb\xbf{}", "invalid_json"),
        (b"\xff\xfe{\x00}\x00", "invalid_json"),
        (b'{"name":"\xff","age":1}', "invalid_json"),
        (b'{"name":"\\ud800","age":1}', "invalid_json"),
        (b'{"name":"a","age":NaN}', "invalid_json"),
        (b'{"name":"a","age":1,"score":Infinity}', "invalid_json"),
        (b'{"name":"a","age":1,"x":[-Infinity]}', "invalid_json"),
        (b'{"name":"a","age":1,"x":1e999}', "invalid_json"),
        (b'{"name":"a","age":1,"name":"b"}', "duplicate_key"),
        (b'{"name":"a","age":1,"n\\u0061me":"b"}', "duplicate_key"),
        (b'{"name":"a","age":1,"x":{"k":1,"k":1}}', "duplicate_key"),
        (b'{"name":"a","age":1,"x":1,"x":2}', "duplicate_key"),
        (b'{"name":"a","age":' + b"9" * 5000 + b"}", "invalid_json"),
        (b'{"x":' + b"[" * 100 + b"]" * 100 + b',"name":"a","age":1}', "json_too_deep"),
        (b"[" * 100_000, None),
        (b'{"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}", None),
        (b'{"name":"a","age":1}{}', "invalid_json"),
        (b"null", None),
        (b"[1]", None),
        (b'"text"', None),
        (b'{"name":1,"age":"x","score":[],"ok":"perhaps"}', None),
        (b'{"name":"a","age":1e400}', None),
        (b'{"name":"a","age":1.5}', None),
        (b"\x00", "invalid_json"),
    ],
)
async def test_a_bad_body_is_the_callers_error(body: bytes, code: str | None) -> None:
    """Nothing that can be put into a body is more than a 400 or 422."""
    router = router_with("/five", five)
    with pytest.raises(BadRequest) as caught:
        await bound(router, json_request("/five", body))
    assert caught.value.status in (400, 422)
    assert code is None or caught.value.code == code


class Filled(BaseModel):
    """Adds to what it is given, so that its fields do not tell what was in the body."""

    name: str
    price: float = 1.0
    extra: int = 0

    @model_validator(mode="before")
    @classmethod
    def fill(cls, data: dict[str, Any]) -> dict[str, Any]:
        """Add a field."""
        return {**data, "extra": 1}


class Priced(BaseModel):
    """May hold infinity, as models may unless they say otherwise."""

    name: str
    price: float = 1.0
    inner: Item | None = None


@pytest.mark.parametrize("model", [Filled, Priced])
@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b'{"name":"a","name":"b"}', "duplicate_key"),
        (b'{"name":"a","price":1,"pric\\u0065":2}', "duplicate_key"),
        (b'{"name":"a","inner":{"name":"b","name":"c"}}', "duplicate_key"),
        (b'{"name":"a","price":NaN}', "invalid_json"),
        (b'{"name":"a","price":-Infinity}', "invalid_json"),
        (b'{"name":"a","price":1e999}', "invalid_json"),
        (b'{"name":"a","price":1E+0999}', "invalid_json"),
        (b'{"name":"a","price":' + b"9" * 400 + b".0}", "invalid_json"),
    ],
)
async def test_a_model_is_read_as_strictly(model: type[BaseModel], body: bytes, code: str) -> None:
    """Also where the model itself would take more than strict JSON."""

    def take(order: Any) -> None:
        """Take a model."""

    take.__annotations__["order"] = model
    with pytest.raises(BadRequest) as caught:
        await bound(router_with("/t", take), json_request("/t", body))
    assert caught.value.code == code
    found = await bound(router_with("/t", take), json_request("/t", b'{"name":"a:b"}'))
    assert found["order"].name == "a:b"


async def test_all_wrong_fields_are_named_at_once() -> None:
    """``errors`` has one entry per wrong value, with where it is, and not the value itself."""
    router = router_with("/five", five)
    with pytest.raises(ValidationFailed) as caught:
        await bound(router, json_request("/five", {"age": "secret", "tags": [1]}))
    errors = caught.value.errors
    assert [error["loc"] for error in errors] == [["body", "name"], ["body", "age"], ["body", "tags", 0]]
    assert {error["type"] for error in errors} == {"missing", "int_parsing", "string_type"}
    assert "secret" not in json.dumps(errors)


class Even(BaseModel):
    count: int
    half: int = 0

    @field_validator("count")
    @classmethod
    def _even(cls, count: int) -> int:
        if count % 2:
            raise ValueError("count must be even")
        return count

    @field_validator("half")
    @classmethod
    def _whole(cls, half: int) -> int:
        if half < 0:
            raise AssertionError("half of what?")
        return half


async def test_an_authors_own_check_speaks_in_the_authors_words() -> None:
    """Without the words that pydantic puts before them."""

    def take(item: Even) -> None:
        """Take a model with validators."""

    with pytest.raises(ValidationFailed) as caught:
        await bound(router_with("/t", take), json_request("/t", {"count": 3, "half": -1}))
    assert caught.value.errors == [
        {"loc": ["body", "count"], "type": "value_error", "msg": "count must be even"},
        {"loc": ["body", "half"], "type": "assertion_error", "msg": "half of what?"},
    ]


async def test_the_number_of_reported_errors_is_bounded() -> None:
    """A body of nothing but wrong values does not make an answer of a hundred times its size."""

    def take(values: list[int]) -> None:
        """Take numbers."""

    with pytest.raises(ValidationFailed) as caught:
        await bound(router_with("/t", take), json_request("/t", {"values": ["x"] * 5000}))
    assert len(caught.value.errors) == 1


async def test_a_single_model_is_the_body() -> None:
    """One model: the body is the model, or holds it under its name when that cannot be meant otherwise."""

    def take(item: Item) -> None:
        """Take an item."""

    router = router_with("/t", take)
    for body in ({"name": "a"}, {"item": {"name": "a"}}):
        assert await bound(router, json_request("/t", body)) == {"item": Item(name="a")}
    with pytest.raises(ValidationFailed) as caught:
        await bound(router, json_request("/t", {"count": 1}))
    assert caught.value.errors[0]["loc"] == ["body", "name"]
    with pytest.raises(ValidationFailed) as caught:
        await bound(router, json_request("/t", {"item": {"count": "x"}}))
    assert [error["loc"] for error in caught.value.errors] == [
        ["body", "item", "name"],
        ["body", "item", "count"],
    ]
    with pytest.raises(ValidationFailed) as caught:
        await bound(router, request_for("POST", "/t"))
    assert caught.value.errors[0] == {"loc": ["body"], "type": "missing", "msg": "Field required"}


async def test_an_embedded_model_of_defaults_is_not_dropped() -> None:
    """Where every field has a default, the embedded spelling would validate as an empty model."""

    class Lax(BaseModel):
        size: int = 1

    def take(lax: Lax) -> None:
        """Take a model."""

    assert await bound(router_with("/t", take), json_request("/t", {"lax": {"size": 5}})) == {
        "lax": Lax(size=5)
    }


async def test_a_model_with_a_field_of_the_parameters_name_is_never_unwrapped() -> None:
    """``{"item": {...}}`` is the model itself when the model has a field called item."""

    class Outer(BaseModel):
        item: dict[str, int]

    def take(item: Outer) -> None:
        """Take a model."""

    values = await bound(router_with("/t", take), json_request("/t", {"item": {"item": 1}}))
    assert values == {"item": Outer(item={"item": 1})}


async def test_several_body_values_stand_under_their_names() -> None:
    """Two models, or a model and a scalar: an object with both."""

    def take(item: Item, point: Point, note: str = "") -> None:
        """Take three."""

    values = await bound(
        router_with("/t", take), json_request("/t?note=hi", {"item": {"name": "a"}, "point": {"x": 1}})
    )
    assert values == {"item": Item(name="a"), "point": Point(1), "note": "hi"}


async def test_models_decide_about_unknown_fields_and_strictness() -> None:
    """``extra=forbid`` refuses, ``strict=True`` reads a date from its JSON form."""

    def closed(item: Closed) -> None:
        """Take a closed model."""

    def strict(item: Strict) -> None:
        """Take a strict model."""

    with pytest.raises(ValidationFailed) as caught:
        await bound(router_with("/t", closed), json_request("/t", {"name": "a", "zz": 1}))
    assert caught.value.errors[0]["loc"] == ["body", "zz"]
    router = router_with("/t", strict)
    long_way = {"item": {"at": "2026-01-01T00:00:00"}}
    for body in (long_way["item"], long_way):
        assert (await bound(router, json_request("/t", body)))["item"].at == datetime(2026, 1, 1)


async def test_a_list_may_be_the_body_of_its_only_parameter() -> None:
    """``[1, 2]`` and ``{"values": [1, 2]}`` are the same call."""

    def take(values: list[int]) -> None:
        """Take numbers."""

    router = router_with("/t", take)
    for body in ([1, 2], {"values": [1, 2]}):
        assert await bound(router, json_request("/t", body)) == {"values": [1, 2]}


async def test_embed_says_which_spelling_counts() -> None:
    """``Body(embed=True)`` wants the name, ``Body(embed=False)`` takes the whole body whatever it is."""

    def named(item: Annotated[Item, Body(embed=True)]) -> None:
        """Take an item."""

    def whole(data: Annotated[dict[str, Any], Body(embed=False)]) -> None:
        """Take anything."""

    assert await bound(router_with("/t", named), json_request("/t", {"item": {"name": "a"}})) == {
        "item": Item(name="a")
    }
    with pytest.raises(ValidationFailed):
        await bound(router_with("/t", named), json_request("/t", {"name": "a"}))
    assert await bound(router_with("/t", whole), json_request("/t", {"data": 1})) == {"data": {"data": 1}}


async def test_typed_dicts_are_models_too() -> None:
    """A TypedDict alone is the body."""

    def take(options: Options) -> None:
        """Take options."""

    assert await bound(router_with("/t", take), json_request("/t", {"depth": "2"})) == {
        "options": {"depth": 2}
    }


async def test_a_value_in_query_and_body_is_refused() -> None:
    """Two places, two values: the server does not choose."""
    with pytest.raises(ValidationFailed) as caught:
        await bound(router_with("/five", five), json_request("/five?age=1", {"name": "a", "age": 2}))
    assert caught.value.errors[0]["type"] == "duplicate"


async def test_scalars_fall_back_to_the_query() -> None:
    """A POST without a body can carry scalars and lists of them in its query."""
    values = await bound(
        router_with("/five", five), request_for("POST", "/five?name=a&age=1&tags=x&tags=y&ok=no")
    )
    assert values == {"name": "a", "age": 1, "tags": ["x", "y"], "ok": False}


async def test_marked_values_keep_to_their_source() -> None:
    """``Body`` is not read from the query, and ``Query`` not from the body."""

    def take(a: Annotated[int, Body()], b: Annotated[int, Query()]) -> None:
        """Take two."""

    router = router_with("/t", take)
    assert await bound(router, json_request("/t?b=2", {"a": 1})) == {"a": 1, "b": 2}
    with pytest.raises(ValidationFailed) as caught:
        await bound(router, json_request("/t?a=1", {"b": 1}))
    assert [error["loc"] for error in caught.value.errors] == [["body", "a"], ["query", "b"]]


async def test_aliases_are_the_names_on_the_wire() -> None:
    """The argument keeps its name; requests and errors use the alias."""

    def take(from_: Annotated[int, Body(alias="from")], to: int = Body(0, le=9)) -> None:
        """Take a range."""

    router = router_with("/t", take)
    assert await bound(router, json_request("/t", {"from": 1, "to": 2})) == {"from_": 1, "to": 2}
    with pytest.raises(ValidationFailed) as caught:
        await bound(router, json_request("/t", {"from_": 1, "to": 99}))
    assert [error["loc"] for error in caught.value.errors] == [["body", "from"], ["body", "to"]]


async def test_a_default_in_a_marker_reaches_the_function() -> None:
    """``= Body(5)`` and ``Field(default=...)`` are the values that the function sees, not the marker."""

    def take(b: Annotated[int, Field(default=6)], a: int = Body(5), c: int = 7) -> None:
        """Take three."""

    assert await bound(router_with("/t", take), json_request("/t", {})) == {"a": 5, "b": 6}


async def test_a_mutable_default_is_not_shared_between_calls() -> None:
    """What one call puts into a list default is not there in the next."""

    def take(tags: list[str] = []) -> None:  # noqa: B006 - that is the point
        """Take tags."""

    router = router_with("/t", take)
    first = await bound(router, json_request("/t", {}))
    first["tags"].append("x")
    assert await bound(router, json_request("/t", {})) == {"tags": []}


@pytest.mark.parametrize(
    ("content_type", "works"),
    [
        ("application/json", True),
        ("application/json; charset=utf-8", True),
        ('Application/JSON; charset="UTF-8"', True),
        ("application/vnd.api+json", True),
        ("application/json; charset=utf-16", False),
        ("text/plain", False),
        ("", False),
        ("application/xml", False),
        ("image/png", False),
    ],
)
async def test_only_json_is_read_as_json(content_type: str, works: bool) -> None:
    """Another content type is 415 and names those that are read."""
    request = request_for("POST", "/five", b'{"name":"a","age":1}', content_type)
    if works:
        assert await bound(router_with("/five", five), request) == {"name": "a", "age": 1}
    else:
        with pytest.raises(UnsupportedMedia):
            await bound(router_with("/five", five), request)


@pytest.mark.parametrize("depth", [1, 2, 5, 64])
async def test_the_depth_limit_is_exact(depth: int) -> None:
    """As many levels as the setting says, not one more; brackets inside texts do not count."""

    def take(value: Any, other: str = "") -> None:
        """Take anything."""

    router = router_with("/t", take)
    nested = b"[" * (depth - 1) + b"1" + b"]" * (depth - 1)
    body = b'{"other":"' + b"[{" * 70 + b'","value":' + nested + b"}"
    await bound(router, json_request("/t", body), Intake(max_json_depth=depth))
    with pytest.raises(BadRequest, match="deep"):
        await bound(router, json_request("/t", body), Intake(max_json_depth=depth - 1))


async def test_long_flat_bodies_are_not_deep() -> None:
    """A thousand small objects side by side have a depth of three."""

    def take(values: list[dict[str, int]]) -> None:
        """Take objects."""

    values = await bound(router_with("/t", take), json_request("/t", {"values": [{"a": 1}] * 1000}))
    assert len(values["values"]) == 1000


async def test_a_route_without_parameters_does_not_read_its_body() -> None:
    """There is nothing in it that could matter."""

    def take() -> None:
        """Take nothing."""

    assert await bound(router_with("/t", take), json_request("/t", b"{broken")) == {}


NAMES = ["name", "age", "score", "ok", "tags", "zz", "na\\u006de", '\\"name']
TEXTS = [
    "1", "1.5", "true", "null", '"x"', '"age"', '"a:b"', '"\\\\"', "NaN", "Infinity", "-Infinity", "1e999",
    '["a"]', '["age", "age"]', '{"k":1}', '{"k":1,"k":2}', "[NaN]", '":"', '"\\ud800"',
]  # fmt: skip


@given(
    st.lists(
        st.tuples(st.sampled_from(NAMES), st.sampled_from(["", " "]), st.sampled_from(TEXTS)), max_size=7
    )
)
def test_the_short_way_is_as_strict_as_the_long_one(pairs: list[tuple[str, str, str]]) -> None:
    """What is validated from the bytes at once would have passed the strict parser, with the same values."""
    body = ("{" + ",".join(f'"{name}"{blank}:{text}' for name, blank, text in pairs) + "}").encode()
    plan = router_with("/five", five).routes[0].plan
    values = plan.bind(json_request("/five", body))
    if isinstance(values, dict):
        given_values = {name: value for name, value in loads(body).items() if name in values}
        assert values == plan.validate(given_values)
    else:
        assert isinstance(values, Coroutine)
        values.close()


async def test_errors_can_always_be_written_down() -> None:
    """A problem about text that is no Unicode is itself Unicode."""
    router = router_with("/five", five)
    try:
        await bound(router, json_request("/five", b'{"a":1,"\\udfff":1,"\\udfff":2}'))
    except RouterError as error:
        error.detail.encode()
    else:
        pytest.fail("accepted")
