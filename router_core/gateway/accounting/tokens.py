"""Estimate tokens where nobody has counted them: before a call is made, and after one that broke off.

Cheap rather than right: the size of the text in bytes of UTF-8 divided by 3.7. Pictures and sound stand in
bodies as base64, which is not text: each is taken for a fixed number of tokens, or for its length in time.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from router_core.gateway.call import Call, Usage

__all__ = [
    "IMAGE_TOKENS",
    "estimate_answer",
    "estimate_cut",
    "estimate_input",
    "estimate_output",
    "tokens_in",
]

IMAGE_TOKENS: Final = 1000
"""Of one picture: between what the providers count for a small one (85) and for a large one (1,600)."""
OUTPUT_TOKENS: Final = 1024
"""Of an answer to a call that does not limit it."""
_BYTES_PER_TOKEN: Final = 3.7
_BINARY_PER_TOKEN: Final = 3000
"""Bytes of base64 (sound, documents) per token: about a tenth of a second of speech as MP3."""
_UPLOAD_PER_TOKEN: Final = 2000
"""The same before base64 and in an upload's usual compression."""
_MAX_MEDIA: Final = 4096
"""Times that ``data`` is looked at in one body; pictures that come after these count as text."""
_SMALL: Final = 4096
"""In a text that is shorter only pictures are looked for: other media have no room in it to matter."""
_SAVED: Final = 3
"""Bytes by which ``\\uXXXX`` is longer than most characters that are written so."""
_WINDOW: Final = 256
"""Bytes that tell how much of a text is escaped."""
_ENVELOPE: Final = 300
"""Bytes of an answer that are not its text."""


def tokens_in(size: int) -> int:
    """Return the estimate for a text of so many bytes of UTF-8; at least 1 where there is any."""
    return int(size / _BYTES_PER_TOKEN) + 1 if size > 0 else 0


def estimate_input(call: Call) -> int:
    """Write down (and return) how many tokens a call sends, going by its size; never raises."""
    fields = call.fields
    total = len(call.body) // _UPLOAD_PER_TOKEN if fields is None else _tokens_of(call.endpoint, fields)
    call.input_tokens = total
    return total


def _tokens_of(endpoint: str, fields: Mapping[str, Any]) -> int:
    total = 0
    for name in _TEXTS.get(endpoint, _ANY):
        raw = fields.get(name)
        if raw is None or len(raw) < _LEAST:
            continue
        text = bytes(raw)
        if text[1] in _DIGIT_OR_LIST and text[0] == _LIST and text[1:4].strip(b" [")[:1].isdigit():
            total += text.count(b",") + 1  # token ids, counted by whoever made them
            continue
        size = len(text)
        # parts, of which some may be no text, and escapes; most prompts hold neither a bracket nor those
        if text.find(b"[", 1) >= 0 or b"\\" in text:
            size, more = _measured(text)
            total += more
        total += int(size / _BYTES_PER_TOKEN) + 1
    return total


def _measured(text: bytes) -> tuple[int, int]:
    """Return the size of what is text in it, and the tokens of what is not."""
    more = 0
    if text.find(b"[", 1) >= 0:
        text, more = _without_media(text)
    size = len(text)
    first = text.find(b"\\")
    if first >= 0:
        size -= _escaped(text, first)
    return size, more


_ANY: Final = ("messages", "prompt", "input", "tools")
_LEAST: Final = 3
"""``""`` and ``[]`` are nothing."""
_LIST: Final = ord("[")
_DIGIT_OR_LIST: Final = frozenset(b"0123456789[ ")
_TEXTS: Final[Mapping[str, tuple[str, ...]]] = {
    "chat/completions": ("messages", "tools"),
    "completions": ("prompt",),
    "embeddings": ("input",),
    "rerank": ("query", "documents"),
    "images/generations": ("prompt",),
    "responses": ("input", "instructions", "tools"),
}
"""Endpoint -> the fields whose text the model reads."""


def _escaped(text: bytes, first: int) -> int:
    """Return by how much ``\\uXXXX`` makes a text longer than it is, judged by a piece of it."""
    escapes = text.count(b"\\u", first, first + _WINDOW)
    if not escapes:
        return 0
    narrow = text.count(b"\\u0", first, first + _WINDOW)  # two bytes of UTF-8: Greek, Cyrillic, Arabic
    rest = len(text) - first
    return int((escapes * _SAVED + narrow) * rest / min(_WINDOW, rest))


def _without_media(text: bytes) -> tuple[bytes, int]:
    """Return the text without its pictures and recordings, and the tokens of these."""
    pieces: list[bytes] = []
    inlined = tokens = done = 0
    position = text.find(b"data") if len(text) > _SMALL else -1
    for _ in range(_MAX_MEDIA):
        if position < 0:
            break
        start, end = _binary_at(text, position)
        if end > start:
            pieces.append(text[done:start])
            if text.startswith(b"data:image", start):
                inlined += 1
            else:
                tokens += (end - start) // _BINARY_PER_TOKEN
            done = end
        position = text.find(b"data", max(end, position + 4))
    if done:
        pieces.append(text[done:])
        text = b"".join(pieces)
    # a part of a chat says image_url twice, one of responses once, and input_image
    named = text.count(b'"image_url"')
    if named:
        typed = text.count(b'"input_image"')
        inlined = max(inlined, typed + (named - typed) // 2)
    return text, tokens + inlined * IMAGE_TOKENS


def _binary_at(text: bytes, position: int) -> tuple[int, int]:
    """Return where the base64 begins and ends that ``data`` at a position introduces; (0, 0): it does not.

    Either a data URL is a whole string, or it is the value of a member named ``data`` or ``file_data``.
    """
    if text[position - 1 : position] == b'"' and text[position - 2 : position - 1] != b"\\":
        if text[position + 4 : position + 5] == b":":
            return position, _end_of(text, position)
    if text[position + 4 : position + 5] != b'"':
        return 0, 0
    start = text.find(b'"', position + 5, position + 12) + 1
    if not start or text[position + 5 : start - 1].strip() != b":":
        return 0, 0
    end = _end_of(text, start)
    return (start, end) if end - start > _SHORT and b" " not in text[start : start + _SHORT] else (0, 0)


_SHORT: Final = 256
"""A value of ``data`` that is shorter, or has a space so early, is text."""


def _end_of(text: bytes, start: int) -> int:
    end = text.find(b'"', start)
    return len(text) if end < 0 else end


def estimate_output(call: Call) -> int:
    """Return how many tokens an answer may have, with all its choices: what the caller allows, else usual."""
    if call.endpoint in _SILENT:
        return 0
    return (OUTPUT_TOKENS if call.max_tokens is None else call.max_tokens) * call.choices


_SILENT: Final = frozenset({"embeddings", "rerank"})
"""Endpoints whose answers are not made of tokens."""


def estimate_cut(call: Call, text_bytes: int) -> Usage:
    """Return the usage of a stream that ended before it told: what was sent, and the text that came back."""
    return Usage(call.input_tokens or estimate_input(call), tokens_in(text_bytes), estimated=True)


def estimate_answer(call: Call, body: bytes) -> Usage:
    """Return the usage of a whole answer that says nothing about it."""
    output = 0 if call.endpoint in _SILENT else tokens_in(len(body) - _ENVELOPE)
    return Usage(call.input_tokens or estimate_input(call), output, estimated=True)
