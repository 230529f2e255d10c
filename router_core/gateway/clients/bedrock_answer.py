"""Read answers of Amazon Bedrock's Converse API as chat completions, whole and streamed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from router_core.gateway.clients.bedrock_eventstream import EventMessage, EventStreamReader
from router_core.gateway.clients.chat_answer import (
    DONE,
    Chunks,
    Said,
    StreamedCalls,
    TokenCounts,
    completion,
    thinking_block,
    tokens_in,
)
from router_core.gateway.clients.chat_stream import malformed

__all__ = ["ConverseTranslator", "read_converse"]

_FINISHES: Final[Mapping[str, str]] = {
    "end_turn": "stop", "stop_sequence": "stop", "max_tokens": "length", "tool_use": "tool_calls",
    "model_context_window_exceeded": "length", "guardrail_intervened": "content_filter",
    "content_filtered": "content_filter",
}  # fmt: skip
_MAX_THOUGHT: Final = 256 * 1024
_MAX_BLOCKS: Final = 4096

_decode: Final = msgspec.json.Decoder().decode

ErrorEvent = Callable[[str, str], bytes]
"""Makes, of kind and message, the event that tells the caller of an error."""


def _finish_of(reason: Any) -> str:
    return _FINISHES.get(reason, "stop") if isinstance(reason, str) else "stop"


def _token_counts(usage: Any) -> TokenCounts:
    """Return what was used. What the cache gave and took is counted beside the rest of the input."""
    if not isinstance(usage, Mapping):
        return TokenCounts()
    cached, written = tokens_in(usage, "cacheReadInputTokens"), tokens_in(usage, "cacheWriteInputTokens")
    total = tokens_in(usage, "inputTokens") + cached + written
    return TokenCounts(total, tokens_in(usage, "outputTokens"), cached, written)


def read_converse(body: bytes, answer_id: str, model: str, created: int, json_tool: str = "") -> bytes:
    """Return the chat completion that an answer is. Raises UpstreamFailure for what is none.

    ``json_tool``: the tool whose arguments are the answer.
    """
    try:
        answer = _decode(body)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        raise malformed("the answer is not JSON") from None
    output = answer.get("output") if isinstance(answer, dict) else None
    message = output.get("message") if isinstance(output, dict) else None
    content = message.get("content") if isinstance(message, dict) else None
    if not isinstance(content, list):
        raise malformed("the answer holds no message")
    said, finish = Said(), _finish_of(answer.get("stopReason"))
    for block in content:
        if isinstance(block, dict) and _read_block(said, block, json_tool):
            finish = "stop"
    usage = _token_counts(answer.get("usage"))
    return completion(answer_id, model, created, said, said.finish(finish), usage)


def _read_block(said: Said, block: dict[str, Any], json_tool: str) -> bool:
    """Add a block. True: it is the wanted JSON."""
    text, tool, thought = block.get("text"), block.get("toolUse"), block.get("reasoningContent")
    if isinstance(text, str):
        said.texts.append(text)
    if isinstance(thought, dict):
        _read_thought(said, thought)
    if isinstance(tool, dict) and isinstance(tool.get("input"), dict) and tool.get("type") is None:
        if json_tool and tool.get("name") == json_tool:
            said.texts = [msgspec.json.encode(tool["input"]).decode()]
            return True
        said.call(str(tool.get("toolUseId")), str(tool.get("name")), tool["input"])
    return False


def _read_thought(said: Said, thought: dict[str, Any]) -> None:
    inner, redacted = thought.get("reasoningText"), thought.get("redactedContent")
    if isinstance(inner, dict) and isinstance(inner.get("text"), str):
        said.reasoning.append(inner["text"])
        if isinstance(inner.get("signature"), str):
            said.thinking_blocks.append(thinking_block(inner["text"], inner["signature"]))
    if isinstance(redacted, str):
        said.thinking_blocks.append({"type": "redacted_thinking", "data": redacted})


# -- streams -----------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Block:
    index: int = -1
    """Of the tool call; -1: none."""
    tool: bool = False
    thought: list[str] = field(default_factory=list)
    size: int = 0
    signature: str = ""
    redacted: str = ""


class ConverseTranslator:
    """Translates one stream of ConverseStream."""

    def __init__(
        self, answer_id: str, model: str, created: int, error_event: ErrorEvent, json_tool: str = ""
    ) -> None:
        self.ended = False
        self._reader = EventStreamReader()
        self._chunks = Chunks(answer_id, model, created)
        self._error_event = error_event
        self._blocks: dict[int, _Block] = {}
        self._seen = 0
        self._calls = StreamedCalls(json_tool)
        self._stopped = False

    def feed(self, data: bytes) -> bytes:
        """Return the chunks that bytes of the stream complete. Raises UpstreamFailure."""
        try:
            messages = self._reader.feed(data)
        except ValueError as exc:
            raise malformed(f"the event stream cannot be read: {exc}") from None
        return b"".join([self._message(each) for each in messages if not self.ended])

    def close(self) -> bytes:
        """End well without usage where only that is missing; a message that is cut is a failure."""
        if not self._reader.between:
            raise malformed("the event stream ends within a message")
        if self._stopped and not self.ended:
            self.ended = True
            return DONE
        return b""

    def _message(self, message: EventMessage) -> bytes:
        kind = message.headers.get(":message-type", "event")
        if kind != "event":
            return self._error(message, kind)
        read = _READ.get(message.headers.get(":event-type", ""))
        if read is None:
            return b""  # an event that is new to us
        try:
            event = _decode(message.payload)
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            raise malformed("an event of the stream is not JSON") from None
        if not isinstance(event, dict):
            raise malformed("an event of the stream is no object")
        return read(self, event)

    def _error(self, message: EventMessage, kind: str) -> bytes:
        self.ended = True
        name = message.headers.get(":exception-type" if kind == "exception" else ":error-code", kind)
        text = message.headers.get(":error-message", "")
        try:
            payload = _decode(message.payload)
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            payload = None
        if isinstance(payload, dict) and isinstance(payload.get("message"), str):
            text = payload["message"]
        return self._error_event(name, text)

    def _begin(self, event: dict[str, Any]) -> bytes:
        return self._chunks.begin()

    def _block(self, event: dict[str, Any]) -> _Block:
        """Return the block of an event; only blocks of tools are announced before they are filled."""
        index = event.get("contentBlockIndex")
        if isinstance(index, bool) or not isinstance(index, int):
            raise malformed("an event of the stream has no index")
        block = self._blocks.get(index)
        if block is None:
            self._seen += 1
            if self._seen > _MAX_BLOCKS:
                raise malformed("the stream holds too many blocks")
            block = self._blocks[index] = _Block()
        return block

    def _block_begin(self, event: dict[str, Any]) -> bytes:
        block, start = self._block(event), event.get("start")
        tool = start.get("toolUse") if isinstance(start, dict) else None
        if not isinstance(tool, dict) or tool.get("type") is not None:
            return b""
        index, told = self._calls.begin(self._chunks, tool.get("name"), tool.get("toolUseId"))
        block.tool = True
        if told:
            block.index = index
        return told

    def _block_delta(self, event: dict[str, Any]) -> bytes:
        block, delta = self._block(event), event.get("delta")
        if not isinstance(delta, dict):
            raise malformed("an event of the stream has no delta")
        text, tool, thought = delta.get("text"), delta.get("toolUse"), delta.get("reasoningContent")
        if isinstance(text, str) and text:
            return self._chunks.text(text)
        if isinstance(thought, dict):
            return self._thought(block, thought)
        piece = tool.get("input") if isinstance(tool, dict) and block.tool else None
        if not isinstance(piece, str) or not piece:
            return b""
        return self._chunks.text(piece) if block.index < 0 else self._chunks.arguments(block.index, piece)

    def _thought(self, block: _Block, thought: dict[str, Any]) -> bytes:
        text, signature, redacted = (thought.get(name) for name in ("text", "signature", "redactedContent"))
        if isinstance(signature, str):
            block.signature = signature[:_MAX_THOUGHT]
        if isinstance(redacted, str):
            block.redacted = redacted[:_MAX_THOUGHT]
        if not isinstance(text, str) or not text:
            return b""
        block.size += len(text)
        if block.size <= _MAX_THOUGHT:
            block.thought.append(text)
        return self._chunks.reasoning(text)

    def _block_end(self, event: dict[str, Any]) -> bytes:
        block = self._block(event)
        self._blocks.pop(event["contentBlockIndex"], None)
        if block.redacted:
            return self._chunks.thinking_blocks([{"type": "redacted_thinking", "data": block.redacted}])
        if not block.signature or block.size > _MAX_THOUGHT:
            return b""
        return self._chunks.thinking_blocks([thinking_block("".join(block.thought), block.signature)])

    def _stop(self, event: dict[str, Any]) -> bytes:
        self._stopped = True
        return self._chunks.finish(self._calls.finish(_finish_of(event.get("stopReason"))))

    def _metadata(self, event: dict[str, Any]) -> bytes:
        self.ended = True
        return self._chunks.usage(_token_counts(event.get("usage"))) + DONE


_READ: Final[Mapping[str, Callable[[ConverseTranslator, dict[str, Any]], bytes]]] = {
    "messageStart": ConverseTranslator._begin, "contentBlockStart": ConverseTranslator._block_begin,
    "contentBlockDelta": ConverseTranslator._block_delta, "contentBlockStop": ConverseTranslator._block_end,
    "messageStop": ConverseTranslator._stop, "metadata": ConverseTranslator._metadata,
}  # fmt: skip
