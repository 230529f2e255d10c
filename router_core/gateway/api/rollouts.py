"""``/api/rollouts``: canary deployments, how they stand, and orders to them."""

from __future__ import annotations

from typing import Annotated, Any, Final

from router_core.binding.params import Path
from router_core.gateway.api.resources import MANAGE, READ, described
from router_core.gateway.api.trial_resources import LISTING, OPERATE, TrialResources, life_of
from router_core.gateway.control.control import Control
from router_core.gateway.control.kinds import ROLLOUTS
from router_core.gateway.trials.judge import figures
from router_core.gateway.trials.live import Live
from router_core.gateway.trials.rollout import Rollout
from router_core.gateway.trials.staging import share_of
from router_core.gateway.trials.trials import Trials
from router_core.http.message import Request, Response
from router_core.routing.router import Router

__all__ = ["RolloutRoutes"]

RolloutId = Annotated[str, Path(alias="rolloutId", max_length=64)]
_EXAMPLE: Final = {
    "id": "gpt-5", "model": "gpt-4", "canary": "gpt-5", "strategy": "linear", "startShare": 5, "step": 15,
    "intervalSeconds": 600, "minRequests": 200, "success": {"maxErrorRateIncrease": 0.01},
    "rollback": {"maxErrorRateIncrease": 0.05, "maxLatencyIncrease": 0.5}, "stickyBy": "user",
}  # fmt: skip


class RolloutRoutes:
    """Serves them."""

    def __init__(self, control: Control, trials: Trials) -> None:
        self._trials = trials
        self._resources = TrialResources(control, trials, ROLLOUTS, self._told)

    def router(self) -> Router:
        """Return the routes."""
        router = Router(prefix="/api/rollouts", tags=("trials",))
        one = described("The rollout")
        written = described("The rollout", created=True, body="The rollout", example=_EXAMPLE)
        changed = described("The rollout", body="What changes (JSON Merge Patch)", example={"enabled": False})
        router.post("", scopes=(MANAGE,), status=201, meta=written)(self.add_rollout)
        router.get("", scopes=(READ,), meta=described("Rollouts", parameters=LISTING))(self.list_rollouts)
        router.get("/{rolloutId}", scopes=(READ,), meta=one)(self.get_rollout)
        router.put("/{rolloutId}", scopes=(MANAGE,), meta=written)(self.put_rollout)
        router.patch("/{rolloutId}", scopes=(MANAGE,), meta=changed)(self.patch_rollout)
        router.delete("/{rolloutId}", scopes=(MANAGE,), status=204, meta=described("It is gone", empty=True))(
            self.delete_rollout
        )
        for action, handler in (
            ("advance", self.advance), ("pause", self.pause), ("resume", self.resume),
            ("rollback", self.rollback), ("promote", self.promote),
        ):  # fmt: skip
            router.post(f"/{{rolloutId}}/{action}", scopes=(OPERATE,), meta=one, name=f"{action}_rollout")(
                handler
            )
        return router

    async def add_rollout(self, request: Request) -> Response:
        """Add a rollout. It begins at once, with its first share."""
        return await self._resources.add(request)

    async def list_rollouts(self, request: Request) -> Response:
        """List the rollouts of the API and of the file, with how they stand as this process knows it."""
        return await self._resources.list(request)

    async def get_rollout(self, request: Request, rollout_id: RolloutId) -> Response:
        """Tell one rollout: its configuration, and in ``state`` its stage, figures and decisions."""
        return await self._resources.get(rollout_id, request)

    async def put_rollout(self, request: Request, rollout_id: RolloutId) -> Response:
        """Write a whole rollout. With other models it begins anew, with other criteria it goes on."""
        return await self._resources.put(rollout_id, request)

    async def patch_rollout(self, request: Request, rollout_id: RolloutId) -> Response:
        """Change some fields of a rollout; null takes one away."""
        return await self._resources.patch(rollout_id, request)

    async def delete_rollout(self, request: Request, rollout_id: RolloutId) -> Response:
        """Take a rollout away: calls go to the baseline again, also of one that was promoted."""
        return await self._resources.drop(rollout_id, request)

    async def advance(self, request: Request, rollout_id: RolloutId) -> Response:
        """Go on to the next stage; behind the last one the canary is promoted."""
        return await self._resources.order(rollout_id, "advance", request)

    async def pause(self, request: Request, rollout_id: RolloutId) -> Response:
        """Stay at the share of this stage; a regression is still rolled back."""
        return await self._resources.order(rollout_id, "pause", request)

    async def resume(self, request: Request, rollout_id: RolloutId) -> Response:
        """Go on where it was paused, or begin anew after a rollback."""
        return await self._resources.order(rollout_id, "resume", request)

    async def rollback(self, request: Request, rollout_id: RolloutId) -> Response:
        """Send all calls to the baseline."""
        return await self._resources.order(rollout_id, "rollback", request)

    async def promote(self, request: Request, rollout_id: RolloutId) -> Response:
        """Send all calls to the canary."""
        return await self._resources.order(rollout_id, "promote", request)

    def _told(self, live: Live) -> dict[str, Any]:
        told = life_of(live, self._trials)
        rollout, state = live.trial, live.state
        if not isinstance(rollout, Rollout) or state is None or not rollout.enabled:
            return told
        stage = live.stage()
        arms = zip(live.names, live.arms, strict=True)
        return told | {
            "share": share_of(rollout, state), "stage": state.stage, "stages": list(rollout.shares),
            "holding": state.holding or None,
            "arms": [
                {"name": name, "modelId": model, **figures(live.seen[name]),
                 "stageRequests": stage[name].n}
                for name, model in arms
            ],
        }  # fmt: skip
