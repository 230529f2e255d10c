"""Path, query, headers and cookies."""

from __future__ import annotations

import enum
from datetime import date
from typing import Annotated, Literal

import pytest

from router_core.binding.params import Cookie, Header, Path, Query
from router_core.errors import BadRequest, ValidationFailed
from tests.binding.calling import bound, request_for, router_with


class Size(enum.IntEnum):
    SMALL = 1
    LARGE = 2


async def test_a_query_is_coerced_and_defaults_stay() -> None:
    """Numbers, truth, dates, enums and literals come from text."""

    def take(
        n: int,
        on: date,
        size: Size,
        level: Literal[1, 2, "max"],
        flag: Literal[True] | None = None,
        ratio: float = 0.5,
    ) -> None:
        """Take many."""

    values = await bound(
        router_with("/q", take, "get"), request_for("GET", "/q?n=3&on=2026-01-02&size=2&level=2&flag=true")
    )
    assert values == {"n": 3, "on": date(2026, 1, 2), "size": Size.LARGE, "level": 2, "flag": True}
    assert values["level"] is not True


async def test_repeated_values_make_a_list() -> None:
    """One value makes a list of one; escapes are decoded; blank values count."""

    def take(tag: list[str], n: set[int] | None = None) -> None:
        """Take lists."""

    router = router_with("/q", take, "get")
    assert await bound(router, request_for("GET", "/q?tag=a%20b&tag=&n=1&n=1&n=2")) == {
        "tag": ["a b", ""],
        "n": {1, 2},
    }
    assert await bound(router, request_for("GET", "/q?tag=x")) == {"tag": ["x"]}


@pytest.mark.parametrize(
    ("query", "kind"),
    [
        ("n=1&n=2", "duplicate"),
        ("n=x", "int_parsing"),
        ("n=" + "9" * 5000, "int_parsing_size"),
        ("", "missing"),
        ("n=", "int_parsing"),
        ("n=1&f=nan", "finite_number"),
        ("n=1&f=1e999", "finite_number"),
    ],
)
async def test_a_wrong_query_names_its_parameter(query: str, kind: str) -> None:
    """The place is ``query`` and the name on the wire."""

    def take(n: int, f: float = 0) -> None:
        """Take numbers."""

    with pytest.raises(ValidationFailed) as caught:
        await bound(router_with("/q", take, "get"), request_for("GET", f"/q?{query}"))
    error = caught.value.errors[0]
    assert (error["loc"][0], error["type"]) == ("query", kind)


@pytest.mark.parametrize("query", ["n=%ff", "%ff=1", "&".join(["x=1"] * 1001)])
async def test_a_query_that_cannot_be_read_is_refused(query: str) -> None:
    """Escapes that are no UTF-8, and more fields than anyone needs."""

    def take(n: str = "") -> None:
        """Take a text."""

    with pytest.raises(BadRequest):
        await bound(router_with("/q", take, "get"), request_for("GET", f"/q?{query}"))


async def test_headers_and_cookies() -> None:
    """A header's underscores are dashes; cookies may be quoted; names are matched as their standards say."""

    def take(
        user_agent: Annotated[str, Header()],
        x_tags: Annotated[list[str], Header(alias="X-Tag")],
        session: Annotated[str, Cookie()],
        count: int = Header(0),
        theme: str = Cookie("dark"),
    ) -> None:
        """Take headers."""

    pairs = [
        ("User-Agent", "curl"), ("x-tag", "a"), ("X-TAG", "b"), ("cookie", 'session="s 1"; other=2'),
        ("cookie", "x"),
    ]  # fmt: skip
    values = await bound(router_with("/h", take, "get"), request_for("GET", "/h", headers=pairs))
    assert values == {
        "user_agent": "curl",
        "x_tags": ["a", "b"],
        "session": "s 1",
        "count": 0,
        "theme": "dark",
    }


async def test_a_missing_header_is_named_as_on_the_wire() -> None:
    """``x-api-version``, not ``x_api_version``."""

    def take(x_api_version: Annotated[int, Header()]) -> None:
        """Take a header."""

    with pytest.raises(ValidationFailed) as caught:
        await bound(router_with("/h", take, "get"), request_for("GET", "/h"))
    assert caught.value.errors[0]["loc"] == ["header", "x-api-version"]
    with pytest.raises(ValidationFailed) as caught:
        await bound(
            router_with("/h", take, "get"),
            request_for("GET", "/h", headers=[("x-api-version", "1"), ("x-api-version", "2")]),
        )
    assert caught.value.errors[0]["type"] == "duplicate"


async def test_path_parameters_are_validated() -> None:
    """Constraints and aliases hold for the path as for everything."""

    def take(item: Annotated[int, Path(ge=1)], kind: Size, rest: str = Path(alias="tail")) -> None:
        """Take a path."""

    router = router_with("/{item}/{kind}/{tail:path}", take, "get")
    assert await bound(router, request_for("GET", "/5/2/a/b.txt")) == {
        "item": 5, "kind": Size.LARGE, "rest": "a/b.txt",
    }  # fmt: skip
    with pytest.raises(ValidationFailed) as caught:
        await bound(router, request_for("GET", "/0/9/x"))
    assert [error["loc"] for error in caught.value.errors] == [["path", "item"], ["path", "kind"]]


async def test_bare_markers_work_without_parentheses() -> None:
    """``Annotated[str, Header]``."""

    def take(accept: Annotated[str, Header], q: Annotated[int, Query]) -> None:
        """Take two."""

    values = await bound(
        router_with("/h", take, "get"), request_for("GET", "/h?q=1", headers=[("accept", "a/b")])
    )
    assert values == {"accept": "a/b", "q": 1}
