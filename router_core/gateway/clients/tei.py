"""Text Embeddings Inference of Hugging Face."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from router_core.gateway.clients.probe import HEALTH, METRICS, Probe
from router_core.gateway.clients.rerank import RerankingClient

__all__ = ["TeiClient"]


class TeiClient(RerankingClient):
    """A deployment of type ``tei``: embeddings as OpenAI has them, rerank in words of its own."""

    ENDPOINT_TABLE: ClassVar[Mapping[str, str]] = {
        "embeddings": "/v1/embeddings",
        "models": "/info",
        "rerank": "/rerank",
    }
    RERANK_FORM = "tei"

    def _probes(self) -> tuple[Probe | None, Probe | None]:
        return HEALTH, METRICS
