"""Read a request of chat/completions for upstreams that have a protocol of their own.

Fields that only steer how tokens are drawn or stored (penalties, seed, logit_bias, store ...) have no
counterpart there and are left away; those that change what the answer is (n, logprobs, audio ...) are refused
with their name, since an answer without what was asked for would be a wrong answer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from router_core.errors import HTTPError
from router_core.gateway.call import Call
from router_core.gateway.clients.chat_content import read_messages
from router_core.gateway.clients.chat_parts import ChatRequest, JsonFormat, Tool
from router_core.gateway.json import invalid

__all__ = ["read_chat", "read_wanted"]

_MAX_TOOLS: Final = 1024
_MAX_STOPS: Final = 64
_EFFORTS: Final = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
_READ: Final = frozenset({
    "model", "messages", "stream", "stream_options", "tools", "tool_choice", "parallel_tool_calls",
    "max_tokens", "max_completion_tokens", "temperature", "top_p", "top_k", "stop", "user",
    "safety_identifier", "reasoning_effort", "response_format",
})  # fmt: skip


def read_chat(call: Call) -> ChatRequest:
    """Return the request of a call. Raises BadRequest, naming the parameter."""
    if call.fields is None:
        raise HTTPError(415, "send JSON", code="unsupported_media_type")
    fields = _Fields(call.fields)
    _refuse(fields)
    system, turns = read_messages(fields.value("messages"))
    choice, name = _tool_choice(fields.value("tool_choice"))
    tools = _tools(fields.value("tools"))
    if choice == "tool" and all(tool.name != name for tool in tools):
        raise invalid("tool_choice names a function that is not among the tools", "tool_choice")
    parallel = fields.flag("parallel_tool_calls")
    max_tokens = fields.whole("max_completion_tokens")
    return ChatRequest(
        system=system, turns=turns, tools=tools, tool_choice=choice if tools else "", tool_name=name,
        parallel=parallel is not False,
        max_tokens=fields.whole("max_tokens") if max_tokens is None else max_tokens,
        temperature=fields.number("temperature", 2), top_p=fields.number("top_p", 1),
        top_k=fields.whole("top_k", least=-1), stop=_stop(fields.value("stop")), stream=call.stream,
        user=fields.text("safety_identifier") or fields.text("user"),
        effort=_effort(fields.text("reasoning_effort")), format=_format(fields.value("response_format")),
        extra={name: value for name, value in call.fields.items() if name not in _READ},
    )  # fmt: skip


def read_wanted(call: Call) -> tuple[JsonFormat | None, tuple[Tool, ...]]:
    """Return the JSON that a request wants, and its tools."""
    fields = _Fields(call.fields or {})
    return _format(fields.value("response_format")), _tools(fields.value("tools"))


class _Fields:
    """The fields of a body, decoded as they are read; null is as good as not there."""

    def __init__(self, fields: Mapping[str, Any]) -> None:
        self._fields = fields

    def value(self, name: str) -> Any:
        raw = self._fields.get(name)
        if raw is None:
            return None
        try:
            return msgspec.json.decode(raw)
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            raise invalid(f"{name} is not valid JSON", name) from None

    def text(self, name: str) -> str:
        value = self.value(name)
        if value is not None and not isinstance(value, str):
            raise invalid(f"{name} has to be a string", name)
        return value or ""

    def flag(self, name: str) -> bool | None:
        value = self.value(name)
        if value is not None and not isinstance(value, bool):
            raise invalid(f"{name} has to be true or false", name)
        return value

    def whole(self, name: str, least: int = 0) -> int | None:
        value = self.value(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value < 2**31:
            raise invalid(f"{name} has to be a whole number of at least {least}", name)
        return value

    def number(self, name: str, most: float) -> float | None:
        value = self.value(name)
        if value is None:
            return None
        usable = isinstance(value, int | float) and not isinstance(value, bool)
        if not usable or not math.isfinite(value) or not 0 <= value <= most:
            raise invalid(f"{name} has to be a number between 0 and {most:g}", name)
        return float(value)


def _refuse(fields: _Fields) -> None:
    """Refuse what would change the answer and cannot be had here."""
    if fields.whole("n") not in (None, 1):
        raise invalid("n: this model gives one answer to a request", "n")
    if fields.flag("logprobs"):
        raise invalid("logprobs: this model does not tell them", "logprobs")
    for name in ("functions", "function_call"):
        if fields.value(name):
            raise invalid(f"{name}: use tools and tool_choice", name)
    for name in ("audio", "web_search_options"):
        if fields.value(name) is not None:
            raise invalid(f"{name}: not available on this model", name)
    modalities = fields.value("modalities")
    if modalities is not None and modalities != ["text"]:
        raise invalid("modalities: this model answers with text", "modalities")


def _tools(given: Any) -> tuple[Tool, ...]:
    if given is None:
        return ()
    if not isinstance(given, list) or len(given) > _MAX_TOOLS:
        raise invalid(f"tools has to be a list of at most {_MAX_TOOLS}", "tools")
    return tuple(_tool(each, f"tools[{at}]") for at, each in enumerate(given))


def _tool(given: Any, where: str) -> Tool:
    kind = given.get("type", "function") if isinstance(given, Mapping) else None
    function = given.get("function") if isinstance(given, Mapping) else None
    if kind != "function" or not isinstance(function, Mapping):
        raise invalid(f"{where} has to be of the type function", f"{where}.type")
    name, description = function.get("name"), function.get("description")
    if not isinstance(name, str) or not name:
        raise invalid(f"{where}.function.name is missing", f"{where}.function.name")
    if description is not None and not isinstance(description, str):
        raise invalid(f"{where}.function.description has to be a string", f"{where}.function.description")
    schema = function.get("parameters")
    if schema is None:
        schema = {"type": "object", "properties": {}}
    if not isinstance(schema, Mapping):
        raise invalid(f"{where}.function.parameters has to be a schema", f"{where}.function.parameters")
    if "type" not in schema:
        schema = {"type": "object", **schema}
    cache = given.get("cache_control")
    strict = function.get("strict") is True
    return Tool(name, description or "", schema, strict, cache if isinstance(cache, Mapping) else None)


def _tool_choice(given: Any) -> tuple[str, str]:
    if given is None:
        return "", ""
    if given in ("auto", "none", "required"):
        return str(given), ""
    function = given.get("function") if isinstance(given, Mapping) else None
    name = function.get("name") if isinstance(function, Mapping) else None
    if not isinstance(name, str) or not isinstance(given, Mapping) or given.get("type") != "function":
        raise invalid("tool_choice has to be auto, none, required or a function", "tool_choice")
    return "tool", name


def _stop(given: Any) -> tuple[str, ...]:
    """Read the texts to stop at; those of blanks alone are left away, since upstreams refuse them."""
    if given is None:
        return ()
    listed = [given] if isinstance(given, str) else given
    if not isinstance(listed, list) or len(listed) > _MAX_STOPS or not all(_is_text(each) for each in listed):
        raise invalid(f"stop has to be a string or a list of at most {_MAX_STOPS}", "stop")
    return tuple(each for each in listed if each.strip())


def _effort(given: str) -> str:
    if given and given not in _EFFORTS:
        raise invalid(f"reasoning_effort has to be one of {', '.join(_EFFORTS)}", "reasoning_effort")
    return "" if given == "none" else given


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _format(given: Any) -> JsonFormat | None:
    if given is None:
        return None
    kind = given.get("type") if isinstance(given, Mapping) else None
    if kind == "text":
        return None
    if kind == "json_object":
        return JsonFormat("json", None)
    inner = given.get("json_schema") if isinstance(given, Mapping) else None
    if kind != "json_schema" or not isinstance(inner, Mapping):
        raise invalid("response_format has to be text, json_object or json_schema", "response_format")
    name, schema, description = inner.get("name"), inner.get("schema"), inner.get("description")
    if not isinstance(schema, Mapping) or schema.get("type", "object") != "object":
        where = "response_format.json_schema.schema"
        raise invalid(f"{where} has to be a schema of an object", where)
    return JsonFormat(
        name if isinstance(name, str) and name else "answer", schema, inner.get("strict") is True,
        description if isinstance(description, str) else "",
    )  # fmt: skip
