"""What each client type takes in ``args``, beside the address, the key and the timeout."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

__all__ = ["ARGUMENTS"]

_HTTP: Final = frozenset({"ca_file", "paths", "stream_usage"})
_RERANK: Final = _HTTP | {"rerank_form"}
_TRAITS: Final = frozenset({"adaptive", "budget", "effort", "one_sampler", "sampling", "schema"})
"""What a model of Anthropic takes, where its name does not tell."""
_ANTHROPIC: Final = _TRAITS | {"beta", "max_tokens", "pass_fields", "version"}
_BEDROCK: Final = frozenset(
    {"access_key_id", "ca_file", "credentials", "family", "guardrail", "max_tokens", "region",
     "request_fields", "secret_access_key", "session_token"}
)  # fmt: skip
_RUNPOD: Final = frozenset(
    {"endpoint_id", "execution_timeout", "input", "mode", "poll", "poll_max", "sync", "ttl"}
)

ARGUMENTS: Final[Mapping[str, frozenset[str] | None]] = {
    "openai": _HTTP | {"organization", "project"},
    "azure": _HTTP | {"api_version", "auth"},
    "anthropic": _HTTP | _ANTHROPIC,
    "vllm": _RERANK,
    "tei": _RERANK,
    "albert": _RERANK,
    "huggingface": _RERANK | {"scale_up_timeout"},
    "runpod": _HTTP | _RUNPOD,
    "bedrock": _TRAITS | _BEDROCK,
    "craftai": _HTTP | {"input_field", "output_field"},
    "generic": _RERANK,
    "mistral": _RERANK,
    "scripted": None,
}
"""None: the client names what it does not know by itself."""
