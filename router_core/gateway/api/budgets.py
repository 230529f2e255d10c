"""``/api/workspaces/{workspaceId}/budget``: what is spent, and beginning anew."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Final

from router_core.binding.params import Path
from router_core.clock import rfc3339
from router_core.errors import NotFound
from router_core.gateway.budgets.admission import Budgets
from router_core.gateway.values import GatewayConfig, Limit
from router_core.http.message import Request
from router_core.quota.standing import Standing
from router_core.routing.permission import check_every_workspace
from router_core.routing.router import Router

__all__ = ["budgets_router"]

_MONEY: Final = frozenset({"daily", "weekly", "monthly"})
_NAMES: Final = {"requests": "requestsPerMinute", "tokens": "tokensPerMinute"}
WorkspaceId = Annotated[str, Path(alias="workspaceId", max_length=256)]


def budgets_router(budgets: Budgets, config_of: Callable[[], GatewayConfig]) -> Router:
    """Return the routes."""
    router = Router(prefix="/api/workspaces", tags=("budgets",))

    def enter(request: Request, workspace_id: str) -> None:
        known = any(each.id == workspace_id for each in config_of().workspaces)
        if not known or not request.principal.may_enter(workspace_id):
            raise NotFound(f"there is no workspace {workspace_id[:80]!a}", code="not_found")

    async def told(workspace_id: str) -> dict[str, Any]:
        plan = budgets.plan(workspace_id)
        if plan is None:
            return {"workspaceId": workspace_id, "limits": []}
        found = await budgets.quota.standing(plan.subject, plan.caps)
        return {
            "workspaceId": workspace_id,
            "limits": [_told(limit, each) for limit, each in zip(plan.limits, found, strict=True)],
        }

    @router.get("/{workspaceId}/budget", scopes=("read",), summary="Tell what a workspace has spent")
    async def get_budget(request: Request, workspace_id: WorkspaceId) -> dict[str, Any]:
        """Tell of each limit what was spent, what calls that go on have reserved, and when it begins anew.

        503 where the shared state cannot be asked.
        """
        enter(request, workspace_id)
        return await told(workspace_id)

    @router.post(
        "/{workspaceId}/budget/reset", scopes=("config:manage",), summary="Forget what a workspace has spent"
    )
    async def reset_budget(request: Request, workspace_id: WorkspaceId) -> dict[str, Any]:
        """Forget what was spent of every limit; what calls that go on have reserved stays.

        It is for callers who may enter every workspace: nobody gives himself another budget.
        """
        enter(request, workspace_id)
        check_every_workspace(request.principal)
        plan = budgets.plan(workspace_id)
        if plan is not None:
            await budgets.quota.reset(plan.subject, plan.caps)
        return await told(workspace_id)

    return router


def _told(limit: Limit, standing: Standing) -> dict[str, Any]:
    """Return one limit as JSON: money in dollars, else a count."""
    money = limit.kind in _MONEY

    def amount(value: int) -> float | int:
        return value / 1_000_000 if money else value

    body: dict[str, Any] = {
        "kind": _NAMES.get(limit.kind, limit.kind), "unit": "dollars" if money else "count",
        "limit": amount(limit.amount), "spent": amount(standing.spent),
        "reserved": amount(standing.reserved),
        "remaining": amount(max(0, limit.amount - standing.spent - standing.reserved)),
    }  # fmt: skip
    if standing.resets_at:
        body["resetsAt"] = rfc3339(standing.resets_at / 1000)
    return body
