"""A stand-in for Anthropic's Messages API, true to its wire: its official SDK works against it.

    async with AnthropicApi() as api:
        api.answers.append(Turn([{"type": "text", "text": "Hello!"}]))
        client = anthropic.AsyncAnthropic(base_url=api.url, api_key=api.key)
        ...
        assert api.bodies[0]["max_tokens"] == 64

It validates as the API does (``anthropic_checks``), for both versions of it, streams as it does, and answers
with what ``answers`` hold, one for each request; without any it says hello, or calls a tool where it has to
or is told to by name. ``fail`` queues errors, ``upstream.queue`` whatever else can go wrong.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Final, Self

from router_core.testing.anthropic_checks import VERSIONS, ApiError, check_message
from router_core.testing.upstream import Upstream
from router_core.testing.upstream_faults import SSE, Behaviour, ok
from router_core.testing.upstream_wire import Exchange, Seen

__all__ = ["AnthropicApi", "Turn"]

_MODELS: Final = ("claude-opus-4-1", "claude-sonnet-4-5", "claude-haiku-4-5", "claude-opus-5")
_PIECE: Final = 7
"""Characters of one delta."""


@dataclass(slots=True)
class Turn:
    """One answer of the model."""

    content: Sequence[Mapping[str, Any]]
    stop_reason: str = ""
    """Empty: tool_use where a tool is called, else end_turn."""
    stop_sequence: str | None = None
    stop_details: Mapping[str, Any] | None = None
    usage: Mapping[str, Any] = field(default_factory=lambda: {"input_tokens": 12, "output_tokens": 5})
    pings: bool = True
    error_after: int | None = None
    """Send ``error`` after so many events of a stream, and end."""
    error: tuple[str, str] = ("overloaded_error", "Overloaded")
    pause: float = 0.0
    """Seconds between two events."""

    @property
    def reason(self) -> str:
        """Why it ends."""
        called = any(block["type"] == "tool_use" for block in self.content)
        return self.stop_reason or ("tool_use" if called else "end_turn")


class AnthropicApi:
    """One account at Anthropic."""

    def __init__(self, *, key: str = "sk-ant-test-key") -> None:
        self.key = key
        self.answers: deque[Turn] = deque()
        self.bodies: list[Any] = []
        """Requests for messages that were accepted."""
        self.upstream = Upstream(self._behaviour)
        self._count = 0

    @property
    def url(self) -> str:
        """Its base URL."""
        return self.upstream.url

    def fail(self, status: int, kind: str, message: str, **headers: str) -> None:
        """Answer the next request with an error; ``_`` in names of headers stands for ``-``."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.upstream.queue(_error(ApiError(status, kind, message), named))

    async def __aenter__(self) -> Self:
        await self.upstream.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:  # fmt: skip
        await self.upstream.stop()

    # -- answers -------------------------------------------------------------------------------------

    def _behaviour(self, seen: Seen) -> Behaviour:
        try:
            return self._answer(seen)
        except ApiError as exc:
            return _error(exc, {})

    def _answer(self, seen: Seen) -> Behaviour:
        version = self._authorize(seen)
        path = seen.path.rstrip("/")
        if seen.method == "GET" and path.startswith("/v1/models"):
            return _models(path)
        if seen.method != "POST" or path not in ("/v1/messages", "/v1/messages/count_tokens"):
            raise ApiError(404, "not_found_error", "Not found")
        try:
            body = json.loads(seen.body)
        except ValueError as exc:
            text = f"The request body is not valid JSON: {exc}"
            raise ApiError(400, "invalid_request_error", text) from None
        if path.endswith("count_tokens"):
            return ok({"input_tokens": len(seen.body) // 4}, headers=self._headers())
        check_message(body, version)
        self.bodies.append(body)
        turn = self.answers.popleft() if self.answers else _said(body)
        message = self._message(body, turn)
        if not body.get("stream"):
            return ok(message, headers=self._headers())
        return Behaviour("stream", lambda exchange: self._stream(exchange, message, turn))

    def _authorize(self, seen: Seen) -> str:
        """Return the version that is spoken."""
        bearer = seen.headers.get("authorization", "").removeprefix("Bearer ")
        given = seen.headers.get("x-api-key") or bearer
        if not given:
            raise ApiError(401, "authentication_error", "x-api-key header is required")
        if given != self.key:
            raise ApiError(401, "authentication_error", "invalid x-api-key")
        version = seen.headers.get("anthropic-version", "")
        if not version:
            raise ApiError(400, "invalid_request_error", "anthropic-version: header is required")
        if version not in VERSIONS:
            message = f'anthropic-version: "{version}" is not a valid version'
            raise ApiError(400, "invalid_request_error", message)
        return version

    def _headers(self) -> dict[str, str]:
        self._count += 1
        return {"request-id": f"req_{self._count:06}", "anthropic-organization-id": "org_test"}

    def _message(self, body: Mapping[str, Any], turn: Turn) -> dict[str, Any]:
        self._count += 1
        return {
            "id": f"msg_{self._count:06}", "type": "message", "role": "assistant", "model": body["model"],
            "content": list(turn.content), "stop_reason": turn.reason, "stop_sequence": turn.stop_sequence,
            "stop_details": turn.stop_details,
            "usage": {
                "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0, "service_tier": "standard",
                **turn.usage,
            },
        }  # fmt: skip

    async def _stream(self, exchange: Exchange, message: dict[str, Any], turn: Turn) -> None:
        await exchange.head(200, {**SSE, **self._headers()})
        for number, event in enumerate(_events(message, turn)):
            if number == turn.error_after:
                kind, text = turn.error
                event = {"type": "error", "error": {"type": kind, "message": text}}
            await exchange.chunk(_encode(event))
            if event["type"] == "error":
                break
            await asyncio.sleep(turn.pause)
        await exchange.chunk(b"")


def _encode(event: Mapping[str, Any]) -> bytes:
    return f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode()


def _error(error: ApiError, headers: Mapping[str, str]) -> Behaviour:
    body = {
        "type": "error", "error": {"type": error.kind, "message": error.message}, "request_id": "req_failed",
    }  # fmt: skip
    return ok(body, code=error.status, headers={"request-id": "req_failed", **headers})


def _models(path: str) -> Behaviour:
    found = [
        {
            "type": "model", "id": name, "display_name": name.title(), "lifecycle": "active",
            "created_at": "2026-01-01T00:00:00Z", "max_input_tokens": 200_000, "max_tokens": 64_000,
        }
        for name in _MODELS
    ]  # fmt: skip
    name = path.removeprefix("/v1/models").strip("/")
    if not name:
        ends = {"has_more": False, "first_id": found[0]["id"], "last_id": found[-1]["id"]}
        return ok({"data": found, **ends})
    chosen = [each for each in found if each["id"] == name]
    if not chosen:
        raise ApiError(404, "not_found_error", f"model: {name}")
    return ok(chosen[0])


# -- what is said ------------------------------------------------------------------------------------


def _said(body: Mapping[str, Any]) -> Turn:
    """Call the tool that has to be called, or that the last message names; else say hello."""
    choice = body.get("tool_choice", {"type": "auto"})
    tools = [tool["name"] for tool in body.get("tools", [])]
    last = json.dumps(body["messages"][-1]["content"])
    wanted: list[str] = []
    if choice["type"] == "tool":
        wanted = [choice["name"]]
    elif choice["type"] != "none" and "tool_result" not in last:
        wanted = [name for name in tools if name in last] or (tools[:1] if choice["type"] == "any" else [])
    if choice.get("disable_parallel_tool_use"):
        wanted = wanted[:1]
    if wanted:
        calls = [
            {"type": "tool_use", "id": f"toolu_{at:06}", "name": name, "input": {"called": name}}
            for at, name in enumerate(wanted)
        ]
        return Turn([{"type": "text", "text": "Let me see."}, *calls])
    text = f"Hello from {body['model']}."
    thinking = (body.get("thinking") or {}).get("type") in ("enabled", "adaptive")
    thought = (
        [{"type": "thinking", "thinking": "They greet me.", "signature": "c2lnbmVk"}] if thinking else []
    )
    return Turn([*thought, {"type": "text", "text": text}])


def _events(message: dict[str, Any], turn: Turn) -> Iterator[dict[str, Any]]:
    begun = {**message["usage"], "output_tokens": 1}
    yield {
        "type": "message_start",
        "message": {
            **message, "content": [], "stop_reason": None, "stop_sequence": None, "stop_details": None,
            "usage": begun,
        },
    }  # fmt: skip
    if turn.pings:
        yield {"type": "ping"}
    for index, block in enumerate(turn.content):
        fresh, deltas = _begun(block)
        yield {"type": "content_block_start", "index": index, "content_block": fresh}
        for delta in deltas:
            yield {"type": "content_block_delta", "index": index, "delta": delta}
        yield {"type": "content_block_stop", "index": index}
    stop = {name: message[name] for name in ("stop_reason", "stop_sequence", "stop_details")}
    yield {"type": "message_delta", "delta": stop, "usage": turn.usage}
    yield {"type": "message_stop"}


def _begun(block: Mapping[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return a block as it begins, and the deltas that fill it."""
    kind = block["type"]
    if kind == "text":
        pieces = _pieces(block["text"])
        return {**block, "text": ""}, [{"type": "text_delta", "text": piece} for piece in pieces]
    if kind == "tool_use":
        pieces = ["", *_pieces(json.dumps(block["input"]))]  # the first delta of a tool is empty there
        deltas = [{"type": "input_json_delta", "partial_json": piece} for piece in pieces]
        return {**block, "input": {}}, deltas
    if kind == "thinking":
        deltas = [{"type": "thinking_delta", "thinking": piece} for piece in _pieces(block["thinking"])]
        deltas.append({"type": "signature_delta", "signature": block["signature"]})
        return {**block, "thinking": "", "signature": ""}, deltas
    return dict(block), []


def _pieces(text: str) -> list[str]:
    return [text[at : at + _PIECE] for at in range(0, len(text), _PIECE)]
