"""One wake of one endpoint, for everybody who waits for it.

It belongs to nobody who waits: who goes away leaves it running. Across processes a lease in the state store
says who gives the order, and everybody else looks until the provider says that it runs; the lease of a
process that died before it gave the order runs out, and another takes it.

After ``wake_timeout`` nobody waits any more, but it is looked on: a large model may take longer than that,
and is then served from when it is there.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

from router_core.clock import Clock
from router_core.errors import Unavailable
from router_core.gateway.lifecycle.audit import Audit
from router_core.gateway.lifecycle.driver import ManagementError, Seen
from router_core.gateway.lifecycle.endpoint import HELD, Endpoint
from router_core.gateway.lifecycle.shared import Shared
from router_core.gateway.lifecycle.states import State

__all__ = ["WakeFailed", "Waking"]

_FIRST_LOOK: Final = 1.0
_LAST_LOOK: Final = 5.0
_GIVE_UP: Final = 4
"""Times the wake timeout, after which nobody looks any more."""
_RETRY_AFTER: Final = 10.0


class WakeFailed(Unavailable):
    """An endpoint could not be woken, or not in time."""

    code = "endpoint_not_ready"

    def __init__(self, name: str, reason: str, *, retry_after: float = _RETRY_AFTER) -> None:
        super().__init__(f"endpoint {name} is not ready: {reason}", retry_after=retry_after)
        self.endpoint = name
        self.reason = reason


class Waking:
    """Wakes it, and tells everybody how that went."""

    def __init__(
        self, endpoint: Endpoint, look: Callable[[Endpoint], Awaitable[None]], shared: Shared, audit: Audit,
        clock: Clock, *, who: str, force: bool = False, draw: Callable[[], float] = random.random,
    ) -> None:  # fmt: skip
        """``force`` wakes also what takes calls as it is, and what the provider calls failed."""
        loop = asyncio.get_running_loop()
        self.done: asyncio.Future[str] = loop.create_future()
        """Why it failed, empty when the endpoint runs. Nobody has to look at it."""
        self.ordered: asyncio.Future[str] = loop.create_future()
        """Why no order could be given, empty when one was, or none was needed."""
        self._endpoint = endpoint
        self._look = look
        self._shared = shared
        self._audit = audit
        self._clock = clock
        self._who = who
        self._force = force
        self._draw = draw
        self._began = clock.monotonic()
        self._tries = 0
        self._again = float("-inf")
        """Before then no order is repeated, whatever the lease says: there may be no store to hold it."""
        self._tasks = [asyncio.create_task(self._run()), asyncio.create_task(self._expire())]

    @property
    def ended(self) -> bool:
        """Whether it is over; one that is overdue goes on."""
        return self._tasks[0].done()

    def stop(self, reason: str) -> None:
        """End it at once."""
        for task in self._tasks:
            task.cancel()
        self._tell(reason)

    async def join(self) -> None:
        """Wait until it is over, however it ends."""
        await asyncio.wait(self._tasks)

    async def _run(self) -> None:
        endpoint = self._endpoint
        reason = "its state could not be followed"
        try:
            reason = await self._steps()
        finally:
            self._tasks[1].cancel()
            self._tell(reason)
            if reason:
                endpoint.gives_up = self._clock.monotonic() + _RETRY_AFTER

    async def _steps(self) -> str:
        """Look, order, wait, and so on; returns why that failed, or nothing."""
        endpoint, pause = self._endpoint, _FIRST_LOOK
        while True:
            await self._look(endpoint)
            if endpoint.state is State.UNKNOWN and (self._force or not endpoint.serving):
                await self._ask_itself()
            if endpoint.ready and not (self._force and endpoint.state is not State.RUNNING):
                self._audit.awake(endpoint.spec.name, self._clock.monotonic() - self._began)
                return ""
            reason = self._hopeless() or await self._order_if_due()
            if reason:
                return reason
            await self._clock.sleep(pause * (0.75 + 0.5 * self._draw()))
            pause = min(_LAST_LOOK, pause * 1.5)

    async def _ask_itself(self) -> None:
        """Ask the endpoint where the provider says nothing."""
        endpoint = self._endpoint
        with suppress(ManagementError):
            if await endpoint.driver.answers():
                seen = Seen(State.RUNNING, endpoint.sub, serving=True, timer=endpoint.timer)
                before = endpoint.seen(seen, self._clock.monotonic(), self._clock.now())
                self._audit.change(endpoint, before)

    def _hopeless(self) -> str:
        """Return why it makes no sense to go on."""
        endpoint, took = self._endpoint, self._clock.monotonic() - self._began
        if endpoint.state is State.ERROR and not (self._force and took < HELD):
            return f"its provider says that it failed: {endpoint.message or endpoint.sub}"
        if not self.done.done():
            return ""
        if endpoint.state is State.SLEEPING or took > _GIVE_UP * endpoint.spec.wake_timeout:
            return "it did not start"
        return ""

    async def _order_if_due(self) -> str:
        """Give the order unless it was given; returns why that can never work."""
        endpoint = self._endpoint
        state = endpoint.state
        forced = self._force and state is State.ERROR and not self._tries
        if not (state in (State.SLEEPING, State.UNKNOWN) or forced):
            if state is not State.STOPPING:
                self._tell_ordered("", state.value)
            return ""
        if self._clock.monotonic() < self._again:
            return ""
        lease = await self._shared.lease("wake", endpoint.spec.name, HELD)
        if lease is None:
            self._tell_ordered("", "another process wakes it")
            return ""
        self._tries += 1
        try:
            await endpoint.driver.wake(endpoint.sub, self._tries)
        except ManagementError as error:
            await self._shared.release("wake", endpoint.spec.name, lease)
            self._tell_ordered(str(error))
            return "" if error.transient else str(error)
        except BaseException:
            # cancelled half-way: whether the order has arrived is not known, so it is given again
            await asyncio.shield(self._shared.release("wake", endpoint.spec.name, lease))
            raise
        self._again = self._clock.monotonic() + HELD
        before = endpoint.woken(self._clock.monotonic(), self._clock.now())
        self._audit.change(endpoint, before)
        self._tell_ordered("", "ordered")
        return ""

    async def _expire(self) -> None:
        limit = self._endpoint.spec.wake_timeout
        await self._clock.sleep(limit)
        if not self.done.done():
            reason = f"it did not start within {limit:g} s"
            self._audit.operation("wake", self._endpoint.spec.name, self._who, reason)
            self._tell(reason)

    def _tell(self, reason: str) -> None:
        if not self.done.done():
            self.done.set_result(reason)
        self._tell_ordered(reason, "running")

    def _tell_ordered(self, error: str, detail: str = "") -> None:
        if not self.ordered.done():
            self._audit.operation("wake", self._endpoint.spec.name, self._who, error, detail=detail)
            self.ordered.set_result(error)
