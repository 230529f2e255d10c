"""The client for asynchronous programs. The synchronous one (``sync``) runs this very code."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from router_core.client.dialect import Dialect, Invocation, JobPage, Options
from router_core.client.job import AsyncJob
from router_core.client.schema import Schema
from router_core.errors import Conflict, Misconfigured
from router_core.jobs.wire import JobView

if TYPE_CHECKING:
    from router_core.client.gateway import AsyncGateway

__all__ = ["AsyncClient", "AsyncEndpoint"]


class AsyncEndpoint:
    """One route of a service, callable like the function behind it.

    ``await predict("a", b=2)`` gives an ``AsyncJob`` when the route makes jobs, an asynchronous iterator when
    it streams, and else the value. A keyword ``progress=True`` (unless the route has a parameter of that
    name) shows a progress bar whenever the job is waited for.
    """

    def __init__(self, dialect: Dialect, path: str, options: Options, *, progress: bool = False) -> None:
        self._dialect = dialect
        self._path = path
        self._options = options
        self._progress = progress

    def options(
        self, *, idempotency_key: str | None = None, priority: int | None = None, delay: float | None = None,
        expires_in: float | None = None, webhook: str | None = None, as_job: bool | None = None,
        method: str | None = None, headers: Mapping[str, str] | None = None, timeout: float | None = None,
        progress: bool | None = None,
    ) -> AsyncEndpoint:  # fmt: skip
        """Return the same route with other call options, which cannot be mistaken for its parameters.

        ``idempotency_key``: calls under the same key are the same job. ``delay``: seconds before it may
        start. ``expires_in``: seconds after which it is not started any more. ``webhook``: address that is
        told when it ends. ``as_job``: make a job of it even where the route answers directly. ``timeout``:
        seconds that a direct answer may take.
        """
        given: dict[str, Any] = {
            "idempotency_key": idempotency_key, "priority": priority, "delay": delay, "webhook": webhook,
            "expires_in": expires_in, "as_job": as_job, "method": method, "headers": headers,
            "timeout": timeout,
        }  # fmt: skip
        options = replace(self._options, **{key: value for key, value in given.items() if value is not None})
        bar = self._progress if progress is None else progress
        return AsyncEndpoint(self._dialect, self._path, options, progress=bar)

    async def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the route."""
        bar = self._progress
        if "progress" in kwargs and not await self._has_parameter("progress"):
            bar = bool(kwargs.pop("progress"))
        outcome = await self._dialect.invoke(Invocation(self._path, args, kwargs, self._options))
        if isinstance(outcome, JobView):
            return AsyncJob(self._dialect, outcome, show_progress=bar)
        return outcome

    async def submit(self, *args: Any, **kwargs: Any) -> AsyncJob:
        """Call the route and get a job, whatever kind of route it is; raises Conflict if it cannot be one."""
        outcome = await self.options(as_job=True)(*args, **kwargs)
        if not isinstance(outcome, AsyncJob):
            raise Conflict(f"{self._path} answered directly, not with a job")
        return outcome

    async def run(self, *args: Any, **kwargs: Any) -> Any:
        """Call the route and return its result, having waited for the job if it makes one."""
        outcome = await self(*args, **kwargs)
        return await outcome.result() if isinstance(outcome, AsyncJob) else outcome

    async def stream(self, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        """Call the route and return what it yields, whether it streams directly or through a job."""
        outcome = await self(*args, **kwargs)
        if isinstance(outcome, AsyncJob):
            outcome = outcome.outputs()
        if not hasattr(outcome, "__aiter__"):
            yield outcome
            return
        try:
            async for value in outcome:
                yield value
        finally:
            await outcome.aclose()

    async def _has_parameter(self, name: str) -> bool:
        schema = await self._dialect.schema()
        return name in schema.find(self._path, self._options.method).places

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._path}>"


class AsyncClient:
    """A service, from the side of its caller. Make one with ``connect(url, asynchronous=True)``."""

    def __init__(self, dialect: Dialect, options: Options | None = None) -> None:
        self._dialect = dialect
        self._options = options or Options()

    def endpoint(self, path: str, *, method: str = "", progress: bool = False) -> AsyncEndpoint:
        """Return the route at ``path`` as a function; ``method`` only where a path has several."""
        return AsyncEndpoint(
            self._dialect, f"/{path.lstrip('/')}", replace(self._options, method=method), progress=progress
        )

    def __getattr__(self, name: str) -> AsyncEndpoint:
        """``service.predict`` is ``service.endpoint("/predict")``."""
        if name.startswith("_"):
            raise AttributeError(name)
        return self.endpoint(name)

    @property
    def gateway(self) -> AsyncGateway:
        """The control plane of a gateway; a route ``/gateway`` of a service is ``endpoint("/gateway")``."""
        from router_core.client.gateway import AsyncGateway

        exchange = getattr(self._dialect, "exchange", None)
        if exchange is None:
            raise Misconfigured("a service behind RunPod's queue has no control plane")
        return AsyncGateway(exchange)

    async def schema(self) -> Schema:
        """Return what the service tells about its routes."""
        return await self._dialect.schema()

    async def job(self, job_id: str) -> AsyncJob:
        """Find a job again by its id; raises NotFound, Gone."""
        return AsyncJob(self._dialect, await self._dialect.job(job_id))

    async def jobs(self, *, status: str = "", route: str = "", cursor: str = "", limit: int = 50) -> JobPage:
        """List jobs, newest first, one page at a time."""
        filters = {"status": status, "route": route, "cursor": cursor, "limit": str(limit)}
        return await self._dialect.find(filters)

    async def aclose(self) -> None:
        """Close connections; jobs go on."""
        await self._dialect.aclose()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._dialect.address}>"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()
