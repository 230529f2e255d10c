"""What a stream says that it used."""

from __future__ import annotations

from typing import Any, Final

from router_core.gateway.call import Usage

__all__ = ["merged", "usage_in"]

_MOST: Final = 100_000_000
"""More tokens than this in one answer are not believed."""


def usage_in(document: dict[str, Any]) -> Usage | None:
    """Return the usage that an event carries, in the words of chat, of responses or of messages."""
    for holder in (document, document.get("response"), document.get("message"), document.get("x_groq")):
        usage = holder.get("usage") if isinstance(holder, dict) else None
        if isinstance(usage, dict):
            found = _read(usage)
            if found is not None:
                return found
    return None


def merged(before: Usage | None, after: Usage) -> Usage:
    """Put two of one stream together. Counts of a stream only grow, and some events tell but a part."""
    if before is None:
        return after
    return Usage(
        max(before.input_tokens, after.input_tokens),
        max(before.output_tokens, after.output_tokens),
        max(before.cached_tokens, after.cached_tokens),
        max(before.reasoning_tokens, after.reasoning_tokens),
    )


def _read(usage: dict[str, Any]) -> Usage | None:
    given = _count(usage, "prompt_tokens", "input_tokens")
    made = _count(usage, "completion_tokens", "output_tokens")
    if given + made <= 0 or given + made > _MOST:
        return None
    total = _count(usage, "total_tokens")
    if total > given + made and given:
        made = total - given  # what the model thought is in the total alone with some, and billed as output
    cached = _detail(usage, "cached_tokens", "prompt_tokens_details", "input_tokens_details")
    cached = cached or _count(usage, "prompt_cache_hit_tokens", "cache_read_input_tokens")
    thought = _detail(usage, "reasoning_tokens", "completion_tokens_details", "output_tokens_details")
    return Usage(given, made, min(cached, given), min(thought, made))


def _count(holder: dict[str, Any], *names: str) -> int:
    for name in names:
        value = holder.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and 0 < value <= _MOST:
            return value
    return 0


def _detail(usage: dict[str, Any], name: str, *holders: str) -> int:
    for each in holders:
        details = usage.get(each)
        if isinstance(details, dict):
            return _count(details, name)
    return 0
