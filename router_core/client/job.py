"""A job as the caller holds it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from typing import Any, Final, Self

from router_core.client.dialect import Dialect, Event
from router_core.client.errors import JobCancelled, JobExpired, JobFailed
from router_core.jobs.wire import JobView

__all__ = ["AsyncJob"]

_SUCCEEDED: Final = "succeeded"
_STALE: Final = 0.5
"""Seconds after which a look at a property of a synchronous job asks the service again."""
_POLL: Final = 20.0
"""Seconds that the service may hold a question back until the job has ended."""
_FRAME: Final = 0.2
"""The same while a progress bar is on the screen."""
_GRACE: Final = 2.0
"""Seconds that the last answer may come late."""


def _unseen(view: JobView) -> None:
    """Nobody watches."""


class AsyncJob:
    """One job of a service.

    The properties hold what the last answer said: ``refresh``, ``wait``, ``result`` and iterating ask anew.
    """

    def __init__(self, dialect: Dialect, view: JobView, *, show_progress: bool = False) -> None:
        self._dialect = dialect
        self._show = show_progress
        self._seen = time.monotonic()
        self.view = view
        """Everything the service said about the job."""

    @property
    def id(self) -> str:
        """The job's id: enough to find it again with ``service.job(id)``."""
        return self.view.job_id

    @property
    def status(self) -> str:
        """queued, running, succeeded ...: see ``router_core.jobs.State``."""
        return self.view.status.value

    @property
    def progress(self) -> float:
        """Between 0 and 1."""
        return self.view.progress

    @property
    def message(self) -> str:
        """What the function said last about its progress."""
        return self.view.message

    @property
    def reason(self) -> str:
        """Why the job stands where it stands, in one stable word; often empty."""
        return self.view.reason

    @property
    def error(self) -> dict[str, Any] | None:
        """``type``, ``message``, ``attempt`` and ``retryable`` of the last error."""
        return None if self.view.error is None else dict(self.view.error)

    @property
    def done(self) -> bool:
        """Whether the job has ended, well or badly."""
        return self.view.done

    async def refresh(self) -> Self:
        """Ask how the job stands."""
        return await self._look(0.0)

    async def fresh(self) -> Self:
        """Ask how the job stands unless that was done a moment ago or the job has ended."""
        if self.done or time.monotonic() - self._seen < _STALE:
            return self
        return await self.refresh()

    async def wait(self, timeout: float | None = None) -> Self:
        """Return when the job has ended, well or badly; raises TimeoutError, and the job lives on."""
        if self._show and not self.done:
            return await self.progress_bar(timeout)
        return await self._until_done(timeout, _POLL)

    async def result(self, timeout: float | None = None) -> Any:
        """Wait for the job and return its result.

        Raises JobFailed, JobCancelled or JobExpired with the job's error, TimeoutError after ``timeout``
        seconds (the job lives on). May be called again as long as the service keeps the result.
        """
        await self.wait(timeout)
        if self.view.status == _SUCCEEDED:
            return await self._dialect.result(self.view)
        raise _ended(self.view)

    async def cancel(self) -> Self:
        """Ask the job to stop. A job that has ended already stays as it is: look at ``status``."""
        return self._take(await self._dialect.change(self.id, "cancel"))

    async def retry(self) -> AsyncJob:
        """Run the same call again as a new job; for jobs that ended without a result."""
        return AsyncJob(self._dialect, await self._dialect.change(self.id, "retry"), show_progress=self._show)

    async def events(self, after: int = 0) -> AsyncIterator[Event]:
        """Follow the job to its end: every event after number ``after``, the final state last.

        A connection that breaks is taken up again where it broke; events come once, in order.
        """
        async for event in self._dialect.events(self.id, after):
            if event.type == "job":
                self._take(event.data)
            yield event

    def __aiter__(self) -> AsyncIterator[Event]:
        """Follow the job from its beginning."""
        return self.events()

    async def outputs(self, on_restart: Callable[[], object] | None = None) -> AsyncIterator[Any]:
        """Return only what the job yields, as it yields it; raises as ``result`` does if it ends badly.

        A job that is tried again (after an error or a crash) yields from its start again: ``on_restart`` is
        called then, and what came before does not count any more: ``job.outputs(on_restart=chunks.clear)``.
        """
        async for event in self.events():
            if event.type == "output":
                yield event.data
            elif event.type == "attempt" and on_restart is not None:
                on_restart()
        if self.done and self.view.status != _SUCCEEDED:
            raise _ended(self.view)

    async def progress_bar(self, timeout: float | None = None) -> Self:
        """Show a progress bar on standard error until the job has ended."""
        from router_core.client.bar import job_bar  # rich is large, and few callers want a bar

        with job_bar(self.view.route or self.id) as show:
            show(self.view)
            return await self._until_done(timeout, _FRAME, show)

    async def _until_done(
        self, timeout: float | None, poll: float, show: Callable[[JobView], None] = _unseen
    ) -> Self:
        deadline = None if timeout is None else time.monotonic() + timeout
        left = poll if timeout is None else timeout
        asked = False
        while not self.done:
            if left <= 0 and asked:
                raise TimeoutError(f"job {self.id} is still {self.status} after {timeout:g} s; it goes on")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(None if deadline is None else max(0.0, left) + _GRACE):
                    await self._look(max(0.0, min(left, poll)))
                    show(self.view)
            asked = True
            if deadline is not None:
                left = deadline - time.monotonic()
        return self

    async def _look(self, wait: float) -> Self:
        return self._take(await self._dialect.job(self.id, wait=wait))

    def _take(self, view: JobView) -> Self:
        self.view = view
        self._seen = time.monotonic()
        return self

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id} {self.status} {self.progress:.0%}>"


def _ended(view: JobView) -> JobFailed | JobCancelled | JobExpired:
    error = view.error or {}
    if view.status == "cancelled":
        return JobCancelled(view.job_id, f"job {view.job_id} was cancelled", reason=view.reason, error=error)
    if view.status == "expired":
        text = f"job {view.job_id} waited past its deadline and was never started"
        return JobExpired(view.job_id, text, reason=view.reason, error=error)
    said = ": ".join(str(part) for part in (error.get("type"), error.get("message")) if part)
    text = said or f"job {view.job_id} failed ({view.reason})"
    return JobFailed(view.job_id, text, reason=view.reason, error=error)
