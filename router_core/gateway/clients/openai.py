"""OpenAI itself, and servers that speak exactly as it does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Final

from router_core.errors import Misconfigured
from router_core.gateway.clients.http import HttpClient, argument
from router_core.gateway.transport.protocol import Transport
from router_core.gateway.values import Deployment

__all__ = ["OpenAIClient"]

_HOST: Final = "api.openai.com"


class OpenAIClient(HttpClient):
    """A deployment of type ``openai``. args: ``organization``, ``project``."""

    ENDPOINT_TABLE: ClassVar[Mapping[str, str]] = {
        "audio/transcriptions": "/v1/audio/transcriptions",
        "chat/completions": "/v1/chat/completions",
        "completions": "/v1/completions",
        "embeddings": "/v1/embeddings",
        "images/generations": "/v1/images/generations",
        "models": "/v1/models",
        "responses": "/v1/responses",
    }
    BASE_URL: ClassVar[str] = f"https://{_HOST}/v1"

    def __init__(self, deployment: Deployment, transport: Transport) -> None:
        super().__init__(deployment, transport)
        configured = any(name.lower() == "authorization" for name, _ in deployment.headers)
        if self._located and self._address.origin.host == _HOST and not (self._key or configured):
            raise Misconfigured(f"deployment {deployment.id}: {_HOST} needs a key (api_key)")

    def _headers(self) -> tuple[tuple[str, str], ...]:
        named = (
            (f"openai-{name}", argument(self.deployment, name, str, ""))
            for name in ("organization", "project")
        )
        return (*super()._headers(), *(pair for pair in named if pair[1]))
