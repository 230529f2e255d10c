"""The innermost step: a matched request becomes a call, a stream or a job."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from router_core.binding.collect import collect_request
from router_core.binding.depends import DependencyScope
from router_core.binding.inputs import Intake
from router_core.binding.result import is_stream, json_response, to_response
from router_core.binding.stream import StreamBody
from router_core.errors import PayloadTooLarge
from router_core.http.message import Request, Response
from router_core.http.taskless import TASKLESS
from router_core.routing.route import Route
from router_core.telemetry.events import Events, Note

if TYPE_CHECKING:
    from router_core.jobs.service import JobService

__all__ = ["Dispatch"]

OnClose = Callable[[BaseException | None], Awaitable[None]]
_FATAL: Final = (SystemExit, KeyboardInterrupt)
_NOTHING: Final[Mapping[str, Any]] = {}


class Dispatch:
    """Binds a request to the function of its route and turns what comes back into an answer."""

    __slots__ = ("_events", "_intake", "_scope", "_service")

    def __init__(
        self, service: JobService | None, intake: Intake, scope: DependencyScope, events: Events
    ) -> None:
        """Without a ``service`` no request may ask for a job."""
        self._service = service
        self._intake = intake
        self._scope = scope
        """Values of app-wide dependencies, and where sync functions run."""
        self._events = events

    async def __call__(self, request: Request, route: Route) -> Response:
        """Answer; whatever goes wrong is raised."""
        if _wants_job(route, request):
            return await self._accept(request, route)
        plan = route.plan
        if plan.request_only:
            try:
                value = await plan.call_whole(request)
            except _FATAL as error:
                raise RuntimeError(f"{route.key} raised {type(error).__name__}") from error
            return value if type(value) is Response else to_response(route, value, request)
        bound = plan.bind(request, self._intake)
        values = bound if isinstance(bound, dict) else await bound
        injected = _injected(plan.slots, request) if plan.slots else _NOTHING
        try:
            if plan.depends:
                return await self._with_dependencies(request, route, values, injected)
            if plan.direct and plan.is_async:
                value = await plan.func(**values)
            elif plan.direct:
                value = await self._scope.run_sync(functools.partial(plan.func, **values))
            else:
                # the app's scope holds nothing of this request; it only says where sync functions run
                value = await plan.call(values, injected, self._scope)
        except _FATAL as error:
            # raised in a task it would end the event loop, and the server with it
            raise RuntimeError(f"{route.key} raised {type(error).__name__}") from error
        if type(value) is plan.result.kind:
            return json_response(route, value)
        if is_stream(value):
            return await self._stream(route, value, request)
        return to_response(route, value, request)

    def shortcut(self, request: Request, route: Route) -> Callable[[Request], Awaitable[Response]] | None:
        """Return what answers every request with this head as a call of this would, in one step less."""
        plan = route.plan
        if route.max_body_bytes is not None or not plan.request_only or _wants_job(route, request):
            return None
        call = plan.call_whole
        if route.meta.get(TASKLESS):
            return call

        async def answer(request: Request) -> Response:
            try:
                value = await call(request)
            except _FATAL as error:
                raise RuntimeError(f"{route.key} raised {type(error).__name__}") from error
            return value if type(value) is Response else to_response(route, value, request)

        return answer

    async def _with_dependencies(
        self, request: Request, route: Route, values: dict[str, Any], injected: Mapping[str, Any]
    ) -> Response:
        scope = DependencyScope(app=self._scope, run_sync=self._scope.run_sync)
        try:
            value = await route.plan.call(values, injected, scope)
            if is_stream(value):
                # the stream outlives this call: its end is when the dependencies are cleaned up
                return await self._stream(route, value, request, scope.aclose)
            response = to_response(route, value, request)
        except BaseException as error:
            await scope.aclose(error)
            raise
        await scope.aclose()
        return response

    async def _stream(
        self, route: Route, value: Any, request: Request, on_close: OnClose | None = None
    ) -> Response:
        def on_error(error: BaseException) -> None:
            fields = {"request_id": request.id, "route": route.key}
            self._events.emit(Note("stream_failed", "error", "a stream ended with an error", fields, error))

        response = to_response(
            route, value, request, on_close=on_close, on_error=on_error, run_sync=self._scope.run_sync
        )
        if isinstance(response.body, StreamBody):
            await response.body.prime()  # an error before the first item still chooses the status
        return response

    async def _accept(self, request: Request, route: Route) -> Response:
        from router_core.jobs.http import accept  # a service of plain calls starts without

        if self._service is None:
            raise RuntimeError(f"{route.key} was asked for a job, and there is nothing here that takes one")
        plan = route.plan
        inputs = collect_request(plan, request, self._intake)
        # URLs are fetched only once it is known that the request is new
        return await accept(
            self._service, route, request, inputs, fetch=lambda links: plan.fetch(links, self._intake)
        )


def _wants_job(route: Route, request: Request) -> bool:
    """Return whether it becomes a job; raises for a body that the route does not take."""
    limit = route.max_body_bytes
    if limit is not None and len(request.body) > limit:
        # adapters ask for the limit of a route before a large body alone
        raise PayloadTooLarge(f"the request body may have {limit} bytes")
    if route.kind == "job":
        return True
    if "prefer" not in request.headers:
        return False
    from router_core.jobs.http import wants_job

    return wants_job(route, request)


def _injected(slots: frozenset[str], request: Request) -> Mapping[str, Any]:
    context = None
    if "job" in slots or "job_progress" in slots:
        from router_core.jobs.context import JobContext

        context = JobContext()
    return {
        "request": request,
        "principal": request.principal,
        "job": context,
        "job_progress": None if context is None else context.progress,
    }
