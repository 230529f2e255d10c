"""Words of other gateways' configurations, and what to write here instead."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

__all__ = ["instead", "reference"]

_ANOTHER: Final = "is a word of LiteLLM's; the end of docs/gateway-configuration.md says what to write here"
_MINUTES: Final = "; a model takes limits: {rateLimits: {requestsPerMinute: ..., tokensPerMinute: ...}}"
_INSTEAD: Final[Mapping[str, str]] = {
    "model_list": f"; it {_ANOTHER}",
    "litellm_params": f"; it {_ANOTHER}",
    "litellm_settings": f"; it {_ANOTHER}",
    "router_settings": f"; it {_ANOTHER}",
    "general_settings": f"; it {_ANOTHER}",
    "model_info": f"; it {_ANOTHER}",
    "api_base": "; write base_url",
    "endpoint_url": "; write base_url",
    "order": "; write priority",
    "rpm": _MINUTES,
    "tpm": _MINUTES,
    "num_retries": "; write retry: {max_attempts: ...}, which counts the first try too",
    "cooldown_time": "; write breaker: {open_for: ...}",
    "allowed_fails": "; write breaker: {in_a_row: ...}",
    "stream_timeout": "; write timeouts: {first_byte: ..., idle: ...}",
    "max_tokens": "; callers say it, and max_context_length is the length of the context",
}
_REFERENCE: Final = re.compile(r"(?:os\.environ/|\$)([A-Za-z_][A-Za-z0-9_]*)\Z")


def instead(key: str) -> str:
    """Return what to write instead of a key, as the end of a sentence; empty for one of nobody we know."""
    return _INSTEAD.get(key, "")


def reference(text: str) -> str:
    """Return the variable that a text means, written as others write it; empty where it means none."""
    found = _REFERENCE.match(text)
    return "" if found is None else found[1]
