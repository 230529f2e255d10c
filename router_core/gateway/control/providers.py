"""Who models are bought from: which client speaks to them, where they are, and which key is theirs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

__all__ = ["MODEL_KINDS", "PROVIDERS", "Provider", "kind_of", "provider_of"]


@dataclass(frozen=True, slots=True)
class Provider:
    """One word for ``provider``."""

    type: str
    """One of ``values.CLIENT_TYPES``."""
    url: str = ""
    """Where a model without endpoints is served; empty: it has to have one."""
    variables: tuple[str, ...] = ()
    """Variables that usually hold the key, the first that is set counts."""
    hosts: tuple[str, ...] = ()
    """Where that key may be sent: a host, or ``.host`` for all below it."""

    def takes(self, url: str) -> bool:
        """Return whether the provider's usual key may go to an address."""
        parts = urlsplit(url)
        host = (parts.hostname or "").lower()
        fits = any(host == one or (one.startswith(".") and host.endswith(one)) for one in self.hosts)
        return parts.scheme == "https" and fits and parts.port in (None, 443)


def _hosted(url: str, *variables: str, kind: str = "generic") -> Provider:
    return Provider(kind, url, variables, (urlsplit(url).hostname or "",))


PROVIDERS: Final[Mapping[str, Provider]] = {
    "openai": _hosted("https://api.openai.com/v1", "OPENAI_API_KEY", kind="openai"),
    "anthropic": _hosted("https://api.anthropic.com", "ANTHROPIC_API_KEY", kind="anthropic"),
    "azure": Provider("azure", "", ("AZURE_OPENAI_API_KEY", "AZURE_OPENAI_KEY"), (".openai.azure.com",)),
    "mistral": _hosted("https://api.mistral.ai/v1", "MISTRAL_API_KEY"),
    "google": _hosted("https://generativelanguage.googleapis.com/v1beta/openai", "GEMINI_API_KEY"),
    "groq": _hosted("https://api.groq.com/openai/v1", "GROQ_API_KEY"),
    "deepseek": _hosted("https://api.deepseek.com/v1", "DEEPSEEK_API_KEY"),
    "together": _hosted("https://api.together.xyz/v1", "TOGETHER_API_KEY"),
    "openrouter": _hosted("https://openrouter.ai/api/v1", "OPENROUTER_API_KEY"),
    "xai": _hosted("https://api.x.ai/v1", "XAI_API_KEY"),
    "albert": _hosted("https://albert.api.etalab.gouv.fr/v1", "ALBERT_API_KEY", kind="albert"),
    # not for endpoints: anybody's container may answer below .endpoints.huggingface.cloud
    "huggingface": _hosted("https://router.huggingface.co/v1", "HUGGINGFACE_API_KEY", "HF_TOKEN",
                           kind="huggingface"),
    "runpod": Provider("runpod", "", ("RUNPOD_API_KEY",), ("api.runpod.ai",)),
    "vllm": Provider("vllm"),
    "tei": Provider("tei"),
    "generic": Provider("generic"),
    "scripted": Provider("scripted"),
}  # fmt: skip
_ALIASES: Final[Mapping[str, str]] = {
    "azure-openai": "azure", "azureopenai": "azure", "custom": "generic", "gemini": "google",
    "hf": "huggingface", "openai-compatible": "generic", "self-hosted": "generic",
}  # fmt: skip

MODEL_KINDS: Final[Mapping[str, str]] = {
    "chat": "text-generation", "completion": "text-generation", "multimodal": "image-text-to-text",
    "embedding": "text-embeddings-inference", "rerank": "text-classification",
    "audio": "automatic-speech-recognition", "image": "text-to-image",
}  # fmt: skip
"""``modelType`` -> one of ``values.MODEL_TYPES``."""


def provider_of(word: str) -> str:
    """Return the name of a provider however it is written; empty for one that is not known."""
    name = word.strip().lower().replace("_", "-").replace(" ", "-")
    name = _ALIASES.get(name, name)
    return name if name in PROVIDERS else ""


def kind_of(model_type: str) -> str:
    """Return the ``modelType`` of one of our types."""
    return next((word for word, ours in MODEL_KINDS.items() if ours == model_type), model_type)
