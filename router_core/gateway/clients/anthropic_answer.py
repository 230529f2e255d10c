"""Read an answer of Anthropic's Messages API as a chat completion."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from router_core.gateway.clients.chat_answer import (
    Said,
    TokenCounts,
    completion,
    thinking_block,
    tokens_in,
)
from router_core.gateway.clients.chat_stream import malformed

__all__ = ["ERROR_STATUSES", "finish_of", "read_message", "refusal_of", "token_counts"]

_FINISHES: Final[Mapping[str, str]] = {
    "end_turn": "stop", "stop_sequence": "stop", "pause_turn": "stop", "max_tokens": "length",
    "model_context_window_exceeded": "length", "tool_use": "tool_calls", "refusal": "content_filter",
}  # fmt: skip


ERROR_STATUSES: Final[Mapping[str, int]] = {
    "invalid_request_error": 400, "authentication_error": 401, "billing_error": 402, "permission_error": 403,
    "not_found_error": 404, "conflict_error": 409, "request_too_large": 413, "rate_limit_error": 429,
    "api_error": 500, "timeout_error": 504, "overloaded_error": 529,
}  # fmt: skip
"""Type of an error -> the status that it comes with where it is no event of a stream."""


def finish_of(stop_reason: Any) -> str:
    """Return the finish reason; a reason that is new to us is a stop."""
    return _FINISHES.get(stop_reason, "stop") if isinstance(stop_reason, str) else "stop"


def refusal_of(holder: Mapping[str, Any]) -> str | None:
    """Return why the model refused, where it says so."""
    details = holder.get("stop_details")
    text = details.get("explanation") if isinstance(details, Mapping) else None
    return text if isinstance(text, str) else None


def token_counts(usage: Any) -> TokenCounts:
    """Return what was used. Anthropic counts what the cache gave and took beside the rest of the input."""
    if not isinstance(usage, Mapping):
        return TokenCounts()
    cached = tokens_in(usage, "cache_read_input_tokens")
    written = tokens_in(usage, "cache_creation_input_tokens")
    details = usage.get("output_tokens_details")
    return TokenCounts(
        input=tokens_in(usage, "input_tokens") + cached + written, output=tokens_in(usage, "output_tokens"),
        cached=cached, cache_written=written,
        reasoning=tokens_in(details, "thinking_tokens") if isinstance(details, Mapping) else 0,
    )  # fmt: skip


def read_message(body: bytes, model: str, created: int, json_tool: str = "") -> bytes:
    """Return the chat completion that a message is. Raises UpstreamFailure for what is no message.

    ``json_tool``: the tool whose arguments are the answer.
    """
    try:
        message = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        raise malformed("the answer is not JSON") from None
    content = message.get("content") if isinstance(message, dict) else None
    if not isinstance(content, list):
        raise malformed("the answer is no message")
    said, finish = Said(), finish_of(message.get("stop_reason"))
    for block in content:
        if isinstance(block, dict) and _read_block(said, block, json_tool):
            finish = "stop"
    finish = said.finish(finish)
    said.refusal = refusal_of(message)
    answer_id, named = message.get("id"), message.get("model")
    usage = token_counts(message.get("usage"))
    answer_id = answer_id if isinstance(answer_id, str) else "msg_unknown"
    return completion(answer_id, named if isinstance(named, str) else model, created, said, finish, usage)


def _read_block(said: Said, block: dict[str, Any], json_tool: str) -> bool:
    """Add a block; blocks of tools that run at the provider are left away. True: it is the wanted JSON."""
    kind = block.get("type")
    if kind == "text" and isinstance(block.get("text"), str):
        said.texts.append(block["text"])
    elif kind == "thinking" and isinstance(block.get("thinking"), str):
        said.reasoning.append(block["thinking"])
        said.thinking_blocks.append(thinking_block(block["thinking"], block.get("signature") or ""))
    elif kind == "redacted_thinking":
        said.thinking_blocks.append({"type": kind, "data": block.get("data") or ""})
    elif kind == "tool_use" and isinstance(block.get("input"), dict):
        if json_tool and block.get("name") == json_tool:
            said.texts = [msgspec.json.encode(block["input"]).decode()]
            return True
        said.call(str(block.get("id")), str(block.get("name")), block["input"])
    return False
