"""``GET /api/health/overview``: how the whole gateway stands, in one answer."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

from router_core.gateway.accounting.metrics import score
from router_core.gateway.analytics.keeper import Analytics
from router_core.gateway.analytics.period import Period
from router_core.gateway.analytics.report import Wanted, stamp
from router_core.gateway.analytics.shelf import MINUTE
from router_core.gateway.api.analytics import report_of
from router_core.gateway.api.queries import query_of, responses
from router_core.gateway.lifecycle.endpoints import Lifecycle
from router_core.gateway.lifecycle.states import State
from router_core.gateway.registry import ModelRouter, Registry
from router_core.gateway.select.candidate import Candidate
from router_core.http.message import Request, Response
from router_core.routing.router import Router

__all__ = ["overview_router"]

_WINDOW: Final = 300
_LISTED: Final = 200
"""Models, and deployments, that are named one by one: those that are ill first."""
_RANK: Final = {"unhealthy": 0, "degraded": 1, "healthy": 2}
_ILL: Final = frozenset({"open_circuit", "ejected", "unhealthy"})
_WELL: Final = 0.9
"""Share of good calls from which a deployment counts as well."""


def overview_router(
    analytics: Analytics, registry: Registry, lifecycle: Lifecycle,
    now: Callable[[], float] = time.monotonic,
) -> Router:  # fmt: skip
    """Return the route; ``now`` is the clock of the standings."""
    router = Router(prefix="/api/health", tags=("analytics",), scopes=("read",))

    @router.get(
        "/overview",
        summary="How the gateway stands",
        meta={"openapi": {"responses": responses("Health")}},
    )
    async def health_overview(request: Request) -> Response:
        """Models and deployments by health, endpoints, replicas, and the traffic of the last 5 minutes.

        ``unhealthy``: no model can be called; ``degraded``: one cannot, or some deployment is out. Health of
        deployments is what the process that answers has seen.
        """
        query_of(request, ())
        at, moment = time.time(), now()
        snapshot = registry.snapshot
        models = [_model(each, moment) for each in snapshot.models.values()]
        deployments = [_deployment(each, moment) for each in snapshot.candidates.values()]
        replicas, alone = await analytics.processes()
        traffic, partial = await _traffic(analytics, request, at)
        versions = {each.get("version") for each in replicas}
        body = {
            "status": _overall(models, deployments),
            "timestamp": stamp(at),
            "models": {**_counted(models), "items": _worst(models)},
            "deployments": {**_counted(deployments), "items": _worst(deployments)},
            "endpoints": _endpoints(lifecycle),
            "configuration": {
                "version": snapshot.version or None,
                "consistent": len(versions) == 1,
                "replicas": [_replica(each) for each in replicas],
            },
            "traffic": traffic,
            "store": {"status": "down" if alone or partial else "up", "partial": alone or partial},
        }
        return Response.json(body, headers=(("cache-control", "no-store"),))

    return router


def _model(router: ModelRouter, now: float) -> dict[str, Any]:
    states = [_deployment(each, now)["status"] for each in router.candidates]
    well = sum(state != "unhealthy" for state in states)
    status = "unhealthy" if not well else "healthy" if set(states) == {"healthy"} else "degraded"
    scores = [score(each.standing, now) for each in router.candidates]
    return {
        "modelId": router.id,
        "status": status,
        "configured": router.model.status,
        "healthScore": round(sum(scores) / len(scores), 4) if scores else 0.0,
        "deployments": len(states),
        "available": well,
    }


def _deployment(candidate: Candidate, now: float) -> dict[str, Any]:
    standing = candidate.standing
    out, rate = standing.out(now), score(standing, now)
    status = "unhealthy" if out in _ILL else "degraded" if out or rate < _WELL else "healthy"
    return {
        "deploymentId": candidate.id,
        "modelId": candidate.deployment.model_id or None,
        "status": status,
        "reason": out or None,
        "circuit": standing.circuit,
        "healthScore": round(rate, 4),
        "latency": round(standing.latency * 1000, 3),
        "inFlight": standing.inflight,
        "queue": standing.queue,
        "probe": {None: "unknown", True: "up", False: "down"}[standing.probe_ok],
        "region": candidate.deployment.region or None,
    }


def _overall(models: list[dict[str, Any]], deployments: list[dict[str, Any]]) -> str:
    states = {each["status"] for each in models}
    if models and states == {"unhealthy"}:
        return "unhealthy"
    return "healthy" if states | {each["status"] for each in deployments} <= {"healthy"} else "degraded"


def _counted(items: list[dict[str, Any]]) -> dict[str, int]:
    counts = {"total": len(items)}
    for word in ("healthy", "degraded", "unhealthy"):
        counts[word] = sum(each["status"] == word for each in items)
    return counts


def _worst(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(items, key=lambda each: _RANK[each["status"]])[:_LISTED]


def _endpoints(lifecycle: Lifecycle) -> dict[str, Any]:
    states = {name: lifecycle.state_of(name) for name in lifecycle.names}
    return {
        "total": len(states),
        "awake": sum(state is State.RUNNING for state in states.values()),
        "items": [{"name": name, "status": state.value} for name, state in states.items()],
    }


def _replica(told: dict[str, Any]) -> dict[str, Any]:
    at = told.get("at")
    seen = stamp(at) if isinstance(at, (int, float)) and 0 < at < 1e11 else None
    return {"id": told["replica"], "version": told.get("version"), "seenAt": seen}


async def _traffic(analytics: Analytics, request: Request, at: float) -> tuple[dict[str, Any], bool]:
    """Return what calls of the caller's workspaces were like lately."""
    start = MINUTE.floor(at - _WINDOW) + MINUTE.width
    period = Period("", start, MINUTE.floor(at) + MINUTE.width, MINUTE)
    report, partial = await report_of(analytics, Wanted(may_see=request.principal.may_enter), period, at)
    totals = report.totals()
    judged = totals["requests"] - totals["cancelled"]
    told = {
        "windowSeconds": _WINDOW,
        "requests": totals["requests"],
        "errors": totals["errors"],
        "errorRate": round(totals["errors"] / judged, 6) if judged else None,
        "latency": totals["latency"],
        "errorClasses": totals["errorClasses"],
    }
    return told, partial
