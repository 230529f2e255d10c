"""Path patterns and the table that finds a route by them."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router_core.errors import MethodNotAllowed, Misconfigured, NotFound
from router_core.http.message import Request
from router_core.routing.path import join, parse_path
from router_core.routing.router import Router
from router_core.routing.table import Table


def table_of(*routes: tuple[str, str]) -> Table:
    """Return a table of (method, pattern), each route named by both."""
    router = Router()
    for method, path in routes:
        names = parse_path(path).names

        def serve(request: Request, **_kw: str) -> None:
            """Serve."""

        source = ", ".join(f"{name}: str" for name in names)
        scope: dict[str, Any] = {}
        exec(f"def serve({source}): pass", scope)  # noqa: S102 - a function with these parameter names
        getattr(router, method.lower())(path, name=f"{method} {path}")(scope["serve"])
    return Table(router.routes)


def found(table: Table, method: str, path: str) -> tuple[str, dict[str, str]] | None:
    """Return the route's name and parameters, or None."""
    try:
        match = table.match(method, path)
    except NotFound:
        return None
    return match.route.name, dict(match.path_params)


@pytest.mark.parametrize(
    "path",
    [
        "", "a", "//", "/a//b", "/./a", "/../a", "/a/..", "/{", "/{}", "/{a", "/a}", "/{a}{b}", "/x-{a}",
        "/{a}.png", "/{1a}", "/{a:float}", "/{a:path}/b", "/{a}/{a}", "/a b", "/a?b", "/a#b",
        "/ü", "/a%20b", "/{a:}", "/a\n",
    ],
)  # fmt: skip
def test_a_pattern_that_cannot_work_is_refused(path: str) -> None:
    """At registration, with the pattern in the message."""
    with pytest.raises(Misconfigured, match=re.escape(repr(path))):
        parse_path(path)


def test_patterns_are_parsed_into_segments() -> None:
    """Names, shape and the form that OpenAPI uses."""
    pattern = parse_path("/a/{b}/{n:int}/{rest:path}")
    assert pattern.names == ("b", "n", "rest")
    assert pattern.shape == ("a", "{str}", "{int}", "{path}")
    assert pattern.template == "/a/{b}/{n}/{rest}"
    assert parse_path("/x/{y}/").shape == ("x", "{str}", "")


def test_prefixes_are_joined() -> None:
    """An empty path is the prefix itself; a slash at the end of a prefix is not doubled."""
    assert [join("/v1", "/a"), join("/v1/", "/a"), join("/v1", ""), join("", "/a")] == [
        "/v1/a",
        "/v1/a",
        "/v1",
        "/a",
    ]
    for prefix, path in (("v1", "/a"), ("/v1", "a")):
        with pytest.raises(Misconfigured):
            join(prefix, path)


TABLE = (
    ("GET", "/"), ("GET", "/items"), ("POST", "/items"), ("GET", "/items/{id}"), ("DELETE", "/items/{name}"),
    ("GET", "/items/new"), ("GET", "/items/{n:int}"), ("PUT", "/items/{id}/parts/{part}"),
    ("GET", "/files/{rest:path}"), ("GET", "/files/{a}/info"), ("GET", "/dir/"), ("POST", "/items/new/{x}"),
)  # fmt: skip


@pytest.mark.parametrize(
    ("method", "path", "name", "params"),
    [
        ("GET", "/", "GET /", {}),
        ("GET", "/items", "GET /items", {}),
        ("HEAD", "/items", "GET /items", {}),
        ("POST", "/items", "POST /items", {}),
        ("GET", "/items/abc", "GET /items/{id}", {"id": "abc"}),
        ("HEAD", "/items/abc", "GET /items/{id}", {"id": "abc"}),
        ("DELETE", "/items/abc", "DELETE /items/{name}", {"name": "abc"}),
        ("GET", "/items/new", "GET /items/new", {}),
        ("DELETE", "/items/new", "DELETE /items/{name}", {"name": "new"}),
        ("GET", "/items/12", "GET /items/{n:int}", {"n": "12"}),
        ("GET", "/items/-12", "GET /items/{n:int}", {"n": "-12"}),
        ("DELETE", "/items/12", "DELETE /items/{name}", {"name": "12"}),
        ("GET", "/items/١٢", "GET /items/{id}", {"id": "١٢"}),
        ("GET", "/items/" + "9" * 30, "GET /items/{id}", {"id": "9" * 30}),
        ("PUT", "/items/new/parts/5", "PUT /items/{id}/parts/{part}", {"id": "new", "part": "5"}),
        ("GET", "/files/a/b/c", "GET /files/{rest:path}", {"rest": "a/b/c"}),
        ("GET", "/files/a/info", "GET /files/{a}/info", {"a": "a"}),
        ("GET", "/files/a/", "GET /files/{rest:path}", {"rest": "a/"}),
        ("GET", "/items/a b;c", "GET /items/{id}", {"id": "a b;c"}),
        ("GET", "/dir/", "GET /dir/", {}),
    ],
)
def test_the_most_literal_pattern_wins(method: str, path: str, name: str, params: dict[str, str]) -> None:
    """Whatever the order of registration."""
    for routes in (TABLE, tuple(reversed(TABLE))):
        assert found(table_of(*routes), method, path) == (name, params)


@pytest.mark.parametrize(
    "path",
    [
        "", "items", "/items/", "//items", "/items//", "/Items", "/items/a/b", "/dir", "/items/..",
        "/items/.", "/files/", "/files/../x", "/files/a/../../x", "/files//etc/passwd", "/files/a\\..\\b",
        "/files/a\0b", "/items/a\0", "*", "/nothing",
    ],
)  # fmt: skip
def test_what_no_pattern_serves_is_not_found(path: str) -> None:
    """Empty segments, dots, NULs and other spellings of a path lead nowhere."""
    assert found(table_of(*TABLE), "GET", path) is None


def test_a_wrong_method_names_the_right_ones() -> None:
    """Of all patterns that the path fits."""
    with pytest.raises(MethodNotAllowed) as caught:
        table_of(*TABLE).match("PATCH", "/items/new")
    assert caught.value.headers["Allow"] == "DELETE, GET, HEAD, OPTIONS"
    with pytest.raises(MethodNotAllowed) as caught:
        table_of(*TABLE).match("PUT", "/items")
    assert caught.value.headers["Allow"] == "GET, HEAD, OPTIONS, POST"


async def test_options_are_answered() -> None:
    """With 204 and Allow, unless a route serves them; an unknown path stays unknown."""
    match = table_of(*TABLE).match("OPTIONS", "/items/abc")
    response = await match.route.func()
    assert (response.status, response.headers) == (204, (("allow", "DELETE, GET, HEAD, OPTIONS"),))
    with pytest.raises(NotFound):
        table_of(*TABLE).match("OPTIONS", "/nothing")


SEGMENT = st.text(st.sampled_from("ab1-._~"), min_size=1, max_size=3).filter(
    lambda text: text not in (".", "..")
)
KINDS = st.sampled_from(["literal", "str", "int"])


@given(
    st.lists(st.lists(st.tuples(KINDS, SEGMENT), min_size=1, max_size=4), min_size=1, max_size=6), st.data()
)
def test_the_tree_agrees_with_trying_every_pattern(
    shapes: list[list[tuple[str, str]]], data: st.DataObject
) -> None:
    """The table finds what a list of regular expressions, sorted by how literal they are, would find."""
    patterns: dict[tuple[str, ...], str] = {}
    for shape in shapes:
        path = "".join(
            f"/{text}" if kind == "literal" else f"/{{p{at}:{kind}}}" for at, (kind, text) in enumerate(shape)
        )
        patterns.setdefault(parse_path(path).shape, path)
    table = table_of(*(("GET", path) for path in patterns.values()))
    asked = "/" + "/".join(data.draw(st.lists(SEGMENT, min_size=1, max_size=4)))
    expected = [path for path in sorted(patterns.values(), key=rank) if regex(path).fullmatch(asked)]
    result = found(table, "GET", asked)
    assert (result[0] if result else None) == (f"GET {expected[0]}" if expected else None)


def rank(path: str) -> list[int]:
    """Order patterns segment by segment: literal, int, str."""
    return [2 if s.kind == "str" else 1 if s.kind == "int" else 0 for s in parse_path(path).segments]


def regex(path: str) -> re.Pattern[str]:
    """Write a pattern as a regular expression."""
    kinds = {"str": "[^/]+", "int": "-?[0-9]{1,19}"}
    return re.compile(
        "".join("/" + (kinds[s.kind] if s.kind else re.escape(s.text)) for s in parse_path(path).segments)
    )
