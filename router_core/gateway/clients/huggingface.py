"""Hugging Face: Inference Endpoints of one's own, the router of its providers, and TGI anywhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Final

from router_core.errors import Misconfigured
from router_core.gateway.clients.http import argument
from router_core.gateway.clients.probe import HEALTH, METRICS, MODELS, Probe
from router_core.gateway.clients.rerank import RerankingClient

__all__ = ["HuggingFaceClient"]

_ROUTER: Final = "router.huggingface.co"
_DEDICATED: Final = ".endpoints.huggingface.cloud"
_MAX_SCALE_UP: Final = 1800


class HuggingFaceClient(RerankingClient):
    """A deployment of type ``huggingface``.

    args: ``scale_up_timeout`` (seconds for which the proxy of a scaled-down endpoint holds a call while the
    endpoint starts, instead of answering 503 at once).
    """

    ENDPOINT_TABLE: ClassVar[Mapping[str, str]] = {
        "audio/transcriptions": "/v1/audio/transcriptions",
        "chat/completions": "/v1/chat/completions",
        "completions": "/v1/completions",
        "embeddings": "/v1/embeddings",
        "models": "/v1/models",
        "rerank": "/rerank",
        "responses": "/v1/responses",
    }
    BASE_URL: ClassVar[str] = f"https://{_ROUTER}/v1"
    RERANK_FORM = "tei"

    def _probes(self) -> tuple[Probe | None, Probe | None]:
        host = self._address.origin.host if self._located else ""
        if host == _ROUTER:
            return MODELS, None
        if self.deployment.endpoint or host.endswith(_DEDICATED):
            # any request starts a sleeping endpoint, and keeps one that is awake from falling asleep: both
            # cost money, while the state is told by the management API for nothing
            return None, None
        return HEALTH, METRICS

    def _headers(self) -> tuple[tuple[str, str], ...]:
        seconds = argument(self.deployment, "scale_up_timeout", int, 0)
        if not 0 <= seconds <= _MAX_SCALE_UP:
            raise Misconfigured(f"{self._where}: scale_up_timeout is in seconds, 0 to {_MAX_SCALE_UP}")
        extra = (("x-scale-up-timeout", str(seconds)),) if seconds else ()
        return (*super()._headers(), *extra)
