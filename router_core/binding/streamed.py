"""The values of a response that streams, for platforms that pass on values and not bytes."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable
from typing import Any, Final

import pydantic_core

from router_core.http.message import Response
from router_core.http.ndjson import NDJSON_TYPES, NdjsonParser
from router_core.http.sse import SSE_TYPE, SseParser

__all__ = ["values_of"]

_DONE: Final = "[DONE]"
"""Ends the streams of OpenAI; here the end is one that the platform can see."""

Parse = Callable[[bytes], Iterable[Any]]


def values_of(response: Response) -> AsyncGenerator[Any, None] | None:
    """Return what the events or lines of a stream hold; None for a response that is no such stream.

    The data of an event is read as JSON where it is JSON, and is a text otherwise. The generator has to be
    read to its end or closed, which closes the response. It raises ValueError for an event of over 1 MiB.
    """
    body = response.body
    if isinstance(body, bytes):
        return None
    kind = (response.header("content-type") or "").partition(";")[0].strip().lower()
    if kind == SSE_TYPE:
        return _values(body, _events(), tuple)
    if kind in NDJSON_TYPES:
        lines = NdjsonParser()
        return _values(body, lines.feed, lines.close)
    return None


async def _values(
    body: AsyncIterator[bytes], parse: Parse, rest: Callable[[], Iterable[Any]]
) -> AsyncGenerator[Any, None]:
    try:
        async for chunk in body:
            for value in parse(chunk):
                yield value
        for value in rest():
            yield value
    finally:
        close = getattr(body, "aclose", None)
        if close is not None:
            await close()


def _events() -> Parse:
    parser = SseParser()

    def parse(chunk: bytes) -> list[Any]:
        return [_value(event.data) for event in parser.feed(chunk) if event.data != _DONE]

    return parse


def _value(data: str) -> Any:
    try:
        return pydantic_core.from_json(data)
    except ValueError:
        return data
