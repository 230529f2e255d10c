"""The REST API of trials, put together: rollouts, experiments, and what shadow rules would have done."""

from __future__ import annotations

from router_core.gateway.api.experiments import ExperimentRoutes
from router_core.gateway.api.resources import READ, described, entitled
from router_core.gateway.api.rollouts import RolloutRoutes
from router_core.gateway.control.control import Control
from router_core.gateway.pipeline import Pipeline
from router_core.gateway.trials.trials import Trials
from router_core.http.message import Request, Response
from router_core.routing.router import Router

__all__ = ["trials_router"]


def trials_router(control: Control, trials: Trials, pipeline: Pipeline) -> Router:
    """Return its routes."""
    router = Router()
    router.include_router(RolloutRoutes(control, trials).router())
    router.include_router(ExperimentRoutes(control, trials).router())

    @router.get(
        "/api/routing/shadow", scopes=(READ,), tags=("trials",), meta=described("Shadow rules, counted")
    )
    async def shadow_rules(request: Request) -> Response:
        """Tell how often each shadow rule has held in this process, and how often it would have sent the call
        to the same model; else which one instead of which."""
        entitled(request)
        return Response.json({"rules": pipeline.shadows.report()})

    return router
