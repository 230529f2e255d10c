"""Make a result fit into what RunPod takes: as it is, as a reference to where it lies, or not at all."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Final

import pydantic_core

from handlers.runpod.outcome import Outcome
from router_core.binding.result import encode_result, file_of
from router_core.errors import RouterError
from router_core.http.media import DEFAULT_CONTENT_TYPE, File
from router_core.jobs.job import Job
from router_core.jobs.result import JSON_TYPE
from router_core.jobs.service import JobService
from router_core.routing.route import Route
from router_core.settings import Settings
from router_core.telemetry.events import Note

__all__ = ["ResultTooLarge", "Results"]

_LARGE: Final = 256 * 1024
"""From here on a result is encoded in a thread."""
_LONGEST_LINK: Final = 7 * 24 * 3600
"""Seconds; object stores sign nothing for longer."""


class ResultTooLarge(RouterError):
    """A result that the platform would not take, and that there is no other place for."""

    code = "result_too_large"


class Results:
    """Encodes results and holds them to the platform's limits."""

    def __init__(self, settings: Settings, service: JobService) -> None:
        self._limit = settings.runpod_result_bytes
        self._seconds = int(min(settings.retention, _LONGEST_LINK))
        self._service = service
        self._blobs: Any = service.blobs
        self.shared = bool(getattr(self._blobs, "presigns", False))
        """Whether callers can read the blob store."""

    def limit(self, sync: bool) -> int:
        """Return how many bytes an output may have."""
        return self._limit * 2 if sync else self._limit

    async def of_value(self, route: Route, value: Any, sync: bool) -> Outcome:
        """Return the outcome for what a function returned."""
        file = file_of(value)
        if file is not None and _as_text(file.size) > self.limit(sync):
            return await self._put(await asyncio.to_thread(file.read), file.content_type, file.filename)
        if _maybe_large(file, value):
            data = await asyncio.to_thread(encode_result, route, value)
        else:
            data = encode_result(route, value)
        return await self.of_json(data, sync)

    async def of_json(self, data: bytes, sync: bool, *, stream: bool = False) -> Outcome:
        """Return the outcome for a JSON text."""
        if len(data) <= self.limit(sync):
            return Outcome(data, stream=stream)
        return await self._put(data, JSON_TYPE, None, stream=stream)

    def check(self, size: int, sync: bool) -> None:
        """Raise ResultTooLarge for a result that has grown so large that nothing can take it any more."""
        if size > self.limit(sync) and not self.shared:
            raise self._too_large(size)

    async def of_job(self, job: Job, sync: bool, *, stream: bool = False) -> Outcome:
        """Return the outcome for a job that has succeeded; what lies in a shared store stays there."""
        if job.result_ref:
            ref = pydantic_core.from_json(job.result_ref)
            size = int(ref.get("size", 0))
            is_file = ref.get("filename") is not None or ref.get("content_type") != JSON_TYPE
            if (_as_text(size) if is_file else size) > self.limit(sync):
                if not self.shared:
                    raise self._too_large(size)
                return Outcome(await self._reference(ref), stream=stream)
        result = await self._service.result(job)
        if result.file is None:
            return await self.of_json(result.data, sync, stream=stream)
        return await self.of_json(await asyncio.to_thread(result.as_json), sync, stream=stream)

    async def _put(
        self, data: bytes, content_type: str, filename: str | None, *, stream: bool = False
    ) -> Outcome:
        """Keep a result where its caller can fetch it: durably, before anything is posted."""
        if not self.shared:
            raise self._too_large(len(data))
        content_type = content_type or DEFAULT_CONTENT_TYPE
        blob = await self._blobs.put(data, content_type=content_type)
        ref = {"key": blob.key, "sha256": blob.sha256, "size": blob.size, "content_type": content_type}
        if filename:
            ref["filename"] = filename
        self._service.note(Note("result_offloaded", "info", "a result went to the blob store", dict(ref)))
        return Outcome(await self._reference(ref), stream=stream)

    async def _reference(self, ref: Mapping[str, Any]) -> bytes:
        """Return the output that stands for a result elsewhere: ``{"result_ref": {"href", ...}}``."""
        href = await asyncio.to_thread(  # it may have to import its client first
            self._blobs.presign, ref["key"], seconds=self._seconds, content_type=ref.get("content_type"),
            filename=ref.get("filename") or None,
        )  # fmt: skip
        shown = {"href": href} | {
            name: ref[name] for name in ("size", "sha256", "content_type", "filename") if ref.get(name)
        }
        return pydantic_core.to_json({"result_ref": {**shown, "expires_in": self._seconds}})

    def _too_large(self, size: int) -> ResultTooLarge:
        return ResultTooLarge(
            f"the result has {size} bytes and RunPod takes {self._limit} (twice that for /runsync): return "
            "less, or set ROUTER_BLOBS=s3://bucket to have large results kept there"
        )


def _as_text(size: int) -> int:
    """Return how long so many bytes are in base64."""
    return -(-size // 3) * 4


def _maybe_large(file: File | None, value: Any) -> bool:
    if file is not None:
        return file.size > _LARGE
    return isinstance(value, str) and len(value) > _LARGE
