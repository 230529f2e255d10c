"""How a job ends for RunPod: an output or an error, as the body of its last post.

The body is written here and not by the SDK, which would drop what it cannot write, take the keys ``error``
and ``refresh_worker`` out of a result, and write NaN. An output stands in the body as it is, whatever its
keys: ``{"output": {"error": "x"}}`` is a result of the author's, only ``{"error": "..."}`` fails the job.
"""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import pydantic_core

__all__ = ["Outcome", "SdkOutput", "error_text", "trace_of"]

_MAX_ERRORS: Final = 20
_MAX_TEXT: Final = 2_000
_MAX_TRACE: Final = 20_000
_IDS: Final = ("instance", "job_id")


@dataclass(frozen=True, slots=True)
class Outcome:
    """The end of one job."""

    output: bytes = b"null"
    """JSON."""
    error: str = ""
    """Set when the job has failed: JSON text, as RunPod's clients take a text."""
    stream: bool = False
    """Its chunks were posted before."""
    status: int = 200
    """What a caller over HTTP would have been told; the platform knows only two ends."""

    def body(self, refresh: bool = False) -> bytes:
        """Return what is posted; ``refresh`` asks the platform to replace this worker."""
        stop = b',"stopPod":true' if refresh else b""
        if self.error:
            return b'{"error":%s%s}' % (pydantic_core.to_json(self.error), stop)
        return b'{"output":%s%s}' % (self.output, stop)

    def for_sdk(self) -> Any:
        """Return what a handler returns to the SDK's own loop to have the same body posted."""
        if self.error:
            return {"error": self.error}
        value = pydantic_core.from_json(self.output)
        return SdkOutput(value) if isinstance(value, dict) else value


class SdkOutput(dict[str, Any]):
    """A result that the SDK takes nothing out of, and does not leave out for being empty."""

    def pop(self, key: str, default: Any = None) -> Any:
        """Give nothing away: the SDK looks for ``error`` and ``refresh_worker`` so."""
        return default

    def __eq__(self, other: object) -> bool:
        return self is other

    __hash__ = None


def error_text(problem: Mapping[str, Any], trace: str = "") -> str:
    """Return the problem, without addresses that nobody can call, as one line of JSON."""
    body = {name: value for name, value in problem.items() if name not in _IDS}
    if "detail" in body:
        body["detail"] = str(body["detail"])[:_MAX_TEXT]
    errors = body.get("errors")
    if isinstance(errors, list) and len(errors) > _MAX_ERRORS:
        body["errors"] = errors[:_MAX_ERRORS]
    if trace:
        body["traceback"] = trace[-_MAX_TRACE:]
    return pydantic_core.to_json(_plain(body), inf_nan_mode="strings").decode()


def _plain(value: Any) -> Any:
    """Make what came from a caller encodable: half a surrogate pair must not lose the error."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, dict):
        return {_plain(str(key)): _plain(item) for key, item in value.items() if item is not None}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, (int, float, bool)) or value is None:
        return value
    return _plain(repr(value))


def trace_of(error: BaseException | None) -> str:
    """Return the traceback of an error as text."""
    return "" if error is None else "".join(traceback.format_exception(error))
