"""Take jobs from the platform: no more than can run, none lost on the way out, no storm when it is away.

The SDK's own loop looks once a second whether a job has ended (so a worker with one slot runs one job a
second), asks a platform that is down some thousand times a second, and forgets a job that is handed out while
it shuts down. This one is woken by the end of a job, waits longer and longer between questions that fail, and
on its way out keeps listening to a question that is open: whatever comes is run, or reported.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

from router_core.telemetry.events import Events, Note

__all__ = ["Taking"]

Fetch = Callable[[int], Awaitable[Sequence[Mapping[str, Any]] | None]]
Begin = Callable[[Mapping[str, Any]], "asyncio.Task[Any] | None"]

_FIRST_PAUSE: Final = 0.25
_LONGEST_PAUSE: Final = 30.0
_REMIND: Final = 20
"""Failures from one line in the log to the next."""
_THROTTLED: Final = 5.0
"""Seconds after a 429, as the SDK waits."""
_AT_ONCE: Final = 0.5
"""Seconds: a question that is answered with nothing sooner than this was not held open, so the next waits."""
_IDLE_PAUSE: Final = 1.0


class Taking:
    """The loop that asks for jobs."""

    def __init__(
        self, fetch: Fetch, begin: Begin, events: Events, *, room: Callable[[], int], longest: float = 90.0,
        draw: Callable[[], float] = random.random,
    ) -> None:  # fmt: skip
        """``begin`` starts a job; ``room`` says how many may run; ``longest`` bounds one question."""
        self._fetch = fetch
        self._begin = begin
        self._events = events
        self._room = room
        self._longest = longest
        self._draw = draw
        self._changed = asyncio.Event()
        self._over = asyncio.Event()
        self._failures = 0
        self._empty = 0
        self.leaving = asyncio.Event()
        """Set: ask no more. A question that is open may still be answered."""
        self.tasks: set[asyncio.Task[Any]] = set()
        """The jobs that run."""

    async def run(self) -> None:
        """Ask until leaving."""
        try:
            while not self.leaving.is_set():
                free = self._room() - len(self.tasks)
                if free <= 0:
                    await self._change()
                    continue
                await self._ask(free)
        finally:
            self._over.set()
            self._changed.set()

    def leave(self) -> None:
        """Ask no more (on the loop)."""
        self.leaving.set()
        self._changed.set()

    def hang_up(self) -> None:
        """Give up the open question, too: nobody would have the time to run what comes."""
        self._over.set()

    async def empty(self) -> None:
        """Return when nothing is asked and nothing runs any more."""
        while not (self._over.is_set() and not self.tasks):
            await self._change()

    async def _ask(self, free: int) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            jobs = await self._answer(free)
        except Exception as error:
            await self._pause_after(error)
            return
        self._recovered()
        for job in jobs or ():
            self._take(job)
        if jobs or loop.time() - began > _AT_ONCE:
            self._empty = 0
        else:
            self._empty += 1
            await self._sleep(min(_IDLE_PAUSE, 0.02 * 2 ** min(self._empty, 10)))

    async def _answer(self, free: int) -> Sequence[Mapping[str, Any]] | None:
        """Return what comes, also while leaving, until somebody hangs up."""
        asked = asyncio.ensure_future(self._bounded(free))
        over = asyncio.ensure_future(self._over.wait())
        try:
            await asyncio.wait({asked, over}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            over.cancel()
            if not asked.done():
                asked.cancel()
                await asyncio.wait({asked})
        if asked.cancelled():
            return None
        return asked.result()

    async def _bounded(self, free: int) -> Sequence[Mapping[str, Any]] | None:
        try:
            async with asyncio.timeout(self._longest):
                return await self._fetch(free)
        except TimeoutError:
            return None

    def _take(self, job: Any) -> None:
        if not isinstance(job, Mapping) or not isinstance(job.get("id"), str) or not job["id"]:
            kind = type(job).__name__
            self._note("job_unreadable", "error", "RunPod handed out something without an id", {"kind": kind})
            return
        task = self._begin(job)
        if task is None:
            text = "a job came again while it runs here; both are answered by its one end"
            self._note("job_repeated", "warning", text, {"request_id": job["id"]})
            return
        self.tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self.tasks.discard(task)
        self._changed.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            self._events.emit(Note("job_task_failed", "error", "a job ended in an unexpected way", {}, error))

    # -- waiting -------------------------------------------------------------------------------------

    async def _pause_after(self, error: Exception) -> None:
        self._failures += 1
        if getattr(error, "status", 0) == 429:
            await self._sleep(_THROTTLED)
            return
        if self._failures % _REMIND == 1:
            fields = {"why": f"{type(error).__name__}: {error}"[:300]}
            self._note("take_failed", "warning", "RunPod cannot be asked for jobs; asking again", fields)
        pause = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2.0 ** min(self._failures - 1, 20))
        await self._sleep(pause * (0.5 + self._draw() / 2))

    def _recovered(self) -> None:
        if self._failures:
            fields = {"failures": self._failures}
            self._note("take_recovered", "info", "RunPod answers again", fields)
        self._failures = 0

    async def _sleep(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self.leaving.wait()
        except TimeoutError:
            return

    async def _change(self) -> None:
        # more than one may wait, and each looks at its condition again before it does
        await self._changed.wait()
        self._changed.clear()

    def _note(self, name: str, level: str, text: str, fields: dict[str, Any]) -> None:
        self._events.emit(Note(name, level, text, fields))
