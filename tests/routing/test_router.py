"""The decorators, what they record, and what they refuse."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from fractions import Fraction
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

from router_core.errors import Misconfigured
from router_core.routing import providers
from router_core.routing.options import _RULES
from router_core.routing.router import JobKeywords, RouteKeywords, Router, loading


def one() -> int:
    """Return one.

    At length.
    """
    return 1


async def words(prompt: str = "") -> AsyncIterator[str]:
    """Yield words."""
    yield prompt


def kind(router: Router) -> str:
    """Return the kind of the only route."""
    return router.routes[0].kind


def test_decorators_return_the_function_unchanged() -> None:
    """It can be called, tested and registered again."""
    router = Router()
    for path, decorate in enumerate(
        (router.get, router.post, router.put, router.patch, router.delete, router.route)
    ):
        assert decorate(f"/{path}")(one) is one
    assert router.add_route("/x")(one) is one
    assert [route.methods[0] for route in router.routes] == [
        "GET",
        "POST",
        "PUT",
        "PATCH",
        "DELETE",
        "POST",
        "POST",
    ]


def test_what_becomes_a_job() -> None:
    """``route`` does, unless the function is a generator; the others do with a job option."""
    cases: list[tuple[str, Any, dict[str, Any], str]] = [
        ("route", one, {}, "job"),
        ("add_route", one, {"queue_size": 3}, "job"),
        ("route", one, {"job": False}, "call"),
        ("route", words, {}, "stream"),
        ("route", words, {"timeout": 5}, "job"),
        ("route", words, {"job": True}, "job"),
        ("route", words, {"job": False}, "stream"),
        ("post", one, {}, "call"),
        ("post", one, {"job": True}, "job"),
        ("post", one, {"concurrency": 2}, "job"),
        ("get", words, {}, "stream"),
    ]
    for name, func, options, expected in cases:
        router = Router()
        getattr(router, name)("/x", **options)(func)
        assert kind(router) == expected, (name, func, options)


def test_options_are_kept() -> None:
    """On the route, the job options in their place."""
    router = Router(tags=["all"], scopes=["use"])
    router.route("/x", queue_size=5, max_attempts=3, isolation="process", tags=["mine"], scopes=["write"],
                 status=201, deprecated=True, meta={"a": 1}, max_body_bytes=9)(one)  # fmt: skip
    route = router.routes[0]
    assert (route.job.queue_size, route.job.max_attempts, route.job.isolation) == (5, 3, "process")
    assert (route.tags, route.scopes, route.status) == (("all", "mine"), ("use", "write"), 201)
    assert (route.name, route.summary, route.description) == ("one", "Return one.", "At length.")
    assert (route.deprecated, route.meta, route.max_body_bytes) == (True, {"a": 1}, 9)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"queue_size": 0}, "queue_size"),
        ({"concurrency": -1}, "concurrency"),
        ({"timeout": 0}, "timeout"),
        ({"max_attempts": 0}, "max_attempts"),
        ({"priority": 101}, "priority"),
        ({"isolation": "vm"}, "isolation"),
        ({"backoff": -1}, "backoff"),
        ({"retention": 0}, "retention"),
        ({"job": False, "queue_size": 5}, "contradicts"),
        ({"status": 404}, "status"),
        ({"queue_sise": 5}, "queue_sise"),
        ({"queue_size": "5"}, "queue_size is '5'; it must be a whole number of jobs, 1 or more"),
        ({"queue_size": None}, "queue_size is None"),
        ({"concurrency": True}, "concurrency is True; it must be a whole number"),
        ({"concurrency": 2.5}, "concurrency is 2.5"),
        ({"timeout": "5m"}, "timeout is '5m'; it must be a number of seconds, more than 0, or None"),
        ({"timeout": float("nan")}, "timeout is nan"),
        ({"timeout": float("inf")}, "timeout is inf; .* None for no limit"),
        ({"max_attempts": "3"}, "max_attempts is '3'"),
        ({"priority": "high"}, "priority is 'high'; it must be a whole number between -100 and 100"),
        ({"isolation": None}, "isolation is None; it must be 'thread' or 'process'"),
        ({"retry_on": ValueError}, "retry_on is .*; it must be a tuple of exception classes"),
        ({"retry_on": (int,)}, "retry_on"),
        ({"retry_on": [ValueError]}, "retry_on"),
        ({"backoff": "2"}, "backoff is '2'"),
        ({"retention": "1d"}, "retention is '1d'"),
        ({"job": "yes"}, "job is 'yes'; it must be True, False or None"),
        ({"name": 5}, "name is 5; it must be text"),
        ({"summary": 5}, "summary"),
        ({"description": 5}, "description"),
        ({"tags": "images"}, "tags is 'images'; it must be a list of texts"),
        ({"scopes": "admin"}, "scopes is 'admin'; it must be a list of texts"),
        ({"status": "201"}, "status is '201'"),
        ({"public": "no"}, "public is 'no'; it must be True or False"),
        ({"include_in_schema": 0}, "include_in_schema"),
        ({"deprecated": 1}, "deprecated"),
        ({"max_body_bytes": "1MB"}, "max_body_bytes is '1MB'; it must be a whole number of bytes"),
        ({"max_body_bytes": 0}, "max_body_bytes"),
        ({"meta": []}, "meta"),
    ],
)
def test_impossible_options_name_the_function(options: dict[str, Any], word: str) -> None:
    """And the file, so that the line is found."""
    with pytest.raises(Misconfigured, match=word) as caught:
        Router().route("/x", **options)(one)
    assert f"{Path(__file__).name}:" in str(caught.value)


def test_every_option_has_a_rule() -> None:
    """One without would be taken as it comes."""
    assert set(RouteKeywords.__annotations__) | set(JobKeywords.__annotations__) == set(_RULES)


def test_options_at_the_edge_of_what_is_allowed_are_taken() -> None:
    """Also numbers of other libraries, which are numbers by the name of numbers."""
    edges: dict[str, Any] = {
        "queue_size": 1, "concurrency": 0, "timeout": None, "max_attempts": None, "priority": -100,
        "retry_on": (), "backoff": 0, "retention": None, "job": None, "tags": (), "scopes": {"a"},
        "status": 399, "max_body_bytes": None, "meta": {},
    }  # fmt: skip
    router = Router()
    router.route("/x", **edges)(one)
    router.route("/y", timeout=Fraction(1, 2))(one)  # type: ignore[arg-type]
    assert [route.job.timeout for route in router.routes] == [None, Fraction(1, 2)]


def test_misused_decorators_say_how_they_are_used() -> None:
    """Without a path, with an unknown method, on something that is no function, on an impossible hook."""
    router = Router()
    with pytest.raises(Misconfigured, match="needs a path"):
        router.get(one)  # type: ignore[arg-type]
    with pytest.raises(Misconfigured, match="submitted by POST"):
        router.get("/x", job=True)(one)
    with pytest.raises(Misconfigured, match="FETCH"):
        router.route("/x", methods=["FETCH"])
    for methods in (None, 5, [5], []):
        with pytest.raises(Misconfigured, match="methods are"):
            router.route("/x", methods=methods)  # type: ignore[arg-type]
    with pytest.raises(Misconfigured, match="a path is text"):
        router.get(5)  # type: ignore[arg-type]
    with pytest.raises(Misconfigured, match="function"):
        router.get("/x")(5)  # type: ignore[type-var]
    with pytest.raises(Misconfigured, match="argument"):
        router.on_startup(lambda argument: None)
    with pytest.raises(Misconfigured, match="exception class"):
        router.exception_handler(5)  # type: ignore[arg-type]


def test_one_path_is_served_once() -> None:
    """Both places are named; parameters of other names are the same path, other methods and kinds are not."""
    router = Router()

    def first(a: str) -> None:
        """Serve first."""

    def second(b: str) -> None:
        """Serve second."""

    router.get("/x/{a}")(first)
    router.post("/x/{b}")(second)
    router.get("/x/{b:int}")(second)
    with pytest.raises(Misconfigured) as caught:
        router.get("/x/{b}")(second)
    for name in ("first()", "second()", "GET /x/{b}"):
        assert name in str(caught.value)


def test_keys_name_the_path_while_it_has_one_route() -> None:
    """With a second route on the path, both keys name the method."""
    router = Router()
    router.route("/a")(one)
    router.get("/b")(one)
    assert [route.key for route in router.routes] == ["/a", "/b"]
    router.post("/b")(one)
    assert [route.key for route in router.routes] == ["/a", "GET /b", "POST /b"]


def test_included_routes_have_the_whole_path() -> None:
    """Prefixes add up, and a parameter in one is a path parameter; hooks and handlers come along."""
    inner, outer = Router(prefix="/inner", tags=["i"]), Router(prefix="/api", scopes=["o"])

    def early(tenant: str) -> str:
        """Use a parameter of the prefix."""
        return tenant

    inner.get("/early")(early)
    outer.include_router(inner, "/{tenant}", tags=["t"])
    inner.get("/late")(early)
    inner.on_startup(one)
    outer.on_startup(words)
    inner.on_shutdown(one)
    outer.on_shutdown(words)
    inner.exception_handler(KeyError)(one)
    outer.exception_handler(KeyError)(words)
    inner.exception_handler(ValueError)(one)
    assert [route.path for route in outer.routes] == ["/api/{tenant}/inner/early", "/api/{tenant}/inner/late"]
    assert [route.path for route in inner.routes] == ["/inner/early", "/inner/late"]
    route = outer.routes[0]
    assert (route.tags, route.scopes, route.plan.params[0].source) == (("t", "i"), ("o",), "path")
    assert (outer.startup_hooks, outer.shutdown_hooks) == ((words, one), (one, words))
    assert outer.exception_handlers == {KeyError: words, ValueError: one}
    with pytest.raises(Misconfigured, match="served already"):
        outer.include_router(inner, "/{tenant:str}")
    with pytest.raises(Misconfigured, match="itself"):
        inner.include_router(outer)
    with pytest.raises(Misconfigured, match="itself"):
        inner.include_router(inner)


def test_settings_are_arguments_of_the_router() -> None:
    """Those that were given override the environment; unknown ones are refused at once."""
    assert Router(provider="runpod", environment="localhost").settings_overrides == {
        "provider": "runpod", "environment": "localhost",
    }  # fmt: skip
    with pytest.raises(Misconfigured, match="provder"):
        Router(provder="runpod")


def provided(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    """Pretend that a package offers one provider, called mine."""
    point = EntryPoint("mine", value, providers.GROUP)
    monkeypatch.setattr(
        "importlib.metadata.entry_points", lambda group: [point] if group == providers.GROUP else []
    )


def serve(router: Router, settings: Any) -> tuple[Router, str, int]:
    """Stand for a provider."""
    return router, settings.environment, settings.port


def test_start_hands_over_to_the_provider(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment is read then; the router's arguments win over it, those of start over both."""
    provided(monkeypatch, f"{__name__}:serve")
    monkeypatch.setitem(sys.modules, __name__, sys.modules[__name__])
    monkeypatch.setenv("EXECUTION_PROVIDER", "other")
    monkeypatch.setenv("PORT", "1234")
    router = Router(provider="mine", port=2345)
    assert router.start(environment="hosted") == (router, "hosted", 2345)
    assert router.start(port=1)[2] == 1


@pytest.mark.parametrize(
    ("value", "provider", "words"),
    [
        ("x:y", "unknown", "unknown.*mine"),
        ("no_such_module_at_all:start", "mine", "no_such_module_at_all is missing.*pip install"),
        ("router_core.errors:no_such_name", "mine", "not there"),
        ("router_core.errors:__doc__", "mine", "not a function"),
    ],
)
def test_a_provider_that_cannot_serve_says_why(
    monkeypatch: pytest.MonkeyPatch, value: str, provider: str, words: str
) -> None:
    """Unknown, not installed, misspelt, not callable."""
    provided(monkeypatch, value)
    with pytest.raises(Misconfigured, match=words):
        Router(provider=provider).start()


def test_start_does_nothing_while_the_module_is_loaded_to_be_served(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a file that ends in ``router.start()`` can be served by name as well."""
    provided(monkeypatch, "x:y")
    with loading():
        assert Router(provider="mine").start() is None
