"""Read how busy an inference server is out of its Prometheus text, without reading the rest of it."""

from __future__ import annotations

from collections.abc import Iterator
from math import isfinite
from typing import Final, NamedTuple

__all__ = ["MAX_TEXT", "Busy", "read_busy"]

MAX_TEXT: Final = 4 * 1024 * 1024
"""Bytes; a longer text is not looked at."""
_MAX_SAMPLES: Final = 256
"""Samples of one name that are added up: servers have one for each engine and model."""
_MAX_LINE: Final = 4096
_MOST: Final = 1_000_000
_WAITING: Final = (
    b"vllm:num_requests_waiting",
    b"tgi_queue_size",
    b"te_queue_size",
    b"sglang:num_queue_reqs",
    b"llamacpp:requests_deferred",
)
_RUNNING: Final = (
    b"vllm:num_requests_running",
    b"tgi_batch_current_size",
    b"sglang:num_running_reqs",
    b"llamacpp:requests_processing",
)


class Busy(NamedTuple):
    """Requests inside a server."""

    waiting: int
    running: int


def read_busy(text: bytes) -> Busy | None:
    """Return what vLLM, TGI, TEI, SGLang or llama.cpp says; None where it says nothing of its queue."""
    if len(text) > MAX_TEXT:
        return None
    waiting = _first(text, _WAITING)
    if waiting is None:
        return None
    return Busy(waiting, _first(text, _RUNNING) or 0)


def _first(text: bytes, names: tuple[bytes, ...]) -> int | None:
    """Return the sum of the first metric that is there."""
    for name in names:
        values = list(_values(text, name))
        if values:
            return min(int(sum(values)), _MOST)
    return None


def _values(text: bytes, name: bytes) -> Iterator[float]:
    position = text.find(name)
    for _ in range(_MAX_SAMPLES):
        if position < 0:
            return
        end = text.find(b"\n", position, position + _MAX_LINE)
        line = text[position : end if end >= 0 else position + _MAX_LINE]
        if position == 0 or text[position - 1 : position] == b"\n":
            value = _value(line[len(name) :])
            if value is not None:
                yield value
        position = text.find(name, position + len(name))


def _value(rest: bytes) -> float | None:
    """Return the value of a sample, given what follows its name: ``{labels} value [timestamp]``."""
    if rest[:1] == b"{":
        # a label may hold any character but the last brace of the line ends them all
        rest = rest[rest.rfind(b"}") + 1 :]
    elif rest[:1] not in (b" ", b"\t"):
        return None  # the name goes on: another metric
    words = rest.split(None, 2)
    try:
        value = float(words[0])
    except (IndexError, ValueError):
        return None
    return value if isfinite(value) and value >= 0.0 else None
