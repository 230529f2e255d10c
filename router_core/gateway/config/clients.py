"""Let every client type look at its deployments while the lines of the file are still known."""

from __future__ import annotations

from collections.abc import Iterable

from router_core.errors import Misconfigured
from router_core.gateway.config.models import ModelRead
from router_core.gateway.config.section import Problems
from router_core.gateway.reply import Reply
from router_core.gateway.transport.protocol import Origin
from router_core.gateway.values import MODEL_TYPES, Deployment, Timeouts

__all__ = ["check_clients", "unfit"]


class _Nowhere:
    """A transport for clients that are made to be looked at."""

    async def send(
        self, origin: Origin, head: bytes, body: bytes, *, timeouts: Timeouts, deadline: float,
        stream: bool = False,
    ) -> Reply:  # fmt: skip
        raise NotImplementedError

    async def aclose(self) -> None:
        """Nothing is open."""


def check_clients(models: Iterable[ModelRead], problems: Problems) -> None:
    """Note what a client type misses, and models of a type that it cannot serve."""
    from router_core.gateway.clients.factory import make_client

    nowhere = _Nowhere()
    for read in models:
        for each in read.deployments:
            if not each.sound:
                continue
            try:
                client = make_client(each.deployment, nowhere)
            except Misconfigured as error:
                problems.add(each.line, error.detail)
                continue
            wrong = unfit(read.model.type, each.deployment, client.ENDPOINT_TABLE)
            if wrong:
                problems.add(each.line, wrong)


def unfit(model_type: str, deployment: Deployment, table: Iterable[str]) -> str:
    """Return why a deployment cannot serve a model of a type; empty: it can."""
    wanted = MODEL_TYPES.get(model_type, ())
    if not wanted or any(endpoint in table for endpoint in wanted):
        return ""
    return (
        f"deployment {deployment.id!r} is of type {deployment.type!r}, which has none of the endpoints of "
        f"{model_type} ({', '.join(wanted)})"
    )
