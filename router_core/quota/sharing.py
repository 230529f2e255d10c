"""How an account is divided: pure functions, so that every process comes to the same end.

Of each limit: what was spent in the current window + what all processes hold <= the amount. What a process
holds is what its calls have reserved and a little headroom, of which it gives without asking anybody.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from router_core.quota.cap import BUDGET, CONCURRENCY, RATE, Cap, gone, live, newest, slot_at
from router_core.quota.document import Document, Holder

__all__ = ["SHARE", "Answer", "Ask", "Need", "Verdict", "judge", "share"]

SHARE: Final = 32
"""The part of what is left that one process may hold as headroom."""
_SCARCE: Final = 4
"""Calls that the headroom has to be good for, or there is none: the last of a budget are given singly."""
_PRESSED: Final = 2000
"""Milliseconds for which nobody holds headroom because somebody waits for it."""
_MOST: Final = 500
"""Holders beyond which those that hold nothing are forgotten at once: there may be thousands of processes."""
_REMEMBERED: Final = 60_000
"""Milliseconds for which a holder whose lease has ended is remembered, for the number of its last write."""


@dataclass(frozen=True, slots=True)
class Need:
    """What a process says of one limit."""

    used: int = 0
    """Reserved by its calls."""
    keep: int = 0
    """Headroom that it has, and goes on giving away meanwhile."""
    wish: int = 0
    """Headroom that it would like to have."""
    unit: int = 1
    """What one call takes of it."""
    books: Mapping[int, int] | None = None
    """Slot -> what was spent in it since the last write; less than 0: was booked too much."""


@dataclass(frozen=True, slots=True)
class Ask:
    """What a process wants of an account, in one step."""

    holder: str
    seq: int
    lease: int
    """Milliseconds."""
    needs: Sequence[Need]
    """One for each limit."""
    wants: Sequence[Sequence[int]] = ()
    """Calls that wait: what each takes of each limit, all of it or nothing."""
    share: int = SHARE
    """1: there is no other process."""
    reset: bool = False
    """Forget what was spent."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Why a call is refused."""

    index: int
    """Of the limit."""
    remaining: int
    resets_at: int
    """When enough of it will be there again, as far as is known."""
    soon: bool = False
    """Only the headroom of other processes stands in the way, which they have been told to give back."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The account as it is to be, and what that means for whoever asked."""

    document: Document
    verdicts: list[Verdict | None]
    """One for each of ``wants``; None: granted."""
    spare: list[int]
    """Headroom by limit."""
    spent: list[int]
    rest: list[int]
    """Neither spent nor reserved by anybody: headroom is part of it."""
    pressed: bool
    until: int


class _Line:
    """One limit while it is divided."""

    __slots__ = ("cap", "need", "others", "others_spare", "reserved", "slot", "slots")

    def __init__(self, cap: Cap, need: Need, document: Document, ask: Ask, now: int) -> None:
        self.cap = cap
        self.need = need
        self.slots = _booked(cap, {} if ask.reset else document.slots.get(cap.name, {}), need.books, now)
        self.slot = newest(cap, self.slots, now) if cap.kind == BUDGET else slot_at(cap, now)[0]
        self.reserved = need.used
        self.others = self.others_spare = 0
        for name, holder in document.holders.items():
            if name != ask.holder and holder.held.get(cap.name):
                self._count(holder, now)

    def _count(self, holder: Holder, now: int) -> None:
        held = holder.held[self.cap.name]
        if holder.until > now:
            self.others += held
            self.others_spare += holder.spare.get(self.cap.name, 0)
        elif self.cap.kind == RATE:
            # killed, most likely, and how much of it had been given away by then nobody knows
            slot = slot_at(self.cap, holder.until)[0]
            if not gone(self.cap, slot, now):
                self.slots[slot] = self.slots.get(slot, 0) + held

    @property
    def spent(self) -> int:
        return sum(self.slots.values())

    @property
    def left(self) -> int:
        """What nobody has spent, reserved or put aside."""
        return self.cap.amount - self.spent - self.others - self.reserved - self.need.keep

    def grant(self, want: int) -> None:
        if self.cap.kind == RATE:
            self.slots[self.slot] = self.slots.get(self.slot, 0) + want
        else:
            self.reserved += want


def share(document: Document, caps: Sequence[Cap], ask: Ask, now: int) -> Answer:
    """Do for one process what it asks for: book, judge those who wait, measure out its headroom."""
    lines = [_Line(cap, need, document, ask, now) for cap, need in zip(caps, ask.needs, strict=True)]
    verdicts = [_judge(lines, want, now) for want in ask.wants]
    pressed = document.pressed
    if any(each is not None and each.soon for each in verdicts):
        pressed = now + _PRESSED
    scarce = pressed > now or any(each is not None for each in verdicts)
    spare = [each.need.keep for each in lines] if scarce else _headroom(lines, ask.share)
    until = now + ask.lease
    holders = {
        name: each if each.until > now else Holder(each.seq, each.until)
        for name, each in document.holders.items()
        if name != ask.holder and each.until + _REMEMBERED > now
    }
    if len(holders) > _MOST:
        holders = {name: each for name, each in holders.items() if each.held}
    held = {each.cap.name: each.reserved + more for each, more in zip(lines, spare, strict=True)}
    holders[ask.holder] = Holder(
        ask.seq, until,
        {name: amount for name, amount in held.items() if amount},
        {each.cap.name: more for each, more in zip(lines, spare, strict=True) if more},
    )  # fmt: skip
    slots = dict(document.slots) | {each.cap.name: each.slots for each in lines if each.slots}
    for each in lines:
        if not each.slots:
            slots.pop(each.cap.name, None)
    return Answer(
        Document(slots, holders, pressed if pressed > now else 0, document.born), verdicts, spare,
        [each.spent for each in lines],
        [max(0, each.cap.amount - each.spent - each.others + each.others_spare - each.reserved)
         for each in lines],
        pressed > now, until,
    )  # fmt: skip


def judge(
    document: Document, caps: Sequence[Cap], holder: str, own: Sequence[int], want: Sequence[int], now: int
) -> Verdict | None:
    """Return what stands in the way of a call, as far as one process knows. ``own`` is what it has used of
    each limit beside what the document says was spent."""
    needs = [Need(used=amount) for amount in own]
    ask = Ask(holder, 0, 0, needs)
    return _judge([_Line(cap, need, document, ask, now) for cap, need in zip(caps, needs, strict=True)],
                  want, now)  # fmt: skip


def _booked(cap: Cap, before: Mapping[int, int], books: Mapping[int, int] | None, now: int) -> dict[int, int]:
    """Return the slots that count, with what is booked now. What belongs to a window that is over is over."""
    slots = live(cap, before, now)
    for slot, amount in (books or {}).items():
        if cap.kind == RATE and not gone(cap, slot, now):
            slots[slot] = max(0, slots.get(slot, 0) + amount)
        elif cap.kind == BUDGET:
            current = max(slots)
            if slot > current:
                slots = {slot: max(0, amount)}
            elif slot == current:
                slots[slot] = max(0, slots[slot] + amount)
    return slots


def _judge(lines: Sequence[_Line], want: Sequence[int], now: int) -> Verdict | None:
    """Give a call what it wants, or say which limit stands in the way."""
    short = None
    for index, (line, amount) in enumerate(zip(lines, want, strict=True)):
        if amount and amount > line.left:
            if amount > line.left + line.others_spare:
                return Verdict(index, max(0, line.left), _resets_at(line, amount, now))
            short = short or Verdict(index, max(0, line.left), now + 1000, soon=True)
    if short is None:
        for line, amount in zip(lines, want, strict=True):
            if amount:
                line.grant(amount)
    return short


def _resets_at(line: _Line, want: int, now: int) -> int:
    cap = line.cap
    if cap.kind == CONCURRENCY:
        return now + 1000
    if cap.kind == BUDGET:
        return slot_at(cap, line.slot)[1]
    missing = want - line.left
    width = slot_at(cap, 0)[1]
    for slot, amount in sorted(line.slots.items()):
        missing -= amount
        if missing <= 0:
            return slot + width + int(cap.window)
    return now + (int(cap.window) if want > cap.amount else 1000)


def _headroom(lines: Sequence[_Line], part: int) -> list[int]:
    """Return how much of each limit may be held beyond what is reserved: for the limits that are used, all
    or none, because a call needs something of each of them."""
    spare = []
    for line in lines:
        need = line.need
        free = max(0, line.left) + need.keep
        most = min(need.wish, free // part)
        if part > 1 and most < min(need.wish, need.unit * _SCARCE):
            most = 0
        if part > 1 and need.wish and not most:
            return [each.need.keep for each in lines]
        spare.append(max(need.keep, most))
    return spare
