"""A signature that no caller could ever satisfy fails where the function is registered."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path as FilePath
from typing import TYPE_CHECKING, Annotated, Any

import pytest
from pydantic import BaseModel

from router_core.binding.depends import Depends
from router_core.binding.params import Body, Header, Path, Query
from router_core.errors import Misconfigured
from router_core.http.media import File
from router_core.http.message import Request, Response
from router_core.routing.router import Router

if TYPE_CHECKING:
    from decimal import Decimal


class Item(BaseModel):
    name: str


class Opaque:
    """Something that JSON cannot hold."""


def variable(*values: int) -> None: ...
def keywords(**values: int) -> None: ...
def positional(value: int, /) -> None: ...
def unknown_name(value: Missing) -> None: ...  # type: ignore[name-defined]  # noqa: F821 - that is the point
def typing_only(value: Decimal) -> None: ...
def opaque(value: Opaque) -> None: ...
def opaque_inside(value: list[Opaque]) -> None: ...
def called(value: Callable[[int], int]) -> None: ...
def iterated(value: Iterator[int]) -> None: ...
def locked(value: threading.Lock) -> None: ...
def two_whole(value: Annotated[Item, Body(embed=False)], other: int) -> None: ...
def returns_opaque() -> Opaque:
    raise NotImplementedError


def two_markers(value: Annotated[int, Query(), Header()]) -> None: ...
def marker_twice(value: Annotated[int, Query()] = Header(1)) -> None: ...
def no_such_path(value: Annotated[int, Path()]) -> None: ...
def empty_depends(value: Annotated[int | str, Depends()]) -> None: ...


@pytest.mark.parametrize(
    ("func", "parameter"),
    [
        (variable, "values"),
        (keywords, "values"),
        (positional, "value"),
        (unknown_name, "Missing"),
        (typing_only, "Decimal"),
        (opaque, "value"),
        (opaque_inside, "value"),
        (called, "value"),
        (iterated, "value"),
        (locked, "value"),
        (two_whole, "other"),
        (returns_opaque, "Opaque"),
        (two_markers, "value"),
        (marker_twice, "value"),
        (no_such_path, "value"),
        (empty_depends, "value"),
    ],
)
def test_an_impossible_signature_names_parameter_function_and_file(func: Any, parameter: str) -> None:
    """The message is enough to find the line."""
    with pytest.raises(Misconfigured) as caught:
        Router().post("/x", job=False)(func)
    text = str(caught.value)
    assert parameter in text
    assert f"{func.__name__}()" in text
    assert f"{FilePath(__file__).name}:{func.__code__.co_firstlineno}" in text


def image(image: File) -> None: ...
def images(images: list[File]) -> None: ...
def raw(data: bytes) -> None: ...
def model(item: Item) -> None: ...
def mapping(values: dict[str, int]) -> None: ...
def body(value: Annotated[int, Body()]) -> None: ...
def image_query(image: Annotated[File, Query()]) -> None: ...


@pytest.mark.parametrize("func", [image, images, raw, model, mapping, body, image_query])
def test_get_has_no_body(func: Any) -> None:
    """What only a body carries is refused on GET, by parameter."""
    with pytest.raises(Misconfigured, match="POST"):
        Router().get("/x")(func)


def default_in_path(value: int = 1) -> None: ...
def list_in_path(value: list[int]) -> None: ...
def file_in_path(value: File) -> None: ...
def query_and_path(value: Annotated[int, Query()]) -> None: ...
def not_taken() -> None: ...


@pytest.mark.parametrize("func", [default_in_path, list_in_path, file_in_path, query_and_path, not_taken])
def test_a_path_parameter_is_one_required_text(func: Any) -> None:
    """A default, a list, a file, another source, or no such argument: all refused."""
    with pytest.raises(Misconfigured, match="value"):
        Router().get("/x/{value}")(func)


def test_a_job_does_not_get_the_request() -> None:
    """The request is long gone when a job runs; a plain call may have it."""

    def take(request: Request) -> None:
        """Take the request."""

    def needs(request: Request) -> int:
        """Take it in a dependency."""
        return 1

    def indirect(value: Annotated[int, Depends(needs)]) -> None:
        """Depend on it."""

    Router().post("/x")(take)
    with pytest.raises(Misconfigured, match="request"):
        Router().route("/x")(take)
    with pytest.raises(Misconfigured, match="request"):
        Router().route("/x")(indirect)


def test_a_circle_of_dependencies_is_found() -> None:
    """The chain is written out."""

    def first(value: int = 0) -> int:
        """Depend on the second."""
        return value

    def second(value: Annotated[int, Depends(first)]) -> int:
        """Depend on the first."""
        return value

    first.__annotations__["value"] = Annotated[int, Depends(second)]
    with pytest.raises(Misconfigured, match=r"second.*first.*second|first.*second.*first"):

        @Router().get("/x")
        def serve(value: Annotated[int, Depends(second)]) -> None:
            """Serve."""


def test_an_app_dependency_cannot_belong_to_a_request() -> None:
    """Neither directly nor through what it depends on."""

    def per_request(limit: int) -> int:
        """Belong to a request."""
        return limit

    def of_app(value: Annotated[int, Depends(per_request)]) -> int:
        """Belong to the app."""
        return value

    for wrong in (per_request, of_app):
        with pytest.raises(Misconfigured, match="one request"):

            @Router().get("/x")
            def serve(value: Annotated[int, Depends(wrong, scope="app")]) -> None:
                """Serve."""


def test_one_name_has_one_meaning() -> None:
    """A dependency and its function may share a parameter, if they declare it alike."""

    def page(limit: int = 10) -> int:
        """Read a limit."""
        return limit

    def same(page: Annotated[int, Depends(page)], limit: Annotated[int, Query()] = 10) -> None:
        """Declare it otherwise marked."""

    def other(page: Annotated[int, Depends(page)], limit: str = "") -> None:
        """Declare it as text."""

    with pytest.raises(Misconfigured, match="limit"):
        Router().get("/y")(other)

    def alike(page: Annotated[int, Depends(page)], limit: int = 20) -> None:
        """Declare it alike."""

    Router().get("/z")(alike)


def test_wrappers_partials_and_callable_objects_are_seen_through() -> None:
    """The signature that counts is the one that is called in the end."""
    import functools

    def plain(a: int, b: str) -> None:
        """Take two."""

    @functools.wraps(plain)
    def wrapped(*args: Any, **kwargs: Any) -> None:
        """Pass on."""

    class Model:
        def __call__(self, prompt: str) -> str:
            """Answer."""
            return prompt

    for func, names in (
        (wrapped, ["a", "b"]),
        (functools.partial(plain, b="x"), ["a", "b"]),
        (Model(), ["prompt"]),
    ):
        router = Router()
        router.post("/x")(func)
        assert [param.name for param in router.routes[0].plan.params] == names


def test_names_defined_in_a_function_are_known() -> None:
    """A model beside the function it serves, both inside another function, under postponed annotations."""

    class Local(BaseModel):
        a: int

    router = Router()

    @router.post("/x")
    def take(local: Local) -> Local:
        """Take and give."""
        return local

    assert router.routes[0].plan.lone is not None


def test_a_plain_response_needs_no_model() -> None:
    """Response, File, None, bytes and nothing at all are accepted as return annotations."""
    for returns in (Response, File, None, bytes, Any, File | None, list[Item], dict[str, Item]):

        def serve() -> Any:
            """Serve."""

        serve.__annotations__["return"] = returns
        Router().get("/x")(serve)
