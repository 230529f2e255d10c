"""Ids ordered by a number: the queues of the memory store."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from itertools import count

__all__ = ["Agenda"]


class Agenda:
    """A heap whose members can be moved and removed; equal keys keep their order of arrival.

    Removing leaves a stale entry that is skipped later; when stale entries outnumber members the heap is
    rebuilt, so its size stays within a constant factor of its members.
    """

    __slots__ = ("_entries", "_heap", "_ticket")

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, str]] = []
        self._entries: dict[str, tuple[float, int, str]] = {}
        self._ticket = count()

    def __len__(self) -> int:
        return len(self._entries)

    def put(self, member: str, key: float) -> None:
        """Add a member, or give it another key."""
        entry = (key, next(self._ticket), member)
        self._entries[member] = entry
        heapq.heappush(self._heap, entry)
        if len(self._heap) > 2 * len(self._entries) + 64:
            self._heap = list(self._entries.values())
            heapq.heapify(self._heap)

    def discard(self, member: str) -> None:
        """Remove a member if it is there."""
        self._entries.pop(member, None)

    def first(self) -> tuple[float, str] | None:
        """Return the lowest key and its member."""
        heap = self._heap
        while heap:
            key, _, member = entry = heap[0]
            if self._entries.get(member) is entry:
                return key, member
            heapq.heappop(heap)
        return None

    def upto(self, key: float, limit: int) -> list[str]:
        """Return up to ``limit`` members with the lowest keys not above ``key``, lowest first."""
        return self.pick(limit, until=lambda found: found > key)

    def pick(
        self,
        limit: int,
        *,
        until: Callable[[float], bool] | None = None,
        wanted: Callable[[str], bool] | None = None,
    ) -> list[str]:
        """Return up to ``limit`` wanted members, lowest first, none from the first ``until`` key on."""
        held: list[tuple[float, int, str]] = []
        picked: list[str] = []
        while len(picked) < limit and self.first() is not None:
            entry = heapq.heappop(self._heap)
            held.append(entry)
            if until is not None and until(entry[0]):
                break
            if wanted is None or wanted(entry[2]):
                picked.append(entry[2])
        for entry in held:
            heapq.heappush(self._heap, entry)
        return picked
