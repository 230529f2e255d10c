"""The client for plain programs: each line forwards to the asynchronous client, which does the work."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from router_core.client.aio import AsyncClient, AsyncEndpoint
from router_core.client.dialect import Event
from router_core.client.job import AsyncJob
from router_core.client.portal import Facade, Portal, chained, forward, iterated, renewed, shown

if TYPE_CHECKING:
    from router_core.client.gateway_sync import Gateway

__all__ = ["Client", "Endpoint", "Job"]

T = TypeVar("T")


def live(read: Callable[[AsyncJob], T], doc: str) -> shown[AsyncJob, T]:
    """A property that asks the service first, unless it was asked a moment ago."""
    return shown(read, doc, first=AsyncJob.fresh)


class Job(Facade[AsyncJob]):
    """One job of a service.

    Reading a property of a job that has not ended asks the service, at most twice a second, so that a loop
    such as ``while not job.done`` sees it move.
    """

    id = shown[AsyncJob, str](lambda job: job.id, "The job's id: ``service.job(id)`` finds it again.")
    status = live(lambda job: job.status, "queued, running, succeeded ...")
    progress = live(lambda job: job.progress, "Between 0 and 1.")
    message = live(lambda job: job.message, "What the function said last about its progress.")
    reason = live(lambda job: job.reason, "Why it stands there, in one stable word.")
    error = live(lambda job: job.error, "The last error.")
    done = live(lambda job: job.done, "Whether the job has ended, well or badly.")
    view = live(lambda job: job.view, "Everything the service said about the job.")

    result = forward(AsyncJob.result)
    refresh = chained(AsyncJob.refresh)
    wait = chained(AsyncJob.wait)
    cancel = chained(AsyncJob.cancel)
    progress_bar = chained(AsyncJob.progress_bar)
    events = iterated(AsyncJob.events)
    outputs = iterated(AsyncJob.outputs)

    def retry(self) -> Job:
        """Run the same call again as a new job; for jobs that ended without a result."""
        return Job(self._portal.run(self._wrapped.retry()), self._portal)

    def __iter__(self) -> Iterator[Event]:
        """Follow the job from its beginning to its end."""
        return self.events()


class Endpoint(Facade[AsyncEndpoint]):
    """One route of a service, callable like the function behind it.

    ``predict("a", b=2)`` gives a ``Job`` when the route makes jobs, an iterator when it streams, and else the
    value. ``progress=True`` shows a progress bar whenever the job is waited for.
    """

    options = renewed(AsyncEndpoint.options)
    run = forward(AsyncEndpoint.run)
    stream = iterated(AsyncEndpoint.stream)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the route."""
        outcome = self._portal.run(self._wrapped(*args, **kwargs))
        if isinstance(outcome, AsyncJob):
            return Job(outcome, self._portal)
        return self._portal.iterate(outcome) if hasattr(outcome, "__anext__") else outcome

    def submit(self, *args: Any, **kwargs: Any) -> Job:
        """Call the route and get a job, whatever kind of route it is; raises Conflict if it cannot be one."""
        return Job(self._portal.run(self._wrapped.submit(*args, **kwargs)), self._portal)


class Client(Facade[AsyncClient]):
    """A service, from the side of its caller. Make one with ``connect(url)``; close it, or use ``with``."""

    def __init__(self, wrapped: AsyncClient, portal: Portal | None = None) -> None:
        super().__init__(wrapped, portal or Portal())
        self._owns_portal = portal is None
        self._portal.at_close(wrapped.aclose)

    schema = forward(AsyncClient.schema)
    jobs = forward(AsyncClient.jobs)

    def endpoint(self, path: str, *, method: str = "", progress: bool = False) -> Endpoint:
        """Return the route at ``path`` as a function; ``method`` only where a path has several."""
        return Endpoint(self._wrapped.endpoint(path, method=method, progress=progress), self._portal)

    def __getattr__(self, name: str) -> Endpoint:
        """``service.predict`` is ``service.endpoint("/predict")``."""
        if name.startswith("_"):
            raise AttributeError(name)
        return self.endpoint(name)

    @property
    def gateway(self) -> Gateway:
        """The control plane of a gateway; a route ``/gateway`` of a service is ``endpoint("/gateway")``."""
        from router_core.client.gateway_sync import Gateway

        return Gateway(self._wrapped.gateway, self._portal)

    def job(self, job_id: str) -> Job:
        """Find a job again by its id; raises NotFound, Gone."""
        return Job(self._portal.run(self._wrapped.job(job_id)), self._portal)

    def close(self) -> None:
        """Close connections; jobs go on."""
        if self._owns_portal:
            self._portal.close()
        else:
            self._portal.run(self._wrapped.aclose())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
