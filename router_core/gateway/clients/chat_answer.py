"""Write chat completions, whole and in chunks, from what upstreams with a protocol of their own have said."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from router_core.gateway.clients.chat_stream import malformed

__all__ = [
    "DONE", "PING", "Chunks", "Said", "StreamedCalls", "TokenCounts", "completion", "thinking_block",
    "tokens_in",
]  # fmt: skip

DONE: Final = b"data: [DONE]\n\n"
PING: Final = b": ping\n\n"
"""A comment: readers ignore it, and whoever measures silence sees that there is none."""
_AFTER: Final = b'},"logprobs":null,"finish_reason":null}]}\n\n'

_encode: Final = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class TokenCounts:
    """What was used; ``input`` is all of it, what the cache gave and took included."""

    input: int = 0
    output: int = 0
    cached: int = 0
    """Read from the cache."""
    cache_written: int = 0
    reasoning: int = 0

    def wire(self) -> dict[str, Any]:
        """Return it in the words of chat completions."""
        return {
            "prompt_tokens": self.input,
            "completion_tokens": self.output,
            "total_tokens": self.input + self.output,
            "prompt_tokens_details": {
                "cached_tokens": self.cached, "cache_write_tokens": self.cache_written,
            },
            "completion_tokens_details": {"reasoning_tokens": self.reasoning},
        }  # fmt: skip


@dataclass(slots=True)
class Said:
    """A whole answer, as it is gathered."""

    texts: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    thinking_blocks: list[dict[str, Any]] = field(default_factory=list)
    tool_calls: list[dict[str, Any]] = field(default_factory=list)
    refusal: str | None = None

    def call(self, call_id: str, name: str, arguments: Any) -> None:
        """Add a call of a tool."""
        text = _encode(arguments).decode()
        function = {"name": name, "arguments": text}
        self.tool_calls.append({"id": call_id, "type": "function", "function": function})

    def finish(self, reason: str) -> str:
        """Return the finish reason of the answer: who calls tools has not just stopped."""
        return "tool_calls" if self.tool_calls and reason == "stop" else reason

    def message(self) -> dict[str, Any]:
        """Return the message of the choice."""
        text = "".join(self.texts)
        message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": self.refusal}
        if self.tool_calls:
            message["content"] = text or None
            message["tool_calls"] = self.tool_calls
        if self.reasoning:
            message["reasoning_content"] = "".join(self.reasoning)
        if self.thinking_blocks:
            message["thinking_blocks"] = self.thinking_blocks
        return message


def completion(
    answer_id: str, model: str, created: int, said: Said, finish: str, usage: TokenCounts
) -> bytes:  # fmt: skip
    """Return the body of a chat completion."""
    choice = {"index": 0, "message": said.message(), "logprobs": None, "finish_reason": finish}
    return _encode({
        "id": answer_id, "object": "chat.completion", "created": created, "model": model,
        "choices": [choice], "usage": usage.wire(),
    })  # fmt: skip


def tokens_in(usage: Mapping[str, Any], name: str) -> int:
    """Return a count of what an upstream says was used; 0 for what is none."""
    value = usage.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0


def thinking_block(text: str, signature: str) -> dict[str, Any]:
    """Return a block of thinking as callers send it back."""
    return {"type": "thinking", "thinking": text, "signature": signature}


class Chunks:
    """Writes the events of one streamed completion. What does not change is written once."""

    __slots__ = ("_before", "_head")

    def __init__(self, answer_id: str, model: str, created: int) -> None:
        head = _encode({
            "id": answer_id, "object": "chat.completion.chunk", "created": created, "model": model,
        })  # fmt: skip
        self._head = b"data: " + head[:-1]
        self._before = self._head + b',"choices":[{"index":0,"delta":{'

    def begin(self) -> bytes:
        """Return the chunk with the role."""
        return self._before + b'"role":"assistant","content":"","refusal":null' + _AFTER

    def text(self, text: str) -> bytes:
        """Return a piece of the text."""
        return b'%b"content":%b%b' % (self._before, _encode(text), _AFTER)

    def reasoning(self, text: str) -> bytes:
        """Return a piece of what the model thinks."""
        return b'%b"reasoning_content":%b%b' % (self._before, _encode(text), _AFTER)

    def thinking_blocks(self, blocks: Sequence[dict[str, Any]]) -> bytes:
        """Return whole blocks of thinking, for the caller to send back with its next request."""
        return b'%b"thinking_blocks":%b%b' % (self._before, _encode(blocks), _AFTER)

    def call(self, index: int, call_id: str, name: str) -> bytes:
        """Return the beginning of a tool call."""
        function = {"name": name, "arguments": ""}
        calls = [{"index": index, "id": call_id, "type": "function", "function": function}]
        return b'%b"tool_calls":%b%b' % (self._before, _encode(calls), _AFTER)

    def arguments(self, index: int, text: str) -> bytes:
        """Return a piece of a tool call's arguments."""
        calls = [{"index": index, "function": {"arguments": text}}]
        return b'%b"tool_calls":%b%b' % (self._before, _encode(calls), _AFTER)

    def finish(self, reason: str, refusal: str | None = None) -> bytes:
        """Return the last chunk of the choice."""
        delta = b'"refusal":' + _encode(refusal) if refusal else b""
        end = b'},"logprobs":null,"finish_reason":%b}]}\n\n' % _encode(reason)
        return self._before + delta + end

    def usage(self, usage: TokenCounts) -> bytes:
        """Return the chunk that holds the usage alone."""
        return b'%b,"choices":[],"usage":%b}\n\n' % (self._head, _encode(usage.wire()))


class StreamedCalls:
    """Numbers the tool calls of one stream. That of the tool whose arguments are the answer is none."""

    __slots__ = ("_answered", "_begun", "_json_tool")

    def __init__(self, json_tool: str) -> None:
        """``json_tool``: the tool whose arguments are the answer; empty: none is."""
        self._json_tool = json_tool
        self._answered = False
        self._begun = 0

    def begin(self, chunks: Chunks, name: Any, call_id: Any) -> tuple[int, bytes]:
        """Return the number of a call and what tells of it; -1 and nothing: its arguments are the answer.

        Raises UpstreamFailure.
        """
        if not isinstance(name, str) or not isinstance(call_id, str):
            raise malformed("a tool call of the stream has no name or id")
        if self._json_tool and name == self._json_tool:
            self._answered = True
            return -1, b""
        self._begun += 1
        index = self._begun - 1
        return index, chunks.call(index, call_id, name)

    def finish(self, reason: str) -> str:
        """Return the finish reason of the stream: that of the calls that the reader has seen."""
        if self._begun and reason == "stop":
            return "tool_calls"
        if self._answered and not self._begun and reason == "tool_calls":
            return "stop"
        return reason
