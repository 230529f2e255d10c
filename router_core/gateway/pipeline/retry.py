"""The only loop that tries again. Each turn selects anew, among what was not tried yet."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Final

from router_core.gateway.call import Call
from router_core.gateway.outcome import Outcome
from router_core.gateway.pipeline.attempt import ASLEEP, NOT_ADMITTED, Attempts, Ended
from router_core.gateway.pipeline.hedge import Hedger
from router_core.gateway.pipeline.wake import Waker
from router_core.gateway.registry import ModelRouter
from router_core.gateway.resilience.budget import RetryBudget
from router_core.gateway.select.candidate import Candidate
from router_core.gateway.values import RetryPolicy
from router_core.http.taskless import own_task

__all__ = ["Retry"]

_MIN_LEFT: Final = 0.01
"""Seconds before the deadline below which nothing new is begun."""
_TURNS: Final = 4
"""Turns after which a deployment that is found asleep again and again counts as tried."""


class _Course:
    """What became of a call at one model so far."""

    __slots__ = ("last", "made", "reached", "tried", "turns")

    def __init__(self) -> None:
        self.tried: list[str] = []
        self.last: Ended | None = None
        self.made = self.reached = self.turns = 0

    def took(self, candidate: Candidate, ended: Ended) -> bool:
        """Take an attempt into account; returns whether it was one."""
        if ended.outcome is not ASLEEP or self.turns > _TURNS:
            self.tried.append(candidate.id)
        if ended is NOT_ADMITTED:
            return False
        self.last = ended
        self.made += ended.outcome is not ASLEEP
        self.reached += ended.outcome.reached
        return True


class Retry:
    """Serves a call by one model: as many attempts as its policy, the retry budget and the deadline allow."""

    __slots__ = ("_attempts", "_budgets", "_hedger", "_random", "_time", "_waker")

    def __init__(
        self, attempts: Attempts, hedger: Hedger, waker: Waker, time: Callable[[], float], rng: random.Random
    ) -> None:
        self._attempts = attempts
        self._budgets: dict[str, tuple[RetryPolicy, RetryBudget]] = {}
        """By model: one that fails must not use up what the others may need."""
        self._hedger = hedger
        self._waker = waker
        self._time = time
        self._random = rng

    def is_asleep(self, router: ModelRouter) -> bool:
        """Return whether a deployment of the model could serve if somebody waited for its endpoint."""
        return self._waker.is_asleep(router)

    def first(self, call: Call, router: ModelRouter) -> Candidate | None:
        """Return who gets the first attempt of a call, where nothing else is to be thought of before: that
        attempt is made then, and ``serve`` is told of it if it was not the last. None: ``serve`` begins."""
        if router.sleepers or _hedges(call, router):
            return None
        candidate = router.selector.pick(call, self._time())
        if candidate is not None:
            self._budget(router)[1].call()
        return candidate

    async def serve(
        self, call: Call, router: ModelRouter, *, patient: bool = True,
        begun: tuple[Candidate, Ended] | None = None,
    ) -> Ended | None:  # fmt: skip
        """Return how the last attempt ended; None when no deployment could be asked at all.

        ``call.decision`` says why the last choice was as it was. A call that is not ``patient`` does not
        wait for an endpoint that has to be woken. ``begun`` is the first attempt, where it was made already.
        """
        policy, budget = self._budget(router)
        course = _Course()
        if begun is None:
            budget.call()
        else:
            course.took(*begun)
        while not self._is_over(call, policy, course):
            course.turns += 1
            last, tried = course.last, course.tried
            candidate, early = self._at_once(call, router, tried) or await self._pick(
                call, router, tried, patient, last
            )
            if candidate is None:
                if not await self._again(call, policy, course.made, last, tried):
                    return last
                continue
            if not self._may(last, candidate, budget):
                return last
            if early or not _hedges(call, router):
                ended = await self._attempts.make(call, candidate, policy.retry_after_max, early=early)
            else:
                ended = await self._hedger.make(call, router, candidate, tried, budget)
            if not course.took(candidate, ended) and early:
                return last
        return course.last

    def _may(self, last: Ended | None, candidate: Candidate, budget: RetryBudget) -> bool:
        """Return whether an attempt may be made, taking it off the budget where it is one for that.

        The budget keeps failing upstreams from being buried. It has no say where nothing was put on the last
        one, or where the next one is well: that gets no more by the retry than by a call of its own.
        """
        if last is None or not last.outcome.reached:
            return True
        return candidate.standing.well(self._time()) or budget.allowed()

    def _is_over(self, call: Call, policy: RetryPolicy, course: _Course) -> bool:
        if course.last is None:
            return False
        outcome = course.last.outcome
        if outcome.move != "retry" or not (outcome.safe or policy.unclear):
            return True
        return course.reached >= policy.max_attempts or call.deadline - self._time() < _MIN_LEFT

    def _budget(self, router: ModelRouter) -> tuple[RetryPolicy, RetryBudget]:
        policy = router.model.retry
        held = self._budgets.get(router.id)
        if held is None or held[0] is not policy:
            held = self._budgets[router.id] = (policy, RetryBudget(policy.budget_ratio, policy.budget_floor))
        return held

    def _at_once(self, call: Call, router: ModelRouter, tried: list[str]) -> tuple[Candidate, bool] | None:
        """Return whom to ask, where nobody has to be woken or probed for that."""
        candidate = None if router.sleepers else router.selector.pick(call, self._time(), tried)
        return None if candidate is None else (candidate, False)

    async def _pick(
        self, call: Call, router: ModelRouter, tried: list[str], patient: bool, last: Ended | None
    ) -> tuple[Candidate | None, bool]:
        """Return whom to ask, and whether its open circuit has to be probed for that.

        Where every circuit is open the one that would be back first is probed, and the next one where the
        last was refused at the door: a model is never refused for good because its deployments had a bad
        minute, nor because a dead one is always the first in the queue.
        """
        now = self._time()
        if router.sleepers:
            await own_task()
            candidate = await self._waker.pick(call, router, tried, patient=patient)
        else:
            candidate = router.selector.pick(call, now, tried)
        if candidate is not None or (last is not None and _took_long(last.outcome)):
            return candidate, False
        closest = router.selector.closest(now, call, tried)
        if closest is None or closest.id in tried or closest.standing.out(now) != "open_circuit":
            return None, False
        return closest, True

    async def _again(
        self, call: Call, policy: RetryPolicy, made: int, last: Ended | None, tried: list[str]
    ) -> bool:
        """Wait before asking the same deployments again; False where there is no point in it.

        There is none where something else than having been tried keeps them all away: then they have asked to
        be left alone, their circuits have opened, or they sleep and this call does not wait for that. Nor
        where the last of them does not have what was asked for: it will not have it in a moment either.
        """
        if last is None or not tried or not 0 < made < policy.max_attempts:
            return False
        if last.outcome.cooldown or last.outcome.kind == "not_found":
            return False
        ceiling = min(policy.backoff_max, policy.backoff * 2 ** max(0, made - 1))
        pause = self._random.uniform(0, ceiling)
        if self._time() + pause + _MIN_LEFT > call.deadline:
            return False
        await asyncio.sleep(pause)
        tried.clear()  # everybody had a turn: the same ones may be asked once more
        return True


def _hedges(call: Call, router: ModelRouter) -> bool:
    return router.model.hedge is not None and not call.stream


def _took_long(outcome: Outcome) -> bool:
    """Return whether an attempt was more than a knock at a closed door."""
    return outcome.reached or outcome.kind == "timeout"
