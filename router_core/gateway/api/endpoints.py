"""The REST API of endpoints: how they stand, waking them, putting them to sleep."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final

from pydantic import Field

from router_core.errors import Conflict, UpstreamError
from router_core.gateway.api.resources import entitled
from router_core.gateway.lifecycle.endpoints import Done, Lifecycle, WakeFailed
from router_core.gateway.lifecycle.states import State
from router_core.gateway.lifecycle.status import EndpointDetail, EndpointStatus
from router_core.http.message import Request, Response
from router_core.jobs.leaving import seconds_left, unless_gone
from router_core.routing.router import Router

__all__ = ["SCOPE", "endpoints_router"]

SCOPE: Final = "endpoints:manage"
"""What a caller must hold to wake endpoints and to put them to sleep."""
_MAX_WAIT: Final = 600
_TAGS: Final = ("endpoints",)

Wait = Annotated[
    float,
    Field(ge=0, le=_MAX_WAIT, description="Hold the answer for up to these seconds, until it is running."),
]
Pause = Annotated[
    bool,
    Field(description="Pause it: only the gateway wakes it then, no call that goes past the gateway."),
]


@dataclass(frozen=True, slots=True)
class Listing:
    """All endpoints by name."""

    success: bool
    endpoints: Mapping[str, EndpointStatus]


@dataclass(frozen=True, slots=True)
class One:
    """One endpoint."""

    success: bool
    name: str
    endpoint: EndpointStatus
    detail: EndpointDetail


class _Orders:
    """Gives orders for callers, and turns what comes of them into answers."""

    def __init__(self, lifecycle: Lifecycle) -> None:
        self._lifecycle = lifecycle

    async def wake(self, name: str, wait: float, request: Request) -> Done:
        """Wake one and wait for it for as long as the caller does."""
        entitled(request)  # it serves the calls of all workspaces, and is paid for by whoever runs it
        lifecycle = self._lifecycle
        loop = asyncio.get_running_loop()
        until = loop.time() + min(wait, seconds_left(request, lifecycle.clock))
        done = await lifecycle.order_wake(name, who=request.principal.id)
        if not done.error and done.state is not State.RUNNING and wait:
            done = await unless_gone(request, self._awake(name, until)) or done
        return done

    async def _awake(self, name: str, until: float) -> Done:
        try:
            await self._lifecycle.wake(name, until, running=True)
        except WakeFailed as failure:
            state = self._lifecycle.state_of(name)
            return Done(state, failure.reason if state is State.ERROR else "")
        return Done(self._lifecycle.state_of(name))

    async def sleep(self, name: str, pause: bool, request: Request) -> Done:
        """Put one to sleep."""
        entitled(request)
        return await self._lifecycle.sleep(name, who=request.principal.id, pause=pause)


def endpoints_router(lifecycle: Lifecycle) -> Router:
    """Return the routes under ``/api/endpoints``; those that change something need ``endpoints:manage``."""
    router = Router(prefix="/api/endpoints", tags=_TAGS)
    orders = _Orders(lifecycle)

    @router.get("/status", scopes=("read",))
    async def endpoints_status(request: Request) -> Listing:
        """Tell how all endpoints stand.

        An endpoint whose provider does not answer is ``unknown``; its times are those last known.
        """
        return Listing(True, await lifecycle.status(who=request.principal.id))

    @router.get("/status/{name}", scopes=("read",))
    async def endpoint_status(request: Request, name: str) -> One:
        """Tell how one endpoint stands, and what its provider says."""
        status, detail = await lifecycle.status_of(name, who=request.principal.id)
        return One(True, name, status, detail)

    @router.post("/wake", scopes=(SCOPE,), meta=_several("woken"))
    async def wake_endpoints(request: Request, wait: Wait = 0) -> Response:
        """Wake all endpoints.

        200 when all of them run, 202 while some are starting, 502 when no provider took its order.
        """
        done = await asyncio.gather(*(orders.wake(name, wait, request) for name in lifecycle.names))
        return _together(lifecycle.names, done, State.RUNNING)

    @router.post("/wake/{name}", scopes=(SCOPE,), meta=_single("woken"))
    async def wake_endpoint(request: Request, name: str, wait: Wait = 0) -> Response:
        """Wake one endpoint.

        200 when it runs, 202 while it is starting. An endpoint that its provider calls failed is tried, too.
        """
        return _alone(name, await orders.wake(name, wait, request), State.RUNNING)

    @router.post("/sleep", scopes=(SCOPE,), meta=_several("put to sleep"))
    async def sleep_endpoints(request: Request, pause: Pause = False) -> Response:
        """Put all endpoints to sleep.

        200 when all of them sleep, 202 while some are stopping, 502 when no provider took its order.
        """
        done = await asyncio.gather(*(orders.sleep(name, pause, request) for name in lifecycle.names))
        return _together(lifecycle.names, done, State.SLEEPING)

    @router.post("/sleep/{name}", scopes=(SCOPE,), meta=_single("put to sleep"))
    async def sleep_endpoint(request: Request, name: str, pause: Pause = False) -> Response:
        """Put one endpoint to sleep, also while calls are in flight.

        200 when it sleeps, 202 while it is stopping.
        """
        return _alone(name, await orders.sleep(name, pause, request), State.SLEEPING)

    return router


def _alone(name: str, done: Done, goal: State) -> Response:
    if done.error:
        kind = Conflict if done.status == Conflict.status else UpstreamError
        raise kind(f"endpoint {name}: {done.error}", extra={"success": False})
    body = {"success": True, "name": name, "status": done.state.value}
    return Response.json(body, 200 if done.state is goal else 202)


def _together(names: Iterable[str], done: Iterable[Done], goal: State) -> Response:
    found = dict(zip(names, done, strict=True))
    good = [each for each in found.values() if not each.error]
    status = 200 if all(each.state is goal for each in good) else 202
    if found and not good:
        status = UpstreamError.status
    told = {
        name: {"success": not each.error, "status": each.state.value, "error": each.error or None}
        for name, each in found.items()
    }
    return Response.json({"success": len(good) == len(found), "endpoints": told}, status)


def _described(schema: Mapping[str, Any], what: str) -> dict[str, Any]:
    content = {"application/json": {"schema": schema}}
    problem = {"$ref": "#/components/responses/Problem"}
    responses = {
        "200": {"description": f"It is {what}", "content": content},
        "202": {"description": f"It is being {what}", "content": content},
        "422": {"$ref": "#/components/responses/ValidationProblem"},
        "4XX": problem,
        "5XX": problem,
    }
    return {"openapi": {"responses": responses}}


_STATUS: Final = {"type": "string", "enum": [state.value for state in State]}


def _single(what: str) -> dict[str, Any]:
    properties = {"success": {"type": "boolean"}, "name": {"type": "string"}, "status": _STATUS}
    return _described({"type": "object", "properties": properties}, what)


def _several(what: str) -> dict[str, Any]:
    properties = {
        "success": {"type": "boolean"}, "status": _STATUS, "error": {"type": ["string", "null"]},
    }  # fmt: skip
    each = {"type": "object", "properties": properties}
    whole = {"success": {"type": "boolean"}, "endpoints": {"type": "object", "additionalProperties": each}}
    return _described({"type": "object", "properties": whole}, what)
