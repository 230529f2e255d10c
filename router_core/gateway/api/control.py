"""The REST API of the control plane, put together."""

from __future__ import annotations

from collections.abc import Callable

from router_core.gateway.api.agents import AgentRoutes
from router_core.gateway.api.batch import batch_router
from router_core.gateway.api.configuration import ConfigurationRoutes
from router_core.gateway.api.model_endpoints import ModelEndpointRoutes
from router_core.gateway.api.model_health import model_health_router
from router_core.gateway.api.models import ModelRoutes
from router_core.gateway.api.rules import RuleRoutes
from router_core.gateway.api.workspaces import WorkspaceRoutes
from router_core.gateway.control.control import Control
from router_core.gateway.control.reports import HealthReports
from router_core.gateway.registry import Registry
from router_core.routing.router import Router

__all__ = ["control_routers"]


def control_routers(
    control: Control, reports: HealthReports, registry: Registry, monotonic: Callable[[], float]
) -> tuple[Router, ...]:
    """Return its routes; ``monotonic`` is the clock of the deployments."""
    return (
        batch_router(control),
        ModelRoutes(control).router(),
        ModelEndpointRoutes(control).router(),
        model_health_router(control, reports, registry, monotonic),
        RuleRoutes(control).router(),
        AgentRoutes(control, registry, monotonic).router(),
        WorkspaceRoutes(control).router(),
        ConfigurationRoutes(control).router(),
    )
