"""Roles and what routes ask for: what a name stands for, and which setting is refused."""

from __future__ import annotations

from argparse import Namespace

import pytest

from handlers.cli.routes import run
from router_core.errors import Forbidden, Misconfigured
from router_core.routing.permission import check_permission, default_scopes, manages
from router_core.routing.product import product_route
from router_core.routing.router import Router
from router_core.security.roles import ROLES, expand, parse_roles, unknown_roles
from router_core.types import Principal
from tests.security.access_parts import nothing


def test_each_role_holds_what_the_one_before_it_holds() -> None:
    """And an administrator everything."""
    viewer, developer, operator = (ROLES[name] for name in ("viewer", "developer", "operator"))
    assert viewer == {"read"}
    assert developer - viewer == {"call", "jobs", "models:call", "routing:test"}
    assert operator - developer == {"endpoints:manage", "models:manage", "trials:manage", "jobs:manage"}
    assert viewer < developer < operator
    assert ROLES["admin"] == {"*"}


def test_roles_add_up_and_unknown_ones_give_nothing() -> None:
    """A token may name roles of other services."""
    assert expand(["viewer", "developer"]) == ROLES["developer"]
    assert expand(["Admin", "root", ""]) == frozenset()
    assert expand([]) == frozenset()
    assert unknown_roles(["viewer", "root", "boss", "root"]) == ["boss", "root"]


def test_more_roles_by_a_setting() -> None:
    """Beside the fixed ones."""
    known = parse_roles(" auditor = read | audit:read , runner=jobs,")
    assert known["auditor"] == {"read", "audit:read"}
    assert expand(["runner", "viewer"], known) == {"jobs", "read"}
    assert parse_roles("") == ROLES


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("auditor", "a role is written name=scope"),
        ("auditor=", "a role is written name=scope"),
        ("=read", "a role is written name=scope"),
        ("a b=read", "a role is written name=scope"),
        ("admin=read", "names 'admin', which means the same"),
        ("a=read,a=call", "names 'a', twice"),
        ("a=read me", "the scope 'read me', which cannot be one"),
    ],
)
def test_a_role_that_cannot_be_one_is_refused(text: str, said: str) -> None:
    """At the start, naming it."""
    with pytest.raises(Misconfigured, match=said):
        parse_roles(text)


def test_what_routes_of_authors_ask_for() -> None:
    """By what they do, unless their author says it."""
    router = Router()
    router.get("/get")(nothing)
    router.post("/post")(nothing)
    router.route("/job")(lambda: None)
    router.route("/both", methods=("GET", "POST"), job=False)(nothing)
    router.get("/own", scopes=["mine"])(nothing)
    router.get("/open", public=True)(nothing)
    asked = {route.path: route.scopes for route in router.routes}
    assert asked == {
        "/get": ("call|read",), "/post": ("call",), "/job": ("call|jobs",), "/both": ("call",),
        "/own": ("mine",), "/open": (),
    }  # fmt: skip
    assert default_scopes(("GET", "HEAD"), False) == ("call|read",)


def test_scopes_of_an_inclusion_take_the_place_of_the_default() -> None:
    """They are what its routes ask for then, and no less."""
    inner, outer = Router(), Router()
    inner.post("/x")(nothing)
    inner.post("/y", scopes=["more"])(nothing)
    outer.include_router(inner, scopes=["group"])
    assert [route.scopes for route in outer.routes] == [("group",), ("group", "more")]


def holder(*scopes: str) -> Principal:
    """Return a caller with scopes."""
    return Principal("someone", frozenset(scopes), "api_key")


def test_all_scopes_are_needed_and_of_a_choice_one() -> None:
    """The error names what is missing."""
    route = product_route("POST", "/x", nothing, scopes=("a", "b|c"))
    for held in (("a", "b"), ("c", "a"), ("*",)):
        check_permission(route, holder(*held))
    for words, missing in (("b c", "a"), ("a", "b|c"), ("a|b|c b|c", "a"), ("", "a")):
        with pytest.raises(Forbidden) as caught:
            check_permission(route, holder(*words.split()))
        assert caught.value.extra == {"scope": missing}


def test_a_route_that_says_nothing_is_open_to_administrators_alone() -> None:
    """Deny by default: whoever forgets it has a closed route, not an open one."""
    route = product_route("GET", "/forgotten", nothing)
    check_permission(route, holder("*"))
    with pytest.raises(Forbidden, match="administrators"):
        check_permission(route, holder("read", "call", "jobs"))
    check_permission(product_route("GET", "/own", nothing, any_caller=True), holder())
    check_permission(product_route("GET", "/open", nothing, public=True), holder())


def test_which_routes_manage_something() -> None:
    """Those that ask for a right to."""
    assert manages(product_route("POST", "/x", nothing, scopes=("read", "keys:manage")))
    assert not manages(product_route("POST", "/x", nothing, scopes=("managed", "call")))


def test_the_jobs_of_all_are_for_operators_and_not_for_keys_without_a_list() -> None:
    """Two such keys are two tenants, as they always were."""
    assert not holder("*").manages_jobs
    assert holder("jobs:manage").manages_jobs
    assert Principal("root", frozenset({"*"}), roles=frozenset({"admin"})).manages_jobs
    bound = Principal("op", frozenset({"jobs:manage"}), workspaces=frozenset({"ws-b"}))
    assert not bound.manages_jobs, "jobs bear no workspace"


def test_the_command_line_shows_what_routes_ask_for(capsys: pytest.CaptureFixture[str]) -> None:
    """So that an author sees what his callers need."""
    code = run(Namespace(app="examples.text:router", all=True, json=False))
    lines = capsys.readouterr().out.splitlines()
    assert code == 0
    asked = {line.split()[1]: line for line in lines}
    assert " nothing " in asked["/health"]
    assert " a key " in asked["/jobs/{job_id}"]
    assert " read " in asked["/metrics"]
    assert " call " in next(line for path, line in asked.items() if path.endswith("/generate"))
