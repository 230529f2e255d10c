"""Deployments that sleep: those awake come first, and one that is needed is woken."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

from router_core.gateway.call import Call
from router_core.gateway.lifecycle.waking import WakeFailed
from router_core.gateway.registry import ModelRouter
from router_core.gateway.select.candidate import Candidate

__all__ = ["Sleepers", "Waker"]


class Sleepers(Protocol):
    """What the lifecycle of endpoints can do for a call."""

    def ready(self, name: str) -> bool:
        """Whether an endpoint can be called now, as far as is known here; quick, and asks nobody."""

    def begin_wake(self, name: str) -> None:
        """Wake it in the background, unless somebody does already."""

    def wake(self, name: str, deadline: float) -> Awaitable[None]:
        """Wake it, together with everybody else who does, and return when it can be called.

        Raises WakeFailed, also when the deadline (``loop.time()``) passes.
        """


class Waker:
    """Picks deployments of models that have some that sleep."""

    __slots__ = ("_sleepers", "_time")

    def __init__(self, sleepers: Sleepers, time: Callable[[], float]) -> None:
        self._sleepers = sleepers
        self._time = time

    def is_asleep(self, router: ModelRouter) -> bool:
        """Return whether a deployment of the model has to be woken before it can be called."""
        return any(not self._sleepers.ready(endpoint) for _, endpoint in router.sleepers)

    async def pick(
        self, call: Call, router: ModelRouter, tried: list[str], *, patient: bool
    ) -> Candidate | None:  # fmt: skip
        """Return a deployment that is awake; where there is none, wake the one that would be chosen.

        A call that is not ``patient`` does not wait for that: None is returned, another model serves it, and
        the endpoint wakes beside it. Raises WakeFailed when nobody woke in time.
        """
        sleepers = self._sleepers
        asleep = [id_ for id_, endpoint in router.sleepers if not sleepers.ready(endpoint)]
        candidate = router.selector.pick(call, self._time(), [*tried, *asleep] if asleep else tried)
        if candidate is not None or not asleep:
            return candidate
        candidate = router.selector.pick(call, self._time(), tried)
        if candidate is None:
            return None
        endpoint = candidate.deployment.endpoint
        if not patient:
            sleepers.begin_wake(endpoint)
            return None
        try:
            await sleepers.wake(endpoint, call.deadline)
        except WakeFailed:
            tried.append(candidate.deployment.id)
            other = await self.pick(call, router, tried, patient=True)
            if other is None:
                raise
            return other
        return candidate
