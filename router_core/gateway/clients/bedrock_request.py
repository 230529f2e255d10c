"""Write a chat as a request of Amazon Bedrock's Converse API.

As for Anthropic (``anthropic_request``), with these differences:

- ``max_tokens`` is optional, and only sent where the caller or the deployment says something.
- Images and files have to come as data: an address is refused.
- What Converse has no field for goes into ``additionalModelRequestFields``: for models of Anthropic
  ``top_k``, ``thinking``, a ``tool_choice`` of none and one call at a time; for those of OpenAI
  ``reasoning_effort``. For others ``top_k`` and ``reasoning_effort`` are left away, and what would change the
  answer is refused.
- Fields of Converse itself (``guardrailConfig``, ``performanceConfig``, ``requestMetadata``,
  ``additionalModelRequestFields`` ...) pass as they came.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from router_core.gateway.clients.anthropic_models import ModelTraits
from router_core.gateway.clients.anthropic_request import BUDGETS, EFFORTS, format_tool, thinking_fits
from router_core.gateway.clients.chat_content import decode_text
from router_core.gateway.clients.chat_parts import (
    Cache,
    ChatRequest,
    Document,
    Image,
    JsonFormat,
    Part,
    Text,
    Thinking,
    Tool,
    ToolResult,
    ToolUse,
)
from router_core.gateway.json import invalid

__all__ = ["ConverseWriter"]

_PASSED: Final = frozenset({
    "additionalModelRequestFields", "additionalModelResponseFieldPaths", "guardrailConfig", "outputConfig",
    "performanceConfig", "promptVariables", "requestMetadata", "serviceTier",
})  # fmt: skip
_EFFORTS_OF_OPENAI: Final = {"minimal": "low", "xhigh": "high", "max": "high"}
_LEAST_BUDGET: Final = 1024
_NAME: Final = frozenset(
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789 -()[]"
)  # fmt: skip

_encode: Final = msgspec.json.Encoder().encode


class ConverseWriter:
    """Writes requests for one deployment."""

    def __init__(
        self, model: str, traits: ModelTraits, *, max_tokens: int = 0,
        defaults: Mapping[str, Any] | None = None, family: str = "",
    ) -> None:  # fmt: skip
        """``max_tokens`` 0: the model's own; ``defaults``: fields of every request; ``family``: ``anthropic``
        or ``openai`` where the id does not tell whose model it is."""
        self._claude = family == "anthropic" or "anthropic." in model or "claude" in model
        self._openai = family == "openai" or "openai." in model
        self._traits = traits
        self._max_tokens = max_tokens
        self._defaults = defaults or {}

    def write(self, request: ChatRequest) -> bytes:
        """Return the request. Raises BadRequest for what the model cannot be asked for."""
        body: dict[str, Any] = {**self._defaults}
        if request.system:
            body["system"] = _listed(request.system)
        body["messages"] = [{"role": turn.role, "content": _listed(turn.parts)} for turn in request.turns]
        wanted = request.format
        if wanted is not None and self._has_schema(wanted):
            body["outputConfig"] = {"textFormat": _schema_format(wanted)}
            wanted = None
        json_tool = format_tool(wanted, request.tools) if wanted else None
        extra: dict[str, Any] = dict(body.pop("additionalModelRequestFields", {}))
        self._tools(body, extra, request, json_tool)
        self._effort(body, extra, request)
        self._inference(body, extra, request)
        self._native(body, extra, request)
        if extra:
            body["additionalModelRequestFields"] = extra
        return _encode(body)

    def json_tool(self, wanted: JsonFormat | None, tools: tuple[Tool, ...]) -> str:
        """Return the name of the tool whose arguments are the answer; empty where there is none."""
        return "" if wanted is None or self._has_schema(wanted) else format_tool(wanted, tools).name

    def _has_schema(self, wanted: JsonFormat) -> bool:
        return wanted.schema is not None and wanted.strict and self._traits.schema

    def _tools(
        self, body: dict[str, Any], extra: dict[str, Any], request: ChatRequest, json_tool: Tool | None
    ) -> None:
        tools = [*request.tools, json_tool] if json_tool else list(request.tools)
        if not tools:
            return
        config: dict[str, Any] = {"tools": [each for tool in tools for each in _tool(tool)]}
        choice = _choice(request, json_tool)
        if choice == {"none": {}} and not self._claude:
            if request.uses_tools:
                raise invalid(
                    "tool_choice none: this model has to be free to call tools again", "tool_choice"
                )
            return
        body["toolConfig"] = config
        if choice == {"none": {}}:
            extra["tool_choice"] = {"type": "none"}
        elif not request.parallel:
            extra["tool_choice"] = self._one_at_a_time(choice)
        elif choice != {"auto": {}}:
            config["toolChoice"] = choice

    def _one_at_a_time(self, choice: Mapping[str, Any]) -> dict[str, Any]:
        if not self._claude:
            raise invalid("parallel_tool_calls: this model cannot be told so", "parallel_tool_calls")
        (kind, named), *_ = choice.items()
        return {"type": kind, **named, "disable_parallel_tool_use": True}

    def _effort(self, body: dict[str, Any], extra: dict[str, Any], request: ChatRequest) -> None:
        if not request.effort:
            return
        if self._openai:
            extra["reasoning_effort"] = _EFFORTS_OF_OPENAI.get(request.effort, request.effort)
        if not self._claude:
            return
        forced = _forces(body, extra)
        if self._traits.effort:
            body["outputConfig"] = {"effort": EFFORTS[request.effort], **body.get("outputConfig", {})}
            if self._traits.adaptive and not forced:
                extra["thinking"] = {"type": "adaptive"}
        elif self._traits.budget and not forced and thinking_fits(request):
            self._budget(extra, request)

    def _budget(self, extra: dict[str, Any], request: ChatRequest) -> None:
        limit = request.max_tokens or self._max_tokens
        budget = min(BUDGETS[request.effort], limit - 1) if limit else BUDGETS[request.effort]
        if budget >= _LEAST_BUDGET:
            extra["thinking"] = {"type": "enabled", "budget_tokens": budget}

    def _inference(self, body: dict[str, Any], extra: dict[str, Any], request: ChatRequest) -> None:
        config: dict[str, Any] = {}
        limit = self._max_tokens if request.max_tokens is None else request.max_tokens
        thinking = extra.get("thinking", {})
        if limit:
            config["maxTokens"] = limit
        elif "budget_tokens" in thinking:
            config["maxTokens"] = thinking["budget_tokens"] + 4096  # it has to be more than the budget
        if request.stop:
            config["stopSequences"] = request.stop
        if self._traits.sampling and not thinking:
            if request.temperature is not None:
                config["temperature"] = min(request.temperature, 1.0)
            if request.top_p is not None and not (self._traits.one_sampler and "temperature" in config):
                config["topP"] = request.top_p
            if self._claude and request.top_k is not None and request.top_k > 0:
                extra["top_k"] = request.top_k
        if config:
            body["inferenceConfig"] = config

    def _native(self, body: dict[str, Any], extra: dict[str, Any], request: ChatRequest) -> None:
        """Add what speaks the language of Converse, or of the model behind it, already."""
        for name in _PASSED & request.extra.keys():
            value = msgspec.json.decode(request.extra[name])
            if value is None:
                continue
            if name in ("additionalModelRequestFields", "outputConfig") and not isinstance(value, dict):
                raise invalid(f"{name} has to be an object", name)
            if name == "outputConfig":
                value = {**body.get(name, {}), **value}
            body[name] = value
        given = body.pop("additionalModelRequestFields", {})
        extra.update(given)
        if self._claude and "thinking" in request.extra:
            thinking = msgspec.json.decode(request.extra["thinking"])
            extra.update({"thinking": thinking} if thinking is not None else {})


# -- pieces ------------------------------------------------------------------------------------------


def _forces(body: Mapping[str, Any], extra: Mapping[str, Any]) -> bool:
    choice = body.get("toolConfig", {}).get("toolChoice", {})
    return any(kind in choice for kind in ("any", "tool")) or (
        extra.get("tool_choice", {}).get("type") in ("any", "tool")
    )


def _choice(request: ChatRequest, json_tool: Tool | None) -> dict[str, Any]:
    if json_tool is not None and request.tool_choice != "tool":
        only = not request.tools or request.tool_choice == "none"
        return {"tool": {"name": json_tool.name}} if only else {"any": {}}
    if request.tool_choice == "tool":
        return {"tool": {"name": request.tool_name}}
    return {{"required": "any", "none": "none"}.get(request.tool_choice, "auto"): {}}


def _schema_format(wanted: JsonFormat) -> dict[str, Any]:
    schema = {"schema": _encode(wanted.schema).decode(), "name": wanted.name}
    if wanted.description:
        schema["description"] = wanted.description
    return {"type": "json_schema", "structure": {"jsonSchema": schema}}


def _tool(tool: Tool) -> list[dict[str, Any]]:
    written: dict[str, Any] = {"name": tool.name, "inputSchema": {"json": tool.schema}}
    if tool.description:
        written["description"] = tool.description
    if tool.strict:
        written["strict"] = True
    return [{"toolSpec": written}, *_cache_point(tool.cache)]


def _listed(parts: tuple[Part, ...] | tuple[Text, ...]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for part in parts:
        found.append(_part(part))
        if isinstance(part, Text | Image | Document):
            found += _cache_point(part.cache)
    return found


def _cache_point(cache: Cache) -> list[dict[str, Any]]:
    if cache is None:
        return []
    ttl = {"ttl": cache["ttl"]} if cache.get("ttl") in ("5m", "1h") else {}
    return [{"cachePoint": {"type": "default", **ttl}}]


def _part(part: Part) -> dict[str, Any]:
    if isinstance(part, Text):
        return {"text": part.text}
    if isinstance(part, ToolUse):
        return {"toolUse": {"toolUseId": part.id, "name": part.name, "input": part.arguments}}
    if isinstance(part, ToolResult):
        return {"toolResult": {"toolUseId": part.id, "content": [_part(each) for each in part.parts]}}
    if isinstance(part, Thinking):
        if part.redacted:
            return {"reasoningContent": {"redactedContent": part.redacted}}
        return {"reasoningContent": {"reasoningText": {"text": part.text, "signature": part.signature}}}
    return _image(part) if isinstance(part, Image) else _document(part)


def _image(part: Image) -> dict[str, Any]:
    if part.url:
        raise invalid(f"{part.param}.url: this model takes images as data: URLs only", f"{part.param}.url")
    kind = part.media_type.removeprefix("image/")
    return {"image": {"format": kind, "source": {"bytes": part.data}}}


def _document(part: Document) -> dict[str, Any]:
    stem = part.name.rpartition(".")[0] or part.name
    # a name is shown to the model, and few characters are allowed in it
    name = " ".join("".join(each if each in _NAME else "-" for each in stem).split())[:200] or "document"
    if part.media_type == "text/plain":
        return {"document": {"format": "txt", "name": name, "source": {"text": decode_text(part)}}}
    return {"document": {"format": "pdf", "name": name, "source": {"bytes": part.data}}}
