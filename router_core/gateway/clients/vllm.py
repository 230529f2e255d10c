"""vLLM's own server."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from router_core.gateway.clients.probe import HEALTH, METRICS, Probe
from router_core.gateway.clients.rerank import RerankingClient

__all__ = ["VllmClient"]


class VllmClient(RerankingClient):
    """A deployment of type ``vllm``; which of the endpoints answer depends on the model that it runs."""

    ENDPOINT_TABLE: ClassVar[Mapping[str, str]] = {
        "audio/transcriptions": "/v1/audio/transcriptions",
        "chat/completions": "/v1/chat/completions",
        "completions": "/v1/completions",
        "embeddings": "/v1/embeddings",
        "models": "/v1/models",
        "rerank": "/v1/rerank",
        "responses": "/v1/responses",
    }

    def _probes(self) -> tuple[Probe | None, Probe | None]:
        return HEALTH, METRICS
