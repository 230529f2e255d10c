"""Read out of a whole answer what it used, without decoding the answer.

What upstreams write there is not to be trusted: a count that cannot be one is treated as if it were not
there, and an answer that counts nothing has no usage (so it is estimated, never booked as 0).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from router_core.gateway.call import Usage

__all__ = ["MAX_SECONDS", "MAX_TOKENS", "usage_of"]

MAX_TOKENS: Final = 100_000_000
"""More tokens than this in one answer are not believed."""
MAX_SECONDS: Final = 7 * 24 * 3600
_MISSING: Final = -1


class _Details(msgspec.Struct, gc=False):
    cached_tokens: int = 0
    reasoning_tokens: int = 0


class _Counts(msgspec.Struct, gc=False):
    """``usage`` in all the shapes of OpenAI: by the names of chat, or by those of responses."""

    prompt_tokens: int = _MISSING
    completion_tokens: int = _MISSING
    total_tokens: int = _MISSING
    prompt_tokens_details: _Details | None = None
    completion_tokens_details: _Details | None = None
    input_tokens: int = _MISSING
    output_tokens: int = _MISSING
    input_tokens_details: _Details | None = None
    output_tokens_details: _Details | None = None
    prompt_cache_hit_tokens: int = 0
    """DeepSeek's word for what it read from its cache."""


class _Answer(msgspec.Struct, gc=False):
    usage: _Counts | None = None


class _Loose(msgspec.Struct):
    """An answer as nobody specified it."""

    usage: Any = None
    meta: Any = None
    """Rerank in the shape of Cohere."""
    duration: Any = None
    """Transcription, ``verbose_json``: seconds of audio."""


_decode: Final = msgspec.json.Decoder(_Answer).decode
_decode_loosely: Final = msgspec.json.Decoder(_Loose).decode
_WRONG: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


def usage_of(endpoint: str, body: bytes) -> Usage | None:
    """Return what an answer of an endpoint says that it used; None where it says nothing believable.

    Never raises, whatever the body is.
    """
    special = _SPECIAL.get(endpoint)
    if special is not None:
        return special(body)
    try:
        counts = _from_the_end(body) or _decode(body).usage
    except _WRONG:
        loose = _read_loosely(body)
        return None if loose is None else _judge_loosely(loose.usage)
    return None if counts is None else _judge(counts)


def _from_the_end(body: bytes) -> _Counts | None:
    """Return the counts where they stand behind everything that is long, which need not be read then; None
    where all of it has to be.

    What follows the last name ``usage`` is an object, once a brace is put before it, only if that name was
    one of the outermost object: else there would be a bracket too many.
    """
    at = body.rfind(b'"usage"')
    if at < 1 or body[at - 1] not in _BEFORE_A_NAME:
        return None
    try:
        return _decode(b"{" + body[at:]).usage
    except _WRONG:
        return None


_BEFORE_A_NAME: Final = frozenset(b",{ \t\r\n")
"""A backslash would make the name the end of another one."""


def _judge(counts: _Counts) -> Usage | None:
    given, made = counts.prompt_tokens, counts.completion_tokens
    total = counts.total_tokens
    if (
        total == given + made and 0 <= given < MAX_TOKENS and 0 <= made < MAX_TOKENS and total
        and counts.prompt_tokens_details is None and counts.completion_tokens_details is None
        and not counts.prompt_cache_hit_tokens
    ):  # fmt: skip
        return Usage(given, made)
    details, more = counts.prompt_tokens_details, counts.completion_tokens_details
    if given < 0 and made < 0:
        given, made = counts.input_tokens, counts.output_tokens
        details, more = counts.input_tokens_details, counts.output_tokens_details
    cached = counts.prompt_cache_hit_tokens if details is None else details.cached_tokens
    reasoning = 0 if more is None else more.reasoning_tokens
    plain = 0 <= cached <= given < MAX_TOKENS and 0 <= reasoning <= made < MAX_TOKENS
    if plain and total == given + made > 0:
        return Usage(given, made, cached, reasoning)
    return _mend(given, made, total, cached, reasoning)


def _mend(given: int, made: int, total: int, cached: int, reasoning: int) -> Usage | None:
    """Make the best of counts that do not fit together."""
    given, made, total, cached, reasoning = map(_believed, (given, made, total, cached, reasoning))
    if given < 0 and made < 0:
        # only their sum is there: all of it was read (embeddings, rerank), or we cannot know how much was
        return Usage(total, 0, estimated=True) if total > 0 else None
    if given < 0:
        given = max(0, total - made)
    if made < 0:
        made = max(0, total - given)
    elif total > given + made:
        # some do not count what the model thought as output, only into the total; it is billed as output
        made = total - given
    if given + made == 0 or given + made > MAX_TOKENS:
        return None
    return Usage(given, made, min(max(cached, 0), given), min(max(reasoning, 0), made))


def _believed(count: int) -> int:
    return count if 0 <= count <= MAX_TOKENS else _MISSING


# -- whatever is not written as it should be -------------------------------------------------------------


def _read_loosely(body: bytes) -> _Loose | None:
    try:
        return _decode_loosely(body)
    except _WRONG:
        return None


def _judge_loosely(usage: Any) -> Usage | None:
    if not isinstance(usage, dict):
        return None
    counts = _Counts()
    for name in _COUNTS:
        setattr(counts, name, _whole(usage.get(name), getattr(counts, name)))
    for name in _DETAILS:
        details = usage.get(name)
        if isinstance(details, dict):
            known = (_whole(details.get(each), 0) for each in ("cached_tokens", "reasoning_tokens"))
            setattr(counts, name, _Details(*known))
    return _judge(counts)


_DETAILS: Final = tuple(name for name in _Counts.__struct_fields__ if name.endswith("_details"))
_COUNTS: Final = tuple(name for name in _Counts.__struct_fields__ if name not in _DETAILS)


def _whole(value: Any, default: int) -> int:
    """Return a count; a fraction of a token or second is paid for as a whole one."""
    if isinstance(value, float) and math.isfinite(value):
        return math.ceil(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else default


def _rerank(body: bytes) -> Usage | None:
    loose = _read_loosely(body)
    if loose is None:
        return None
    usage = _judge_loosely(loose.usage)
    if usage is None and isinstance(loose.meta, dict):
        usage = _judge_loosely(loose.meta.get("tokens")) or _judge_loosely(loose.meta.get("billed_units"))
    return usage


def _transcription(body: bytes) -> Usage | None:
    loose = _read_loosely(body)
    if loose is None:  # plain text, subtitles
        return None
    usage = loose.usage
    if not isinstance(usage, dict) or usage.get("type") != "duration":
        counted = _judge_loosely(usage)
        if counted is not None:
            return counted
        usage = {"seconds": loose.duration}
    seconds = _whole(usage.get("seconds"), 0)
    return Usage(seconds=seconds) if 0 < seconds <= MAX_SECONDS else None


_SPECIAL: Final[Mapping[str, Callable[[bytes], Usage | None]]] = {
    "rerank": _rerank,
    "audio/transcriptions": _transcription,
}
