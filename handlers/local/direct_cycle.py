"""One request that came through the door below ASGI, and the steps of its answer."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator, Mapping
from inspect import CORO_CREATED, getcoroutinestate
from typing import TYPE_CHECKING, Any, cast

from router_core.http.disconnect import Watched
from router_core.http.head import Head
from router_core.http.message import Response
from router_core.http.taskless import Prompt, Rest

if TYPE_CHECKING:
    from handlers.local.direct import DirectHttpToolsProtocol
    from router_core.middleware.exchange import Admission

__all__ = ["DirectCycle"]


class _NoEvent:
    """Nobody waits for the body of a request that is handed over whole."""

    __slots__ = ()

    def set(self) -> None:
        """Do nothing."""


class DirectCycle(Watched, Mapping[str, Any]):
    """One request that came through the door; looks to uvicorn's protocol like a cycle of its own.

    It is ``Request.native`` as well, the ASGI scope, which is only made when somebody looks into it.

    The answer to a route that is ``TASKLESS`` is made step by step here (``begin``), from one ``Prompt`` to
    the next. Whatever else it waits for, and an answer that is more than bytes, goes on in a task.
    """

    # No slots: what every request starts with stays in the class until it changes.
    message_event = _NoEvent()
    more_body = True
    disconnected = False
    response_started = False
    response_complete = False
    task: asyncio.Task[None] | None = None
    interrupts = False
    happened = False
    _scope: dict[str, Any] | None = None
    _waiting: Prompt[Any] | None = None
    _coming: Coroutine[Any, Any, Response]

    def __init__(
        self, protocol: DirectHttpToolsProtocol, head: Head, method: str, url: bytes, version: str,
        keep_alive: bool, request_id: str, body: bytes | bytearray = b"",
        admission: Admission | None = None,
    ) -> None:  # fmt: skip
        self.protocol = protocol
        self.head = head
        self.method = method
        self.url = url
        self.version = version
        self.keep_alive = keep_alive
        self.request_id = request_id
        self.body = body
        self.admission = admission
        """What the gates have said, where they need not be asked: its answer is one of ``door.admitted``."""

    # --- steps -----------------------------------------------------------------------------------

    def begin(self, coming: Coroutine[Any, Any, Response]) -> None:
        """Take the first step of an answer."""
        self._coming = coming
        self._step(None)

    def begin_task(self, coming: Coroutine[Any, Any, Response]) -> None:
        """Make an answer, or the rest of one, in a task."""
        protocol = self.protocol
        self.task = task = protocol.loop.create_task(protocol.answer(self, coming))
        protocol.tasks.add(task)

    def _step(self, _prompt: Prompt[Any] | None, error: BaseException | None = None) -> None:
        coming = self._coming
        try:
            waiting = coming.send(None) if error is None else coming.throw(error)
        except StopIteration as done:
            self._waiting = None
            if not self.protocol.write(self, done.value):
                self.begin_task(_given(done.value))
        except BaseException as failed:
            self._waiting = None
            self.begin_task(_failed(failed))
        else:
            if isinstance(waiting, Prompt):
                waiting._asyncio_future_blocking = False
                waiting.listener = self._step
                self._waiting = waiting
            else:
                self._waiting = None
                self.begin_task(Rest(coming, waiting))

    # --- the peer goes away ----------------------------------------------------------------------

    async def gone(self) -> None:
        """Return when the peer has gone."""
        await self.protocol.gone()

    def forget(self) -> None:
        """Leave the answer alone, whoever goes."""
        self.interrupts = False

    def acquit(self) -> None:
        """Take the cancellation back."""
        if self.task is not None:
            self.task.uncancel()

    def interrupt(self) -> None:
        """Cancel the answer, where that was asked for."""
        if not self.interrupts:
            return
        if self.task is not None:
            coming = cast("Coroutine[Any, Any, None]", self.task.get_coro())
            if getcoroutinestate(coming) == CORO_CREATED:
                # A task that is cancelled before its first step never takes it, and what it was to go on with
                # would hang in the air. That step is due before whatever is asked for now.
                self.protocol.loop.call_soon(self._cancel)
            else:
                # at once: one whose stream never waits, now that nobody reads it, leaves the loop no turn
                self._cancel()
            return
        self.interrupts = False
        self.happened = True
        if self._waiting is not None:
            self._waiting.listener = None
            self._step(None, asyncio.CancelledError())

    def _cancel(self) -> None:
        """Cancel the task, unless it has come past what was to be interrupted."""
        if self.interrupts and self.task is not None:
            self.interrupts = False
            self.happened = True
            self.task.cancel()

    # --- the ASGI scope --------------------------------------------------------------------------

    @property
    def scope(self) -> dict[str, Any]:
        """The ASGI scope."""
        if self._scope is None:
            self._scope = self.protocol.scope_of(self)
        return self._scope

    def __getitem__(self, name: str) -> Any:
        return self.scope[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.scope)

    def __len__(self) -> int:
        return len(self.scope)


async def _given(response: Response) -> Response:
    """Return an answer that is there already."""
    return response


async def _failed(error: BaseException) -> Response:
    """Raise what an answer has come to already."""
    raise error
