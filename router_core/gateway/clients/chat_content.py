"""Read the messages of a chat into turns. What cannot be carried over is refused by the name of its place."""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Callable, Mapping
from typing import Any, Final, Literal

import msgspec

from router_core.gateway.clients.chat_parts import (
    Cache,
    Document,
    Image,
    Part,
    Text,
    Thinking,
    ToolResult,
    ToolUse,
    Turn,
)
from router_core.gateway.json import invalid

__all__ = ["decode_text", "read_messages", "tool_id"]

_MAX_MESSAGES: Final = 100_000
_IMAGES: Final = frozenset({"image/jpeg", "image/png", "image/gif", "image/webp"})
_ID: Final = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-")
_MAX_ID: Final = 64

Content = Text | Image | Document
Side = Literal["user", "assistant"]


def tool_id(given: str) -> str:
    """Return the id of a tool call in letters that every upstream takes; equal ids stay equal."""
    if len(given) <= _MAX_ID and _ID.issuperset(given):
        return given
    return "call_" + hashlib.sha256(given.encode("utf-8", "replace")).hexdigest()[:32]


def read_messages(messages: Any) -> tuple[tuple[Text, ...], tuple[Turn, ...]]:
    """Return the system's texts and the turns. Raises BadRequest."""
    if not isinstance(messages, list) or not messages:
        raise invalid("messages has to be a list of at least one message", "messages")
    if len(messages) > _MAX_MESSAGES:
        raise invalid(f"messages holds more than {_MAX_MESSAGES}", "messages")
    system: list[Text] = []
    turns: list[tuple[Side, list[Part]]] = []
    for index, message in enumerate(messages):
        where = f"messages[{index}]"
        if not isinstance(message, Mapping):
            raise invalid(f"{where} has to be an object", where)
        role = message.get("role")
        if role in ("system", "developer"):
            system += _texts(message.get("content"), f"{where}.content")
            continue
        read = _ROLES.get(role) if isinstance(role, str) else None
        if read is None:
            raise invalid(f"{where}.role has to be system, user, assistant or tool", f"{where}.role")
        side: Side = "assistant" if role == "assistant" else "user"
        _add(turns, side, read(message, where))
    if not turns:
        raise invalid("messages has to hold a message of the user that says something", "messages")
    return tuple(system), tuple(Turn(side, tuple(parts)) for side, parts in turns)


def _add(turns: list[tuple[Side, list[Part]]], side: Side, parts: list[Part]) -> None:
    if not parts:
        return
    if turns and turns[-1][0] == side:
        turns[-1][1].extend(parts)
    else:
        turns.append((side, parts))


# -- roles -------------------------------------------------------------------------------------------


def _user(message: Mapping[str, Any], where: str) -> list[Part]:
    return list(_content(message.get("content"), f"{where}.content"))


def _assistant(message: Mapping[str, Any], where: str) -> list[Part]:
    parts: list[Part] = _thoughts(message.get("thinking_blocks"), f"{where}.thinking_blocks")
    content = message.get("content")
    if content is not None:
        parts += _texts(content, f"{where}.content")
    if isinstance(message.get("refusal"), str) and _says(message["refusal"]):
        parts.append(Text(message["refusal"]))
    if message.get("function_call") is not None:
        raise invalid(f"{where}.function_call: use tool_calls", f"{where}.function_call")
    calls = message.get("tool_calls")
    if calls is None:
        return parts
    if not isinstance(calls, list):
        raise invalid(f"{where}.tool_calls has to be a list", f"{where}.tool_calls")
    return parts + [_call(call, f"{where}.tool_calls[{at}]") for at, call in enumerate(calls)]


def _call(call: Any, where: str) -> ToolUse:
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or call.get("type", "function") != "function":
        raise invalid(f"{where} has to be a call of a function", where)
    name, text = _text(function.get("name"), f"{where}.function.name"), function.get("arguments")
    if not isinstance(text, str):
        raise invalid(f"{where}.function.arguments has to be a string", f"{where}.function.arguments")
    try:
        arguments = msgspec.json.decode(text) if text.strip() else {}
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        arguments = None
    if not isinstance(arguments, dict):
        raise invalid(f"{where}.function.arguments has to be a JSON object", f"{where}.function.arguments")
    return ToolUse(tool_id(_text(call.get("id"), f"{where}.id")), name, arguments)


def _tool(message: Mapping[str, Any], where: str) -> list[Part]:
    called = tool_id(_text(message.get("tool_call_id"), f"{where}.tool_call_id"))
    return [ToolResult(called, tuple(_content(message.get("content"), f"{where}.content")))]


def _thoughts(given: Any, where: str) -> list[Part]:
    """Read what an earlier answer of ours held, so that a model that thinks can go on from there."""
    if given is None:
        return []
    if not isinstance(given, list):
        raise invalid(f"{where} has to be a list", where)
    found: list[Part] = []
    for at, block in enumerate(given):
        kind = block.get("type") if isinstance(block, Mapping) else None
        if kind == "redacted_thinking":
            found.append(Thinking(redacted=_text(block.get("data"), f"{where}[{at}].data")))
        elif kind == "thinking" and isinstance(block.get("thinking"), str):
            signature = _text(block.get("signature"), f"{where}[{at}].signature")
            found.append(Thinking(block["thinking"], signature))
        else:
            raise invalid(f"{where}[{at}] is no block of thinking", f"{where}[{at}]")
    return found


_ROLES: Final[Mapping[str, Callable[[Mapping[str, Any], str], list[Part]]]] = {
    "user": _user, "assistant": _assistant, "tool": _tool,
}  # fmt: skip


# -- content -----------------------------------------------------------------------------------------


def _texts(content: Any, where: str) -> list[Text]:
    found: list[Text] = []
    for at, part in enumerate(_content(content, where)):
        if not isinstance(part, Text):
            raise invalid(f"{where} can hold text only", f"{where}[{at}].type")
        found.append(part)
    return found


def _content(content: Any, where: str) -> list[Content]:
    """Read a content; texts of blanks alone are left away, since upstreams refuse them."""
    if isinstance(content, str):
        return [Text(content)] if _says(content) else []
    if content is None:
        return []
    if not isinstance(content, list):
        raise invalid(f"{where} has to be a string or a list of parts", where)
    found: list[Content] = []
    for at, part in enumerate(content):
        place = f"{where}[{at}]"
        if isinstance(part, str):
            found += [Text(part)] if _says(part) else []
            continue
        kind = part.get("type") if isinstance(part, Mapping) else None
        read = _PARTS.get(kind) if isinstance(kind, str) else None
        if read is None:
            raise invalid(f"{place}: this model takes no part of the type {kind!r:.80}", f"{place}.type")
        found += read(part, place)
    return found


def _cache(part: Mapping[str, Any]) -> Cache:
    given = part.get("cache_control")
    return given if isinstance(given, Mapping) else None


def _says(text: str) -> bool:
    return bool(text) and not text.isspace()


def _text_part(part: Mapping[str, Any], where: str) -> list[Content]:
    name = "refusal" if part.get("type") == "refusal" else "text"
    text = part.get(name)
    if not isinstance(text, str):
        raise invalid(f"{where}.{name} has to be a string", f"{where}.{name}")
    return [Text(text, _cache(part))] if _says(text) else []


def _image_part(part: Mapping[str, Any], where: str) -> list[Content]:
    given, param = part.get("image_url"), f"{where}.image_url"
    url = given.get("url") if isinstance(given, Mapping) else given
    if not isinstance(url, str):
        raise invalid(f"{param}.url has to be a string", f"{param}.url")
    if not url.startswith("data:"):
        if not url.startswith(("https://", "http://")):
            raise invalid(f"{param}.url has to begin with https:// or data:", f"{param}.url")
        return [Image(url=url, cache=_cache(part), param=param)]
    media_type, data = _data_url(url, param)
    if media_type == "image/jpg":
        media_type = "image/jpeg"
    if media_type not in _IMAGES:
        raise invalid(f"{param}.url has to be a JPEG, PNG, GIF or WebP", f"{param}.url")
    return [Image(media_type, data, cache=_cache(part), param=param)]


def _file_part(part: Mapping[str, Any], where: str) -> list[Content]:
    file, param = part.get("file"), f"{where}.file"
    data = file.get("file_data") if isinstance(file, Mapping) else None
    if not isinstance(file, Mapping) or not isinstance(data, str):
        raise invalid(f"{param}.file_data has to hold the file: this model knows no file_id", param)
    media_type, text = _data_url(data, param) if data.startswith("data:") else ("application/pdf", data)
    if media_type not in ("application/pdf", "text/plain"):
        raise invalid(f"{param}.file_data has to be a PDF or a plain text", f"{param}.file_data")
    name = file.get("filename")
    return [Document(media_type, text, name if isinstance(name, str) else "", _cache(part), param)]


_PARTS: Final[Mapping[str, Callable[[Mapping[str, Any], str], list[Content]]]] = {
    "text": _text_part, "refusal": _text_part, "image_url": _image_part, "file": _file_part,
}  # fmt: skip


def _data_url(url: str, param: str) -> tuple[str, str]:
    head, comma, data = url[5:].partition(",")
    media_type, _, parameters = head.partition(";")
    if not comma or not data or "base64" not in parameters.lower().split(";"):
        raise invalid(f"{param} has to be a data URL in base64", param)
    return media_type.strip().lower(), data


def decode_text(document: Document) -> str:
    """Return the text of a plain document. Raises BadRequest."""
    try:
        return base64.b64decode(document.data, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError, ValueError):
        param = f"{document.param}.file_data"
        raise invalid(f"{param} has to be UTF-8 in base64", param) from None


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str) or not value:
        raise invalid(f"{where} has to be a string that is not empty", where)
    return value
