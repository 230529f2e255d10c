"""Scripted answers of the Responses API, whole and as its events."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from router_core.gateway.call import Usage
from router_core.gateway.clients.scripted_answer import (
    Answer,
    Ask,
    Piece,
    RefusedError,
    encode,
    event,
    prompt_texts,
    usage_of,
)
from router_core.gateway.clients.scripted_chat import Said, said

__all__ = ["respond"]


def respond(ask: Ask) -> Answer:
    """Answer responses. Raises RefusedError."""
    given = ask.fields.get("input")
    if given is None:
        raise RefusedError("'input' is missing", "input")
    texts = prompt_texts(given, "input")
    instructions = ask.fields.get("instructions")
    characters = sum(len(text) for _, text in texts)
    characters += len(instructions) if isinstance(instructions, str) else 0
    limit = ask.integer("max_output_tokens", 2**31)
    answer = said(ask, texts, _tools(ask.fields.get("tools")), limit)
    usage = usage_of(ask.step, characters, answer.count)
    if ask.stream:
        return Answer(pieces=_Stream(ask, answer, usage).pieces(), tokens=answer.count)
    items = [_done(item) for item in _items(ask, answer)]
    return Answer(encode(_response(ask, _status(answer), items, usage)), tokens=answer.count)


def _tools(tools: Any) -> list[Mapping[str, Any]]:
    if tools is None:
        return []
    if not isinstance(tools, list) or not all(isinstance(each, Mapping) for each in tools):
        raise RefusedError("'tools' has to be a list of objects", "tools")
    return [tool for tool in tools if tool.get("type") == "function" and isinstance(tool.get("name"), str)]


def _status(answer: Said) -> str:
    return "incomplete" if answer.finish == "length" else "completed"


def _items(ask: Ask, answer: Said) -> list[dict[str, Any]]:
    """Return the items of the output, complete but for their status."""
    if answer.calls:
        return [
            {
                "type": "function_call", "id": ask.id("fc_", at), "call_id": ask.id("call_", at),
                "name": name, "arguments": arguments,
            }
            for at, (name, arguments) in enumerate(answer.calls)
        ]  # fmt: skip
    part = {"type": "output_text", "text": answer.text, "annotations": [], "logprobs": []}
    return [{"type": "message", "id": ask.id("msg_"), "role": "assistant", "content": [part]}]


def _done(item: dict[str, Any]) -> dict[str, Any]:
    return item | {"status": "completed"}


def _response(
    ask: Ask, status: str, items: list[dict[str, Any]], usage: Usage | None
) -> dict[str, Any]:  # fmt: skip
    fields = ask.fields
    reason = {"reason": "max_output_tokens"} if status == "incomplete" else None
    return {
        "id": ask.id("resp_"), "object": "response", "created_at": ask.created, "status": status,
        "error": None, "incomplete_details": reason, "instructions": fields.get("instructions"),
        "max_output_tokens": fields.get("max_output_tokens"), "metadata": fields.get("metadata") or {},
        "model": ask.model, "output": items, "parallel_tool_calls": True,
        "previous_response_id": fields.get("previous_response_id"), "temperature": fields.get("temperature"),
        "tool_choice": fields.get("tool_choice") or "auto", "tools": fields.get("tools") or [],
        "top_p": fields.get("top_p"), "usage": _usage(usage) if usage and ask.step.report_usage else None,
    }  # fmt: skip


def _usage(usage: Usage) -> dict[str, Any]:
    return {
        "input_tokens": usage.input_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": usage.output_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.input_tokens + usage.output_tokens,
    }


class _Stream:
    """Numbers the events as they are made."""

    def __init__(self, ask: Ask, answer: Said, usage: Usage) -> None:
        self._ask, self._answer, self._usage = ask, answer, usage
        self._number = -1

    def pieces(self) -> Iterator[Piece]:
        """Make the events."""
        begun = _response(self._ask, "in_progress", [], None)
        yield self._event("response.created", response=begun)
        yield self._event("response.in_progress", response=begun)
        items = _items(self._ask, self._answer)
        for index, item in enumerate(items):
            if item["type"] == "message":
                yield from self._message(index, item)
            else:
                yield from self._call(index, item)
        status = _status(self._answer)
        ended = _response(self._ask, status, [_done(item) for item in items], self._usage)
        yield self._event(f"response.{status}", response=ended)

    def _message(self, index: int, item: dict[str, Any]) -> Iterator[Piece]:
        part = item["content"][0]
        where = {"item_id": item["id"], "output_index": index, "content_index": 0}
        fresh = item | {"content": [], "status": "in_progress"}
        yield self._event("response.output_item.added", output_index=index, item=fresh)
        yield self._event("response.content_part.added", part=part | {"text": ""}, **where)
        for token in self._answer.tokens:
            yield self._event("response.output_text.delta", 1, delta=token, logprobs=[], **where)
        yield self._event("response.output_text.done", text=part["text"], logprobs=[], **where)
        yield self._event("response.content_part.done", part=part, **where)
        yield self._event("response.output_item.done", output_index=index, item=_done(item))

    def _call(self, index: int, item: dict[str, Any]) -> Iterator[Piece]:
        where = {"item_id": item["id"], "output_index": index}
        text = item["arguments"]
        fresh = item | {"arguments": "", "status": "in_progress"}
        yield self._event("response.output_item.added", output_index=index, item=fresh)
        for at in range(0, len(text), 16):
            yield self._event("response.function_call_arguments.delta", 1, delta=text[at : at + 16], **where)
        finished = {"name": item["name"], "arguments": text}
        yield self._event("response.function_call_arguments.done", **finished, **where)
        yield self._event("response.output_item.done", output_index=index, item=_done(item))

    def _event(self, kind: str, tokens: int = 0, **members: Any) -> Piece:
        self._number += 1
        return event({"type": kind, "sequence_number": self._number, **members}, tokens, kind)
