"""What endpoints answer that are not running."""

from __future__ import annotations

from typing import Final

__all__ = ["says_asleep"]

_PAUSED: Final = {400: b"endpoint is paused", 409: b"ENDPOINT_PAUSED"}
"""Hugging Face for one that is paused, RunPod for one that may have no workers."""
_LOOKED_AT: Final = 2048


def says_asleep(status: int, body: bytes) -> bool:
    """Return whether an answer may be that of an endpoint which is asleep, paused or still starting.

    503 is also that of one too busy: ``Lifecycle.saw_asleep`` knows better.
    """
    if status == 503:
        return True
    words = _PAUSED.get(status)
    return words is not None and words in body[:_LOOKED_AT]
