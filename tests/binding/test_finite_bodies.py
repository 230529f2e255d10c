"""A model is never made of a number that is none, whichever way its JSON was judged."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator

from router_core.binding.shapes import float_fields
from router_core.binding.strict_json import loads
from tests.binding.calling import json_request, router_with

_NONE = [b"NaN", b"Infinity", b"-Infinity", b"1e999", b"-1E+999", b"[NaN]", b'{"a":NaN}', b"9" * 320]


class Plain(BaseModel):
    """Nothing but types."""

    name: str = ""
    count: int = 0
    price: float = 0.0
    tags: list[str] = []
    paid: bool | None = None
    kind: Literal["a", 1] = "a"
    amount: int = Field(0, ge=0)


class Coerced(BaseModel):
    """Takes numbers for texts."""

    model_config = ConfigDict(coerce_numbers_to_str=True)
    name: str


class Open(BaseModel):
    """Takes what it does not know."""

    model_config = ConfigDict(extra="allow")
    name: str = ""


class Judged(BaseModel):
    """Has code that takes anything."""

    name: int

    @field_validator("name", mode="before")
    @classmethod
    def zero(cls, _value: Any) -> int:
        """Make a zero of it."""
        return 0


class Annotations(BaseModel):
    """Has code in its types."""

    name: list[Annotated[int, BeforeValidator(lambda _: 0)]]


class Marked(BaseModel):
    """Has code beside its types."""

    name: Annotated[str, BeforeValidator(str)]


class Texts(BaseModel):
    """Takes numbers for a text in one place."""

    name: str = Field(coerce_numbers_to_str=True)


class Numbers(BaseModel):
    """Has numbers further inside."""

    name: list[float] | float | None


class Anything(BaseModel):
    """Takes whatever comes."""

    name: Any


@pytest.mark.parametrize("value", _NONE)
@pytest.mark.parametrize("name", ["name", "price", "count", "tags", "paid", "kind", "zz"])
@pytest.mark.parametrize(
    "model", [Plain, Coerced, Open, Judged, Annotations, Marked, Texts, Numbers, Anything]
)
def test_the_short_way_lets_no_such_number_through(model: type[BaseModel], name: str, value: bytes) -> None:
    """Whatever the author's code or configuration would make of it."""

    async def take(body: Any) -> None:
        """Take a model."""

    take.__annotations__["body"] = model
    plan = router_with("/t", take).routes[0].plan
    body = b'{"%b":%b}' % (name.encode(), value)
    for text in (body, b'{"name":%b,"price":1.5}' % value):
        values = plan.bind(json_request("/t", text))
        if isinstance(values, dict):
            loads(text)
        else:
            values.close()  # type: ignore[attr-defined]  # a coroutine


def test_only_fields_of_plain_types_are_judged_by_their_values() -> None:
    """The others take a look at the text."""
    assert float_fields(Plain) == ("price",)
    for model in (Coerced, Open, Judged, Annotations, Marked, Texts, Numbers, Anything):
        assert float_fields(model) is None, model
