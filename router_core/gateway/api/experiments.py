"""``/api/experiments``: A/B tests, what they have found, orders to them, and scores of callers."""

from __future__ import annotations

import re
from typing import Annotated, Any, Final

from router_core.binding.params import Path
from router_core.errors import Conflict, NotFound, RateLimited
from router_core.gateway.api.resources import MANAGE, READ, body_of, described, entitled, telling
from router_core.gateway.api.trial_resources import LISTING, OPERATE, TrialResources, life_of
from router_core.gateway.control.control import Control
from router_core.gateway.control.kinds import EXPERIMENTS
from router_core.gateway.rules.read import members, refuse
from router_core.gateway.trials.concluding import found
from router_core.gateway.trials.experiment import Experiment
from router_core.gateway.trials.live import Live
from router_core.gateway.trials.trials import INTERVAL, Trials
from router_core.gateway.trials.verdict import report
from router_core.http.message import Request, Response
from router_core.routing.router import Router

__all__ = ["ExperimentRoutes"]

ExperimentId = Annotated[str, Path(alias="experimentId", max_length=64)]
_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_MOST: Final = 1e9
_CALL: Final = "models:call"
_EXAMPLE: Final = {
    "id": "tone", "model": "gpt-4", "metric": "successRate", "minDetectableEffect": 0.02,
    "variants": [{"name": "control", "modelId": "gpt-4"}, {"name": "claude", "modelId": "claude-3-sonnet"}],
    "guardrails": {"maxErrorRateIncrease": 0.05}, "onVerdict": "report",
}  # fmt: skip


class ExperimentRoutes:
    """Serves them."""

    def __init__(self, control: Control, trials: Trials) -> None:
        self._control = control
        self._trials = trials
        self._resources = TrialResources(control, trials, EXPERIMENTS, self._told)

    def router(self) -> Router:
        """Return the routes."""
        router = Router(prefix="/api/experiments", tags=("trials",))
        one, at = described("The experiment"), "/{experimentId}"
        written = described("The experiment", created=True, body="The experiment", example=_EXAMPLE)
        changed = described("The experiment", body="What changes (JSON Merge Patch)")
        score = described("What became of it", body="A request and its score",
                          example={"requestId": "01a1ff", "score": 4.5})  # fmt: skip
        router.post("", scopes=(MANAGE,), status=201, meta=written)(self.add_experiment)
        router.get("", scopes=(READ,), meta=described("Experiments", parameters=LISTING))(
            self.list_experiments
        )
        router.get(at, scopes=(READ,), meta=one)(self.get_experiment)
        router.put(at, scopes=(MANAGE,), meta=written)(self.put_experiment)
        router.patch(at, scopes=(MANAGE,), meta=changed)(self.patch_experiment)
        router.delete(at, scopes=(MANAGE,), status=204, meta=described("It is gone", empty=True))(
            self.delete_experiment
        )
        router.get(f"{at}/results", scopes=(READ,), meta=described("The results"))(self.results)
        router.post(f"{at}/start", scopes=(OPERATE,), meta=one, name="start_experiment")(self.start)
        router.post(f"{at}/stop", scopes=(OPERATE,), meta=one, name="stop_experiment")(self.stop)
        router.post(f"{at}/scores", scopes=(_CALL,), meta=score, name="score_experiment")(self.score)
        return router

    async def add_experiment(self, request: Request) -> Response:
        """Add an experiment. It begins at once."""
        return await self._resources.add(request)

    async def list_experiments(self, request: Request) -> Response:
        """List the experiments of the API and of the file."""
        return await self._resources.list(request)

    async def get_experiment(self, request: Request, experiment_id: ExperimentId) -> Response:
        """Tell one experiment: its configuration, and in ``state`` how it stands."""
        return await self._resources.get(experiment_id, request)

    async def put_experiment(self, request: Request, experiment_id: ExperimentId) -> Response:
        """Write a whole experiment. With another question it begins anew, else it goes on."""
        return await self._resources.put(experiment_id, request)

    async def patch_experiment(self, request: Request, experiment_id: ExperimentId) -> Response:
        """Change some fields of an experiment; null takes one away."""
        return await self._resources.patch(experiment_id, request)

    async def delete_experiment(self, request: Request, experiment_id: ExperimentId) -> Response:
        """Take an experiment away: calls go where they went before it."""
        return await self._resources.drop(experiment_id, request)

    async def start(self, request: Request, experiment_id: ExperimentId) -> Response:
        """Begin anew an experiment that has ended: it counts from nothing."""
        return await self._resources.order(experiment_id, "start", request)

    async def stop(self, request: Request, experiment_id: ExperimentId) -> Response:
        """End an experiment, or take the promotion of its winner back."""
        return await self._resources.order(experiment_id, "stop", request)

    async def results(self, request: Request, experiment_id: ExperimentId) -> Response:
        """Tell what all processes have found: each arm, effect, interval, p-value, verdict, guardrails, and
        how many calls, and days, are missing. Looking at it often makes nothing of it wrong."""
        entitled(request)
        live = self._trials.get(experiment_id, "experiment")
        await self._trials.look(live)
        experiment, state = live.trial, live.state
        if not isinstance(experiment, Experiment):
            raise TypeError("an experiment is one")
        until = self._control.clock.now() if state is None or not state.ended else state.ended
        running = 0.0 if state is None else max(0.0, until - state.started)
        verdict = found(experiment, state, live.seen)
        told = report(experiment, verdict, live.seen, running)
        return Response.json({"id": experiment.id, **told, "runningSeconds": round(running, 3),
                              "state": self._told(live)})  # fmt: skip

    async def score(self, request: Request, experiment_id: ExperimentId) -> Response:
        """Score the answer to a call that took part, once: by the ``x-request-id`` of the answer.

        200 where the score has counted (``counted``) or cannot (``tainted``: another model had a part in the
        answer), 202 where the process that served the call has still to take it. 404 for a call of another
        caller, unless it was made in a workspace that this one may enter; 429 while too many scores wait.
        """
        live = self._trials.get(experiment_id, "experiment")
        body = body_of(request)
        with telling():
            request_id, value = _score(body)
        if not isinstance(live.trial, Experiment) or live.trial.metric != "score":
            raise Conflict(f"experiment {experiment_id} is not about scores")
        if live.state is None or live.state.status != "running":
            raise Conflict(f"experiment {experiment_id} is not running")
        result = await self._trials.score(live, request_id, value, request.principal)
        if result == "given":
            raise Conflict("this request has a score already", code="already_scored")
        if result == "foreign":
            raise NotFound("there is no such call in this experiment")
        if result == "full":
            text = "too many scores wait for the processes that served the calls"
            raise RateLimited(text, code="too_many_scores", retry_after=INTERVAL)
        return Response.json({"requestId": request_id, "result": result}, 202 if result == "left" else 200)

    def _told(self, live: Live) -> dict[str, Any]:
        told = life_of(live, self._trials)
        arms = zip(live.names, live.arms, strict=True)
        return told | {
            "arms": [{"name": name, "modelId": model, "requests": live.seen[name].n} for name, model in arms]
        }


def _score(body: dict[str, Any]) -> tuple[str, float]:
    given = members(body, "", ("requestId", "score"))
    for name in ("requestId", "score"):
        if name not in given:
            refuse(name, "is missing")
    request_id, value = given["requestId"], given["score"]
    if not isinstance(request_id, str) or not _REQUEST_ID.fullmatch(request_id):
        refuse("requestId", "has to be the x-request-id of an answer")
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        refuse("score", "has to be a number")
    if not abs(value) <= _MOST:  # neither is NaN
        refuse("score", f"has to be between {-_MOST:g} and {_MOST:g}")
    return request_id, float(value)
