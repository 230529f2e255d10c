"""Azure OpenAI: the deployment's name stands in the path, and the key in a header of its own."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import ClassVar, Final
from urllib.parse import quote

from router_core.errors import Misconfigured
from router_core.gateway.clients.address import Address
from router_core.gateway.clients.http import HttpClient, argument
from router_core.gateway.clients.probe import Probe
from router_core.gateway.transport.protocol import Transport
from router_core.gateway.values import Deployment

__all__ = ["AzureClient"]

_API_VERSION: Final = "2024-10-21"
"""The latest dated one that is generally available."""
_STREAMS_USAGE: Final = "2024-09-01"
"""Earlier ones refuse ``stream_options``."""
_VERSION: Final = re.compile(r"[A-Za-z0-9.-]{1,64}")
_PASTED: Final = re.compile(r"/openai(?:/deployments(?:/[^/]*)?)?$")


class AzureClient(HttpClient):
    """A deployment of type ``azure``; ``model`` is the name of the deployment there.

    args: ``api_version`` (``v1`` for the address without dates, ``/openai/v1``, which a base URL that ends so
    means too), ``auth`` (``bearer``: the key is a token of Entra ID). It has no probe: whatever Azure answers
    free of charge says nothing about one deployment.
    """

    ENDPOINT_TABLE: ClassVar[Mapping[str, str]] = {
        "audio/transcriptions": "/v1/audio/transcriptions",
        "chat/completions": "/v1/chat/completions",
        "completions": "/v1/completions",
        "embeddings": "/v1/embeddings",
        "images/generations": "/v1/images/generations",
        "responses": "/v1/responses",
    }
    NEEDS_KEY: ClassVar[bool] = True

    def __init__(self, deployment: Deployment, transport: Transport) -> None:
        self._version = str(deployment.args.get("api_version") or "").strip().strip("/")
        if self._version and not _VERSION.fullmatch(self._version):
            raise Misconfigured(f"deployment {deployment.id}: api_version is like 2024-10-21, preview or v1")
        if not deployment.model:
            raise Misconfigured(
                f"deployment {deployment.id}: azure needs a model: the deployment's name there"
            )
        super().__init__(deployment, transport)
        if (
            self._version[:2] == "20"
            and self._version < _STREAMS_USAGE
            and "stream_usage" not in deployment.args
        ):
            self._usage = False

    def _probes(self) -> tuple[Probe | None, Probe | None]:
        return None, None

    def _authorization(self) -> tuple[tuple[str, str], ...]:
        if argument(self.deployment, "auth", str, "") == "bearer":
            return super()._authorization()
        return (("api-key", self._key),)

    def _path(self, address: Address, endpoint: str, path: str) -> str:
        if path != type(self).ENDPOINT_TABLE.get(endpoint):
            return address.join(path)  # given by `paths` of args
        undated = self._version in ("v1", "preview", "latest") or (
            not self._version and (address.path.endswith("/v1") or endpoint == "responses")
        )
        base = _PASTED.sub("", address.root) + "/openai"
        if undated:
            query = "" if self._version in ("", "v1") else f"?api-version={self._version}"
            return f"{base}{path}{query}"
        query = f"?api-version={self._version or _API_VERSION}"
        if endpoint == "responses":  # names its deployment in the body
            return f"{base}/responses{query}"
        return f"{base}/deployments/{quote(self.deployment.model, safe='')}{path[3:]}{query}"
