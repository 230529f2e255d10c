"""Let every client type look at its deployments while the lines of the file are still known."""

from __future__ import annotations

from collections.abc import Iterable

from router_core.errors import Misconfigured
from router_core.gateway.config.models import ModelRead
from router_core.gateway.config.section import Problems
from router_core.gateway.reply import Reply
from router_core.gateway.transport.protocol import Origin
from router_core.gateway.values import MODEL_TYPES, Deployment, Timeouts

__all__ = ["check_clients", "problem_of", "unfit"]


class _Nowhere:
    """A transport for clients that are made to be looked at."""

    async def send(
        self, origin: Origin, head: bytes, body: bytes, *, timeouts: Timeouts, deadline: float,
        stream: bool = False,
    ) -> Reply:  # fmt: skip
        raise AssertionError("a client that is only looked at has sent something")

    async def aclose(self) -> None:
        """Nothing is open."""


def check_clients(models: Iterable[ModelRead], problems: Problems) -> None:
    """Note what a client type misses, and models of a type that it cannot serve."""
    for read in models:
        for each in read.deployments:
            wrong = problem_of(read.model.type, each.deployment) if each.sound else ""
            if wrong:
                problems.add(each.line, wrong)


def problem_of(model_type: str, deployment: Deployment) -> str:
    """Return what a deployment misses, or why it cannot serve a model of a type; empty: nothing."""
    from router_core.gateway.clients.factory import make_client

    try:
        client = make_client(deployment, _Nowhere())
    except Misconfigured as error:
        return error.detail
    return unfit(model_type, deployment, client.ENDPOINT_TABLE)


def unfit(model_type: str, deployment: Deployment, table: Iterable[str]) -> str:
    """Return why a deployment cannot serve a model of a type; empty: it can."""
    wanted = MODEL_TYPES.get(model_type, ())
    if not wanted or any(endpoint in table for endpoint in wanted):
        return ""
    return (
        f"deployment {deployment.id!r} is of type {deployment.type!r}, which has none of the endpoints of "
        f"{model_type} ({', '.join(wanted)})"
    )
