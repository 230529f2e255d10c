"""Answers that are larger than a reply may be: kept in the blob store, and the caller is sent there."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote

from router_core.errors import PayloadTooLarge, RouterError
from router_core.http.message import Response
from router_core.jobs.blobs import SignsUrls

if TYPE_CHECKING:
    from router_core.app import App

__all__ = ["SECONDS", "filename_of", "offload"]

SECONDS: Final = 300
"""For how long the address is good."""
_OF_THE_BODY: Final = frozenset(
    {"content-type", "content-length", "content-disposition", "content-encoding", "etag", "cache-control",
     "location", "x-content-type-options"}
)  # fmt: skip
_FILENAME: Final = re.compile(r"filename\*=UTF-8''([^;]{1,1024})")


async def offload(app: App, response: Response, *, seconds: int = SECONDS) -> Response:
    """Put the body of an answer into the blob store; returns a redirect (303) to a signed address.

    No record names that blob, so the search for orphans removes it after a day. Raises StoreError when the
    store does not answer, and RouterError when there is no store that signs addresses, or the answer is
    larger than a blob may be.
    """
    blobs = app.parts.blobs
    if not isinstance(blobs, SignsUrls):
        raise RouterError("the answer is too large for this platform", code="reply_too_large")
    kind = response.header("content-type") or "application/octet-stream"
    try:
        blob = await app.parts.blobs.put(response.body, content_type=kind)
    except PayloadTooLarge as error:
        raise RouterError(f"the answer is too large: {error.detail}", code="reply_too_large") from error
    url = await asyncio.to_thread(
        blobs.presign, blob.key, seconds=seconds, content_type=kind,
        filename=filename_of(response),
    )  # fmt: skip
    others = (pair for pair in response.headers if pair[0].lower() not in _OF_THE_BODY)
    return Response(303, (("location", url), ("cache-control", "no-store"), *others))


def filename_of(response: Response) -> str:
    """Return the name of the file that an answer is, as the core writes it; empty when it has none."""
    name = _FILENAME.search(response.header("content-disposition") or "")
    return unquote(name[1], errors="replace") if name else ""
