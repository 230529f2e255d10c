"""The Albert API (OpenGateLLM), a gateway itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from router_core.gateway.clients.rerank import RerankingClient

__all__ = ["AlbertClient"]


class AlbertClient(RerankingClient):
    """A deployment of type ``albert``. args: ``rerank_form: albert`` for servers that know ``prompt`` and
    ``input`` only, as those of 2025 did."""

    ENDPOINT_TABLE: ClassVar[Mapping[str, str]] = {
        "audio/transcriptions": "/v1/audio/transcriptions",
        "chat/completions": "/v1/chat/completions",
        "completions": "/v1/completions",
        "embeddings": "/v1/embeddings",
        "models": "/v1/models",
        "rerank": "/v1/rerank",
    }
    BASE_URL: ClassVar[str] = "https://albert.api.etalab.gouv.fr/v1"
