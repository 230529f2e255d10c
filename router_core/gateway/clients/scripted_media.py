"""Scripted embeddings, rankings, transcriptions and images."""

from __future__ import annotations

import base64
import hashlib
import math
import random
import struct
import zlib
from collections.abc import Iterator, Mapping
from typing import Any, Final

from router_core.errors import BadRequest
from router_core.gateway.clients.scripted_answer import (
    DONE,
    Answer,
    Ask,
    Piece,
    RefusedError,
    count_tokens,
    encode,
    event,
    split_tokens,
    usage_of,
)
from router_core.http.multipart import MULTIPART_TYPE, parse_multipart

__all__ = ["audio_fields", "embed", "paint", "rank", "transcribe"]

_MAX_INPUTS: Final = 2048
_MAX_DOCUMENTS: Final = 10_000
_MAX_NUMBERS: Final = 1_000_000
"""In the vectors of one answer: they are made on the event loop."""
_SECONDS: Final = 2.0
"""Length of every recording, as far as anybody can tell here."""


# -- embeddings --------------------------------------------------------------------------------------


def embed(ask: Ask) -> Answer:
    """Answer embeddings with unit vectors that depend on the text alone. Raises RefusedError."""
    texts = _inputs(ask.fields.get("input"))
    size = ask.integer("dimensions", ask.step.vector_size, most=65_536)
    form = ask.fields.get("encoding_format") or "float"
    if form not in ("float", "base64"):
        raise RefusedError("'encoding_format' is float or base64", "encoding_format")
    if size * len(texts) > _MAX_NUMBERS:
        raise RefusedError("'input' times 'dimensions' is too much for a scripted answer", "input")
    data = []
    for index, text in enumerate(texts):
        packed = _vector(text, size)
        value: Any = list(struct.unpack(f"<{size}f", packed))
        if form == "base64":
            value = base64.b64encode(packed).decode()
        data.append({"object": "embedding", "index": index, "embedding": value})
    tokens = usage_of(ask.step, sum(len(text) for text in texts), 0).input_tokens
    body: dict[str, Any] = {"object": "list", "data": data, "model": ask.model}
    if ask.step.report_usage:
        body["usage"] = {"prompt_tokens": tokens, "total_tokens": tokens}
    return Answer(encode(body))


def _inputs(given: Any) -> list[str]:
    if isinstance(given, str):
        return [given]
    if not isinstance(given, list) or not given:
        raise RefusedError("'input' has to be a text, texts or tokens", "input")
    if all(isinstance(each, int) and not isinstance(each, bool) for each in given):
        return [" ".join(map(str, given))]
    if len(given) > _MAX_INPUTS:
        raise RefusedError(f"'input' has at most {_MAX_INPUTS} items", "input")
    if not all(isinstance(each, str | list) for each in given):
        raise RefusedError("'input' has to be a text, texts or tokens", "input")
    return [each if isinstance(each, str) else " ".join(map(str, each)) for each in given]


def _vector(text: str, size: int) -> bytes:
    """Return float32 little-endian, as base64 answers carry it."""
    digest = hashlib.sha256(text.encode("utf-8", "replace")).digest()
    draw = random.Random(digest)  # noqa: S311  # equal texts have to give equal vectors
    values = [draw.uniform(-1, 1) for _ in range(size)]
    length = math.sqrt(sum(value * value for value in values)) or 1.0
    return struct.pack(f"<{size}f", *(value / length for value in values))


# -- rerank ------------------------------------------------------------------------------------------


def rank(ask: Ask) -> Answer:
    """Answer rerank by the share of the query's words that a document has. Raises RefusedError.

    ``query`` and ``documents`` are answered as Cohere, Jina and vLLM do, ``prompt`` and ``input`` as Albert.
    """
    albert = "prompt" in ask.fields
    names = ("prompt", "input") if albert else ("query", "documents")
    query, documents = ask.fields.get(names[0]), ask.fields.get(names[1])
    if not isinstance(query, str):
        raise RefusedError(f"'{names[0]}' has to be a text", names[0])
    if not isinstance(documents, list) or not 1 <= len(documents) <= _MAX_DOCUMENTS:
        raise RefusedError(f"'{names[1]}' has to be a list of 1 to {_MAX_DOCUMENTS} texts", names[1])
    texts = [_document(each, names[1]) for each in documents]
    scores = _scores(query, texts)
    if albert:
        return Answer(encode({"object": "list", "data": [{"index": i, "score": s} for i, s in scores]}))
    top = ask.integer("top_n", len(texts))
    results: list[dict[str, Any]] = [{"index": i, "relevance_score": s} for i, s in scores[:top]]
    if ask.fields.get("return_documents"):
        for each in results:
            each["document"] = {"text": texts[each["index"]]}
    tokens = usage_of(ask.step, len(query) + sum(map(len, texts)), 0).input_tokens
    body = {"id": ask.id("rerank-"), "model": ask.model, "results": results}
    return Answer(encode(body | {"usage": {"prompt_tokens": tokens, "total_tokens": tokens}}))


def _document(given: Any, param: str) -> str:
    text = given.get("text") if isinstance(given, Mapping) else given
    if not isinstance(text, str):
        raise RefusedError(f"'{param}' has to hold texts", param)
    return text


def _scores(query: str, texts: list[str]) -> list[tuple[int, float]]:
    wanted = set(query.casefold().split())
    found = []
    for index, text in enumerate(texts):
        shared = len(wanted & set(text.casefold().split()))
        found.append((index, round(shared / len(wanted), 6) if wanted else 0.0))
    return sorted(found, key=lambda each: (-each[1], each[0]))


# -- audio -------------------------------------------------------------------------------------------


def transcribe(ask: Ask) -> Answer:
    """Answer audio/transcriptions with the scripted text. Raises RefusedError."""
    if not ask.fields.get("file"):
        raise RefusedError("'file' is missing", "file")
    text = ask.reply("")
    form = ask.fields.get("response_format") or "json"
    if ask.stream:
        return Answer(pieces=_transcript_stream(ask, text), tokens=len(split_tokens(text)))
    if form == "json":
        return Answer(encode({"text": text, "usage": _audio_usage(ask, text)}))
    if form == "verbose_json":
        return Answer(encode(_verbose(text)))
    plain = {
        "text": text + "\n",
        "srt": f"1\n00:00:00,000 --> 00:00:02,000\n{text}\n\n",
        "vtt": f"WEBVTT\n\n00:00:00.000 --> 00:00:02.000\n{text}\n\n",
    }.get(str(form))
    if plain is None:
        raise RefusedError("'response_format' is json, verbose_json, text, srt or vtt", "response_format")
    return Answer(plain.encode(), content_type="text/plain; charset=utf-8")


def audio_fields(body: bytes, content_type: str) -> dict[str, Any]:
    """Return the fields of an uploaded form, files as their size. Raises RefusedError."""
    if not content_type.lower().startswith(MULTIPART_TYPE):
        raise RefusedError("audio is uploaded as multipart/form-data", "file")
    try:
        items = parse_multipart(body, content_type)
    except BadRequest as exc:
        raise RefusedError(exc.detail) from None
    return {name: value if isinstance(value, str) else value.size + 1 for name, value in items}


def _audio_usage(ask: Ask, text: str) -> dict[str, Any]:
    usage = usage_of(ask.step, int(_SECONDS) * 40, count_tokens(len(text)))
    total = usage.input_tokens + usage.output_tokens
    return {
        "type": "tokens", "input_tokens": usage.input_tokens, "output_tokens": usage.output_tokens,
        "total_tokens": total,
        "input_token_details": {"audio_tokens": usage.input_tokens, "text_tokens": 0},
    }  # fmt: skip


def _verbose(text: str) -> dict[str, Any]:
    segment = {
        "id": 0, "seek": 0, "start": 0.0, "end": _SECONDS, "text": text, "tokens": [], "temperature": 0.0,
        "avg_logprob": -0.1, "compression_ratio": 1.0, "no_speech_prob": 0.0,
    }  # fmt: skip
    return {
        "task": "transcribe", "language": "english", "duration": _SECONDS, "text": text,
        "segments": [segment], "usage": {"type": "duration", "seconds": _SECONDS},
    }  # fmt: skip


def _transcript_stream(ask: Ask, text: str) -> Iterator[Piece]:
    for token in split_tokens(text):
        yield event({"type": "transcript.text.delta", "delta": token}, 1)
    yield event({"type": "transcript.text.done", "text": text, "usage": _audio_usage(ask, text)})
    yield DONE


# -- images ------------------------------------------------------------------------------------------


def paint(ask: Ask) -> Answer:
    """Answer images/generations with PNGs of one pixel, coloured by the prompt. Raises RefusedError."""
    prompt = ask.fields.get("prompt")
    if not isinstance(prompt, str) or not prompt:
        raise RefusedError("'prompt' has to be a text", "prompt")
    count = ask.integer("n", 1, most=10)
    url = ask.fields.get("response_format") == "url"
    data = []
    for index in range(count):
        digest = hashlib.sha256(f"{prompt}\0{index}".encode("utf-8", "replace")).digest()
        text = base64.b64encode(_png(digest[:3])).decode()
        data.append({"url": f"data:image/png;base64,{text}"} if url else {"b64_json": text})
    usage = usage_of(ask.step, len(prompt), count)
    body: dict[str, Any] = {"created": ask.created, "data": data, "output_format": "png"}
    if ask.step.report_usage:
        body["usage"] = {
            "input_tokens": usage.input_tokens, "output_tokens": usage.output_tokens,
            "total_tokens": usage.input_tokens + usage.output_tokens,
            "input_tokens_details": {"text_tokens": usage.input_tokens, "image_tokens": 0},
        }  # fmt: skip
    return Answer(encode(body))


def _png(colour: bytes) -> bytes:
    head = struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0)
    pixels = zlib.compress(b"\0" + colour)
    chunks = ((b"IHDR", head), (b"IDAT", pixels), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )
