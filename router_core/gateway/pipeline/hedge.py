"""A second copy of a slow call: the first good answer wins, the other is cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from router_core.gateway.call import Call
from router_core.gateway.pipeline.attempt import Attempts, Ended
from router_core.gateway.registry import ModelRouter
from router_core.gateway.resilience.budget import RetryBudget
from router_core.gateway.resilience.hedge import HedgeBudget
from router_core.gateway.select.candidate import Candidate

__all__ = ["Hedger"]


class Hedger:
    """Makes attempts of models that hedge (``HedgePolicy``): opt-in, capped, and never for streams."""

    __slots__ = ("_attempts", "_shares", "_time")

    def __init__(self, attempts: Attempts, time: Callable[[], float]) -> None:
        self._attempts = attempts
        self._shares: dict[str, tuple[float, HedgeBudget]] = {}
        self._time = time

    async def make(
        self, call: Call, router: ModelRouter, candidate: Candidate, tried: list[str], budget: RetryBudget
    ) -> Ended:  # fmt: skip
        """Make an attempt, and a second one elsewhere if the first takes longer than the model allows."""
        policy, most = router.model.hedge, router.model.retry.retry_after_max
        if policy is None:
            return await self._attempts.make(call, candidate, most)
        share = self._share(router.id, policy.max_share)
        share.call()
        first = asyncio.create_task(self._attempts.make(call, candidate, most))
        running = {first}
        try:
            done, _ = await asyncio.wait(running, timeout=policy.after)
            if not done:
                second = self._second(call, router, [*tried, candidate.id], share, budget)
                if second is not None:
                    tried.append(second.id)
                    running.add(asyncio.create_task(self._attempts.make(call, second, most, hedge=True)))
            return await _first_good(running)
        finally:
            await _cancel(running)

    def _second(
        self, call: Call, router: ModelRouter, tried: list[str], share: HedgeBudget, budget: RetryBudget
    ) -> Candidate | None:
        decision = call.decision
        other = router.selector.pick(call, self._time(), tried)
        if other is None or not (share.allowed() and budget.allowed()):
            call.decision = decision  # nobody goes by the new one
            return None
        return other

    def _share(self, model_id: str, most: float) -> HedgeBudget:
        held = self._shares.get(model_id)
        if held is None or held[0] != most:
            held = self._shares[model_id] = (most, HedgeBudget(most))
        return held[1]


async def _first_good(running: set[asyncio.Task[Ended]]) -> Ended:
    """Return the first answer that is one; when none is, how the last one ended."""
    pending = set(running)
    ended: Ended | None = None
    while pending:
        done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        for one in done:
            ended = one.result()
            if ended.outcome.move != "retry":
                return ended
    if ended is None:
        raise RuntimeError("there was nothing to wait for")
    return ended


async def _cancel(running: set[asyncio.Task[Ended]]) -> None:
    """Cancel what still runs, and wait until it has let go of its upstream."""
    for one in running:
        one.cancel()
    await asyncio.gather(*running, return_exceptions=True)
