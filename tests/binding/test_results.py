"""What a function returns becomes a response, or a job's result."""

from __future__ import annotations

import enum
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from router_core.binding.result import encode_result
from router_core.binding.returns import InvalidResult
from router_core.http.media import File
from router_core.http.message import Response
from tests.binding.calling import answer, body_of, request_for, router_with


class Color(enum.Enum):
    RED = "red"


class Item(BaseModel):
    name: str
    secret: str = ""


class Public(BaseModel):
    name: str


@dataclass
class Point:
    x: int


class Array:
    """Looks like an array of numpy."""

    def tolist(self) -> list[int]:
        """Return plain values."""
        return [1, 2]


def returning(value: Any, annotation: Any = None, status: int = 200) -> Any:
    """Return a router whose function returns the value."""

    async def serve() -> Any:
        """Return it."""
        return value

    if annotation is None:
        del serve.__annotations__["return"]
    else:
        serve.__annotations__["return"] = annotation
    return router_with("/x", serve, "get", status=status)


@pytest.mark.parametrize(
    ("value", "annotation", "expected"),
    [
        ({"a": 1}, None, b'{"a":1}'),
        ("text", str, b'"text"'),
        (None, None, b"null"),
        (Color.RED, Color, b'"red"'),
        (Color.RED, None, b'"red"'),
        (Point(1), Point, b'{"x":1}'),
        ([Point(1)], None, b'[{"x":1}]'),
        (Item(name="a", secret="s"), Item, b'{"name":"a","secret":"s"}'),
        (Item(name="a", secret="s"), Public, b'{"name":"a"}'),
        ({"name": "a", "more": 1}, Public, b'{"name":"a"}'),
        ([{"name": "a"}], list[Item], b'[{"name":"a","secret":""}]'),
        (datetime(2026, 1, 2, tzinfo=UTC), datetime, b'"2026-01-02T00:00:00Z"'),
        (datetime(2026, 1, 2, tzinfo=UTC), None, b'"2026-01-02T00:00:00Z"'),
        ({1, 2}, None, b"[1,2]"),
        (Array(), None, b"[1,2]"),
        ({"a": Array()}, None, b'{"a":[1,2]}'),
        (float("nan"), None, b"null"),
        ([float("inf")], list[float], b"[null]"),
        ({"raw": b"\xff"}, None, b'{"raw":"_w=="}'),
        ({"file": File(b"x", filename="a.txt")}, None,
         b'{"file":{"file_name":"a.txt","content_type":"text/plain","content":"eA=="}}'),
        ([File(b"x")], list[File],
         b'[{"file_name":"","content_type":"application/octet-stream","content":"eA=="}]'),
        (5, float, b"5.0"),
    ],
)  # fmt: skip
async def test_values_are_json(value: Any, annotation: Any, expected: bytes) -> None:
    """By the return annotation where there is one, by what they are otherwise; the same for jobs."""
    router = returning(value, annotation)
    response = await answer(router, request_for("GET", "/x"))
    assert response.status == 200
    assert response.header("content-type") == "application/json"
    assert response.body == expected
    assert encode_result(router.routes[0], value) == expected


@pytest.mark.parametrize(
    ("value", "annotation"),
    [
        ("secret-value", int),
        ({"nome": "secret-value"}, Item),
        (object(), None),
        ({"x": object()}, dict[str, Any]),
        ("secret-value\ud800", None),
        ("secret-value\ud800", str),
        ({"a": [{"b": lambda: 0}]}, None),
    ],
)
async def test_a_result_that_breaks_its_promise_is_a_500_that_tells_nothing(
    value: Any, annotation: Any
) -> None:
    """The cause is chained for the log; the caller sees neither the value nor its type."""
    router = returning(value, annotation)
    response = await answer(router, request_for("GET", "/x"))
    assert response.status == 500
    body = await body_of(response)
    assert json.loads(body)["code"] == "invalid_result"
    assert b"secret" not in body
    with pytest.raises(InvalidResult) as caught:
        encode_result(router.routes[0], value)
    assert caught.value.__cause__ is not None


async def test_a_recursive_result_is_no_crash() -> None:
    """A list inside itself is an invalid result."""
    value: list[Any] = []
    value.append(value)
    assert (await answer(returning(value), request_for("GET", "/x"))).status == 500


async def test_files_and_bytes_are_sent_as_they_are() -> None:
    """With type, length, name, and no guessing by the browser."""
    response = await answer(returning(File(b"\x89PNG", filename="ü b.png")), request_for("GET", "/x"))
    assert response.body == b"\x89PNG"
    assert dict(response.headers) == {
        "content-type": "image/png",
        "content-length": "4",
        "x-content-type-options": "nosniff",
        "content-disposition": "inline; filename*=UTF-8''%C3%BC%20b.png",
    }
    response = await answer(returning(b"raw", bytes), request_for("GET", "/x"))
    assert (response.body, response.header("content-type")) == (b"raw", "application/octet-stream")


@pytest.mark.parametrize("name", ["page.html", "drawing.svg", "script.js", "data"])
async def test_what_a_browser_would_run_is_an_attachment(name: str) -> None:
    """A returned upload must not become a script of the service's own origin."""
    response = await answer(returning(File(b"<script>", filename=name)), request_for("GET", "/x"))
    assert (response.header("content-disposition") or "").startswith("attachment")


async def test_a_large_file_on_disk_is_streamed(tmp_path: Path) -> None:
    """It is not read into memory, and its length is known beforehand."""
    path = tmp_path / "big.bin"
    path.write_bytes(b"0123456789" * 100_000)
    response = await answer(returning(File.from_path(path)), request_for("GET", "/x"))
    assert not isinstance(response.body, bytes)
    assert response.header("content-length") == "1000000"
    assert await body_of(response) == path.read_bytes()


async def test_a_response_is_sent_as_it_is() -> None:
    """The author's status and headers win."""
    response = await answer(
        returning(Response(201, (("x-a", "1"),), b"x"), Response), request_for("GET", "/x")
    )
    assert (response.status, response.headers, response.body) == (201, (("x-a", "1"),), b"x")


async def test_the_route_chooses_the_status() -> None:
    """201 with a body, 204 without one."""
    response = await answer(returning({"a": 1}, None, 201), request_for("GET", "/x"))
    assert (response.status, response.body) == (201, b'{"a":1}')
    response = await answer(returning(None, None, 204), request_for("GET", "/x"))
    assert (response.status, response.body, response.headers) == (204, b"", ())


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        ("", "application/json"),
        ("*/*", "application/json"),
        ("text/plain", "text/plain; charset=utf-8"),
        ("text/plain, application/json", "application/json"),
        ("application/json;q=0.5, text/plain", "text/plain; charset=utf-8"),
        ("image/png", "application/json"),
    ],
)
async def test_text_is_json_unless_plain_text_is_preferred(accept: str, content_type: str) -> None:
    """So that a client reads every result alike, and curl can still ask for the text itself."""
    response = await answer(returning("hi", str), request_for("GET", "/x", headers=[("accept", accept)]))
    assert response.header("content-type") == content_type


def test_job_results_hold_files_as_objects() -> None:
    """A file, bytes and an author's Response become JSON values."""
    route = returning(None).routes[0]
    assert json.loads(encode_result(route, b"x"))["content"] == "eA=="
    assert json.loads(encode_result(route, Response(200, (("content-type", "image/png"),), b"x"))) == {
        "file_name": "", "content_type": "image/png", "content": "eA==",
    }  # fmt: skip
    assert encode_result(route, Response.json({"a": 1})) == b'{"a":1}'
