"""From a deployment to the client of its type."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Final, cast

from router_core.errors import Misconfigured
from router_core.gateway.clients.protocol import ModelClient
from router_core.gateway.transport.protocol import Transport
from router_core.gateway.values import CLIENT_TYPES, Deployment

__all__ = ["make_client"]

_CLASSES: Final[Mapping[str, tuple[str, str]]] = {
    "albert": ("albert", "AlbertClient"),
    "anthropic": ("anthropic", "AnthropicClient"),
    "azure": ("azure", "AzureClient"),
    "bedrock": ("bedrock", "BedrockClient"),
    "craftai": ("craftai", "CraftAIClient"),
    "generic": ("generic", "GenericClient"),
    "huggingface": ("huggingface", "HuggingFaceClient"),
    "openai": ("openai", "OpenAIClient"),
    "runpod": ("runpod", "RunPodClient"),
    "scripted": ("scripted", "ScriptedClient"),
    "tei": ("tei", "TeiClient"),
    "vllm": ("vllm", "VllmClient"),
}
"""Type -> module and class; a process imports those that it uses."""


def make_client(deployment: Deployment, transport: Transport) -> ModelClient:
    """Return a client for a deployment. Raises Misconfigured for what its type needs and is not there."""
    found = _CLASSES.get(deployment.type)
    if found is None:
        known = ", ".join(CLIENT_TYPES)
        raise Misconfigured(
            f"deployment {deployment.id}: unknown type {deployment.type[:80]!r}; known: {known}"
        )
    module = import_module(f"router_core.gateway.clients.{found[0]}")
    client = cast(ModelClient, getattr(module, found[1])(deployment, transport))
    if deployment.defaults:
        from router_core.gateway.clients.defaults import with_defaults

        return with_defaults(client)
    return client
