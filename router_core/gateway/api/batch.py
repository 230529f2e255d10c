"""``PATCH /api/models/batch/status``: the status of many models in one version."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from router_core.errors import Conflict, RouterError
from router_core.gateway.api.models import STATUS_SCOPE, status_of
from router_core.gateway.api.resources import Resources, described, invalid, telling
from router_core.gateway.api.schemas import BATCH
from router_core.gateway.control.control import Control
from router_core.gateway.control.kinds import MODELS
from router_core.gateway.control.resource import Draft
from router_core.gateway.rules.read import flag, members, refuse, text
from router_core.http.message import Request, Response
from router_core.routing.router import Router

__all__ = ["batch_router"]

_MOST: Final = 1000
_EXAMPLE: Final = {
    "updates": [{"modelId": "model-1", "status": "active"}, {"modelId": "model-2", "status": "inactive"}]
}

Updates = list[tuple[str, str]]
"""Model and status."""


def batch_router(control: Control) -> Router:
    """Return the route."""
    router = Router(prefix="/api/models/batch", tags=("control",))
    resources = Resources(control, MODELS)

    @router.patch(
        "/status", scopes=(STATUS_SCOPE,), summary="Change the status of many models",
        meta=described("What came of each", body="Models and statuses", example=_EXAMPLE, schema=BATCH),
    )  # fmt: skip
    async def patch_statuses(request: Request) -> Response:
        """Change the status of many models in one step, as far as each can be changed.

        With ``"atomic": true`` all of them are changed or none: 409 tells of each why not.
        """
        with telling():
            updates, atomic = _read(resources.given(request))
        now = control.clock.now()

        def edit(draft: Draft) -> list[dict[str, Any]]:
            results = [_one(resources, draft, request, update, now) for update in updates]
            if atomic and not all(each["success"] for each in results):
                text = "nothing was changed, for not all of it can be"
                raise Conflict(text, code="batch_failed", extra={"results": results})
            return results

        change = await resources.changed(edit, request, f"status of {len(updates)} models")
        done = sum(each["success"] for each in change.result)
        told = {"updated": done, "failed": len(updates) - done, "results": change.result}
        return Response.json(told)

    return router


def _read(given: Mapping[str, Any]) -> tuple[Updates, bool]:
    known = members(given, "", ("updates", "atomic"))
    listed = known.get("updates")
    if not isinstance(listed, list) or not listed:
        refuse("updates", 'has to be a list, such as [{"modelId": "gpt-4", "status": "inactive"}]')
    if len(listed) > _MOST:
        refuse("updates", f"has {len(listed):,} entries, at most {_MOST:,} are allowed")
    updates: Updates = []
    for at, one in enumerate(listed):
        path = f"updates[{at}]"
        each = members(one, path, ("modelId", "status"))
        if "modelId" not in each:
            refuse(f"{path}.modelId", "is missing")
        updates.append((text(each["modelId"], f"{path}.modelId"), status_of(each, f"{path}.")))
        if any(key == updates[-1][0] for key, _ in updates[:-1]):
            raise invalid(ValueError(f"{path}.modelId: stands there a second time"))
    return updates, flag(known.get("atomic", False), "atomic")


def _one(
    resources: Resources, draft: Draft, request: Request, update: tuple[str, str], now: float
) -> dict[str, Any]:
    key, status = update
    try:
        held = resources.own(draft, key, request)
    except RouterError as error:
        said = {"status": error.status, "code": error.code, "detail": error.detail}
        return {"modelId": key, "success": False, "error": said}
    draft.put(MODELS, key, {**held.body, "status": status}, now)
    return {"modelId": key, "success": True, "status": status}
