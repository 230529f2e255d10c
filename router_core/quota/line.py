"""One limit of an account, as one process counts it."""

from __future__ import annotations

from typing import Final

from router_core.quota.cap import BUDGET, CONCURRENCY, RATE, Cap, slot_at

__all__ = ["FOREVER", "Line"]

FOREVER: Final = float("inf")
_CALLS: Final = 8
"""Calls that the first headroom is to be good for."""
_MOMENT: Final = 0.05
"""Seconds below which nothing is said about a pace."""
_HALF_LIFE: Final = 0.5


class Line:
    """One limit."""

    __slots__ = ("amount", "booked", "budget", "cap", "free", "keep", "low", "mark", "old", "pace", "rate",
                 "rest", "sending", "slot", "slot_end", "spare", "spent", "told", "unit", "used",
                 "wish")  # fmt: skip

    def __init__(self, cap: Cap) -> None:
        self.free = 0
        self.used = 0
        """Reserved by calls that go on."""
        self.booked = 0
        """Spent in ``slot``, and not written yet."""
        self.old: dict[int, int] = {}
        """Spent in other slots, and not written yet."""
        self.sending: dict[int, int] = {}
        """What is being written."""
        self.pace = 0.0
        """Used in a second, lately."""
        self.unit = 1
        self.wish = self.keep = self.spare = self.low = 0
        self.slot = self.slot_end = 0
        self.spent = 0
        """By all processes, as of the last answer."""
        self.rest = cap.amount
        """Left for all processes, as of the last answer."""
        self.told = -1
        """The highest mark that was told in ``slot``."""
        self.follow(cap)

    def follow(self, cap: Cap) -> None:
        """Go by another amount from now on."""
        self.cap = cap
        self.rate = cap.kind == RATE
        self.budget = cap.kind == BUDGET
        self.amount = cap.amount
        self.mark = FOREVER
        """Amount in ``booked`` at which a mark has been passed."""
        self.aim()

    def aim(self) -> None:
        """Look for the next mark."""
        following = [each for each in self.cap.marks if each > self.told]
        known = self.spent + self.unwritten - self.booked
        self.mark = min(following) - known if following else FOREVER

    def roll(self, now: int) -> None:
        """Begin the slot of this moment, if it is another one."""
        if now < self.slot_end:
            return
        if self.booked:
            self.old[self.slot] = self.old.get(self.slot, 0) + self.booked
            self.booked = 0
        before = self.slot
        self.slot, self.slot_end = slot_at(self.cap, now)
        if self.budget and self.slot != before:
            self.told, self.spent, self.rest = -1, 0, self.amount
            self.aim()

    def recent(self, calls: int) -> int:
        """Return how much was taken since the last answer; so many calls took something."""
        if self.cap.kind == CONCURRENCY or not calls:
            return calls  # what has ended meanwhile shows no more, and as many may begin again
        return max(self.spare - self.free, min(self.used, 1))

    def hope(self, recent: int, seconds: float) -> int:
        """Return the headroom to ask for: what is used in a second or so; nothing, where nothing was used."""
        if not recent:
            self.pace = 0.0
            return 0
        self.pace = max(recent / max(seconds, _MOMENT), self.pace * 0.5 ** (seconds / _HALF_LIFE))
        return max(int(self.pace), self.unit * _CALLS)

    @property
    def remaining(self) -> int:
        """What is left for everybody, as far as is known here."""
        return max(0, self.free, self.rest - max(0, self.spare - self.free))

    @property
    def unwritten(self) -> int:
        """What was spent in the current window and is not part of ``spent``."""
        if self.budget:
            return self.booked + self.old.get(self.slot, 0) + self.sending.get(self.slot, 0)
        return self.booked + sum(self.old.values()) + sum(self.sending.values())

    def send(self) -> dict[int, int]:
        """Return what is to be written: slot -> amount."""
        sending, self.old = self.old, {}
        if self.booked:
            sending[self.slot] = sending.get(self.slot, 0) + self.booked
            self.booked = 0
        self.sending = sending
        return sending

    def back(self) -> None:
        """Keep for another time what could not be written."""
        for slot, amount in self.sending.items():
            self.old[slot] = self.old.get(slot, 0) + amount
        self.sending = {}
