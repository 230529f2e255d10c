"""What each client type takes in ``args``, beside the address, the key and the timeout."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

__all__ = ["ARGUMENTS"]

_HTTP: Final = frozenset({"ca_file", "paths", "stream_usage"})
_RERANK: Final = _HTTP | {"rerank_form"}

ARGUMENTS: Final[Mapping[str, frozenset[str] | None]] = {
    "openai": _HTTP | {"organization", "project"},
    "azure": _HTTP | {"api_version", "auth"},
    "anthropic": _HTTP,
    "vllm": _RERANK,
    "tei": _RERANK,
    "albert": _RERANK,
    "huggingface": _RERANK | {"scale_up_timeout"},
    "runpod": _HTTP,
    "bedrock": _HTTP,
    "craftai": _HTTP,
    "generic": _RERANK,
    "mistral": _RERANK,
    "scripted": None,
}
"""None: the client names what it does not know by itself."""
