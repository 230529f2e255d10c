"""The control plane for plain programs: each line forwards to the asynchronous side, which does the work."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, TypeVar

from router_core.client.gateway import AsyncCollection, AsyncGateway, AsyncModels, Kept
from router_core.client.gateway_shapes import Model
from router_core.client.portal import Facade, Portal, forward

__all__ = ["Collection", "Gateway", "Models"]

D = TypeVar("D")


class Collection(Facade[AsyncCollection[D]], Generic[D]):
    """Everything of one kind that is configured."""

    def list(self, **filters: str) -> list[D]:
        """Return all of them, in the order of the service."""
        return self._portal.run(self._wrapped.list(**filters))

    def __iter__(self) -> Iterator[D]:
        return iter(self.list())

    def get(self, id: str) -> Kept[D]:
        """Return one of them; raises NotFound."""
        return self._portal.run(self._wrapped.get(id))

    def add(self, value: D) -> Kept[D]:
        """Make one; raises Conflict where there is one of that id."""
        return self._portal.run(self._wrapped.add(value))

    def put(self, id: str, value: D, *, if_match: str = "") -> Kept[D]:
        """Write one, whether there was one or not."""
        return self._portal.run(self._wrapped.put(id, value, if_match=if_match))

    def change(self, id: str, changes: D, *, if_match: str = "") -> Kept[D]:
        """Change some fields of one (JSON Merge Patch, RFC 7396): None takes a field away."""
        return self._portal.run(self._wrapped.change(id, changes, if_match=if_match))

    def delete(self, id: str, *, if_match: str = "") -> None:
        """Take one away; raises NotFound."""
        self._portal.run(self._wrapped.delete(id, if_match=if_match))


class Models(Collection[Model]):
    """The models, and what belongs to each of them."""

    def __init__(self, wrapped: AsyncModels, portal: Portal) -> None:
        super().__init__(wrapped, portal)

    set_status = forward(AsyncModels.set_status)
    set_statuses = forward(AsyncModels.set_statuses)
    health = forward(AsyncModels.health)
    report_health = forward(AsyncModels.report_health)
    endpoints = forward(AsyncModels.endpoints)
    add_endpoint = forward(AsyncModels.add_endpoint)
    change_endpoint = forward(AsyncModels.change_endpoint)
    delete_endpoint = forward(AsyncModels.delete_endpoint)


class Gateway(Facade[AsyncGateway]):
    """The control plane of one gateway."""

    def __init__(self, wrapped: AsyncGateway, portal: Portal) -> None:
        super().__init__(wrapped, portal)
        self.models = Models(wrapped.models, portal)
        self.rules = Collection(wrapped.rules, portal)
        self.agents = Collection(wrapped.agents, portal)
        self.workspaces = Collection(wrapped.workspaces, portal)
        self.rollouts = Collection(wrapped.rollouts, portal)
        self.experiments = Collection(wrapped.experiments, portal)

    test = forward(AsyncGateway.test)
    agent_models = forward(AsyncGateway.agent_models)
    steer = forward(AsyncGateway.steer)
    results = forward(AsyncGateway.results)
    start = forward(AsyncGateway.start)
    stop = forward(AsyncGateway.stop)
    score = forward(AsyncGateway.score)
    budget = forward(AsyncGateway.budget)
    reset_budget = forward(AsyncGateway.reset_budget)
    requests = forward(AsyncGateway.requests)
    model_analytics = forward(AsyncGateway.model_analytics)
    workspace_analytics = forward(AsyncGateway.workspace_analytics)
    overview = forward(AsyncGateway.overview)
    export = forward(AsyncGateway.export)
    load = forward(AsyncGateway.load)
    versions = forward(AsyncGateway.versions)
    rollback = forward(AsyncGateway.rollback)
