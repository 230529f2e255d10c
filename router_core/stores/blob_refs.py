"""Which blobs a record refers to, so that a purge can say which of them nobody needs any more."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from router_core.jobs.job import Job

__all__ = ["blob_keys", "input_keys", "result_keys"]

_MARK = b'"$file"'


def input_keys(job: Job) -> frozenset[str]:
    """Return the keys of the blobs that hold the job's input, or files within it."""
    keys = set(_file_keys(job.input))
    if job.input_ref:
        keys.add(job.input_ref)
    return frozenset(keys)


def result_keys(result: bytes, result_ref: bytes) -> frozenset[str]:
    """Return the keys of the blobs that hold a result, or files within it."""
    keys = set(_file_keys(result))
    if result_ref:
        ref = _parsed(result_ref)
        if isinstance(ref, dict) and isinstance(ref.get("key"), str):
            keys.add(ref["key"])
    return frozenset(keys)


def blob_keys(job: Job) -> frozenset[str]:
    """Return every blob key that the record refers to."""
    return input_keys(job) | result_keys(job.result, job.result_ref)


def _parsed(text: bytes) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _file_keys(text: bytes) -> Iterator[str]:
    if _MARK not in text:
        return
    open_values = [_parsed(text)]
    while open_values:
        value = open_values.pop()
        if isinstance(value, list):
            open_values.extend(value)
        elif isinstance(value, dict):
            file = value.get("$file")
            if isinstance(file, dict) and isinstance(file.get("key"), str):
                yield file["key"]
            open_values.extend(value.values())
