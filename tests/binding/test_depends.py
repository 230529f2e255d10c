"""Dependencies: made once, shared, cleaned up whatever happens."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Annotated, Any

import pytest

from router_core.binding.depends import DependencyScope, Depends
from router_core.binding.params import Header
from router_core.errors import HTTPError, Misconfigured
from router_core.http.message import Request
from router_core.routing.router import Router
from router_core.types import Principal
from tests.binding.calling import answer, body_of, json_request, request_for


def service(**options: Any) -> Router:
    """Return an empty router."""
    return Router(**options)


async def test_a_dependency_is_made_once_for_a_request() -> None:
    """Two users of one dependency see one value; ``cached=False`` makes a new one each time."""
    made: list[str] = []

    def counter() -> int:
        """Count."""
        made.append("x")
        return len(made)

    def again(value: Annotated[int, Depends(counter)]) -> int:
        """Use it."""
        return value

    router = service()

    @router.get("/x")
    def serve(
        a: Annotated[int, Depends(counter)],
        b: Annotated[int, Depends(again)],
        c: int = Depends(counter, cached=False),
    ) -> list[int]:
        """Use it three times."""
        return [a, b, c]

    assert (await answer(router, request_for("GET", "/x"))).body == b"[1,1,2]"
    assert (await answer(router, request_for("GET", "/x"))).body == b"[3,3,4]"


async def test_a_dependency_reads_the_request() -> None:
    """Query, headers, the request and the caller, in sync and async functions and in classes."""

    async def page(limit: int = 10, offset: int = 0) -> tuple[int, int]:
        """Read the query."""
        return limit, offset

    class Session:
        def __init__(self, x_token: Annotated[str, Header()], request: Request, who: Principal) -> None:
            """Keep what was given."""
            self.text = f"{x_token} {request.id} {who.id}"

    router = service()

    @router.post("/x")
    def serve(
        name: str, page: Annotated[tuple[int, int], Depends(page)], session: Annotated[Session, Depends()]
    ) -> str:
        """Say everything."""
        return f"{name} {page} {session.text}"

    request = json_request("/x?limit=3", {"name": "n", "offset": 5}, headers=[("x-token", "t")])
    assert (await answer(router, request)).body == b'"n (3, 0) t req-1 anonymous"'
    response = await answer(router, json_request("/x?limit=x", {"name": "n"}))
    assert response.status == 422
    assert b'["query","limit"]' in await body_of(response)
    assert b'["header","x-token"]' in await body_of(response)


async def test_clean_up_runs_in_reverse_order() -> None:
    """Last made, first cleaned up, sync generators in a thread."""
    log: list[str] = []
    threads: set[str] = set()

    def outer() -> Iterator[str]:
        """Open and close in a thread."""
        threads.add(threading.current_thread().name)
        log.append("open outer")
        yield "outer"
        threads.add(threading.current_thread().name)
        log.append("close outer")

    async def inner(value: Annotated[str, Depends(outer)]) -> AsyncIterator[str]:
        """Open and close on the loop."""
        log.append("open inner")
        yield f"inner of {value}"
        log.append("close inner")

    router = service()

    @router.get("/x")
    async def serve(value: Annotated[str, Depends(inner)]) -> str:
        """Serve."""
        log.append("serve")
        return value

    assert (await answer(router, request_for("GET", "/x"))).body == b'"inner of outer"'
    assert log == ["open outer", "open inner", "serve", "close inner", "close outer"]
    assert threading.main_thread().name not in threads


async def test_clean_up_sees_the_error_and_runs_for_all() -> None:
    """An error reaches every open generator; one that fails in its clean-up does not stop the others."""
    log: list[str] = []

    def first() -> Iterator[int]:
        """Note the error."""
        try:
            yield 1
        except HTTPError as error:
            log.append(f"first saw {error.status}")
            raise
        finally:
            log.append("first closed")

    async def second(value: Annotated[int, Depends(first)]) -> AsyncIterator[int]:
        """Fail while closing."""
        try:
            yield value
        finally:
            log.append("second closed")
            raise RuntimeError("cannot close")

    router = service()

    @router.get("/x")
    def serve(value: Annotated[int, Depends(second)]) -> None:
        """Fail."""
        raise HTTPError(418, "teapot")

    response = await answer(router, request_for("GET", "/x"))
    assert response.status == 418
    assert log == ["second closed", "first saw 418", "first closed"]


async def test_a_failing_clean_up_is_an_error_when_nothing_else_was() -> None:
    """A commit that fails after the function returned must not look like success."""

    async def session() -> AsyncIterator[int]:
        """Fail to commit."""
        yield 1
        raise ValueError("commit failed")

    router = service()

    @router.get("/x")
    def serve(value: Annotated[int, Depends(session)]) -> int:
        """Serve."""
        return value

    with pytest.raises(ValueError, match="commit failed"):
        await answer(router, request_for("GET", "/x"))


async def test_a_dependency_that_fails_half_way_leaves_nothing_open() -> None:
    """What was made before it is cleaned up."""
    closed: list[str] = []

    def first() -> Iterator[int]:
        """Open."""
        try:
            yield 1
        finally:
            closed.append("first")

    def broken(value: Annotated[int, Depends(first)]) -> int:
        """Fail to be made."""
        raise HTTPError(503, "no database")

    router = service()

    @router.get("/x")
    def serve(value: Annotated[int, Depends(broken)]) -> int:
        """Never run."""
        return value

    assert (await answer(router, request_for("GET", "/x"))).status == 503
    assert closed == ["first"]


async def test_a_cancelled_call_is_cleaned_up() -> None:
    """A caller that goes away, a time limit: the generators close."""
    log: list[str] = []
    running = asyncio.Event()

    async def session() -> AsyncIterator[int]:
        """Close after an await."""
        try:
            yield 1
        except asyncio.CancelledError:
            log.append("cancelled")
            raise
        finally:
            await asyncio.sleep(0)
            log.append("closed")

    router = service()

    @router.get("/x")
    async def serve(value: Annotated[int, Depends(session)]) -> None:
        """Wait for ever."""
        running.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(answer(router, request_for("GET", "/x")))
    await running.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert log == ["cancelled", "closed"]


async def test_app_values_are_made_once_and_live_until_the_app_stops() -> None:
    """Two requests at one moment make one value; it is cleaned up when the app's scope closes."""
    made: list[str] = []

    async def settings() -> str:
        """Be needed by the model."""
        return "s"

    async def model(settings: str = Depends(settings, scope="app")) -> AsyncIterator[str]:
        """Load slowly."""
        await asyncio.sleep(0.01)
        made.append("loaded")
        yield f"model {settings}"
        made.append("unloaded")

    router = service()

    @router.get("/x")
    async def serve(model: str = Depends(model, scope="app")) -> str:
        """Serve."""
        return model

    plan = router.routes[0].plan
    app = DependencyScope()

    async def one() -> Any:
        """Call once, in a request of its own."""
        async with DependencyScope(app=app) as scope:
            return await plan.call({}, {}, scope)

    assert await asyncio.gather(*(one() for _ in range(5))) == ["model s"] * 5
    assert made == ["loaded"]
    await app.aclose()
    assert made == ["loaded", "unloaded"]


async def test_overrides_replace_dependencies_for_tests() -> None:
    """Also one that has dependencies of its own."""

    def database() -> str:
        """Connect."""
        raise AssertionError("not in a test")

    def name() -> str:
        """Name."""
        return "fake"

    def fake(name: Annotated[str, Depends(name)], limit: int = 1) -> str:
        """Stand in."""
        return f"{name} {limit}"

    router = service()

    @router.get("/x")
    def serve(db: Annotated[str, Depends(database)]) -> str:
        """Serve."""
        return db

    router.dependency_overrides[database] = fake
    assert (await answer(router, request_for("GET", "/x"))).body == b'"fake 1"'


async def test_a_generator_yields_once() -> None:
    """Never or twice is the author's error, and says so."""

    def never() -> Iterator[int]:
        """Yield nothing."""
        yield from ()

    async def twice() -> AsyncIterator[int]:
        """Yield two."""
        yield 1
        yield 2

    router = service()

    @router.get("/never")
    def serve_never(value: Annotated[int, Depends(never)]) -> int:
        """Serve."""
        return value

    @router.get("/twice")
    def serve_twice(value: Annotated[int, Depends(twice)]) -> int:
        """Serve."""
        return value

    for path in ("/never", "/twice"):
        response = await answer(router, request_for("GET", path))
        assert response.status == 500
        assert b"yield" in await body_of(response)
    with pytest.raises(Misconfigured):
        async with DependencyScope() as scope:
            await router.routes[0].plan.call({}, {}, scope)


async def test_context_variables_reach_sync_functions() -> None:
    """What the adapter set is seen in the thread."""
    request_id: contextvars.ContextVar[str] = contextvars.ContextVar("request_id", default="none")

    router = service()

    @router.get("/x")
    def serve() -> str:
        """Read the variable in a thread."""
        return f"{request_id.get()} {threading.current_thread() is threading.main_thread()}"

    request_id.set("r1")
    assert (await answer(router, request_for("GET", "/x"))).body == b'"r1 False"'


async def test_injected_values_are_given_by_slot() -> None:
    """A class with ``__router_inject__`` names its slot; ``job_progress`` needs no annotation."""

    class Progress:
        __router_inject__ = "job_progress"

    class Context:
        __router_inject__ = "job"

    def log(context: Context) -> str:
        """Depend on the job."""
        return type(context).__name__

    router = service()

    @router.route("/x")
    def serve(job_progress, p: Progress, maybe: Progress | None, log: str = Depends(log)):  # type: ignore[no-untyped-def]
        """Take all."""
        return [job_progress is p, p is maybe, log]

    plan = router.routes[0].plan
    assert plan.slots == {"job_progress", "job"}
    assert plan.params == ()
    async with DependencyScope() as scope:
        assert await plan.call({}, {"job_progress": Progress(), "job": Context()}, scope) == [
            True,
            True,
            "Context",
        ]
