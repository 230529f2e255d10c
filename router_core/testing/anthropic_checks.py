"""What Anthropic's Messages API refuses, in its words: the part of a stand-in that says no."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

__all__ = ["VERSIONS", "ApiError", "check_message"]

VERSIONS: Final = ("2023-06-01", "2026-10-21")
_KNOWN: Final = frozenset({
    "cache_control", "container", "context_management", "diagnostics", "inference_geo", "max_tokens",
    "mcp_servers", "messages", "metadata", "model", "output_config", "service_tier", "speed",
    "stop_sequences", "stream", "system", "thinking", "tool_choice", "tools",
})  # fmt: skip
_SAMPLING: Final = ("temperature", "top_p", "top_k")
_ID: Final = re.compile(r"[a-zA-Z0-9_-]+")
_NAME: Final = re.compile(r"[a-zA-Z0-9_-]{1,128}")
_MEDIA: Final = ("image/jpeg", "image/png", "image/gif", "image/webp")
_GENERATION: Final = re.compile(r"claude-(opus|sonnet|haiku)-(\d+)(?:-(\d{1,2})(?!\d))?")
_PLAIN: Final = {"opus": (4, 7), "sonnet": (5, 0), "haiku": (5, 0)}
"""First versions that take no sampling parameters and no budget for thinking."""


class ApiError(Exception):
    """An error as the API tells it."""

    def __init__(self, status: int, kind: str, message: str) -> None:
        super().__init__(message)
        self.status, self.kind, self.message = status, kind, message


def _no(message: str) -> ApiError:
    return ApiError(400, "invalid_request_error", message)


def check_message(body: Any, version: str) -> None:
    """Raise ApiError for a request that the API would refuse."""
    if not isinstance(body, dict):
        raise _no("The request body is not valid JSON: it has to be an object")
    known = _KNOWN if version >= "2026-10-21" else _KNOWN | set(_SAMPLING)
    for name in body:
        if name not in known:
            raise _no(f"{name}: Extra inputs are not permitted")
    for name in ("model", "max_tokens", "messages"):
        if name not in body:
            raise _no(f"{name}: Field required")
    if not isinstance(body["max_tokens"], int) or body["max_tokens"] < 0:
        raise _no("max_tokens: Input should be greater than or equal to 0")
    if str(body["model"]).startswith("unknown"):
        raise ApiError(404, "not_found_error", f"model: {body['model']}")
    _check_sampling(body)
    _check_tools(body)
    _check_messages(body["messages"], version)
    _check_thinking(body)
    _check_rest(body)


def _newest(body: Mapping[str, Any]) -> bool:
    found = _GENERATION.search(str(body["model"]))
    if not found:
        return False
    return (int(found.group(2)), int(found.group(3) or 0)) >= _PLAIN[found.group(1)]


def _check_sampling(body: Mapping[str, Any]) -> None:
    given = [name for name in _SAMPLING if name in body]
    if given and _newest(body):
        raise _no(f"`{given[0]}` is deprecated for this model.")
    if "temperature" in given and "top_p" in given and "-4-5" in str(body["model"]):
        raise _no("`temperature` and `top_p` cannot both be specified for this model. Please use only one.")
    for name in ("temperature", "top_p"):
        if name in given and not 0 <= body[name] <= 1:
            raise _no(f"{name}: range: 0..1")


def _check_tools(body: Mapping[str, Any]) -> None:
    tools = body.get("tools", [])
    for index, tool in enumerate(tools):
        if not _NAME.fullmatch(str(tool.get("name", ""))):
            raise _no(f"tools.{index}.custom.name: String should match pattern '^[a-zA-Z0-9_-]{{1,128}}$'")
        if not isinstance(tool.get("input_schema"), dict):
            raise _no(f"tools.{index}.custom.input_schema: Field required")
        if tool["input_schema"].get("type") != "object":
            raise _no(f"tools.{index}.custom.input_schema.type: Input should be 'object'")
    names = [tool["name"] for tool in tools]
    if len(set(names)) < len(names):
        raise _no("tools: Tool names must be unique.")
    if body.get("tool_choice") is not None:
        _check_choice(body["tool_choice"], names)


def _check_choice(choice: Mapping[str, Any], names: Sequence[str]) -> None:
    if choice.get("type") not in ("auto", "any", "tool", "none"):
        raise _no("tool_choice: Input tag found using 'type' does not match any of the expected tags")
    if not names:
        raise _no("tool_choice may only be specified while providing tools")
    if choice["type"] == "tool" and choice.get("name") not in names:
        raise _no(f"Tool '{choice.get('name')}' not found in provided tools")
    if choice["type"] == "none" and "disable_parallel_tool_use" in choice:
        raise _no("tool_choice.none.disable_parallel_tool_use: Extra inputs are not permitted")


def _check_messages(messages: Any, version: str) -> None:
    if not isinstance(messages, list) or not messages:
        raise _no("messages: at least one message is required")
    roles = ("user", "assistant", "system") if version >= "2026-10-21" else ("user", "assistant")
    open_calls: list[str] = []
    for index, message in enumerate(messages):
        role = message.get("role")
        if role not in roles:
            raise _no(f'messages: Unexpected role "{role}". Allowed roles are "user" or "assistant"')
        blocks = _blocks(message.get("content"), f"messages.{index}", last=index == len(messages) - 1)
        results = [block["tool_use_id"] for block in blocks if block["type"] == "tool_result"]
        _check_results(index, blocks, results, open_calls)
        open_calls = [block["id"] for block in blocks if block["type"] == "tool_use"]
    last = messages[-1]
    if last["role"] == "assistant":
        blocks = _blocks(last["content"], "messages", last=True)
        if blocks and str(blocks[-1].get("text", "")).endswith((" ", "\n", "\t")):
            raise _no("messages: final assistant content cannot end with trailing whitespace")


def _check_results(
    index: int, blocks: Sequence[Mapping[str, Any]], results: list[str], open_calls: list[str]
) -> None:
    missing = [each for each in open_calls if each not in results]
    if missing:
        raise _no(
            f"messages.{index - 1}: `tool_use` ids were found without `tool_result` blocks immediately "
            f"after: {', '.join(missing)}. Each `tool_use` block must have a corresponding `tool_result` "
            "block in the next message."
        )
    for result in results:
        if result not in open_calls:
            raise _no(f"messages.{index}.content: unexpected `tool_use_id` found in `tool_result`: {result}")
    kinds = [block["type"] for block in blocks]
    if results and "tool_result" in kinds[kinds.index("tool_result") + len(results) :]:
        raise _no(f"messages.{index}: `tool_result` blocks must come before other content")
    if results and kinds[0] != "tool_result":
        raise _no(f"messages.{index}: `tool_result` blocks must come before other content")


def _blocks(content: Any, where: str, *, last: bool) -> list[dict[str, Any]]:
    if isinstance(content, str):
        content = [{"type": "text", "text": content}]
    if not isinstance(content, list):
        raise _no(f"{where}.content: Input should be a valid list")
    if not content and not last:
        raise _no(f"{where}: all messages must have non-empty content except for the optional final "
                  "assistant message")  # fmt: skip
    for index, block in enumerate(content):
        _check_block(block, f"{where}.content.{index}")
    return content


def _check_block(block: Any, where: str) -> None:
    kind = block.get("type")
    if kind == "text" and not block.get("text"):
        raise _no("messages: text content blocks must be non-empty")
    if kind == "text" and not block["text"].strip():
        raise _no("messages: text content blocks must contain non-whitespace text")
    if kind in ("tool_use", "tool_result"):
        name = "id" if kind == "tool_use" else "tool_use_id"
        if not _ID.fullmatch(str(block.get(name, ""))):
            raise _no(f"{where}.{kind}.{name}: String should match pattern '^[a-zA-Z0-9_-]+$'")
    if kind == "tool_use" and not isinstance(block.get("input"), dict):
        raise _no(f"{where}.tool_use.input: Input should be a valid dictionary")
    if kind == "image":
        source = block.get("source", {})
        if source.get("type") == "base64" and source.get("media_type") not in _MEDIA:
            raise _no(f"{where}.image.source.base64.media_type: Input should be {_MEDIA}")
    if kind not in (
        "text", "tool_use", "tool_result", "image", "document", "thinking", "redacted_thinking",
    ):  # fmt: skip
        raise _no(f"{where}: Input tag '{kind}' found using 'type' does not match any of the expected tags")


def _check_thinking(body: Mapping[str, Any]) -> None:
    thinking = body.get("thinking") or {}
    if thinking.get("type") not in ("enabled", "adaptive"):
        return
    if body.get("tool_choice", {}).get("type") in ("any", "tool"):
        raise _no("Thinking may not be enabled when tool_choice forces tool use.")
    if "temperature" in body and body["temperature"] != 1:
        raise _no("`temperature` may only be set to 1 when thinking is enabled.")
    if thinking["type"] == "adaptive":
        return
    if _newest(body):
        raise _no("thinking.type.enabled is not supported for this model. Use thinking.type.adaptive.")
    if thinking.get("budget_tokens", 0) < 1024:
        raise _no("thinking.enabled.budget_tokens: Input should be greater than or equal to 1024")
    if thinking["budget_tokens"] >= body["max_tokens"]:
        raise _no("`max_tokens` must be greater than `thinking.budget_tokens`.")
    for index, message in enumerate(body["messages"]):
        content = message["content"]
        kinds = [block["type"] for block in content] if isinstance(content, list) else []
        if message["role"] == "assistant" and "tool_use" in kinds and "thinking" not in kinds[0]:
            raise _no(
                f"messages.{index}.content.0.type: Expected `thinking` or `redacted_thinking`, but found "
                f"`{kinds[0]}`."
            )


def _check_rest(body: Mapping[str, Any]) -> None:
    if any(not each.strip() for each in body.get("stop_sequences", [])):
        raise _no("stop_sequences: each stop sequence must contain non-whitespace")
    extra = set(body.get("metadata") or {}) - {"user_id"}
    if extra:
        raise _no(f"metadata.{sorted(extra)[0]}: Extra inputs are not permitted")
    if body.get("service_tier", "auto") not in ("auto", "standard_only"):
        raise _no("service_tier: Input should be 'auto' or 'standard_only'")
    output = body.get("output_config") or {}
    if output.get("effort", "low") not in ("low", "medium", "high", "xhigh", "max"):
        raise _no("output_config.effort: Input should be 'low', 'medium', 'high', 'xhigh' or 'max'")
    if "format" in output and output["format"].get("type") != "json_schema":
        raise _no("output_config.format.type: Input should be 'json_schema'")
