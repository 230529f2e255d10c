"""What may be used, of what, and in which stretch of time. Times are whole milliseconds since the epoch."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Final, Literal

from router_core.records import dataclass

__all__ = ["BUDGET", "CONCURRENCY", "RATE", "Cap", "Kind", "gone", "live", "newest", "slot_at"]

Kind = Literal["budget", "rate", "concurrency"]
BUDGET: Final = "budget"
"""So much in a calendar day, week or month in UTC: reserved first, booked when it is known."""
RATE: Final = "rate"
"""So much in any stretch of ``window`` milliseconds: booked at once, corrected when more is known."""
CONCURRENCY: Final = "concurrency"
"""So much at once."""

_DAY: Final = 86_400_000
_MONDAY: Final = 4 * _DAY
"""The first Monday after the epoch began, on a Thursday."""
_PARTS: Final = 30
"""Into which the window of a rate is divided: what was used is forgotten at most so much of it too late, and
never too early."""
_FAR: Final = 2
"""Windows that the clocks of processes may be apart; what is dated later was written by a wrong clock."""


@dataclass(frozen=True, slots=True)
class Cap:
    """One limit of a subject."""

    name: str
    """Unique among those of a subject; what it has used is kept under it."""
    amount: int
    kind: Kind
    window: str | int = 0
    """``day``, ``week`` or ``month`` of a budget, milliseconds of a rate."""
    on_store_failure: Literal["open", "closed"] = "closed"
    """While the shared store cannot be asked: ``closed`` refuses what would need it, ``open`` goes by what
    this process knows and has counted itself."""
    marks: tuple[int, ...] = ()
    """Of a budget: amounts whose passing is told, once in each window by each process."""


def slot_at(cap: Cap, now: int) -> tuple[int, int]:
    """Return beginning and end of the slot that what is used now is booked in; (0, 0) without one."""
    if cap.kind == CONCURRENCY:
        return 0, 0
    if cap.kind == RATE:
        width = _width(cap)
        start = now - now % width
        return start, start + width
    return _calendar(str(cap.window), now)


def _width(cap: Cap) -> int:
    return max(1, int(cap.window) // _PARTS)


def _calendar(window: str, now: int) -> tuple[int, int]:
    if window == "day":
        start = now - now % _DAY
        return start, start + _DAY
    if window == "week":
        start = now - (now - _MONDAY) % (7 * _DAY)
        return start, start + 7 * _DAY
    first = (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=now)).replace(
        day=1, hour=0, minute=0, second=0, microsecond=0
    )
    following = (first + timedelta(days=32)).replace(day=1)
    return int(first.timestamp()) * 1000, int(following.timestamp()) * 1000


def gone(cap: Cap, slot: int, now: int) -> bool:
    """Return whether what was used in a slot of a rate does not count any more."""
    window = int(cap.window)
    return now >= slot + _width(cap) + window or slot > now + _FAR * window


def live(cap: Cap, slots: Mapping[int, int], now: int) -> dict[int, int]:
    """Return the slots that count now. A budget has one, and it only ever moves forward: a process whose
    clock is behind goes on with the window that another has begun."""
    if cap.kind == CONCURRENCY:
        return {}
    if cap.kind == RATE:
        return {slot: amount for slot, amount in slots.items() if amount and not gone(cap, slot, now)}
    current = newest(cap, slots, now)
    return {current: slots.get(current, 0)}


def newest(cap: Cap, slots: Mapping[int, int], now: int) -> int:
    """Return the window of a budget that is current."""
    return max([slot_at(cap, now)[0], *slots])
