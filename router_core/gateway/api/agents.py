"""``/api/agents``: what agents of a type prefer, and which models serve them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Final
from urllib.parse import quote

from router_core.binding.params import Path
from router_core.gateway.api.queries import query_of
from router_core.gateway.api.resources import (
    MANAGE,
    PAGING,
    READ,
    Resources,
    described,
    items_of,
    page_of,
    telling,
)
from router_core.gateway.api.schemas import PREFERENCES
from router_core.gateway.call import Attributes, Call
from router_core.gateway.control.control import Control
from router_core.gateway.control.kinds import AGENTS
from router_core.gateway.pipeline.agents import AgentTable
from router_core.gateway.registry import ModelRouter, Registry
from router_core.gateway.rules.read import text
from router_core.http.message import Request, Response
from router_core.routing.router import Router

__all__ = ["AgentRoutes"]

AgentType = Annotated[str, Path(alias="agentType")]
_NAMES: Final = ("limit", "offset", "cursor")
_EXAMPLE: Final = {
    "preferredModels": ["gpt-4", "claude-3-sonnet"], "fallbackModels": ["gpt-3.5-turbo"],
    "requiredCapabilities": ["text-generation"],
    "performanceRequirements": {"maxLatency": 5000, "minSuccessRate": 0.95, "maxCostPerToken": 0.01},
}  # fmt: skip


class AgentRoutes:
    """The routes of agents; ``monotonic`` is the clock of the deployments."""

    def __init__(self, control: Control, registry: Registry, monotonic: Callable[[], float]) -> None:
        self._control = control
        self._registry = registry
        self._monotonic = monotonic
        self._resources = Resources(control, AGENTS, "agentType")

    def router(self) -> Router:
        """Return the routes."""
        router = Router(prefix="/api/agents", tags=("control",))
        written = described(
            "The preferences", created=True, body="The preferences", example=_EXAMPLE, schema=PREFERENCES
        )
        again = described("The preferences", created=True, body="As for POST", example=_EXAMPLE)
        listed = described("A page of preferences", parameters=PAGING)
        one = "/{agentType}/preferences"
        router.get("", scopes=(READ,), meta=listed)(self.list_agents)
        router.post(one, scopes=(MANAGE,), meta=written)(self.set_preferences)
        router.put(one, scopes=(MANAGE,), meta=again)(self.put_preferences)
        router.get(one, scopes=(READ,), meta=described("The preferences"))(self.get_preferences)
        router.delete(one, scopes=(MANAGE,), status=204, meta=described("They are gone", empty=True))(
            self.delete_preferences
        )
        router.get("/{agentType}/models", scopes=(READ,), meta=described("The models"))(self.agent_models)
        return router

    async def list_agents(self, request: Request) -> Response:
        """List the preferences of all types of agents."""
        given = query_of(request, _NAMES)
        await self._resources.fresh()
        shown, told = page_of(items_of(self._control, AGENTS), given, lambda item: [item.id])
        return Response.json({"agents": [self._resources.shown(each) for each in shown], **told})

    async def set_preferences(self, request: Request, agent_type: AgentType) -> Response:
        """Say what agents of a type prefer: all of it, in the place of what was said before.

        It decides where the caller names no model and no rule holds.
        """
        with telling():
            text(agent_type, "agentType")
        given = self._resources.given(request, agent_type)
        path = f"/api/agents/{quote(agent_type, safe='')}/preferences"
        return await self._resources.put(agent_type, given, request, path)

    async def put_preferences(self, request: Request, agent_type: AgentType) -> Response:
        """Say what agents of a type prefer, as POST does."""
        return await self.set_preferences(request, agent_type)

    async def get_preferences(self, request: Request, agent_type: AgentType) -> Response:
        """Tell what agents of a type prefer."""
        await self._resources.fresh()
        return self._resources.answer(self._resources.find(agent_type), request)

    async def delete_preferences(self, request: Request, agent_type: AgentType) -> Response:
        """Forget what agents of a type prefer."""
        return await self._resources.drop(agent_type, request)

    async def agent_models(self, request: Request, agent_type: AgentType) -> Response:
        """List the models that serve agents of a type now, in the order in which they are asked, and why.

        Of a type about which nothing is said: all that answer chats, the default model first.
        """
        with telling():
            text(agent_type, "agentType")
        await self._resources.fresh()
        snapshot = self._registry.snapshot
        call = Call("chat/completions", "auto", attributes=Attributes(agent_type=agent_type))
        choice = AgentTable(snapshot.config.agents, self._monotonic).choose(call, snapshot)
        told: dict[str, Any] = {"agentType": agent_type, "configured": choice is not None}
        if choice is None:
            fitting = [each for each in snapshot.models.values() if each.model.fits(call.endpoint)]
            fitting.sort(key=lambda each: (each.id != snapshot.default_model, each.id))
            models = [self._model(each, "any active model") for each in fitting]
            return Response.json({**told, "models": models, "removed": []})
        preferences = next(each for each in snapshot.config.agents if each.agent_type == agent_type)
        models = [
            self._model(each, "preferred" if _named(each, preferences.preferred) else "fallback")
            for each in choice.routers
        ]
        explained = choice.explain()
        return Response.json(
            {**told, "models": models, "removed": explained["removed"], "reason": explained["reason"]}
        )

    def _model(self, router: ModelRouter, why: str) -> dict[str, Any]:
        now = self._monotonic()
        able = sum(not each.standing.out(now) for each in router.candidates)
        return {
            "modelId": router.id, "status": router.model.status, "why": why,
            "deployments": len(router.candidates), "available": able,
        }  # fmt: skip


def _named(router: ModelRouter, names: tuple[str, ...]) -> bool:
    return router.id in names or any(alias in names for alias in router.aliases)
