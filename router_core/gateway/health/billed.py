"""The smallest call that each kind of model answers: a probe that costs a little."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from router_core.gateway.call import Call
from router_core.gateway.values import Deployment, Model
from router_core.types import Principal

__all__ = ["PROBER", "billed_call"]

PROBER: Final = Principal("gateway-probe", frozenset(), "internal")
"""Whom billed probes are booked on."""
_WORD: Final = "ping"
_TOKENS: Final = 16
_REASONING_TOKENS: Final = 128
"""OpenAI's newer models refuse ``max_tokens``, and answer 400 where they cannot think their first thought
within the limit; what they do not use is not billed."""
_NEWER: Final = frozenset({"openai", "azure"})


def billed_call(model: Model, deployment: Deployment, started: float) -> Call | None:
    """Return a call of a few tokens; None for types of model that have no small one (sound, pictures)."""
    build = _SMALLEST.get(model.type)
    if build is None:
        return None
    endpoint, body = build
    fields = {"model": model.id, **body}
    if endpoint == "chat/completions":
        if deployment.type in _NEWER:
            fields["max_completion_tokens"] = _REASONING_TOKENS
        else:
            fields["max_tokens"] = _TOKENS
    raw = msgspec.json.encode(fields)
    call = Call(
        endpoint, model.id, body=raw, fields=msgspec.json.decode(raw, type=dict[str, msgspec.Raw]),
        request_id="probe", principal=PROBER, started=started,
    )  # fmt: skip
    call.max_tokens = fields.get("max_completion_tokens") or fields.get("max_tokens")
    return call


_CHAT: Final = ("chat/completions", {"messages": [{"role": "user", "content": _WORD}]})
_SMALLEST: Final[Mapping[str, tuple[str, dict[str, Any]]]] = {
    "text-generation": _CHAT,
    "image-text-to-text": _CHAT,
    "text-embeddings-inference": ("embeddings", {"input": _WORD}),
    "text-classification": ("rerank", {"query": _WORD, "documents": [_WORD]}),
}
