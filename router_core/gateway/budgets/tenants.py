"""Whose a call is: the one place where it gets its workspace, and with that what it may use."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from msgspec import structs

from router_core.errors import BadRequest, Forbidden
from router_core.gateway.call import Attributes, Call
from router_core.gateway.select.bounds import Bounds
from router_core.gateway.values import GatewayConfig, Workspace
from router_core.types import Principal

__all__ = ["HEADER", "Tenant", "Tenants"]

HEADER: Final = "x-router-workspace"
_LONGEST: Final = 256
_PLAIN: Final = Call("", "").attributes
"""What calls have that say nothing about themselves: one object."""


@dataclass(frozen=True, slots=True)
class Tenant:
    """A workspace, as calls go by it."""

    workspace: Workspace
    bounds: Bounds | None
    """None: it may use everything."""
    attributes: Attributes
    """Of calls that say nothing else about themselves."""

    def may_use(self, model_id: str) -> bool:
        """Return whether its calls may name a model."""
        return self.bounds is None or not self.bounds.models or model_id in self.bounds.models


class Tenants:
    """The workspaces of the configuration of the moment."""

    __slots__ = ("_by_id", "_config", "_config_of", "_required")

    def __init__(self, config_of: Callable[[], GatewayConfig]) -> None:
        self._config_of = config_of
        self._config: GatewayConfig | None = None
        self._by_id: dict[str, Tenant] = {}
        self._required = False

    def find(self, workspace: str) -> Tenant | None:
        """Return a workspace that is configured, or None."""
        config = self._config_of()
        if config is not self._config:
            self._follow(config)
        return self._by_id.get(workspace)

    def settle(self, call: Call) -> None:
        """Give a call its workspace: the one that it names, else that of its caller.

        Raises 403 for one that the caller may not act in, 400 where one has to be named.
        """
        asked, principal = call.attributes.workspace_id, call.principal
        if self._config_of() is not self._config:
            self._follow(self._config_of())
        if not asked and not principal.workspace and not self._required and "*" in principal.workspaces:
            return
        workspace = self._workspace(asked, principal)
        tenant = self._by_id.get(workspace)
        if tenant is None and self._required:
            raise Forbidden("there is no such workspace, or it is not yours", code="workspace_forbidden")
        call.workspace = workspace
        if tenant is not None:
            call.bounds = tenant.bounds
            if tenant.workspace.compliance:
                call.compliance |= tenant.workspace.compliance
        if not asked:  # rules and records look at it, too
            if tenant is not None and call.attributes is _PLAIN:
                call.attributes = tenant.attributes
            else:
                call.attributes = structs.replace(call.attributes, workspace_id=workspace)

    def of(self, principal: Principal, asked: str = "") -> Tenant | None:
        """Return the workspace in which a caller looks around, where it is configured. Raises as ``settle``
        does for one that is not his."""
        if not asked and not principal.workspace and "*" in principal.workspaces:
            return None
        return self.find(self._workspace(asked, principal))

    def _workspace(self, asked: str, principal: Principal) -> str:
        if len(asked) > _LONGEST:
            raise BadRequest(f"{HEADER} may have {_LONGEST} characters", extra={"param": HEADER})
        workspace = asked or principal.workspace
        if not workspace and len(principal.workspaces) == 1 and "*" not in principal.workspaces:
            workspace = next(iter(principal.workspaces))
        if not workspace:
            raise BadRequest(f"name the workspace of the call with {HEADER}", code="workspace_required",
                             extra={"param": HEADER})  # fmt: skip
        if not principal.may_enter(workspace):
            raise Forbidden("there is no such workspace, or it is not yours", code="workspace_forbidden")
        return workspace

    def _follow(self, config: GatewayConfig) -> None:
        ids = {alias: model.id for model in config.models for alias in model.aliases}
        ids |= {model.id: model.id for model in config.models}
        self._by_id = {each.id: _tenant(each, ids) for each in config.workspaces}
        self._required = config.workspaces_required
        self._config = config


def _tenant(workspace: Workspace, ids: dict[str, str]) -> Tenant:
    asked = workspace.requirements
    bounds = Bounds(
        frozenset(ids.get(name, name) for name in workspace.models),
        workspace.regions,
        any(each.unpriced == "refuse" for each in workspace.limits),
        asked.min_success_rate,
        asked.max_latency,
    )
    plain = not (bounds.models or bounds.regions or bounds.measured)
    return Tenant(workspace, None if plain else bounds, Attributes(workspace_id=workspace.id))
