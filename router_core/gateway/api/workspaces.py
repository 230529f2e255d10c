"""``/api/workspaces/{workspaceId}/config``: what a tenant may use, and how much of it."""

from __future__ import annotations

from typing import Annotated, Final
from urllib.parse import quote

from router_core.binding.params import Path
from router_core.gateway.api.queries import query_of
from router_core.gateway.api.resources import (
    MANAGE,
    PAGING,
    READ,
    Resources,
    described,
    entitled,
    items_of,
    merged,
    page_of,
    telling,
)
from router_core.gateway.api.schemas import WORKSPACE
from router_core.gateway.control.control import Control
from router_core.gateway.control.kinds import KINDS, WORKSPACES
from router_core.gateway.control.resource import Draft
from router_core.gateway.rules.read import text
from router_core.http.message import Request, Response
from router_core.routing.router import Router

__all__ = ["WorkspaceRoutes"]

WorkspaceId = Annotated[str, Path(alias="workspaceId")]
_NAMES: Final = ("limit", "offset", "cursor")
_EXAMPLE: Final = {
    "modelRestrictions": ["gpt-4", "claude-3-sonnet"],
    "budgetLimits": {"daily": 100, "weekly": 500, "monthly": 2000},
    "qualityRequirements": {"minSuccessRate": 0.95, "maxLatency": 5000},
    "complianceRequirements": ["gdpr", "ccpa", "hipaa"],
}  # fmt: skip


class WorkspaceRoutes:
    """The routes of workspaces. One that a caller may not enter is for him one that there is not; what holds
    for his own he may read."""

    def __init__(self, control: Control) -> None:
        self._control = control
        self._resources = Resources(control, WORKSPACES, "workspaceId")

    def router(self) -> Router:
        """Return the routes."""
        router = Router(prefix="/api/workspaces", tags=("control",))
        written = described(
            "The workspace", created=True, body="What holds for it", example=_EXAMPLE, schema=WORKSPACE
        )
        again = described("The workspace", created=True, body="As for POST", example=_EXAMPLE)
        patched = described("The workspace", body="What changes (JSON Merge Patch)", example=_EXAMPLE)
        one = "/{workspaceId}/config"
        router.get("", scopes=(READ,), meta=described("A page of workspaces", parameters=PAGING))(
            self.list_workspaces
        )
        router.post(one, scopes=(MANAGE,), meta=written)(self.set_config)
        router.put(one, scopes=(MANAGE,), meta=again)(self.put_config)
        router.patch(one, scopes=(MANAGE,), meta=patched)(self.patch_config)
        router.get(one, scopes=(READ,), meta=described("The workspace"))(self.get_config)
        router.delete(one, scopes=(MANAGE,), status=204, meta=described("It is gone", empty=True))(
            self.delete_config
        )
        return router

    async def list_workspaces(self, request: Request) -> Response:
        """List the workspaces that the caller may enter."""
        given = query_of(request, _NAMES)
        await self._resources.fresh()
        mine = [one for one in items_of(self._control, WORKSPACES) if request.principal.may_enter(one.id)]
        shown, told = page_of(mine, given, lambda item: [item.id])
        return Response.json({"workspaces": [self._resources.shown(each) for each in shown], **told})

    async def set_config(self, request: Request, workspace_id: WorkspaceId) -> Response:
        """Say what holds for a workspace: all of it, in the place of what was said before."""
        self._own(request, workspace_id)
        with telling():
            text(workspace_id, "workspaceId")
        given = self._resources.given(request, workspace_id)
        path = f"/api/workspaces/{quote(workspace_id, safe='')}/config"
        return await self._resources.put(workspace_id, given, request, path)

    async def put_config(self, request: Request, workspace_id: WorkspaceId) -> Response:
        """Say what holds for a workspace, as POST does."""
        return await self.set_config(request, workspace_id)

    async def patch_config(self, request: Request, workspace_id: WorkspaceId) -> Response:
        """Change some of what holds for a workspace; null takes a field away."""
        self._own(request, workspace_id)
        patch = self._resources.given(request, workspace_id)
        kind, now = KINDS[WORKSPACES], self._control.clock.now()

        def edit(draft: Draft) -> None:
            held = self._resources.own(draft, workspace_id, request)
            if kind.parse is not None:
                value = kind.parse(workspace_id, merged(held.body, patch))
                draft.put(WORKSPACES, workspace_id, kind.to_json(value), now)

        change = await self._resources.changed(edit, request, f"workspace {workspace_id} changed")
        return self._resources.answer(self._resources.item(change, workspace_id))

    async def get_config(self, request: Request, workspace_id: WorkspaceId) -> Response:
        """Tell what holds for a workspace."""
        self._enter(request, workspace_id)
        await self._resources.fresh()
        return self._resources.answer(self._resources.find(workspace_id), request)

    async def delete_config(self, request: Request, workspace_id: WorkspaceId) -> Response:
        """Let nothing hold for a workspace any more."""
        self._own(request, workspace_id)
        return await self._resources.drop(workspace_id, request)

    def _enter(self, request: Request, workspace_id: str) -> None:
        if not request.principal.may_enter(workspace_id):
            raise self._resources.missing(workspace_id)

    def _own(self, request: Request, workspace_id: str) -> None:
        """Refuse callers who are bound to workspaces: nobody raises the limits that he is held to."""
        self._enter(request, workspace_id)
        entitled(request)
