"""One deployment as selection sees it: what it is, how it stands, and what speaks to it."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from router_core.gateway.clients.protocol import ModelClient, PromptClient
from router_core.gateway.resilience.standing import Standing
from router_core.gateway.select.stable import digest
from router_core.gateway.values import Deployment

if TYPE_CHECKING:
    from router_core.gateway.select.decision import Decision

__all__ = ["Candidate"]


class Candidate:
    """A deployment that a strategy may draw. Stays the same over configurations that do not change it."""

    __slots__ = ("client", "deployment", "id", "prompt", "seed", "standing", "usual", "weight")

    def __init__(self, deployment: Deployment, standing: Standing, client: ModelClient) -> None:
        self.deployment = deployment
        self.standing = standing
        """Its health and load. Outlives the candidate: it is that of the deployment's id."""
        self.client = client
        self.prompt: PromptClient | None = None
        """The same, where it can be asked without waiting."""
        self.follow(client)
        self.id = deployment.id
        self.weight = deployment.weight
        self.seed = digest(deployment.id)
        """Its place on the hash ring of strategy ``sticky``: of its id alone, so that all replicas agree."""
        self.usual: Decision | None = None
        """The last decision for it where nothing spoke against anybody: a selector's note, kept here because
        with thousands of models a table beside would be one more place of memory to wait for."""

    def follow(self, client: ModelClient) -> None:
        """Speak through this client from now on."""
        self.client = client
        self.prompt = cast("PromptClient", client) if hasattr(client, "ask") else None

    def __repr__(self) -> str:
        return f"Candidate({self.id!r})"
