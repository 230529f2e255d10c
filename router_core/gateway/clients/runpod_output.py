"""Read what a job at RunPod has put out as an answer of OpenAI.

Understood are, for a whole answer:

- an object in the shape of OpenAI (``choices``, ``data``, ``results``, ``text`` of a transcription ...);
- ``{"error": ...}`` or vLLM's ``{"object": "error"}``: an error, with the status that it says;
- a list of chunks of a chat completion: put together;
- a list of texts of events (``data: {...}``), as workers for vLLM yield: read, then put together;
- the native form of workers for vLLM: ``{"choices": [{"tokens": ["..."]}], "usage": {"input", "output"}}``;
- a text, a list of texts, or an object with ``text``, ``generated_text``, ``response`` or ``output``;
- a list of one of these: what is in it.

The last three become a chat completion or a completion.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from router_core.gateway.clients.chat_answer import TokenCounts

__all__ = ["OutputError", "UnknownOutput", "answer_of", "error_of", "piece_of", "texts_of"]

_NATIVE: Final = ("text", "generated_text", "response", "output")
_MAX_PIECES: Final = 200_000
_MAX_DEPTH: Final = 8

_decode: Final = msgspec.json.Decoder().decode


class UnknownOutput(Exception):
    """The output has no shape that is known."""


class OutputError(Exception):
    """The output says that something went wrong."""

    def __init__(self, status: int, message: str, kind: str = "", code: str = "") -> None:
        super().__init__(message)
        self.status, self.message, self.kind, self.code = status, message, kind, code


def answer_of(output: Any, endpoint: str, model: str, answer_id: str, created: int) -> dict[str, Any]:
    """Return the body of the answer. Raises OutputError, UnknownOutput."""
    output = _unwrapped(output)
    if isinstance(output, Mapping):
        failed = error_of(output)
        if failed is not None:
            raise failed
        if _is_openai(output, endpoint):
            return dict(output)
    if isinstance(output, list) and output and endpoint in ("chat/completions", "completions"):
        chunks = _chunks(output)
        if chunks:
            return _joined(chunks, endpoint)
    if endpoint not in ("chat/completions", "completions"):
        raise UnknownOutput
    text, usage = _native(output)
    return _wrapped(text, usage, endpoint, model, answer_id, created)


def _unwrapped(output: Any) -> Any:
    """Take a value out of lists of one; a list of one text of an event stays what it is."""
    while isinstance(output, list) and len(output) == 1 and isinstance(output[0], list | Mapping):
        if _is_chunk(output[0]):
            break
        output = output[0]
    return output


def error_of(output: Mapping[str, Any]) -> OutputError | None:
    """Return the error that an output is, if it is one."""
    inner = output.get("error")
    if output.get("object") == "error":
        inner = output
    if not inner:
        return None
    if isinstance(inner, str):
        return _from_text(inner)
    if not isinstance(inner, Mapping):
        return OutputError(500, "the job failed")
    return _from_mapping(inner)


def _from_text(text: str) -> OutputError:
    """Read an error that a worker told as text; its SDK puts JSON with a traceback into it."""
    if text.lstrip().startswith("{"):
        try:
            inner = _decode(text)
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            inner = None
        if isinstance(inner, dict) and isinstance(inner.get("error_message"), str):
            kind = inner.get("error_type")
            return OutputError(500, inner["error_message"][:2000], code=kind if isinstance(kind, str) else "")
        if isinstance(inner, dict) and (inner.get("message") or inner.get("error")):
            return error_of(inner if inner.get("error") else {"error": inner}) or OutputError(500, "failed")
    return OutputError(500, text.partition("\ntraceback:")[0].strip()[:2000])


def _from_mapping(inner: Mapping[str, Any]) -> OutputError:
    code, message = inner.get("code"), inner.get("message")
    status = 500
    for value in (inner.get("status_code"), inner.get("status"), code):
        if isinstance(value, int) and not isinstance(value, bool) and 400 <= value <= 599:
            status = value
            break
    kind = inner.get("type")
    if status == 500 and kind in ("invalid_request_error", "BadRequestError"):
        status = 400
    return OutputError(
        status, message[:2000] if isinstance(message, str) else "the job failed",
        kind if isinstance(kind, str) else "", code if isinstance(code, str) else "",
    )  # fmt: skip


def _is_openai(output: Mapping[str, Any], endpoint: str) -> bool:
    if endpoint in ("chat/completions", "completions"):
        choices = output.get("choices")
        first = choices[0] if isinstance(choices, list) and choices else None
        return isinstance(first, Mapping) and ("message" in first or ("text" in first and "index" in first))
    wanted = {"embeddings": "data", "rerank": "results", "images/generations": "data", "responses": "output"}
    return wanted.get(endpoint, "text") in output or (endpoint == "rerank" and "data" in output)


# -- chunks ------------------------------------------------------------------------------------------


def _is_chunk(value: Any) -> bool:
    if not isinstance(value, Mapping):
        return False
    if str(value.get("object", "")).endswith(".chunk"):
        return True
    choices = value.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    return isinstance(first, Mapping) and "delta" in first


def _chunks(output: Sequence[Any]) -> list[Mapping[str, Any]]:
    """Return the chunks that a list is; empty: it is none."""
    found: list[Mapping[str, Any]] = []
    for piece in output[:_MAX_PIECES]:
        values = _events(piece) if isinstance(piece, str) else [piece]
        for value in values:
            failed = error_of(value) if isinstance(value, Mapping) else None
            if failed is not None:
                raise failed
            if not isinstance(value, Mapping) or not _is_part(value):
                return []
            found.append(value)
    return found


def _is_part(value: Mapping[str, Any]) -> bool:
    """Whether an object is part of a stream: a chunk, a piece of a completion, or the usage at its end."""
    return _is_chunk(value) or value.get("object") == "text_completion" or (
        value.get("choices") == [] and "usage" in value
    )  # fmt: skip


def _events(text: str) -> list[Any]:
    """Return the values of a text of events; anything else gives one value that is no chunk."""
    if not text.lstrip().startswith("data:"):
        return [None] if text.strip() else []
    found = []
    for line in text.split("\n"):
        data = line.strip().removeprefix("data:").strip()
        if not data or data == "[DONE]" or data.startswith(":"):
            continue
        try:
            found.append(_decode(data))
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            return [None]
    return found


def _joined(chunks: Sequence[Mapping[str, Any]], endpoint: str) -> dict[str, Any]:
    """Put the chunks of a stream together."""
    choices: dict[int, dict[str, Any]] = {}
    body = {name: value for name, value in chunks[0].items() if name not in ("choices", "usage")}
    body["object"] = "chat.completion" if endpoint == "chat/completions" else "text_completion"
    usage: Any = None
    for chunk in chunks:
        usage = chunk.get("usage") or usage
        listed = chunk.get("choices")
        for given in listed if isinstance(listed, list) else ():
            index = given.get("index", 0) if isinstance(given, Mapping) else None
            if (
                isinstance(given, Mapping)
                and isinstance(index, int)
                and (index in choices or len(choices) < 128)
            ):
                _add(choices.setdefault(index, {"index": index, "finish_reason": None}), given, endpoint)
    body["choices"] = [choices[index] for index in sorted(choices)]
    return body | ({"usage": usage} if usage else {})


def _add(choice: dict[str, Any], given: Mapping[str, Any], endpoint: str) -> None:
    choice["finish_reason"] = given.get("finish_reason") or choice["finish_reason"]
    if endpoint != "chat/completions":
        choice["text"] = choice.get("text", "") + _string(given.get("text"))
        return
    message = choice.setdefault("message", {"role": "assistant", "content": None})
    delta = given.get("delta")
    if not isinstance(delta, Mapping):
        return
    for name in ("content", "reasoning_content", "refusal"):
        if isinstance(delta.get(name), str):
            message[name] = _string(message.get(name)) + delta[name]
    calls = delta.get("tool_calls")
    for call in calls if isinstance(calls, list) else ():
        if isinstance(call, Mapping):
            _add_call(message.setdefault("tool_calls", []), call)


def _add_call(calls: list[dict[str, Any]], given: Mapping[str, Any]) -> None:
    index = given.get("index", len(calls))
    if not isinstance(index, int) or not 0 <= index <= len(calls) or index >= 128:
        return
    if index == len(calls):
        calls.append({"id": "", "type": "function", "function": {"name": "", "arguments": ""}})
    call, function = calls[index], given.get("function")
    call["id"] = _string(given.get("id")) or call["id"]
    if isinstance(function, Mapping):
        call["function"]["name"] += _string(function.get("name"))
        call["function"]["arguments"] += _string(function.get("arguments"))


def _string(value: Any) -> str:
    return value if isinstance(value, str) else ""


# -- texts -------------------------------------------------------------------------------------------


def texts_of(output: Any, depth: int = 0) -> tuple[list[str], TokenCounts | None]:
    """Return the texts of an output that has no shape of OpenAI, and its usage. Raises UnknownOutput."""
    if isinstance(output, str):
        return [output], None
    if depth > _MAX_DEPTH:
        raise UnknownOutput
    if isinstance(output, list):
        parts = [texts_of(each, depth + 1) for each in output[:_MAX_PIECES]]
        counts = [count for _, count in parts if count is not None]
        return [text for texts, _ in parts for text in texts], counts[-1] if counts else None
    if not isinstance(output, Mapping):
        raise UnknownOutput
    usage = _usage(output.get("usage"))
    if isinstance(output.get("choices"), list):
        tokens = [each.get("tokens") for each in output["choices"] if isinstance(each, Mapping)]
        lists = [each if isinstance(each, list) else [each] for each in tokens if each is not None]
        texts = [text for each in lists for text in each if isinstance(text, str)]
        if lists or not output["choices"]:
            return texts, usage
        raise UnknownOutput
    for name in _NATIVE:
        if isinstance(output.get(name), str | list):
            texts, inner = texts_of(output[name], depth + 1)
            return texts, usage or inner
    raise UnknownOutput


def _usage(usage: Any) -> TokenCounts | None:
    if not isinstance(usage, Mapping):
        return None
    counts = [
        usage.get("input", usage.get("prompt_tokens")),
        usage.get("output", usage.get("completion_tokens")),
    ]
    if not all(isinstance(each, int) and not isinstance(each, bool) and each >= 0 for each in counts):
        return None
    return TokenCounts(int(counts[0] or 0), int(counts[1] or 0))


def _native(output: Any) -> tuple[str, TokenCounts | None]:
    if output is None or output == []:
        raise UnknownOutput
    texts, usage = texts_of(output)
    return "".join(texts), usage


def _wrapped(
    text: str, usage: TokenCounts | None, endpoint: str, model: str, answer_id: str, created: int
) -> dict[str, Any]:  # fmt: skip
    chat = endpoint == "chat/completions"
    choice: dict[str, Any] = {"index": 0, "logprobs": None, "finish_reason": "stop"}
    choice |= {"message": {"role": "assistant", "content": text, "refusal": None}} if chat else {"text": text}
    body: dict[str, Any] = {
        "id": answer_id, "object": "chat.completion" if chat else "text_completion", "created": created,
        "model": model, "choices": [choice],
    }  # fmt: skip
    return body | ({"usage": usage.wire()} if usage is not None else {})


# -- pieces of a stream ------------------------------------------------------------------------------


def piece_of(output: Any) -> tuple[bytes, str, TokenCounts | None]:
    """Read one output of a stream: events that pass as they are, or a text with its usage.

    Raises OutputError for an error, UnknownOutput for what is neither.
    """
    if isinstance(output, str) and output.lstrip().startswith(("data:", ":", "event:")):
        text = output if output.endswith("\n\n") else output.rstrip("\n") + "\n\n"
        return text.encode("utf-8", "replace"), "", None
    if isinstance(output, Mapping):
        failed = error_of(output)
        if failed is not None:
            raise failed
        if _is_part(output):
            return b"data: %b\n\n" % msgspec.json.encode(output), "", None
    texts, usage = texts_of(output)
    return b"", "".join(texts), usage
