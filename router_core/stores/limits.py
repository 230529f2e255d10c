"""Bounds that every job store keeps to."""

from __future__ import annotations

from typing import Final

__all__ = ["EVENT_BYTES", "EVENT_COUNT", "TOMBSTONE_SECONDS"]

EVENT_COUNT: Final = 1000
"""Events kept for a job; the oldest go first."""
EVENT_BYTES: Final = 1_000_000
"""Bytes of event data kept for a job. A single event above it is numbered and dropped at once."""
TOMBSTONE_SECONDS: Final = 7 * 24 * 3600.0
"""How long a purged job is answered with 410 before it becomes unknown."""
