"""``GET /api/metrics/requests``: the last calls, one by one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from router_core.errors import BadRequest
from router_core.gateway.analytics.keeper import Analytics
from router_core.gateway.analytics.period import moment
from router_core.gateway.analytics.records import CallRecord
from router_core.gateway.analytics.report import CALLERS, stamp
from router_core.gateway.api.queries import MOMENT, number, parameter, query_of, responses, wrong
from router_core.gateway.outcome import KINDS
from router_core.gateway.registry import Registry
from router_core.http.message import Request, Response
from router_core.routing.router import Router

__all__ = ["requests_router"]

_DEFAULT: Final = 100
_MOST: Final = 1000
_STATUSES: Final[Mapping[str, Callable[[str], bool]]] = {
    "success": lambda outcome: outcome == "ok",
    "error": lambda outcome: outcome not in ("ok", "cancelled"),
    "failure": lambda outcome: outcome not in ("ok", "cancelled") and outcome not in CALLERS,
}
"""Words for several outcomes."""
_CURSOR: Final = r"^(|[0-9]{1,10}\.[0-9]{6}:[A-Za-z0-9._-]{1,128})$"
_PARAMETERS: Final = (
    parameter("limit", "How many at most", type="integer", minimum=1, maximum=_MOST, default=_DEFAULT),
    parameter("modelId", "Only those of this model, by id or alias"),
    parameter("workspaceId", "Only those of this workspace"),
    parameter("status", "Only those that ended so", enum=["", *_STATUSES, *KINDS]),
    parameter("since", "Only those that ended after this moment, ISO 8601 or Unix seconds", pattern=MOMENT),
    parameter("cursor", "Go on where an answer ended: its nextCursor", pattern=_CURSOR),
)
_NAMES: Final = tuple(each["name"] for each in _PARAMETERS)


def requests_router(analytics: Analytics, registry: Registry) -> Router:
    """Return the route."""
    router = Router(prefix="/api/metrics", tags=("analytics",), scopes=("read",))

    @router.get(
        "/requests",
        summary="The last calls, the latest first",
        meta={"openapi": {"parameters": list(_PARAMETERS), "responses": responses("Calls")}},
    )
    async def request_metrics(request: Request) -> Response:
        """List the last calls of all processes, as far as they are kept.

        The process that answers knows its last 1,000; of the others up to 100 for each flush (10 s). A caller
        who may not enter every workspace sees the calls of his workspaces.
        """
        given = query_of(request, _NAMES)
        limit, fits = number(given, "limit", _DEFAULT, _MOST), _filter(given, request, registry)
        records, partial = await analytics.calls()
        found = [record for record in records if fits(record)]
        shown = found[:limit]
        more = len(found) > limit
        body = {
            "requests": [_told(record) for record in shown],
            "count": len(shown),
            "nextCursor": f"{shown[-1].at:.6f}:{shown[-1].request_id}" if more else None,
            "partial": partial,
        }
        return Response.json(body)

    return router


def _filter(given: Mapping[str, str], request: Request, registry: Registry) -> Callable[[CallRecord], bool]:
    """Return what tells the calls that are asked for. Raises BadRequest."""
    router = registry.snapshot.models.get(given.get("modelId", ""))
    model = given.get("modelId", "") if router is None else router.id
    workspace, may_enter = given.get("workspaceId", ""), request.principal.may_enter
    ended = _status(given.get("status", ""))
    before = _cursor(given["cursor"]) if "cursor" in given else None
    since = 0.0
    if "since" in given:
        try:
            since = moment("since", given["since"])
        except ValueError as error:
            raise wrong("since", str(error).partition(": ")[2]) from None

    def fits(record: CallRecord) -> bool:
        if model and model not in (record.model, record.asked_model):
            return False
        if record.at <= since or (workspace and record.workspace != workspace):
            return False
        if before is not None and (round(record.at, 6), record.request_id) >= before:
            return False
        return ended(record.outcome) and may_enter(record.workspace)

    return fits


def _status(word: str) -> Callable[[str], bool]:
    if not word:
        return lambda outcome: True
    if word in _STATUSES:
        return _STATUSES[word]
    if word not in KINDS:
        raise wrong("status", f"must be one of {', '.join((*_STATUSES, *KINDS))}")
    return lambda outcome: outcome == word


def _cursor(text: str) -> tuple[float, str]:
    at, colon, request_id = text.partition(":")
    try:
        if not colon:
            raise BadRequest
        return moment("cursor", at), request_id
    except (ValueError, BadRequest):
        raise wrong("cursor", "is not one that an answer gave") from None


def _told(record: CallRecord) -> dict[str, Any]:
    cost = record.cost
    word = "success" if record.outcome == "ok" else "error"
    return {
        "requestId": record.request_id,
        "timestamp": stamp(record.at),
        "modelId": record.model,
        "requestedModel": record.asked,
        "deploymentId": record.deployment or None,
        "workspaceId": record.workspace or None,
        "agentType": record.agent_type or None,
        "endpoint": record.endpoint,
        "status": "cancelled" if record.outcome == "cancelled" else word,
        "outcome": record.outcome,
        "upstreamStatus": record.status or None,
        "latency": round(record.seconds * 1000, 3),
        "timeToFirstToken": round(record.first_byte * 1000, 3) if record.first_byte else None,
        "stream": record.stream,
        "attempts": record.tries,
        "fallbackFrom": record.asked_model if record.asked_model not in ("", record.model) else None,
        "rule": record.rule or None,
        "trial": record.trial or None,
        "usage": {
            "promptTokens": record.input_tokens,
            "completionTokens": record.output_tokens,
            "totalTokens": record.input_tokens + record.output_tokens,
            "estimated": record.estimated,
            "cost": None if cost is None else cost / 1_000_000,
        },
    }
