"""Answers back into Python values."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Final

import pydantic_core

from router_core.client.errors import BadAnswer, error_from
from router_core.client.exchange import Answer, media_type
from router_core.client.files import file_from_answer, revive
from router_core.client.transport import Reply
from router_core.http.message import Headers
from router_core.http.ndjson import NDJSON_TYPES, NdjsonParser
from router_core.http.sse import ServerEvent, SseParser

__all__ = ["MAX_EVENT", "follow", "server_events", "stream_values", "value_of"]

MAX_EVENT: Final = 8 * 1024 * 1024
"""Bytes of one event or line that are held; a service of ours keeps them below 1 MB."""


def value_of(decoded: Any) -> Any:
    """Return a decoded JSON value with its files as ``File``."""
    return revive(decoded)


def follow(answer: Answer) -> Any:
    """Return what the body of an answer means by its content type: JSON, text, a file, or nothing."""
    kind = answer.content_type
    if answer.status == 204 or (not answer.body and not kind):
        return None
    if kind == "application/json" or kind.endswith("+json"):
        return revive(answer.json())
    if kind.startswith("text/") and "content-disposition" not in answer.headers:
        return answer.body.decode("utf-8", "replace")
    return file_from_answer(answer.body, answer.headers)


async def stream_values(reply: Reply) -> AsyncIterator[Any]:
    """Return the values of a stream as they arrive; raises the error that ends a stream early."""
    if media_type(reply.headers) in NDJSON_TYPES:
        async for value in _ndjson(reply):
            yield revive(_or_error(value))
        return
    async for event in server_events(reply):
        if event.event == "error":
            raise _problem(event.data.encode())
        if event.event in ("done", "end") or event.data == "[DONE]":
            return
        yield revive(_lenient(event.data))


async def server_events(reply: Reply) -> AsyncIterator[ServerEvent]:
    """Return the server-sent events of an answer as they arrive."""
    parser = SseParser(MAX_EVENT)
    async for chunk in reply.chunks():
        try:
            events = parser.feed(chunk)
        except ValueError as error:
            raise BadAnswer(str(error)) from None
        for event in events:
            yield event


async def _ndjson(reply: Reply) -> AsyncIterator[Any]:
    parser = NdjsonParser(MAX_EVENT)
    try:
        async for chunk in reply.chunks():
            for value in parser.feed(chunk):
                yield value
        for value in parser.close():
            yield value
    except ValueError as error:
        raise BadAnswer(f"a line of the stream cannot be read: {error}") from None


def _or_error(value: Any) -> Any:
    """A stream that has begun cannot change its status any more: its last line tells what went wrong."""
    if isinstance(value, dict) and value.keys() == {"error"} and isinstance(value["error"], dict):
        raise _problem(pydantic_core.to_json(value["error"]))
    return value


def _problem(data: bytes) -> Exception:
    try:
        status = pydantic_core.from_json(data)["status"]
    except (ValueError, KeyError, TypeError):
        status = 500
    headers = Headers([("content-type", "application/problem+json")])
    return error_from(status if isinstance(status, int) else 500, headers, data)


def _lenient(data: str) -> Any:
    try:
        return pydantic_core.from_json(data)
    except ValueError:
        return data
