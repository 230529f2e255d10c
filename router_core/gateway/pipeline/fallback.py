"""One model after the other, until one has an answer or the answer is that there is none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from router_core.errors import RouterError
from router_core.gateway.call import Call
from router_core.gateway.lifecycle.waking import WakeFailed
from router_core.gateway.outcome import Outcome
from router_core.gateway.pipeline.attempt import Ended
from router_core.gateway.pipeline.failure import nobody
from router_core.gateway.pipeline.retry import Retry
from router_core.gateway.registry import ModelRouter, ModelTable
from router_core.gateway.select.candidate import Candidate

__all__ = ["ENDS", "Fallback"]

ENDS: Final = ("done", "stop")
"""Moves after which nobody else is asked."""


class Fallback:
    """Follows the chains of a model: general, for calls that do not fit its context, for calls that its
    content filter refuses, and the model that stands in while it wakes."""

    __slots__ = ("_retry", "_time")

    def __init__(self, retry: Retry, time: Callable[[], float]) -> None:
        self._retry = retry
        self._time = time

    async def serve(
        self, call: Call, routers: tuple[ModelRouter, ...], models: ModelTable,
        begun: tuple[Candidate, Ended] | None = None,
    ) -> Ended:  # fmt: skip
        """Return how the last attempt ended. Raises a RouterError when nobody could be asked at all.

        ``begun`` is the first attempt at the first of the models, where it was made already.
        """
        names = tuple([router.id for router in routers])
        return await _Chain(self._retry, call, models, begun).follow(names, set(), self._time)


class _Chain:
    """One call on its way from model to model."""

    __slots__ = ("_asleep", "_begun", "_call", "_last", "_models", "_retry", "_unwoken")

    def __init__(
        self, retry: Retry, call: Call, models: ModelTable, begun: tuple[Candidate, Ended] | None
    ) -> None:  # fmt: skip
        self._retry = retry
        self._call = call
        self._models = models
        self._begun = begun
        self._last: Ended | None = None
        self._asleep: list[ModelRouter] = []
        """Models for which others were to stand in while they wake."""
        self._unwoken: WakeFailed | None = None

    async def follow(self, names: tuple[str, ...], asked: set[str], time: Callable[[], float]) -> Ended:
        """Ask the models of these names, and those that they fall back to, each once."""
        chain = list(names)
        while chain:
            router = self._models.get(chain.pop(0))
            if router is None or router.id in asked:
                continue
            asked.add(router.id)
            stands_in = router.model.wake_fallback
            waits = bool(stands_in) and stands_in not in asked
            ended = await self._ask(router, patient=not waits)
            if ended is not None and ended.outcome.move in ENDS:
                return ended
            if waits and self._may_come(router, ended):
                self._asleep.append(router)
                chain.insert(0, stands_in)
            chain += _next(router, ended)
            if time() >= self._call.deadline:
                break
        for router in self._asleep:  # nobody stood in for it: the call waits after all
            ended = await self._ask(router, patient=True)
            if ended is not None:
                return ended
        if self._unwoken is not None and (self._last is None or self._asleep):
            raise self._unwoken  # it is what the call waited for, and says when to come back
        if self._last is None:
            raise self._nobody(asked, time())
        return self._last

    def _nobody(self, asked: set[str], now: float) -> RouterError:
        """Return the error when no model had anybody to ask: by the decision of the first of them, but where
        that is final and another one is not, by the latter."""
        call, left = self._call, self._call.left
        call.decision = next((each for each in left if each.passing), left[0] if left else None)
        closest = [router.selector.closest(now, call) for router in map(self._models.get, asked) if router]
        standings = [each.standing for each in closest if each is not None]
        if not standings:
            return nobody(call)
        limited = all(each.out(now) == "cooldown" and each.cooled_by == "rate_limited" for each in standings)
        return nobody(call, wait=min(each.back_at(now) - now for each in standings), limited=limited)

    def _leave(self) -> None:
        """Note why a model had nobody to ask."""
        if self._call.decision is not None:
            self._call.left += (self._call.decision,)

    def _may_come(self, router: ModelRouter, ended: Ended | None) -> bool:
        """Return whether a model that did not serve may do so once its endpoint has woken."""
        return ended is None or (ended.outcome.move == "retry" and self._retry.is_asleep(router))

    async def _ask(self, router: ModelRouter, *, patient: bool) -> Ended | None:
        ended = None
        begun, self._begun = self._begun, None
        try:
            ended = await self._retry.serve(self._call, router, patient=patient, begun=begun)
        except WakeFailed as error:
            self._unwoken = error
        if ended is None:
            self._leave()
        self._last = ended or self._last
        return ended


def _next(router: ModelRouter, ended: Ended | None) -> tuple[str, ...]:
    """Return the chain that fits how a model failed."""
    model = router.model
    outcome: Outcome | None = None if ended is None else ended.outcome
    if outcome is None:
        return (*model.fallbacks, *model.context_fallbacks)
    if outcome.move == "context":
        return model.context_fallbacks
    if outcome.move == "policy":
        return model.policy_fallbacks
    return model.fallbacks
