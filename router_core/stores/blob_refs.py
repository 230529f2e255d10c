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


def result_keys(result_ref: bytes) -> frozenset[str]:
    """Return the key of the blob that holds a result.

    An inline result names no blob, whatever it looks like: it is what the function returned, and that may be
    what a caller sent.
    """
    ref = _parsed(result_ref) if result_ref else None
    key = ref.get("key") if isinstance(ref, dict) else None
    return frozenset({key} if isinstance(key, str) else ())


def blob_keys(job: Job) -> frozenset[str]:
    """Return every blob key that the record refers to."""
    return input_keys(job) | result_keys(job.result_ref)


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
            if len(value) == 1 and isinstance(file, dict):
                if isinstance(file.get("key"), str):
                    yield file["key"]
            else:
                open_values.extend(value.values())
