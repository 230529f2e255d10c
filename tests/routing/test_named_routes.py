"""Which route an input object names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from router_core.binding.plan import compile_plan
from router_core.errors import ValidationFailed
from router_core.routing.named import NamedRoutes
from router_core.routing.route import JobOptions, Route


def make(path: str, *methods: str, internal: bool = False, func: Callable[..., Any] | None = None) -> Route:
    """Build a route of a function, or of one that takes nothing but the path's own names."""

    def nothing() -> None: ...

    def item(item_id: str) -> None: ...

    chosen = func or (item if "{" in path else nothing)
    methods = methods or ("POST",)
    plan = compile_plan(chosen, path=path, methods=methods, job=True)
    return Route(f"{methods[0]} {path}", methods, path, chosen, plan, "job", JobOptions(), internal=internal)


PREDICT = make("/predict")
READ, WRITE = make("/thing", "GET"), make("/thing", "POST")
ITEM = make("/items/{item_id}", "GET")
ROUTES = NamedRoutes([PREDICT, READ, WRITE, ITEM, make("/jobs", "GET", internal=True)])


@pytest.mark.parametrize("path", ["/predict", "predict", "/predict/", " predict ", "//predict"])
def test_slashes_around_a_path_do_not_matter(path: str) -> None:
    """Clients disagree about the leading slash."""
    named = ROUTES.find({"path": path, "a": 1})
    assert named.route is PREDICT
    assert named.arguments == {"a": 1}


def test_where_several_methods_serve_a_path_the_method_decides() -> None:
    """In any case of letters; without it the answer names the choices."""
    assert ROUTES.find({"path": "/thing", "method": "get"}).route is READ
    assert ROUTES.find({"path": "/thing", "method": "POST"}).route is WRITE
    for method in ("PUT", "", 3, None, ["GET"]):
        with pytest.raises(ValidationFailed, match="must be one of GET, POST"):
            ROUTES.find({"path": "/thing", "method": method})
    with pytest.raises(ValidationFailed, match="GET, POST") as caught:
        ROUTES.find({"path": "/thing"})
    assert caught.value.errors[0]["loc"] == ["input", "method"]


def test_a_method_that_is_given_needlessly_has_to_be_right() -> None:
    """GET on a POST route is a mistake of the caller, not to be passed over."""
    assert ROUTES.find({"path": "/predict", "method": "POST"}).arguments == {}
    with pytest.raises(ValidationFailed, match="must be one of POST"):
        ROUTES.find({"path": "/predict", "method": "GET"})


def test_a_path_may_hold_values_or_be_the_pattern_itself() -> None:
    """Both ways the value of the path parameter is an argument."""
    assert ROUTES.find({"path": "/items/42"}).arguments == {"item_id": "42"}
    named = ROUTES.find({"path": "/items/{item_id}", "item_id": "42"})
    assert (named.route, named.arguments) == (ITEM, {"item_id": "42"})


@pytest.mark.parametrize(
    "path",
    [
        "/nothing",
        "",
        "/",
        "/jobs",
        "/items",
        "/../predict",
        "/predict/x",
        "x" * 3000,
        "/predict\0",
        "/items/..",
    ],
)
def test_an_unknown_path_is_a_wrong_value_and_the_routes_are_listed(path: str) -> None:
    """The product's own routes cannot be named."""
    with pytest.raises(ValidationFailed, match="/predict, /thing") as caught:
        ROUTES.find({"path": path})
    assert caught.value.errors[0] == {
        "loc": ["input", "path"],
        "msg": "names no route; the routes are /predict, /thing, /items/{item_id}",
        "type": "unknown_route",
    }


@pytest.mark.parametrize("values", [{}, {"path": None}, {"a": 1}])
def test_a_missing_path_is_named(values: dict[str, Any]) -> None:
    """With several routes nothing is guessed."""
    with pytest.raises(ValidationFailed, match=r"input\.path is missing"):
        ROUTES.find(values)


@pytest.mark.parametrize("path", [1, True, ["/predict"], {"a": 1}])
def test_a_path_that_is_no_text_is_refused(path: object) -> None:
    """Any JSON value may stand there."""
    with pytest.raises(ValidationFailed, match="must be text"):
        ROUTES.find({"path": path})


def test_the_only_route_of_a_service_needs_no_path() -> None:
    """The whole object is arguments, the name may still be given."""
    only = NamedRoutes([PREDICT, make("/health", "GET", internal=True)])
    assert only.find({"a": 1}).arguments == {"a": 1}
    assert only.find({"path": "/predict", "a": 1}).arguments == {"a": 1}
    with pytest.raises(ValidationFailed, match="names no route"):
        only.find({"path": "/other"})


def test_a_parameter_called_path_or_method_can_still_be_given() -> None:
    """Where the name of the route leaves no doubt, both are arguments like any other."""

    def load(path: str, method: str = "fast") -> None: ...

    route = make("/load", func=load)
    only = NamedRoutes([route])
    assert only.find({"path": "/data/x.bin"}).arguments == {"path": "/data/x.bin"}
    assert only.find({"path": "/load", "method": "slow"}).arguments == {"method": "slow"}
    several = NamedRoutes([route, PREDICT])
    assert several.find({"path": "/load", "method": "slow"}).arguments == {"method": "slow"}


def test_arguments_may_stand_in_an_object_called_request() -> None:
    """As fastsdk sends them, unless the function has a parameter of that name."""
    assert ROUTES.find({"path": "/predict", "request": {"a": 1}, "sync": False}).arguments == {
        "a": 1,
        "sync": False,
    }
    assert ROUTES.find({"path": "/predict", "request": [1]}).arguments == {"request": [1]}
    assert NamedRoutes([PREDICT]).find({"request": {"a": 1}}).arguments == {"a": 1}

    def answer(request: dict[str, int]) -> None: ...

    own = NamedRoutes([make("/answer", func=answer)])
    assert own.find({"path": "/answer", "request": {"a": 1}}).arguments == {"request": {"a": 1}}


def test_without_routes_nothing_can_be_named() -> None:
    """An empty service says so."""
    with pytest.raises(ValidationFailed, match="the routes are none"):
        NamedRoutes([]).find({})
