"""What a client needs from a kind of service; each kind is one file (``native``, ``runpod``)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from router_core.client.schema import Schema
from router_core.jobs.wire import JobView

__all__ = ["Dialect", "Event", "Invocation", "JobPage", "Options"]


@dataclass(frozen=True, slots=True)
class Event:
    """One step of a job: ``output`` (a value that it yielded), ``progress``, ``log``, ``job`` (its state), or
    a name of the author's own. ``truncated`` says that older events were dropped before they were read."""

    type: str
    data: Any
    id: int = 0
    """Number within the job; 0 for events that are not kept, such as ``job``."""


@dataclass(frozen=True, slots=True)
class Options:
    """How one call is made; see ``Endpoint.options``."""

    idempotency_key: str | None = None
    """None draws one for each call."""
    priority: int | None = None
    delay: float | None = None
    """Seconds to wait before the job may start."""
    expires_in: float | None = None
    """Seconds after which the job is not started any more."""
    webhook: str | None = None
    """Address that is told when the job ends."""
    as_job: bool = False
    """Make a job of it even where the route answers directly."""
    method: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    timeout: float = 60.0
    """Seconds that a route which answers directly may be silent."""


@dataclass(frozen=True, slots=True)
class Invocation:
    """A function call that has not been given a wire shape yet."""

    path: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    options: Options


@dataclass(frozen=True, slots=True)
class JobPage:
    """One page of a listing, to be iterated over; an empty cursor ends it."""

    jobs: Sequence[JobView]
    cursor: str = ""

    def __iter__(self) -> Iterator[JobView]:
        """Return the jobs, newest first."""
        return iter(self.jobs)

    def __len__(self) -> int:
        """Return how many are on this page."""
        return len(self.jobs)


class Dialect(Protocol):
    """How one kind of service is spoken to."""

    @property
    def address(self) -> str:
        """Where the service is, without credentials."""

    async def schema(self) -> Schema:
        """Return what the service tells about its routes (asked for once)."""

    async def invoke(self, invocation: Invocation) -> Any:
        """Make a call: a ``JobView`` when a job was made, an async iterator for a stream, else the value."""

    async def job(self, job_id: str, *, wait: float = 0.0) -> JobView:
        """Return a job, after up to ``wait`` seconds in which it may end."""

    async def result(self, view: JobView) -> Any:
        """Return the result of a job that succeeded."""

    def events(self, job_id: str, after: int = 0) -> AsyncIterator[Event]:
        """Follow a job to its end; connections that break are taken up again where they broke."""

    async def change(self, job_id: str, action: str) -> JobView:
        """``cancel`` or ``retry``; returns the job as it then is."""

    async def find(self, filters: Mapping[str, str]) -> JobPage:
        """List jobs, newest first."""

    async def aclose(self) -> None:
        """Close connections."""
