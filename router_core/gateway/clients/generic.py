"""Anything else that is OpenAI-compatible."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from router_core.gateway.clients.rerank import RerankingClient
from router_core.gateway.values import ENDPOINTS

__all__ = ["GenericClient"]


class GenericClient(RerankingClient):
    """A deployment of type ``generic``.

    args: ``paths`` (endpoint -> path after the base URL, null where it has none), ``stream_usage: false``
    where ``stream_options`` is refused, ``rerank_form``.
    """

    ENDPOINT_TABLE: ClassVar[Mapping[str, str]] = {
        **{endpoint: f"/v1/{endpoint}" for endpoint in ENDPOINTS}, "models": "/v1/models",
    }  # fmt: skip
