"""Scripted chat completions and completions: whole, streamed, with tools and with a JSON schema."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from router_core.gateway.call import Usage
from router_core.gateway.clients.scripted_answer import (
    DONE,
    Answer,
    Ask,
    Piece,
    RefusedError,
    encode,
    event,
    prompt_texts,
    split_tokens,
    usage_of,
)
from router_core.gateway.clients.scripted_args import ToolUse
from router_core.gateway.clients.scripted_schema import example

__all__ = ["Said", "chat", "completion", "said", "wire_usage"]

_MAX_CHOICES: Final = 16
_MIN_WORD: Final = 4
"""Letters that a word of a tool's name needs to count as a request for the tool: not "get", "the"."""


@dataclass(frozen=True, slots=True)
class Said:
    """What the model said: a text, or tool calls."""

    tokens: list[str]
    calls: list[tuple[str, str]]
    """Name, and arguments as JSON text."""
    finish: str

    @property
    def text(self) -> str:
        """The whole text."""
        return "".join(self.tokens)

    @property
    def count(self) -> int:
        """Tokens of output."""
        return len(self.tokens) + sum(len(name) // 4 + len(text) // 4 + 1 for name, text in self.calls)


def said(ask: Ask, texts: Sequence[tuple[str, str]], tools: Sequence[Mapping[str, Any]], limit: int) -> Said:
    """Decide what is said to a conversation; ``tools`` are those of chat completions."""
    prompt = next((text for role, text in reversed(texts) if role == "user"), "")
    calls = _tool_calls(ask, texts, tools)
    if calls:
        return Said([], calls, ask.step.finish_reason or "tool_calls")
    text = ask.reply(prompt)
    schema = _wanted_schema(ask.fields)
    if schema is not None and not ask.step.reply:
        text = encode(example(schema)).decode()
    tokens, finish = _until_stop(split_tokens(text), ask.fields.get("stop")), "stop"
    if len(tokens) > limit:
        tokens, finish = tokens[:limit], "length"
    return Said(tokens, [], ask.step.finish_reason or finish)


def _until_stop(tokens: list[str], stop: Any) -> list[str]:
    wanted = [stop] if isinstance(stop, str) else stop if isinstance(stop, list) else []
    text = "".join(tokens) if wanted else ""
    ends = [text.find(each) for each in wanted if isinstance(each, str) and each]
    ends = [end for end in ends if end >= 0]
    return split_tokens(text[: min(ends)]) if ends else tokens


def _wanted_schema(fields: Mapping[str, Any]) -> Any:
    wanted = fields.get("response_format")
    if wanted is None and isinstance(fields.get("text"), Mapping):
        wanted = fields["text"].get("format")  # as the Responses API has it
    if not isinstance(wanted, Mapping):
        return None
    if wanted.get("type") == "json_object":
        return {"type": "object", "properties": {"reply": {"const": "scripted"}}}
    inner = wanted.get("json_schema")
    holder = inner if isinstance(inner, Mapping) else wanted
    return holder.get("schema") if wanted.get("type") == "json_schema" else None


def _tool_calls(
    ask: Ask, texts: Sequence[tuple[str, str]], tools: Sequence[Mapping[str, Any]]
) -> list[tuple[str, str]]:
    known = {str(tool.get("name")): tool for tool in tools}
    uses = ask.step.tool_calls or tuple(ToolUse(name) for name in _asked_for(ask, texts, list(known)))
    calls = []
    for use in uses:
        schema = known.get(use.name, {}).get("parameters")
        made = example(schema) if isinstance(schema, Mapping) else {}
        calls.append((use.name, encode(made if use.arguments is None else use.arguments).decode()))
    return calls


def _asked_for(ask: Ask, texts: Sequence[tuple[str, str]], names: list[str]) -> list[str]:
    """Return the tools to call: a forced one, or those that the last message of a user names."""
    choice = ask.fields.get("tool_choice")
    if not names or choice == "none":
        return []
    if isinstance(choice, Mapping):
        inner = choice.get("function")
        forced = inner.get("name") if isinstance(inner, Mapping) else choice.get("name")
        if forced not in names:
            raise RefusedError("'tool_choice' names a tool that is not in 'tools'", "tool_choice")
        return [str(forced)]
    role, text = texts[-1]
    words = text.casefold()
    named = [name for name in names if _names(words, name)] if role == "user" else []
    if ask.fields.get("parallel_tool_calls") is False:
        named = named[:1]
    return named or (names[:1] if choice == "required" else [])


def _names(words: str, name: str) -> bool:
    parts = [part for part in name.casefold().replace("-", "_").split("_") if len(part) >= _MIN_WORD]
    return name.casefold() in words or any(part in words for part in parts)


# -- chat completions --------------------------------------------------------------------------------


def chat(ask: Ask) -> Answer:
    """Answer chat/completions. Raises RefusedError."""
    texts = prompt_texts(ask.fields.get("messages"), "messages")
    limit = ask.integer("max_completion_tokens", ask.integer("max_tokens", 2**31))
    count = ask.integer("n", 1, most=_MAX_CHOICES)
    tools = _functions(ask.fields.get("tools"))
    answer = said(ask, texts, tools, limit)
    usage = usage_of(ask.step, sum(len(text) for _, text in texts), answer.count * count)
    if ask.stream:
        return Answer(pieces=_chat_stream(ask, answer, count, usage), tokens=answer.count)
    choices = [_choice(ask, answer, index) for index in range(count)]
    body = _head(ask, "chatcmpl-", "chat.completion") | {"choices": choices}
    return Answer(encode(_with_usage(ask, body, usage)), tokens=answer.count)


def _functions(tools: Any) -> list[Mapping[str, Any]]:
    if tools is None:
        return []
    if not isinstance(tools, list):
        raise RefusedError("'tools' has to be a list", "tools")
    found = []
    for index, tool in enumerate(tools):
        function = tool.get("function") if isinstance(tool, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise RefusedError(f"'tools[{index}].function.name' is missing", f"tools[{index}].function.name")
        found.append(function)
    return found


def _choice(ask: Ask, answer: Said, index: int) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": answer.text, "refusal": None}
    if answer.calls:
        message["content"] = None
        message["tool_calls"] = [_call(ask, at, name, text) for at, (name, text) in enumerate(answer.calls)]
    return {"index": index, "message": message, "logprobs": None, "finish_reason": answer.finish}


def _call(ask: Ask, at: int, name: str, arguments: str) -> dict[str, Any]:
    function = {"name": name, "arguments": arguments}
    return {"id": ask.id("call_", at), "type": "function", "function": function}


def _chat_stream(ask: Ask, answer: Said, count: int, usage: Usage) -> Iterator[Piece]:
    head = _head(ask, "chatcmpl-", "chat.completion.chunk")

    def chunk(index: int, delta: dict[str, Any], tokens: int = 0, finish: str | None = None) -> Piece:
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}
        return event(head | {"choices": [choice]}, tokens)

    for index in range(count):
        content = None if answer.calls else ""
        yield chunk(index, {"role": "assistant", "content": content, "refusal": None})
        for token in answer.tokens:
            yield chunk(index, {"content": token}, 1)
        for at, (name, arguments) in enumerate(answer.calls):
            first = {"index": at, **_call(ask, at, name, "")}
            yield chunk(index, {"tool_calls": [first]}, 1)
            for start in range(0, len(arguments), 16):
                piece = {"index": at, "function": {"arguments": arguments[start : start + 16]}}
                yield chunk(index, {"tool_calls": [piece]}, 1)
        yield chunk(index, {}, 0, answer.finish)
    if ask.step.report_usage:
        yield event(_with_usage(ask, head | {"choices": []}, usage))
    yield DONE


# -- completions -------------------------------------------------------------------------------------


def completion(ask: Ask) -> Answer:
    """Answer completions. Raises RefusedError."""
    prompt = _prompt(ask.fields.get("prompt"))
    limit = ask.integer("max_tokens", 16)
    count = ask.integer("n", 1, most=_MAX_CHOICES)
    answer = said(ask, [("user", prompt)], [], limit)
    usage = usage_of(ask.step, len(prompt), answer.count * count)
    head = _head(ask, "cmpl-", "text_completion")
    if ask.stream:
        return Answer(pieces=_completion_stream(ask, head, answer, count, usage), tokens=answer.count)
    choices = [_text_choice(index, answer.text, answer.finish) for index in range(count)]
    body = head | {"choices": choices}
    return Answer(encode(_with_usage(ask, body, usage)), tokens=answer.count)


def _prompt(given: Any) -> str:
    if isinstance(given, str):
        return given
    if isinstance(given, list) and given and all(isinstance(each, str) for each in given):
        return "\n".join(given)
    if isinstance(given, list) and given and all(isinstance(each, int | list) for each in given):
        return "    " * len(given)  # tokens: nothing can be read, something can be counted
    raise RefusedError("'prompt' has to be a text, a list of texts or tokens", "prompt")


def _text_choice(index: int, text: str, finish: str | None) -> dict[str, Any]:
    return {"index": index, "text": text, "logprobs": None, "finish_reason": finish}


def _completion_stream(
    ask: Ask, head: dict[str, Any], answer: Said, count: int, usage: Usage
) -> Iterator[Piece]:
    for index in range(count):
        for token in answer.tokens:
            yield event(head | {"choices": [_text_choice(index, token, None)]}, 1)
        yield event(head | {"choices": [_text_choice(index, "", answer.finish)]})
    if ask.step.report_usage:
        yield event(_with_usage(ask, head | {"choices": []}, usage))
    yield DONE


# -- both --------------------------------------------------------------------------------------------


def _head(ask: Ask, prefix: str, kind: str) -> dict[str, Any]:
    return {
        "id": ask.id(prefix), "object": kind, "created": ask.created, "model": ask.model,
        "system_fingerprint": "scripted",
    }  # fmt: skip


def _with_usage(ask: Ask, body: dict[str, Any], usage: Usage) -> dict[str, Any]:
    return body | {"usage": wire_usage(usage)} if ask.step.report_usage else body


def wire_usage(usage: Usage) -> dict[str, Any]:
    """Return usage in the words of chat completions."""
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.input_tokens + usage.output_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
    }
