"""How the limits of a subject stand, for those who ask."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from router_core.quota.cap import BUDGET, RATE, Cap, live, newest, slot_at
from router_core.quota.document import Document
from router_core.records import dataclass

__all__ = ["Standing", "standings"]


@dataclass(frozen=True, slots=True)
class Standing:
    """One limit."""

    cap: Cap
    spent: int
    """In the current window."""
    reserved: int
    """By calls that go on."""
    resets_at: int
    """Milliseconds; when all of what was spent counts no more. 0: nothing was, or nothing is."""


def standings(
    document: Document, caps: Sequence[Cap], holder: str, own: Mapping[str, tuple[int, int]], now: int
) -> list[Standing]:
    """Return how each limit stands. ``own`` is what this process knows better: limit -> what was spent and
    not written yet, and what its calls have reserved."""
    found = []
    for cap in caps:
        slots = live(cap, document.slots.get(cap.name, {}), now)
        unwritten, reserved = own.get(cap.name, (0, 0))
        for name, each in document.holders.items():
            if name != holder and each.until > now:
                reserved += each.held.get(cap.name, 0) - each.spare.get(cap.name, 0)
        spent = max(0, sum(slots.values()) + unwritten)
        found.append(Standing(cap, spent, reserved, _resets_at(cap, slots, now)))
    return found


def _resets_at(cap: Cap, slots: Mapping[int, int], now: int) -> int:
    if cap.kind == BUDGET:
        return slot_at(cap, newest(cap, slots, now))[1]
    if cap.kind == RATE and slots:
        return slot_at(cap, max(slots))[1] + int(cap.window)
    return 0
