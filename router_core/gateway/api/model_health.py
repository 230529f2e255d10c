"""``/api/models/{modelId}/health``: what is measured here, and what others report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from router_core.gateway.api.models import STATUS_SCOPE, ModelId
from router_core.gateway.api.resources import (
    READ,
    Item,
    Resources,
    body_of,
    described,
    entitled,
    invalid,
    stamp,
    telling,
)
from router_core.gateway.api.schemas import HEALTH
from router_core.gateway.control.control import Control
from router_core.gateway.control.kinds import MODELS
from router_core.gateway.control.reports import HealthReports, Report, parse_report
from router_core.gateway.registry import Registry
from router_core.gateway.select.candidate import Candidate
from router_core.gateway.values import SERVING
from router_core.http.message import Request, Response
from router_core.routing.router import Router

__all__ = ["model_health_router"]

_EXAMPLE: Final = {"status": "healthy", "responseTime": 500, "errorRate": 0.01, "availability": 99.9}
_ILL: Final = frozenset({"open_circuit", "ejected", "unhealthy", "cooldown"})
_WELL: Final = 0.1
"""Share of failures up to which a deployment is healthy."""
_RANK: Final = ("healthy", "degraded", "unhealthy")


def model_health_router(
    control: Control, reports: HealthReports, registry: Registry, monotonic: Callable[[], float]
) -> Router:
    """Return the routes; ``monotonic`` is the clock of the deployments."""
    router = Router(prefix="/api/models", tags=("control",))
    resources = Resources(control, MODELS)

    def shown(item: Item) -> Response:
        found = registry.snapshot.models.get(item.id)
        candidates = found.candidates if found is not None else ()
        told = _told(item, candidates, reports.of(item.id), monotonic(), control.clock.now())
        return Response.json(told, headers=(("cache-control", "no-store"),))

    @router.post(
        "/{modelId}/health", scopes=(STATUS_SCOPE,), summary="Report the health of a model",
        meta=described("How it stands", body="What is reported", example=_EXAMPLE, schema=HEALTH),
    )  # fmt: skip
    async def report_health(request: Request, model_id: ModelId) -> Response:
        """Say how a model is, for ``ttl`` seconds (60): one that is ``unhealthy`` is left out meanwhile.

        What is measured by calls and probes stays as it is.
        """
        entitled(request)
        with telling():
            report = parse_report(body_of(request), control.clock.now(), request.principal.id)
        await resources.fresh()
        item = resources.find(model_id)
        ids = {one["id"] for one in item.body["endpoints"]}
        if report.endpoint and report.endpoint not in ids:
            raise invalid(ValueError(f"endpointId: the model has no endpoint {report.endpoint[:60]!a}"))
        await reports.put(model_id, report)
        return shown(item)

    @router.get(
        "/{modelId}/health", scopes=(READ,), summary="How a model stands", meta=described("How it stands")
    )
    async def model_health(request: Request, model_id: ModelId) -> Response:
        """Tell how a model stands: what this process has measured, and what was reported."""
        await resources.fresh()
        await reports.look()
        return shown(resources.find(model_id))

    return router


def _told(
    item: Item, candidates: Sequence[Candidate], reported: Sequence[Report], now: float, wall: float
) -> dict[str, Any]:
    deployments = [_deployment(each, now) for each in candidates]
    calls = sum(each["calls"] for each in deployments)
    errors = sum(each["errorRate"] * each["calls"] for each in deployments if each["calls"])
    rate = errors / calls if calls else None
    times = [each["responseTime"] for each in deployments if each["responseTime"] is not None]
    said = max(reported, key=lambda each: (_RANK.index(each.status), each.at), default=None)
    told: dict[str, Any] = {
        "modelId": item.id,
        "status": _status(item, deployments, reported),
        "responseTime": min(times) if times else (said.response_time if said else None),
        "errorRate": round(rate, 6) if rate is not None else (said.error_rate if said else None),
        "availability": round(100 * (1 - rate), 3) if rate is not None else _availability(said, deployments),
        "circuit": _circuit(deployments),
        "lastChecked": stamp(wall),
        "source": "measured" if calls else ("reported" if said else "none"),
        "deployments": deployments,
        "reports": [_report(each) for each in reported],
    }
    return told


def _availability(said: Report | None, deployments: Sequence[dict[str, Any]]) -> float | None:
    """Return percent of calls that would be served, where none was: as reported, or whether any can be."""
    if said is not None and said.availability is not None:
        return said.availability
    if not deployments:
        return 0.0
    return None


def _status(item: Item, deployments: Sequence[dict[str, Any]], reported: Sequence[Report]) -> str:
    if item.body.get("status") not in SERVING:
        return str(item.body.get("status"))
    if not deployments:
        return "unhealthy"
    words = [each["status"] for each in deployments]
    measured = "healthy" if all(word == "healthy" for word in words) else "degraded"
    if all(word == "unhealthy" for word in words):
        measured = "unhealthy"
    whole = [each.status for each in reported if not each.endpoint]
    return max((measured, *whole), key=_RANK.index)


def _circuit(deployments: Sequence[dict[str, Any]]) -> str:
    """Return the best of the circuits: closed where one deployment can be called."""
    words = [each["circuit"] for each in deployments]
    return next((word for word in ("closed", "half_open", "open") if word in words), "closed")


def _deployment(candidate: Candidate, now: float) -> dict[str, Any]:
    standing = candidate.standing
    good, bad, _ = standing.totals(now)
    against = standing.out(now)
    rate = bad / (good + bad) if good + bad else None
    status = "healthy" if rate is None or rate <= _WELL else "degraded"
    return {
        "id": candidate.id, "status": "unhealthy" if against in _ILL else status, "reason": against or None,
        "responseTime": round(standing.latency * 1000, 3) if standing.latency else None,
        "errorRate": None if rate is None else round(rate, 6), "calls": good + bad,
        "circuit": standing.circuit, "inFlight": standing.inflight, "probe": _probe(candidate),
    }  # fmt: skip


def _probe(candidate: Candidate) -> dict[str, Any] | None:
    standing = candidate.standing
    if standing.probe_ok is None:
        return None
    return {"ok": standing.probe_ok, "detail": standing.probe_detail}


def _report(report: Report) -> dict[str, Any]:
    told = {
        "status": report.status, "responseTime": report.response_time, "errorRate": report.error_rate,
        "availability": report.availability, "detail": report.detail or None, "by": report.who or None,
        "endpointId": report.endpoint or None, "reportedAt": stamp(report.at), "until": stamp(report.until),
    }  # fmt: skip
    return {name: value for name, value in told.items() if value is not None}
