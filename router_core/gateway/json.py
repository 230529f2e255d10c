"""Read the JSON body of a call no further than routing needs, and leave every value as it came.

What is judged here is what is sent: the names and values that ``read_fields`` returns are what clients build
the body for the upstream of, so a name given twice means the same to us and to it (the last one counts).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from router_core.errors import BadRequest

__all__ = [
    "MAX_DEPTH", "MAX_NAME", "Fields", "count_of", "invalid", "max_tokens_of", "model_of", "needs_of",
    "prompts_of", "read_fields", "stream_of", "text_of", "wants_usage_of",
]  # fmt: skip

Fields = dict[str, msgspec.Raw]
"""Name -> the bytes of its value."""

MAX_DEPTH: Final = 64
"""Levels that a body may be nested."""
MAX_NAME: Final = 256
"""Characters of the name of a model."""
_MAX_FIELDS: Final = 200
_MAX_CONTAINERS: Final = 100_000
"""Arrays and objects in a body: counting through millions of them would hold up every other call."""
_MAX_TOKENS: Final = 2**31 - 1
_MAX_COUNT: Final = 128
_TOKEN_FIELDS: Final = ("max_completion_tokens", "max_tokens", "max_output_tokens")

_JUDGED: Final = frozenset({
    "best_of", "functions", "input", "max_completion_tokens", "max_output_tokens", "max_tokens", "messages",
    "model", "n", "prompt", "response_format", "stream", "stream_options", "text", "tools", "user",
})  # fmt: skip
"""Fields that decide about a call here."""
_NOT_MARKS: Final = bytes(byte for byte in range(256) if byte not in b'"[]{}')
_ONE_KIND: Final = bytes.maketrans(b"{}", b"[]")
_NULL: Final = b"null"
_NONE: Final[frozenset[str]] = frozenset()
_VISION: Final = frozenset({"vision"})
_TELLING: Final = frozenset({"tools", "functions", "response_format", "text", "input"})
"""Fields that say what a model has to be capable of, beside the messages themselves."""


class _Format(msgspec.Struct):
    type: Any = None
    format: Any = None


class _Part(msgspec.Struct):
    """A part of a message; an image itself, which may have megabytes, is skipped."""

    type: Any = None


class _Turn(msgspec.Struct):
    """A message of a chat, or an item of the input of ``responses``."""

    content: msgspec.Raw = msgspec.Raw(b"null")
    type: Any = None


_decode_fields: Final = msgspec.json.Decoder(Fields).decode
_decode_list: Final = msgspec.json.Decoder(list[msgspec.Raw]).decode
_decode_text: Final = msgspec.json.Decoder(str).decode
_decode_bool: Final = msgspec.json.Decoder(bool).decode
_decode_whole: Final = msgspec.json.Decoder(int).decode
_decode_format: Final = msgspec.json.Decoder(_Format).decode
_decode_parts: Final = msgspec.json.Decoder(list[_Part]).decode
_decode_turns: Final = msgspec.json.Decoder(list[_Turn]).decode


def invalid(message: str, param: str | None = None, code: str = "invalid_value") -> BadRequest:
    """Return the error of one wrong parameter; ``extra["param"]`` names it."""
    return BadRequest(message, code=code, extra={"param": param} if param else None)


def read_fields(body: bytes) -> Fields:
    """Return the members of the JSON object. Raises BadRequest for anything else, saying what it is."""
    try:
        fields = _decode_fields(body)
    except msgspec.ValidationError:
        raise invalid("the body has to be a JSON object", code="invalid_json") from None
    except msgspec.DecodeError as error:
        reason = str(error) if body.strip() else "it is empty"
        raise invalid(f"the body is not valid JSON: {reason}", code="invalid_json") from None
    except UnicodeDecodeError:
        raise invalid("the body is not valid JSON: it is not UTF-8", code="invalid_json") from None
    except RecursionError:
        raise _too_deep() from None
    if not body.isascii():
        _check_text(body)  # values that are passed on as they came were not decoded
    if _opens_many(body):
        _check_nesting(body)
    if len(fields) > _MAX_FIELDS:
        raise invalid(f"the body has more than {_MAX_FIELDS} fields", code="invalid_json")
    names = "".join(fields)
    if not (names.isascii() and names.islower()):
        _check_names(fields)
    return fields


def model_of(fields: Mapping[str, msgspec.Raw]) -> str:
    """Return the name of the model that is asked for."""
    raw = fields.get("model")
    if raw is None:
        raise invalid("you must provide a model parameter", "model", "missing_model")
    try:
        name = _decode_text(raw)
    except msgspec.MsgspecError:
        raise invalid("model has to be a string", "model") from None
    if not name or len(name) > MAX_NAME or not name.isprintable():
        raise invalid(f"model has to have 1 to {MAX_NAME} printable characters", "model")
    return name


def stream_of(fields: Mapping[str, msgspec.Raw]) -> bool:
    """Return whether the answer is asked for as a stream."""
    raw = fields.get("stream")
    return False if raw is None else _flag(raw, "stream")


def wants_usage_of(fields: Mapping[str, msgspec.Raw]) -> bool:
    """Return whether a stream is asked to end with its usage (``stream_options.include_usage``)."""
    raw = fields.get("stream_options")
    if raw is None or bytes(raw) == _NULL:
        return False
    try:
        options = _decode_fields(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        raise invalid("stream_options has to be an object", "stream_options") from None
    wanted = options.get("include_usage")
    return False if wanted is None else _flag(wanted, "stream_options.include_usage")


def max_tokens_of(fields: Mapping[str, msgspec.Raw]) -> int | None:
    """Return how many tokens the answer may have; None where the caller does not say.

    Of several that are said the largest: which of them an upstream goes by is its own affair.
    """
    most: int | None = None
    for name in _TOKEN_FIELDS:
        raw = fields.get(name)
        if raw is not None and (value := _whole(raw, name, _MAX_TOKENS)) is not None:
            most = value if most is None else max(most, value)
    return most


def count_of(fields: Mapping[str, msgspec.Raw]) -> int:
    """Return how many answers are asked for (``n``, ``best_of``): how often the output is paid for."""
    most = 1
    for name in ("n", "best_of"):
        raw = fields.get(name)
        value = None if raw is None else _whole(raw, name, _MAX_COUNT)
        if value == 0:
            raise invalid(f"{name} has to be at least 1", name)
        most = max(most, value or 1)
    return most


def prompts_of(fields: Mapping[str, msgspec.Raw]) -> int:
    """Return how many prompts stand in one body of ``completions``: each of them is answered, and paid for.

    A list of numbers is one prompt, whose tokens its caller has counted.
    """
    raw = fields.get("prompt")
    text = b"" if raw is None else bytes(raw)
    if text[:1] != b"[" or text[1:].lstrip()[:1] not in (b'"', b"["):
        return 1
    try:
        return len(_decode_list(text))
    except msgspec.MsgspecError:
        return 1  # no upstream can read it


def text_of(fields: Mapping[str, msgspec.Raw], name: str, most: int = MAX_NAME) -> str:
    """Return a text field such as ``user``, cut at ``most`` characters; empty where it is not there."""
    raw = fields.get(name)
    if raw is None or bytes(raw) == _NULL:
        return ""
    try:
        return _decode_text(raw)[:most]
    except msgspec.MsgspecError:
        raise invalid(f"{name} has to be a string", name) from None


def needs_of(fields: Mapping[str, msgspec.Raw]) -> frozenset[str]:
    """Return what the model has to be capable of: ``tools``, ``json``, ``vision``.

    A wrong value is left for the upstream to refuse: it knows better than we do what it takes.
    """
    needs: list[str] = []
    if _TELLING.isdisjoint(fields):
        turns = fields.get("messages")
        return _VISION if turns is not None and _has_images(bytes(turns)) else _NONE
    if _is_filled(fields.get("tools")) or _is_filled(fields.get("functions")):
        needs.append("tools")
    if _wants_json(fields.get("response_format")) or _wants_json(fields.get("text")):
        needs.append("json")
    turns = fields.get("messages") or fields.get("input")
    if turns is not None and _has_images(bytes(turns)):
        needs.append("vision")
    return frozenset(needs) if needs else _NONE


def _flag(raw: msgspec.Raw, name: str) -> bool:
    try:
        return _decode_bool(raw)
    except msgspec.MsgspecError:
        if bytes(raw) == _NULL:
            return False
        raise invalid(f"{name} has to be true or false", name) from None


def _whole(raw: msgspec.Raw, name: str, most: int) -> int | None:
    try:
        value = _decode_whole(raw)
    except msgspec.MsgspecError:
        if bytes(raw) == _NULL:
            return None
        raise invalid(f"{name} has to be a whole number", name) from None
    if not 0 <= value <= most:
        raise invalid(f"{name} has to be between 0 and {most}", name)
    return value


def _is_filled(raw: msgspec.Raw | None) -> bool:
    return raw is not None and bytes(raw) not in (_NULL, b"[]")


def _wants_json(raw: msgspec.Raw | None) -> bool:
    """Judge ``response_format`` ({"type": ...}) or ``text`` of responses ({"format": {"type": ...}})."""
    if raw is None or b"json" not in bytes(raw):
        return False
    try:
        form = _decode_format(raw)
    except (msgspec.MsgspecError, RecursionError):
        return False
    kind = form.format.get("type") if isinstance(form.format, dict) else form.type
    return kind in ("json_object", "json_schema", "json")


def _has_images(turns: bytes) -> bool:
    # parts stand in a list inside the list, and few prompts hold another bracket: most stop here
    if turns.find(b"[", 1) < 0 or (b'"image_url"' not in turns and b'"input_image"' not in turns):
        return False
    try:
        return any(_shows_image(turn) for turn in _decode_turns(turns))
    except (msgspec.MsgspecError, RecursionError):
        return False


def _shows_image(turn: _Turn) -> bool:
    try:
        parts = _decode_parts(turn.content)
    except msgspec.ValidationError:
        return _is_image(turn.type)
    return any(_is_image(part.type) for part in parts)


def _is_image(kind: Any) -> bool:
    return kind in ("image_url", "input_image")


def _check_names(fields: Mapping[str, msgspec.Raw]) -> None:
    """Refuse ``Model`` and the like: some upstreams read names without regard to case, and would go by what
    was not judged here."""
    for name in fields:
        if name not in _JUDGED and name.casefold() in _JUDGED:
            meant = name.casefold()
            raise invalid(f"write {meant} in small letters", meant, "invalid_json")


def _check_text(body: bytes) -> None:
    try:
        body.decode()
    except UnicodeDecodeError as error:
        reason = f"it is not UTF-8 (byte {error.start})"
        raise invalid(f"the body is not valid JSON: {reason}", code="invalid_json") from None


def _opens_many(body: bytes) -> bool:
    """Return whether there are so many brackets that it may be too deep; to look for the few that most bodies
    have takes a fifth of the time that counting takes."""
    found = 0
    for opener in (b"{", b"["):
        at = body.find(opener)
        while at >= 0:
            found += 1
            if found > MAX_DEPTH:
                return True
            at = body.find(opener, at + 1)
    return False


def _check_nesting(body: bytes) -> None:
    """Refuse valid JSON that is too deep, or that has too much to count through."""
    if b"\\" in body:
        body = body.replace(b"\\\\", b"").replace(b'\\"', b"")
    # What is left of a text without brackets is two quotes. Where it is the end of one text and the beginning
    # of the next that go, those two have become one, and hide what they hold as well as before.
    marks = body.translate(_ONE_KIND, _NOT_MARKS).replace(b'""', b"")
    too_many = marks.count(b'"') > 4 * _MAX_CONTAINERS
    brackets = b"" if too_many else b"".join(marks.split(b'"')[::2])
    if too_many or len(brackets) > 2 * _MAX_CONTAINERS:
        raise invalid(f"the body has more than {_MAX_CONTAINERS} arrays and objects", code="invalid_json")
    for _ in range(MAX_DEPTH):
        brackets = brackets.replace(b"[]", b"")  # peels off the innermost level
        if not brackets:
            return
    raise _too_deep()


def _too_deep() -> BadRequest:
    return invalid(f"the JSON body is nested more than {MAX_DEPTH} levels deep", code="json_too_deep")
