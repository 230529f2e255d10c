"""Write a chat as a request of Anthropic's Messages API.

- ``system`` and ``developer`` messages become ``system``, in their order, wherever they stand.
- Results of tools join the user's turn that follows them, first.
- ``max_tokens`` is required there: without one, the deployment's ``max_tokens`` (4096) is sent.
- ``temperature`` ends at 1 there and is cut off; models that take no sampling parameters get none.
- ``response_format`` json_schema with ``strict`` becomes ``output_config.format`` where the model has it.
  Everything else that wants JSON becomes a tool whose arguments are the answer: with other tools beside it
  the model may call those first, without them it has to answer with JSON.
- ``reasoning_effort`` becomes ``output_config.effort`` with adaptive thinking, on older models a budget for
  thinking; it is left away where the request cannot think (a forced tool, results of tools without the
  ``thinking_blocks`` of the answer before them).
- Fields of the Messages API itself (``thinking``, ``service_tier``, ``container`` ...) pass as they came.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from router_core.gateway.clients.anthropic_models import ModelTraits
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
    Turn,
)

__all__ = ["BUDGETS", "EFFORTS", "RequestWriter", "format_tool", "thinking_fits"]

EFFORTS: Final[Mapping[str, str]] = {
    "minimal": "low", "low": "low", "medium": "medium", "high": "high", "xhigh": "xhigh", "max": "max",
}  # fmt: skip
BUDGETS: Final[Mapping[str, int]] = {
    "minimal": 1024, "low": 2048, "medium": 8192, "high": 16_384, "xhigh": 24_576, "max": 31_999,
}  # fmt: skip
_LEAST_BUDGET: Final = 1024
_MAX_USER: Final = 256
_PASSED: Final = frozenset({
    "cache_control", "container", "context_management", "diagnostics", "inference_geo", "mcp_servers",
    "metadata", "output_config", "service_tier", "speed", "thinking",
})  # fmt: skip
"""Fields of the Messages API that a caller may use; others are unknown there and would be refused."""
_TIERS: Final = ("auto", "standard_only")

_encode: Final = msgspec.json.Encoder().encode


class RequestWriter:
    """Writes requests for one deployment."""

    def __init__(
        self, model: str, traits: ModelTraits, *, max_tokens: int, passed: frozenset[str] = frozenset()
    ) -> None:
        self._model = model
        self._traits = traits
        self._max_tokens = max_tokens
        self._passed = _PASSED | passed

    def write(self, request: ChatRequest, model: str) -> bytes:
        """Return the request; ``model`` is asked for where the deployment names none."""
        body: dict[str, Any] = {"model": self._model or model}
        body["max_tokens"] = self._max_tokens if request.max_tokens is None else request.max_tokens
        if request.system:
            body["system"] = [_text(part) for part in request.system]
        body["messages"] = _turns(request.turns)
        if request.stream:
            body["stream"] = True
        if request.stop:
            body["stop_sequences"] = request.stop
        wanted = request.format
        if wanted is not None and self._has_schema(wanted):
            body["output_config"] = {"format": {"type": "json_schema", "schema": wanted.schema}}
            wanted = None
        self._tools(body, request, format_tool(wanted, request.tools) if wanted else None)
        self._native(body, request)
        self._effort(body, request)
        self._sampling(body, request)
        return _encode(body)

    def json_tool(self, wanted: JsonFormat | None, tools: tuple[Tool, ...]) -> str:
        """Return the name of the tool whose arguments are the answer; empty where there is none."""
        return "" if wanted is None or self._has_schema(wanted) else format_tool(wanted, tools).name

    def _has_schema(self, wanted: JsonFormat) -> bool:
        return wanted.schema is not None and wanted.strict and self._traits.schema

    def _tools(self, body: dict[str, Any], request: ChatRequest, json_tool: Tool | None) -> None:
        tools = [*request.tools, json_tool] if json_tool else list(request.tools)
        if not tools:
            return
        body["tools"] = [_tool(tool) for tool in tools]
        choice = _choice(request, json_tool)
        if not request.parallel and choice.get("type") != "none":
            choice["disable_parallel_tool_use"] = True
        if choice.get("type") != "auto" or len(choice) > 1:
            body["tool_choice"] = choice

    def _native(self, body: dict[str, Any], request: ChatRequest) -> None:
        """Add what speaks the language of the Messages API already."""
        for name, raw in request.extra.items():
            if name not in self._passed:
                continue
            value = msgspec.json.decode(raw)
            if name == "metadata":
                value = (
                    {"user_id": value["user_id"]} if isinstance(value, dict) and "user_id" in value else None
                )
            elif name == "service_tier" and value not in _TIERS:
                value = None
            elif name == "output_config" and isinstance(value, dict):
                value = {**body.get("output_config", {}), **value}
            if value is not None:
                body[name] = value
        if request.user and "metadata" not in body:
            body["metadata"] = {"user_id": request.user[:_MAX_USER]}

    def _effort(self, body: dict[str, Any], request: ChatRequest) -> None:
        effort = EFFORTS.get(request.effort)
        if effort is None:
            return
        forced = body.get("tool_choice", {}).get("type") in ("any", "tool")
        if self._traits.effort:
            body["output_config"] = {"effort": effort, **body.get("output_config", {})}
            if self._traits.adaptive and not forced:
                body.setdefault("thinking", {"type": "adaptive"})
        elif self._traits.budget and not forced and thinking_fits(request):
            self._budget(body, request)

    def _budget(self, body: dict[str, Any], request: ChatRequest) -> None:
        budget = BUDGETS[request.effort]
        if request.max_tokens is None:
            body["max_tokens"] += budget  # thinking counts against it, and nobody has set it
        budget = min(budget, body["max_tokens"] - 1)
        if budget >= _LEAST_BUDGET:
            body.setdefault("thinking", {"type": "enabled", "budget_tokens": budget})

    def _sampling(self, body: dict[str, Any], request: ChatRequest) -> None:
        thinking = body.get("thinking")
        thinks = isinstance(thinking, dict) and thinking.get("type") in ("enabled", "adaptive")
        if not self._traits.sampling or thinks:
            return
        if request.temperature is not None:
            body["temperature"] = min(request.temperature, 1.0)
        if request.top_p is not None and not (self._traits.one_sampler and "temperature" in body):
            body["top_p"] = request.top_p
        if request.top_k is not None and request.top_k > 0:
            body["top_k"] = request.top_k


def format_tool(wanted: JsonFormat, tools: tuple[Tool, ...]) -> Tool:
    """Return the tool whose arguments are the JSON that is wanted."""
    schema: Mapping[str, Any] = {"type": "object", "additionalProperties": True}
    if wanted.schema is not None:
        schema = {"type": "object", **wanted.schema}
    name = wanted.name
    while any(tool.name == name for tool in tools):
        name += "_answer"
    words = wanted.description or "Give the answer by calling this tool: its arguments are the whole answer."
    return Tool(name, words, schema)


def thinking_fits(request: ChatRequest) -> bool:
    """Return whether thinking can be switched on: not after tool calls whose thoughts were not sent along."""
    for turn in request.turns:
        if turn.role == "assistant" and any(isinstance(part, ToolUse) for part in turn.parts):
            if not isinstance(turn.parts[0], Thinking):
                return False
    return True


# -- pieces ------------------------------------------------------------------------------------------


def _choice(request: ChatRequest, json_tool: Tool | None) -> dict[str, Any]:
    if json_tool is not None and request.tool_choice != "tool":
        only = not request.tools or request.tool_choice == "none"
        return {"type": "tool", "name": json_tool.name} if only else {"type": "any"}
    if request.tool_choice == "tool":
        return {"type": "tool", "name": request.tool_name}
    return {"type": {"required": "any", "none": "none"}.get(request.tool_choice, "auto")}


def _tool(tool: Tool) -> dict[str, Any]:
    written: dict[str, Any] = {"name": tool.name, "input_schema": tool.schema}
    if tool.description:
        written["description"] = tool.description
    if tool.strict:
        written["strict"] = True
    return _cached(written, tool.cache)


def _turns(turns: tuple[Turn, ...]) -> list[dict[str, Any]]:
    written = [(turn.role, [_part(part) for part in turn.parts]) for turn in turns]
    role, last = written[-1]
    if role == "assistant" and last[-1].get("type") == "text":
        last[-1]["text"] = last[-1]["text"].rstrip()  # blanks at its end are refused there
    return [{"role": role, "content": content} for role, content in written]


def _part(part: Part) -> dict[str, Any]:
    if isinstance(part, Text):
        return _text(part)
    if isinstance(part, ToolUse):
        return {"type": "tool_use", "id": part.id, "name": part.name, "input": part.arguments}
    if isinstance(part, ToolResult):
        content = [_part(each) for each in part.parts]
        return {"type": "tool_result", "tool_use_id": part.id, **({"content": content} if content else {})}
    if isinstance(part, Thinking):
        if part.redacted:
            return {"type": "redacted_thinking", "data": part.redacted}
        return {"type": "thinking", "thinking": part.text, "signature": part.signature}
    return _image(part) if isinstance(part, Image) else _document(part)


def _text(part: Text) -> dict[str, Any]:
    return _cached({"type": "text", "text": part.text}, part.cache)


def _image(part: Image) -> dict[str, Any]:
    if part.url:
        source = {"type": "url", "url": part.url}
    else:
        source = {"type": "base64", "media_type": part.media_type, "data": part.data}
    return _cached({"type": "image", "source": source}, part.cache)


def _document(part: Document) -> dict[str, Any]:
    if part.media_type == "text/plain":
        source = {"type": "text", "media_type": "text/plain", "data": decode_text(part)}
    else:
        source = {"type": "base64", "media_type": part.media_type, "data": part.data}
    named = {"title": part.name[:500]} if part.name else {}
    return _cached({"type": "document", "source": source, **named}, part.cache)


def _cached(block: dict[str, Any], cache: Cache) -> dict[str, Any]:
    return {**block, "cache_control": cache} if cache else block
