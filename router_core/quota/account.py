"""One subject as one process sees it: what it may give away without asking anybody.

Of each limit ``free`` is what the store believes this process to hold, less what its calls have reserved and
what they have spent and was not written yet. Only ``divide`` and ``take_in`` change what is held.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from router_core.quota.cap import Cap
from router_core.quota.document import Document
from router_core.quota.line import FOREVER, Line
from router_core.quota.sharing import Answer, Ask, Need

__all__ = ["Account", "Owner", "Taken"]


class Owner(Protocol):
    """Whom an account tells what happens to it."""

    def wall(self) -> int:
        """Return milliseconds since the epoch."""

    def touched(self, account: Account) -> None:
        """There is something to write."""

    def hungry(self, account: Account) -> None:
        """The headroom will soon be used up."""

    def passed(self, account: Account, line: Line, mark: int) -> None:
        """So much was spent in the current window."""


class Taken:
    """What one call holds of a subject. One of the two is called, once; a second time changes nothing."""

    __slots__ = ("account", "lines", "slots", "wants")

    def __init__(self, account: Account, wants: Sequence[int], *, asked: bool = False) -> None:
        """``asked``: it was given by the store, when that was asked last."""
        self.account: Account | None = account
        self.lines = account.asking if asked else account.lines
        self.slots = account.asking_slots if asked else account.slots
        self.wants = wants

    def settle(self, amounts: Sequence[int] | None = None) -> None:
        """Book what was really used of each limit (None: as much as was taken); give back the rest."""
        account = self.account
        if account is None:
            return
        self.account = None
        account.denied = None
        for index, line in enumerate(self.lines):
            want = self.wants[index]
            real = want if amounts is None else amounts[index]
            if line.rate:
                if real != want:
                    self._correct(account, line, index, real - want)
            elif line.budget:
                line.used -= want
                line.booked += real
                line.free += want - real
                if line.booked >= line.mark:
                    account.look(line)
            elif want:
                line.used -= want
                line.free += want
        if not account.dirty:
            account.owner.touched(account)

    def release(self) -> None:
        """Give all of it back, as if nothing had been taken."""
        if self.account is not None:
            self.settle([0] * len(self.wants))

    def _correct(self, account: Account, line: Line, index: int, more: int) -> None:
        """Book the difference to what was booked at first, where that was."""
        if more > 0 or self.slots is account.slots:
            line.booked += more
            line.free -= more
        else:
            slot = self.slots[index]
            line.old[slot] = line.old.get(slot, 0) + more


class Account:
    """The limits of one subject, and what this process holds of them."""

    __slots__ = (
        "asked_at", "asking", "asking_slots", "calls", "caps", "denied", "dirty", "document", "fresh_until",
        "held_until", "lines", "owner", "pressed", "renew_at", "seq", "slots", "subject", "unsure", "version",
        "within", "written",
    )  # fmt: skip

    def __init__(self, subject: str, caps: Sequence[Cap], owner: Owner) -> None:
        self.subject = subject
        self.owner = owner
        self.caps: Sequence[Cap] = ()
        self.lines: tuple[Line, ...] = ()
        self.slots: tuple[int, ...] = ()
        """Of the lines; another object whenever one has changed."""
        self.fresh_until = 0.0
        """Monotonic seconds: until when what is held may be given away, and is booked in ``slots``."""
        self.held_until = 0.0
        """Monotonic seconds: until when others believe that it is held."""
        self.renew_at = FOREVER
        """Monotonic seconds: when what is held has to be written again."""
        self.document = Document()
        """As it was last seen."""
        self.calls = 0
        """That took something since the store was last asked: headroom is asked for by it."""
        self.asked_at = 0.0
        """Monotonic seconds."""
        self.asking: tuple[Line, ...] = ()
        """The lines that the last question was about."""
        self.asking_slots: tuple[int, ...] = ()
        self.version: str | None = None
        """Of the document in the store; empty: there is none; None: not known."""
        self.seq = 0
        self.unsure = 0
        """Number of a write of which it is not known whether it happened."""
        self.within = 0.0
        """Monotonic seconds: when the last of its calls is over, where nobody renews what is held."""
        self.pressed = False
        """Whether somebody waits for what others hold."""
        self.written = False
        """Whether the store believes that we hold anything."""
        self.dirty = False
        self.denied: tuple[Sequence[int], int, int, int] | None = None
        """The last refusal, as long as nothing has changed: wants, limit, what remains, when it resets."""
        self.follow(caps)

    def follow(self, caps: Sequence[Cap]) -> None:
        """Go by other limits from now on; those that keep their name keep what was taken of them."""
        known = {each.cap.name: each for each in self.lines}
        lines = []
        for cap in caps:
            line = known.get(cap.name)
            if line is None or line.cap.kind != cap.kind or line.cap.window != cap.window:
                line = Line(cap)
            line.follow(cap)
            lines.append(line)
        self.caps = caps
        self.lines = tuple(lines)
        self.slots = tuple([line.slot for line in lines])
        self.fresh_until = self.held_until = 0.0
        self.denied = None

    # -- on the way of a call ------------------------------------------------------------------------

    def take(self, wants: Sequence[int], now: float) -> Taken | None:
        """Give from what is held here; None: somebody has to be asked."""
        if now >= self.fresh_until and not self._go_on(now):
            return None
        hungry = False
        for index, line in enumerate(self.lines):
            want = wants[index]
            if not want:
                continue
            free = line.free - want
            if free < 0:
                self._undo(wants, index)
                return None
            line.free = free
            if line.rate:
                line.booked += want
            else:
                line.used += want
            if free < line.low:
                hungry = True
        self.calls += 1
        if hungry:
            self.owner.hungry(self)
        if not self.dirty:
            self.owner.touched(self)
        return Taken(self, wants)

    def _undo(self, wants: Sequence[int], count: int) -> None:
        """Take back what the first limits have given, as another one has not enough."""
        for line, want in zip(self.lines[:count], wants, strict=False):
            line.free += want
            if line.rate:
                line.booked -= want
            else:
                line.used -= want

    def _go_on(self, now: float) -> bool:
        """Begin the slots of this moment, where what is held goes on to be held."""
        if now >= self.held_until:
            return False
        wall = self.owner.wall()
        self.roll(wall)
        self._freshen(wall, now)
        return True

    def _freshen(self, wall: int, now: float) -> None:
        ends = [line.slot_end for line in self.lines if line.slot_end]
        first = now + (min(ends) - wall) / 1000 if ends else FOREVER
        self.fresh_until = min(first, self.held_until)

    def force(self, wants: Sequence[int], now: int) -> Taken:
        """Give what is not held here: nobody can be asked, and it is to be counted later."""
        self.roll(now)
        self.calls += 1
        for line, want in zip(self.lines, wants, strict=True):
            line.free -= want
            if line.rate:
                line.booked += want
            else:
                line.used += want
        return Taken(self, wants)

    def look(self, line: Line) -> None:
        """Tell of the marks that were passed."""
        spent = line.spent + line.unwritten
        for mark in sorted(line.cap.marks):
            if line.told < mark <= spent:
                line.told = mark
                self.owner.passed(self, line, mark)
        line.aim()

    # -- with the store ------------------------------------------------------------------------------

    def roll(self, now: int) -> None:
        """Begin the slots of this moment."""
        for line in self.lines:
            line.roll(now)
        slots = tuple([line.slot for line in self.lines])
        if slots != self.slots:
            self.slots, self.denied = slots, None

    def ask(
        self, holder: str, wants: Sequence[Sequence[int]], now: int, moment: float, *, lease: int,
        steady: bool, part: int,
    ) -> Ask:  # fmt: skip
        """Return what is to be asked of the account; until the answer comes ``keep`` is what may be given.

        ``part`` is that of what is left which may be held; of a process that is not ``steady`` (it may be
        frozen, or is about to end) nobody knows when it would give back what it holds, so it holds nothing.
        """
        self.roll(now)
        self.seq += 1
        self.asking, self.asking_slots = self.lines, self.slots
        calls, self.calls = self.calls, 0
        passed, self.asked_at = moment - self.asked_at, moment
        hold = steady and not wants and not self.pressed and moment < self.held_until
        needs = []
        for index, line in enumerate(self.lines):
            waiting = [each[index] for each in wants]
            line.unit = max(line.unit // 2, 1, *waiting)
            recent = line.recent(calls) + sum(waiting)
            if part == 1:
                line.wish = line.amount
            else:
                line.wish = line.hope(recent, passed) if steady else 0
            line.free = line.keep = max(0, min(line.free, line.wish)) if hold else 0
            needs.append(Need(line.used, line.keep, line.wish, line.unit, line.send()))
            line.aim()
        return Ask(holder, self.seq, lease, needs, wants, part)

    def take_in(self, ask: Ask, answer: Answer, now: int, moment: float) -> None:
        """Go by the answer, which holds from now on."""
        self.document = answer.document
        self.pressed = answer.pressed
        for index, line in enumerate(self.asking):
            given = 0
            if not line.rate:
                given = sum([want[index] for want, verdict in zip(ask.wants, answer.verdicts, strict=True)
                             if verdict is None])  # fmt: skip
            line.used += given
            line.sending = {}
            line.spare = answer.spare[index]
            line.free = ask.needs[index].used + given + line.spare - line.used - line.booked
            line.low = line.spare // 4 if ask.share > 1 else 0
            line.spent, line.rest = answer.spent[index], answer.rest[index]
            self.look(line) if line.cap.marks else line.aim()
        self.written = bool(answer.document.holders[ask.holder].held)
        self.held_until, self.renew_at = FOREVER, FOREVER
        if ask.share > 1:
            self.held_until = moment + (ask.lease - ask.lease // 10) / 1000
            self.renew_at = moment + ask.lease / 3000
        if self.asking is not self.lines:
            self.held_until = 0.0
        self._freshen(now, moment)

    def back(self) -> None:
        """Keep for another time what could not be written."""
        for line in self.asking:
            line.back()

    def told(self, document: Document) -> Document:
        """Return a document of a store that has forgotten the one which was known here, with what is known
        here to be spent of budgets in their current windows; others may have told more already."""
        slots = dict(document.slots)
        for line in self.lines:
            if line.budget and line.spent:
                held = slots.get(line.cap.name, {})
                slots[line.cap.name] = {**held, line.slot: max(line.spent, held.get(line.slot, 0))}
        return replace(document, slots=slots)

    def forget(self) -> None:
        """Know nothing of what was spent."""
        for line in self.lines:
            line.booked, line.old, line.sending = 0, {}, {}
            line.spent, line.told = 0, -1
            line.aim()
        self.fresh_until = self.held_until = 0.0
        self.version = self.denied = None

    def clean(self) -> bool:
        """Return whether there is nothing to write, now or later."""
        return not (self.written or self.unsure or self.pending()) and not any(
            line.used for line in self.lines
        )

    def pending(self) -> bool:
        """Return whether something was used since the last write."""
        return self.calls > 0 or any(line.booked or line.old or line.sending for line in self.lines)

    def due(self, moment: float) -> bool:
        """Return whether the store is to be told now: of what was used, that headroom is not needed, or that
        calls go on."""
        if self.unsure or self.pending() or moment >= self.renew_at:
            return True
        return self.written and any(line.spare or line.free for line in self.lines)
