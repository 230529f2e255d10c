"""The control plane of a gateway as an object: ``connect(url).gateway``.

    gateway = connect("http://127.0.0.1:3003", api_key=key).gateway
    rule = gateway.rules.get("creative")
    gateway.rules.change("creative", {"priority": 200}, if_match=rule.etag)

What is read has the entity tag of its version; a change that names it is refused, with the status 412, where
somebody else was faster. Errors are those of ``router_core.errors``: NotFound, Conflict, Forbidden ...
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Generic, Literal, TypeVar, cast
from urllib.parse import quote

from router_core.client.exchange import Answer, Exchange
from router_core.client.gateway_shapes import (
    AgentPreferences,
    Configuration,
    Experiment,
    HealthReport,
    Model,
    ModelEndpoint,
    ModelStatus,
    Rollout,
    Rule,
    Workspace,
)

__all__ = ["AsyncCollection", "AsyncGateway", "AsyncModels", "Kept", "RolloutAction"]

D = TypeVar("D")
RolloutAction = Literal["advance", "pause", "resume", "rollback", "promote"]
_PAGE: Final = 500


@dataclass(frozen=True, slots=True)
class Kept(Generic[D]):
    """Something that is configured, and the version that was read."""

    value: D
    etag: str


class _Api:
    """Sends JSON, and reads it."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    async def ask(
        self, method: str, path: str, body: Any = None, *, query: Mapping[str, Any] | None = None,
        if_match: str = "",
    ) -> Answer:  # fmt: skip
        """Send one request; what may be sent twice is repeated where no answer comes."""
        pairs = [(name, _word(value)) for name, value in (query or {}).items() if value not in (None, "")]
        headers = [("accept", "application/json"), *([("if-match", if_match)] if if_match else [])]
        data = b""
        if body is not None:
            data = json.dumps(body).encode()
            headers.append(("content-type", "application/json"))
        call = self._exchange.call(method, path, query=pairs, headers=headers, body=data)
        return await self._exchange.fetch(call, repeatable=method in ("GET", "PUT"))

    async def read(self, path: str, **query: Any) -> Any:
        """Return the JSON behind a path."""
        return (await self.ask("GET", path, query=query)).json()

    async def send(self, method: str, path: str, body: Any = None, **query: Any) -> Any:
        """Send JSON, and return that of the answer."""
        answer = await self.ask(method, path, body, query=query)
        return answer.json() if answer.body else None


class AsyncCollection(Generic[D]):
    """Everything of one kind that is configured."""

    def __init__(self, api: _Api, path: str, member: str, suffix: str = "") -> None:
        """``member`` holds the list in answers; ``suffix`` follows the id in the path of one of them."""
        self._api = api
        self._path = path
        self._member = member
        self._suffix = suffix

    async def list(self, **filters: str) -> list[D]:
        """Return all of them, in the order of the service."""
        return [each async for each in self.pages(**filters)]

    async def pages(self, **filters: str) -> AsyncIterator[D]:
        """Go through all of them, a page at a time."""
        cursor = ""
        while True:
            page = await self._api.read(self._path, **filters, limit=_PAGE, cursor=cursor)
            for each in page[self._member]:
                yield each
            cursor = page.get("nextCursor") or ""
            if not cursor:
                return

    async def get(self, id: str) -> Kept[D]:
        """Return one of them; raises NotFound."""
        return _kept(await self._api.ask("GET", self._at(id)))

    async def add(self, value: D) -> Kept[D]:
        """Make one; raises Conflict where there is one of that id."""
        return _kept(await self._api.ask("POST", self._path, value))

    async def put(self, id: str, value: D, *, if_match: str = "") -> Kept[D]:
        """Write one, whether there was one or not."""
        return _kept(await self._api.ask("PUT", self._at(id), value, if_match=if_match))

    async def change(self, id: str, changes: D, *, if_match: str = "") -> Kept[D]:
        """Change some fields of one (JSON Merge Patch, RFC 7396): None takes a field away."""
        return _kept(await self._api.ask("PATCH", self._at(id), changes, if_match=if_match))

    async def delete(self, id: str, *, if_match: str = "") -> None:
        """Take one away; raises NotFound."""
        await self._api.ask("DELETE", self._at(id), if_match=if_match)

    def _at(self, id: str) -> str:
        return f"{self._path}/{quote(id, safe='')}{self._suffix}"


class AsyncModels(AsyncCollection[Model]):
    """The models, and what belongs to each of them."""

    async def set_status(self, id: str, status: ModelStatus, *, if_match: str = "") -> Kept[Model]:
        """Let a model serve, or not."""
        path = f"{self._at(id)}/status"
        return _kept(await self._api.ask("PATCH", path, {"status": status}, if_match=if_match))

    async def set_statuses(self, statuses: Mapping[str, ModelStatus]) -> dict[str, Any]:
        """Do so for several; returns what became of each."""
        updates = [{"modelId": id, "status": status} for id, status in statuses.items()]
        return _object(await self._api.send("PATCH", f"{self._path}/batch/status", {"updates": updates}))

    async def health(self, id: str) -> dict[str, Any]:
        """Return how a model is, by its calls, probes and reports."""
        return _object(await self._api.read(f"{self._at(id)}/health"))

    async def report_health(self, id: str, report: HealthReport) -> dict[str, Any]:
        """Tell how a model is."""
        return _object(await self._api.send("POST", f"{self._at(id)}/health", report))

    async def endpoints(self, id: str) -> dict[str, Any]:
        """Return the endpoints of a model."""
        return _object(await self._api.read(f"{self._at(id)}/endpoints"))

    async def add_endpoint(self, id: str, endpoint: ModelEndpoint) -> dict[str, Any]:
        """Give a model another endpoint."""
        return _object(await self._api.send("POST", f"{self._at(id)}/endpoints", endpoint))

    async def change_endpoint(self, id: str, endpoint_id: str, changes: ModelEndpoint) -> dict[str, Any]:
        """Change an endpoint of a model."""
        path = f"{self._at(id)}/endpoints/{quote(endpoint_id, safe='')}"
        return _object(await self._api.send("PATCH", path, changes))

    async def delete_endpoint(self, id: str, endpoint_id: str) -> None:
        """Take an endpoint from a model."""
        await self._api.send("DELETE", f"{self._at(id)}/endpoints/{quote(endpoint_id, safe='')}")


class AsyncGateway:
    """The control plane of one gateway."""

    def __init__(self, exchange: Exchange) -> None:
        api = self._api = _Api(exchange)
        self.models = AsyncModels(api, "/api/models", "models")
        self.rules: AsyncCollection[Rule] = AsyncCollection(api, "/api/routing/rules", "rules")
        self.agents: AsyncCollection[AgentPreferences] = AsyncCollection(
            api, "/api/agents", "agents", "/preferences"
        )
        self.workspaces: AsyncCollection[Workspace] = AsyncCollection(
            api, "/api/workspaces", "workspaces", "/config"
        )
        self.rollouts: AsyncCollection[Rollout] = AsyncCollection(api, "/api/rollouts", "rollouts")
        self.experiments: AsyncCollection[Experiment] = AsyncCollection(
            api, "/api/experiments", "experiments"
        )

    # --- routing ------------------------------------------------------------------------------------

    async def test(self, /, **request: Any) -> dict[str, Any]:
        """Return where a request would go, and why, without making it: ``agentType``, ``prompt`` ..."""
        return _object(await self._api.send("POST", "/api/routing/test", request))

    async def agent_models(self, agent_type: str) -> dict[str, Any]:
        """Return the models that agents of a type get, in their order."""
        return _object(await self._api.read(f"/api/agents/{quote(agent_type, safe='')}/models"))

    # --- trials and money -----------------------------------------------------------------------------

    async def steer(self, rollout_id: str, action: RolloutAction) -> dict[str, Any]:
        """Have a rollout go on, wait, go back or end, whatever its figures are."""
        return _object(await self._api.send("POST", f"/api/rollouts/{quote(rollout_id, safe='')}/{action}"))

    async def results(self, experiment_id: str) -> dict[str, Any]:
        """Return what an experiment has found so far."""
        return _object(await self._api.read(f"/api/experiments/{quote(experiment_id, safe='')}/results"))

    async def start(self, experiment_id: str) -> dict[str, Any]:
        """Let an experiment take calls."""
        return _object(
            await self._api.send("POST", f"/api/experiments/{quote(experiment_id, safe='')}/start")
        )

    async def stop(self, experiment_id: str) -> dict[str, Any]:
        """Let it take no more."""
        return _object(await self._api.send("POST", f"/api/experiments/{quote(experiment_id, safe='')}/stop"))

    async def score(self, experiment_id: str, request_id: str, score: float) -> dict[str, Any]:
        """Tell how good an answer was."""
        path = f"/api/experiments/{quote(experiment_id, safe='')}/scores"
        return _object(await self._api.send("POST", path, {"requestId": request_id, "score": score}))

    async def budget(self, workspace_id: str) -> dict[str, Any]:
        """Return what a workspace may spend, has spent and holds."""
        return _object(await self._api.read(f"/api/workspaces/{quote(workspace_id, safe='')}/budget"))

    async def reset_budget(self, workspace_id: str) -> dict[str, Any]:
        """Let a workspace begin at nothing."""
        path = f"/api/workspaces/{quote(workspace_id, safe='')}/budget/reset"
        return _object(await self._api.send("POST", path))

    # --- what happened ----------------------------------------------------------------------------------

    async def requests(self, /, **filters: Any) -> dict[str, Any]:
        """Return the last requests: ``limit``, ``modelId``, ``workspaceId``, ``status``, ``since``."""
        return _object(await self._api.read("/api/metrics/requests", **filters))

    async def model_analytics(self, /, **filters: Any) -> dict[str, Any]:
        """Return sums of calls: ``timeRange`` (``24h``), ``modelId``."""
        return _object(await self._api.read("/api/analytics/models", **filters))

    async def workspace_analytics(self, workspace_id: str, /, **filters: Any) -> dict[str, Any]:
        """Return sums of a workspace's calls: ``timeRange`` (``7d``)."""
        path = f"/api/analytics/workspaces/{quote(workspace_id, safe='')}"
        return _object(await self._api.read(path, **filters))

    async def overview(self) -> dict[str, Any]:
        """Return how everything is."""
        return _object(await self._api.read("/api/health/overview"))

    # --- configuration ------------------------------------------------------------------------------------

    async def export(self) -> dict[str, Any]:
        """Return ``{"config": Configuration, "version", "exportedAt"}``: keys by name alone."""
        return _object(await self._api.read("/api/config/export"))

    async def load(
        self, config: Configuration, *, mode: Literal["merge", "replace"] = "merge", dry_run: bool = False
    ) -> dict[str, Any]:
        """Take in an export, all of it as one version, or nothing; returns what changes."""
        query = {"mode": mode, "dryRun": dry_run or None}
        return _object(await self._api.send("POST", "/api/config/import", {"config": config}, **query))

    async def versions(self) -> dict[str, Any]:
        """Return the versions that can be gone back to."""
        return _object(await self._api.read("/api/config/versions"))

    async def rollback(self, version: int, *, dry_run: bool = False) -> dict[str, Any]:
        """Go back to what was configured at a version, as a new version."""
        body = {"version": version, **({"dryRun": True} if dry_run else {})}
        return _object(await self._api.send("POST", "/api/config/rollback", body))


def _kept(answer: Answer) -> Kept[Any]:
    return Kept(answer.json(), answer.headers.get("etag", ""))


def _object(found: Any) -> dict[str, Any]:
    return cast("dict[str, Any]", found)


def _word(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
