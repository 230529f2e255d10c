"""What stands in front of a state store that several processes share: it may be slow, away, or hang.

Whoever asks gets an answer in time or StoreError. After a few failures in a row StoreError comes at once,
and every now and then one call is let through to find out whether the store is back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar

from router_core.clock import Clock
from router_core.errors import BadRequest, Conflict, Misconfigured, PayloadTooLarge, StoreError
from router_core.state import Entry, StatePage, StateStore
from router_core.telemetry.events import Events, Note

__all__ = ["FAILURES", "PATIENCE", "REST", "GuardedStateStore"]

T = TypeVar("T")
Work = Coroutine[Any, Any, T]

PATIENCE: Final = 0.5
"""Seconds that one operation may take."""
FAILURES: Final = 5
"""In a row, after which the store is left alone."""
REST: Final = 2.0
"""Seconds for which it is left alone at first; twice as long after each try in vain."""
_LONGEST_REST: Final = 15.0
_OPENING: Final = 10.0
"""Seconds that opening the store may take; callers wait no longer for it than for an operation."""


class GuardedStateStore:
    """A StateStore with limits on time, which opens itself when it is first asked.

    It is made for one event loop at a time.
    """

    def __init__(
        self, store: StateStore, clock: Clock, events: Events,
        *, patience: float = PATIENCE, failures: int = FAILURES, rest: float = REST,
    ) -> None:  # fmt: skip
        self._store = store
        self._clock = clock
        self._events = events
        self._patience = patience
        self._limit = failures
        self._rest = self._first_rest = rest
        self._failures = 0
        self._closed_until: float | None = None
        """Until when nobody is let through; None while the store answers."""
        self._down_since = 0.0
        self._probing = False
        self._opened = False
        self._opening: asyncio.Task[None] | None = None
        self._ended = False

    @property
    def multi_process(self) -> bool:
        """Whether other processes see what is written."""
        return bool(getattr(self._store, "multi_process", True))

    # --- StateStore -------------------------------------------------------------------------

    async def get(self, key: str) -> Entry | None:
        """Return what stands under a key."""
        return await self._call(lambda: self._store.get(key))

    async def put(
        self,
        key: str,
        value: bytes,
        *,
        if_version: str | None = None,
        if_absent: bool = False,
        ttl: float | None = None,
    ) -> str:
        """Write a value if the condition holds."""
        return await self._call(
            lambda: self._store.put(key, value, if_version=if_version, if_absent=if_absent, ttl=ttl)
        )

    async def delete(self, key: str, *, if_version: str | None = None) -> bool:
        """Remove a value if the condition holds."""
        return await self._call(lambda: self._store.delete(key, if_version=if_version))

    async def increment(
        self, key: str, by: int = 1, *, ttl: float | None = None, limit: int | None = None
    ) -> int | None:
        """Add to a count unless that takes it above the limit."""
        return await self._call(lambda: self._store.increment(key, by, ttl=ttl, limit=limit))

    async def entries(self, prefix: str, *, cursor: str = "", limit: int = 100) -> StatePage:
        """List keys in their order."""
        return await self._call(lambda: self._store.entries(prefix, cursor=cursor, limit=limit))

    async def ping(self) -> None:
        """Raise StoreError unless a write would succeed now."""
        await self._call(self._store.ping)

    async def open(self) -> None:
        """Open the store now instead of at the first call; raises Misconfigured, or StoreError when it does
        not answer, and then it is tried again at the next call."""
        self._ended = False
        task = self._begin_opening()
        await asyncio.wait((task,))
        task.result()

    async def close(self) -> None:
        """Let go, of a store that hangs as well."""
        self._ended, self._opened = True, False
        if self._opening is not None and self._opening.get_loop() is asyncio.get_running_loop():
            self._opening.cancel()
        self._opening = None
        task = asyncio.ensure_future(self._store.close())
        await asyncio.wait((task,), timeout=_OPENING)
        _let_go(task)

    # --- one call ---------------------------------------------------------------------------

    async def _call(self, work: Callable[[], Work[T]]) -> T:
        if self._ended:
            raise StoreError("the state store is closed")
        probe = self._admit()
        try:
            if not self._opened:
                await self._wait_until_open()
            return await self._within(work())
        except StoreError:
            raise
        except (BadRequest, PayloadTooLarge):
            raise  # it was not asked
        except Conflict:
            self._answered()
            raise
        finally:
            if probe:
                self._probing = False

    def _admit(self) -> bool:
        """Return whether this call is to find out if the store is back; raises StoreError without asking."""
        if self._closed_until is None:
            return False
        left = self._closed_until - self._clock.monotonic()
        if left > 0 or self._probing:
            raise StoreError("the state store does not answer", retry_after=max(1.0, left))
        self._probing = True
        return True

    async def _within(self, work: Work[T]) -> T:
        """Wait for an operation as long as it may take, and not for its end when that is over."""
        task = asyncio.ensure_future(work)
        try:
            await asyncio.wait((task,), timeout=self._patience)
        finally:
            if not task.done():
                _let_go(task)
        if not task.done():
            raise self._failed(StoreError(f"the state store did not answer within {self._patience:g} s"))
        try:
            answer = task.result()
        except StoreError as error:
            self._failed(error)
            raise
        except (BadRequest, PayloadTooLarge, Conflict):
            raise
        except Misconfigured as error:
            raise self._failed(StoreError(str(error)), certain=True) from error
        except asyncio.CancelledError:
            raise StoreError("the state store was closed meanwhile") from None
        except Exception as error:
            raise self._failed(
                StoreError(f"the state store cannot answer: {type(error).__name__}")
            ) from error
        self._answered()
        return answer

    async def _wait_until_open(self) -> None:
        task = self._begin_opening()
        await asyncio.wait((task,), timeout=self._patience)
        if not task.done():
            raise StoreError("the state store is being opened")
        try:
            task.result()
        except Misconfigured as error:
            raise StoreError(str(error)) from error
        except asyncio.CancelledError:
            raise StoreError("the state store is closed") from None

    def _begin_opening(self) -> asyncio.Task[None]:
        """Return the task that opens the store: many ask for it, it is done once."""
        task = self._opening
        if task is None or task.done() or task.get_loop() is not asyncio.get_running_loop():
            task = self._opening = asyncio.create_task(self._open())
            task.add_done_callback(_retrieve)
        return task

    async def _open(self) -> None:
        try:
            async with asyncio.timeout(_OPENING):
                await self._store.open()
        except TimeoutError as error:
            raise self._failed(StoreError("the state store could not be opened in time")) from error
        except StoreError as error:
            self._failed(error)
            raise
        except Misconfigured as error:
            self._failed(error, certain=True)
            raise
        except Exception as error:
            told = StoreError(f"the state store cannot be opened: {type(error).__name__}")
            raise self._failed(told) from error
        self._opened = True
        self._answered()

    # --- how it stands ----------------------------------------------------------------------

    def _answered(self) -> None:
        self._failures = 0
        if self._closed_until is None:
            return
        self._closed_until, self._rest = None, self._first_rest
        away = self._clock.monotonic() - self._down_since
        self._events.emit(
            Note("state_store_up", "info", f"the state store is back after {away:.1f} s", {"seconds": away})
        )

    def _failed(self, error: Any, *, certain: bool = False) -> Any:
        """Count a failure, and return it; one that is ``certain`` to come again counts for all."""
        self._failures += 1
        now = self._clock.monotonic()
        if self._closed_until is not None:
            # those that were under way when it was left alone say nothing new
            if now >= self._closed_until:
                self._rest = min(_LONGEST_REST, self._rest * 2)
                self._closed_until = now + self._rest
        elif certain or self._failures >= self._limit:
            self._closed_until, self._down_since = now + self._rest, now
            text = f"the state store does not answer and is left alone: {error}"
            self._events.emit(Note("state_store_down", "error" if certain else "warning", text))
        return error


def _let_go(task: asyncio.Future[Any]) -> None:
    """Cancel work without waiting for it to take notice."""
    task.add_done_callback(_retrieve)
    task.cancel()


def _retrieve(task: asyncio.Future[Any]) -> None:
    """Look at an error that nobody waits for any more, so that asyncio does not complain of that."""
    if not task.cancelled():
        task.exception()
