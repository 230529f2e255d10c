"""Answers in the shapes of OpenAI's API, for the fault upstream."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from router_core.testing.upstream_faults import SSE, Behaviour, ok, status
from router_core.testing.upstream_wire import Exchange, Seen

__all__ = ["chat_body", "embeddings", "models", "openai", "openai_chat", "openai_stream", "usage_of"]

_CREATED: Final = 1_760_000_000
_ID: Final = "chatcmpl-scripted"


def usage_of(prompt: int, completion: int) -> dict[str, Any]:
    """Return the ``usage`` of a completion."""
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0},
    }


def chat_body(
    content: str | None = "Hello!", *, model: str = "scripted", prompt_tokens: int = 9,
    completion_tokens: int = 3, finish_reason: str = "stop", tool_calls: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:  # fmt: skip
    """Return a whole chat completion."""
    message: dict[str, Any] = {"role": "assistant", "content": content, "refusal": None}
    if tool_calls:
        message["tool_calls"] = list(tool_calls)
    return {
        "id": _ID,
        "object": "chat.completion",
        "created": _CREATED,
        "model": model,
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": finish_reason}],
        "usage": usage_of(prompt_tokens, completion_tokens),
        "system_fingerprint": "fp_scripted",
    }


def openai_chat(
    content: str | None = "Hello!", *, prompt_tokens: int = 9, completion_tokens: int = 3, delay: float = 0.0,
    finish_reason: str = "stop", tool_calls: Sequence[Mapping[str, Any]] = (),
) -> Behaviour:  # fmt: skip
    """Answer a chat call whole, under the name of the model that it asked for."""

    async def run(exchange: Exchange) -> None:
        await asyncio.sleep(delay)
        body = chat_body(
            content, model=_model(exchange.request), prompt_tokens=prompt_tokens,
            completion_tokens=completion_tokens, finish_reason=finish_reason, tool_calls=tool_calls,
        )  # fmt: skip
        await ok(body).run(exchange)

    return Behaviour("openai_chat", run)


def openai_stream(
    pieces: Sequence[str] = ("Hel", "lo", "!"), *, delay: float = 0.0, prompt_tokens: int = 9,
    usage: bool | None = None, finish_reason: str = "stop", done: bool = True, first_delay: float = 0.0,
) -> Behaviour:  # fmt: skip
    """Stream a chat call: the role, one event for each piece, the finish, usage if asked for, ``[DONE]``.

    ``usage`` None: as ``stream_options`` of the request says. ``done`` False: ends without ``[DONE]``.
    """

    async def run(exchange: Exchange) -> None:
        model = _model(exchange.request)
        wanted = _wants_usage(exchange.request) if usage is None else usage
        await exchange.head(200, SSE)
        await asyncio.sleep(first_delay)
        await exchange.chunk(_event(model, {"role": "assistant", "content": ""}, None, wanted))
        for piece in pieces:
            await exchange.chunk(_event(model, {"content": piece}, None, wanted))
            await asyncio.sleep(delay)
        await exchange.chunk(_event(model, {}, finish_reason, wanted))
        if wanted:
            last = {**_envelope(model), "choices": [], "usage": usage_of(prompt_tokens, len(pieces))}
            await exchange.chunk(_sse(last))
        if done:
            await exchange.chunk(b"data: [DONE]\n\n")
        await exchange.chunk(b"")

    return Behaviour("openai_stream", run)


def embeddings(size: int = 8) -> Behaviour:
    """Answer a call for embeddings: one vector for each input."""

    async def run(exchange: Exchange) -> None:
        asked = _object(exchange.request)
        inputs = asked.get("input", "")
        count = len(inputs) if isinstance(inputs, list) else 1
        data = [
            {
                "object": "embedding",
                "index": index,
                "embedding": [(index + 1) / (place + 2) for place in range(size)],
            }
            for index in range(count)
        ]
        usage = {"prompt_tokens": 4 * count, "total_tokens": 4 * count}
        await ok({"object": "list", "data": data, "model": _model(exchange.request), "usage": usage}).run(
            exchange
        )

    return Behaviour("embeddings", run)


def models(*names: str) -> Behaviour:
    """Answer with a list of models."""
    data = [{"id": name, "object": "model", "created": _CREATED, "owned_by": "scripted"} for name in names]
    return ok({"object": "list", "data": data})


def openai(*names: str) -> Callable[[Seen], Behaviour]:
    """Return the script of a server that speaks OpenAI: chat (streams too), embeddings, models, health."""

    def script(request: Seen) -> Behaviour:
        path = request.path
        if path.endswith("/chat/completions"):
            return openai_stream() if _object(request).get("stream") is True else openai_chat()
        if path.endswith("/embeddings"):
            return embeddings()
        if path.endswith("/models"):
            return models(*(names or ("scripted",)))
        if path.endswith("/health"):
            return ok(b"")
        return status(404, message=f"nothing at {path}", kind="invalid_request_error")

    return script


def _object(request: Seen) -> dict[str, Any]:
    try:
        found = json.loads(request.body)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _model(request: Seen) -> str:
    return str(_object(request).get("model", "scripted"))


def _wants_usage(request: Seen) -> bool:
    options = _object(request).get("stream_options")
    return isinstance(options, dict) and options.get("include_usage") is True


def _envelope(model: str) -> dict[str, Any]:
    return {
        "id": _ID,
        "object": "chat.completion.chunk",
        "created": _CREATED,
        "model": model,
        "system_fingerprint": "fp_scripted",
    }


def _event(model: str, delta: Mapping[str, Any], finish: str | None, usage: bool) -> bytes:
    event: dict[str, Any] = {
        **_envelope(model),
        "choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}],
    }
    if usage:
        event["usage"] = None
    return _sse(event)


def _sse(value: Mapping[str, Any]) -> bytes:
    return b"data: " + json.dumps(value, separators=(",", ":")).encode() + b"\n\n"
