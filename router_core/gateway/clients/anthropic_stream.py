"""Turn the events of Anthropic's Messages API into chunks of a chat completion, as the bytes come in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from router_core.gateway.clients.anthropic_answer import finish_of, refusal_of, token_counts
from router_core.gateway.clients.chat_answer import (
    DONE,
    PING,
    Chunks,
    StreamedCalls,
    TokenCounts,
    thinking_block,
)
from router_core.gateway.clients.chat_stream import malformed
from router_core.http.sse import SseParser

__all__ = ["EventTranslator"]

_MAX_EVENT: Final = 1024 * 1024
_MAX_THOUGHT: Final = 256 * 1024
"""Characters of a block of thinking that are kept, to be told whole at its end."""
_MAX_BLOCKS: Final = 4096

_decode: Final = msgspec.json.Decoder().decode

ErrorEvent = Callable[[Mapping[str, Any]], bytes]
"""Makes the event that tells the caller of an error."""


@dataclass(slots=True)
class _Block:
    kind: str
    index: int = -1
    """Of the tool call; -1: the JSON that is the answer, or no tool at all."""
    thought: list[str] = field(default_factory=list)
    size: int = 0
    signature: str = ""


class EventTranslator:
    """Translates one stream. Nothing but open blocks and the counts of tokens is kept."""

    def __init__(self, model: str, created: int, error_event: ErrorEvent, json_tool: str = "") -> None:
        """``json_tool``: the tool whose arguments are the answer."""
        self.ended = False
        """Whether the last event has been translated; what follows does not matter."""
        self._parser = SseParser(_MAX_EVENT)
        self._chunks = Chunks("msg_unknown", model, created)
        self._model, self._created = model, created
        self._error_event = error_event
        self._blocks: dict[int, _Block] = {}
        self._seen = 0
        self._calls = StreamedCalls(json_tool)
        self._usage: dict[str, Any] = {}

    def feed(self, data: bytes) -> bytes:
        """Return the chunks that bytes of the stream complete. Raises UpstreamFailure."""
        try:
            events = self._parser.feed(data)
        except ValueError:
            raise malformed("an event of the stream is too long") from None
        out = []
        for event in events:
            try:
                value = _decode(event.data)
            except (msgspec.DecodeError, UnicodeError, RecursionError):
                raise malformed("an event of the stream is not JSON") from None
            if not isinstance(value, dict):
                raise malformed("an event of the stream is no object")
            kind = value.get("type")
            read = _READ.get(kind) if isinstance(kind, str) else None
            if read is not None and not self.ended:
                out.append(read(self, value))
        return b"".join(out)

    def close(self) -> bytes:
        """Say nothing more: a stream that ends before its last event is cut, and its reader sees that."""
        return b""

    # -- events --------------------------------------------------------------------------------------

    def _begin(self, event: dict[str, Any]) -> bytes:
        message = _object(event, "message")
        answer_id, model = message.get("id"), message.get("model")
        self._chunks = Chunks(
            answer_id if isinstance(answer_id, str) else "msg_unknown",
            model if isinstance(model, str) else self._model, self._created,
        )  # fmt: skip
        self._count(message.get("usage"))
        return self._chunks.begin()

    def _block_begin(self, event: dict[str, Any]) -> bytes:
        given = _object(event, "content_block")
        kind = given.get("type")
        self._seen += 1
        if self._seen > _MAX_BLOCKS:
            raise malformed("the stream holds too many blocks")
        block = self._blocks[_index(event)] = _Block(kind if isinstance(kind, str) else "")
        if kind == "tool_use":
            return self._call(block, given)
        if kind == "redacted_thinking":
            return self._chunks.thinking_blocks([{"type": kind, "data": given.get("data") or ""}])
        text = given.get("text") if kind == "text" else None
        return self._chunks.text(text) if isinstance(text, str) and text else b""

    def _call(self, block: _Block, given: Mapping[str, Any]) -> bytes:
        block.index, told = self._calls.begin(self._chunks, given.get("name"), given.get("id"))
        return told

    def _block_delta(self, event: dict[str, Any]) -> bytes:
        delta, block = _object(event, "delta"), self._blocks.get(_index(event))
        if block is None:
            raise malformed("a delta of the stream belongs to no block")
        kind = delta.get("type")
        if kind == "text_delta" and (text := _string(delta, "text")):
            return self._chunks.text(text)
        if kind == "input_json_delta" and (text := _string(delta, "partial_json")):
            if block.kind != "tool_use":
                return b""  # a tool that runs at the provider
            return self._chunks.text(text) if block.index < 0 else self._chunks.arguments(block.index, text)
        if kind == "thinking_delta" and (text := _string(delta, "thinking")):
            block.size += len(text)
            if block.size <= _MAX_THOUGHT:
                block.thought.append(text)
            return self._chunks.reasoning(text)
        if kind == "signature_delta":
            block.signature = _string(delta, "signature")[:_MAX_THOUGHT]
        return b""

    def _block_end(self, event: dict[str, Any]) -> bytes:
        block = self._blocks.pop(_index(event), None)
        if block is None or block.kind != "thinking" or not block.signature or block.size > _MAX_THOUGHT:
            return b""
        return self._chunks.thinking_blocks([thinking_block("".join(block.thought), block.signature)])

    def _delta(self, event: dict[str, Any]) -> bytes:
        delta = _object(event, "delta")
        self._count(event.get("usage"))
        reason = delta.get("stop_reason")
        if not isinstance(reason, str):
            return b""
        return self._chunks.finish(self._calls.finish(finish_of(reason)), refusal_of(delta))

    def _end(self, event: dict[str, Any]) -> bytes:
        self.ended = True
        return self._chunks.usage(self.counts()) + DONE

    def _ping(self, event: dict[str, Any]) -> bytes:
        return PING

    def _error(self, event: dict[str, Any]) -> bytes:
        self.ended = True
        return self._error_event(_object(event, "error"))

    # -- usage ---------------------------------------------------------------------------------------

    def _count(self, usage: Any) -> None:
        """Take over what an event counts: the counts of a stream are sums, so the last one holds."""
        if isinstance(usage, Mapping):
            self._usage.update({name: value for name, value in usage.items() if value is not None})

    def counts(self) -> TokenCounts:
        """Return what was used as far as it is known."""
        return token_counts(self._usage)


_READ: Final[Mapping[str, Callable[[EventTranslator, dict[str, Any]], bytes]]] = {
    "message_start": EventTranslator._begin, "content_block_start": EventTranslator._block_begin,
    "content_block_delta": EventTranslator._block_delta, "content_block_stop": EventTranslator._block_end,
    "message_delta": EventTranslator._delta, "message_stop": EventTranslator._end,
    "ping": EventTranslator._ping, "error": EventTranslator._error,
}  # fmt: skip
"""Type of an event -> what it becomes. Types that are new to us are passed over, as Anthropic asks for."""


def _object(event: Mapping[str, Any], name: str) -> dict[str, Any]:
    value = event.get(name)
    if not isinstance(value, dict):
        raise malformed(f"an event of the stream has no {name}")
    return value


def _index(event: Mapping[str, Any]) -> int:
    value = event.get("index")
    if isinstance(value, bool) or not isinstance(value, int):
        raise malformed("an event of the stream has no index")
    return value


def _string(holder: Mapping[str, Any], name: str) -> str:
    value = holder.get(name)
    return value if isinstance(value, str) else ""
