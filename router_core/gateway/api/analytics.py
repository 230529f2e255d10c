"""The REST API of analytics: what models did for everybody, and for one workspace."""

from __future__ import annotations

import asyncio
import time
from typing import Any, Final

from router_core.errors import NotFound
from router_core.gateway.analytics.keeper import Analytics
from router_core.gateway.analytics.period import RANGES, Period, period_of
from router_core.gateway.analytics.report import Report, Wanted
from router_core.gateway.analytics.shelf import prefixes
from router_core.gateway.api.queries import MOMENT, parameter, query_of, responses, wrong
from router_core.gateway.registry import Registry
from router_core.http.message import Request, Response
from router_core.routing.router import Router

__all__ = ["analytics_router", "report_of"]

_TIMES: Final = (
    parameter("timeRange", "The last so much time", enum=list(RANGES), default="24h"),
    parameter(
        "from", "In the place of timeRange: from this moment, ISO 8601 or Unix seconds", pattern=MOMENT
    ),
    parameter("to", "To this moment; now without it", pattern=MOMENT),
)
_MODEL: Final = parameter("modelId", "Only calls of this model, by id or alias")
_NAMES: Final = ("timeRange", "from", "to", "modelId")
_WORKSPACE: Final = "Workspace not found"


async def report_of(analytics: Analytics, wanted: Wanted, period: Period, now: float) -> tuple[Report, bool]:
    """Return what the calls of a period come to, and whether some of it may be missing."""
    analytics.gather()
    names = [name for level, start, end in period.reads(now) for name in prefixes(level, start, end)]
    async with analytics.turns:
        found = await analytics.read(names)
        report = Report(wanted, period)
        await asyncio.to_thread(report.take, found.values, now)
    return report, found.partial


def analytics_router(analytics: Analytics, registry: Registry) -> Router:
    """Return the routes under ``/api/analytics``."""
    router = Router(prefix="/api/analytics", tags=("analytics",), scopes=("read",))

    @router.get(
        "/models",
        summary="What models did",
        meta={"openapi": {"parameters": [*_TIMES, _MODEL], "responses": responses("Sums", missing=True)}},
    )
    async def model_analytics(request: Request) -> Response:
        """Calls, success, latency, tokens, cost and errors of all models or of one, over time.

        A caller who may not enter every workspace sees the calls of his workspaces.
        """
        now, period, model = _asked(request, registry)
        principal = request.principal
        wanted = Wanted(model, may_see=principal.may_enter)
        report, partial = await report_of(analytics, wanted, period, now)
        if model and not report.calls and model not in registry.snapshot.models:
            raise NotFound("Model not found", code="model_not_found")
        body: dict[str, Any] = {**report.frame(partial), "modelId": model or None, "totals": report.totals()}
        body |= {"models": report.models(), "agentTypes": report.agents(), "workspaces": report.workspaces()}
        if "*" in principal.workspaces:
            body["deployments"] = report.deployments()
        return Response.json({**body, "timeSeries": report.series()})

    @router.get(
        "/workspaces/{workspace_id}",
        summary="What a workspace used",
        meta={"openapi": {"parameters": [_PATH, *_TIMES, _MODEL],
                          "responses": responses("Sums", missing=True)}},
    )  # fmt: skip
    async def workspace_analytics(request: Request, workspace_id: str) -> Response:
        """Calls, success, latency, tokens, cost and errors of a workspace, by model and agent type."""
        if not request.principal.may_enter(workspace_id):
            raise NotFound(_WORKSPACE, code="workspace_not_found")
        now, period, model = _asked(request, registry)
        report, partial = await report_of(analytics, Wanted(model, workspace_id), period, now)
        known = any(each.id == workspace_id for each in registry.snapshot.config.workspaces)
        if not known and not report.calls:
            raise NotFound(_WORKSPACE, code="workspace_not_found")
        body = {**report.frame(partial), "workspaceId": workspace_id, "modelId": model or None}
        body |= {"totals": report.totals(), "models": report.models(), "agentTypes": report.agents()}
        return Response.json({**body, "timeSeries": report.series()})

    return router


_PATH: Final = {"name": "workspace_id", "in": "path", "required": True, "schema": {"type": "string"}}


def _asked(request: Request, registry: Registry) -> tuple[float, Period, str]:
    """Return the time, the period and the id of the model that are asked for. Raises BadRequest."""
    given, now = query_of(request, _NAMES), time.time()
    try:
        period = period_of(given, now)
    except ValueError as error:
        name, _, text = str(error).partition(": ")
        raise wrong(name, text) from None
    name = given.get("modelId", "")
    found = registry.snapshot.models.get(name)
    return now, period, name if found is None else found.id
