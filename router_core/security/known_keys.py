"""Keys of the shared state as this process knows them: believed for a moment, then looked up again.

    seen less than ``belief`` ago    believed; from the middle of that time on looked up beside the calls
    seen before, the store is away   believed for another ``stale`` seconds, unless it has expired
    never seen, the store is away    503: nobody can say whose key it is, so it is not called wrong
    not in the store                 401, and remembered for ``belief``; room for those is bounded
    ids that are guessed             so many a second are looked up; for more than that 503, and the keys that
                                     are known go on as if nothing happened

A secret that does not fit the record is compared with a newer one, at most once a second: the key may have
been rotated elsewhere.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Final

from router_core.clock import Clock
from router_core.errors import StoreError, Unavailable
from router_core.security.credentials import invalid
from router_core.security.key_records import KeyRecord
from router_core.security.roles import ROLES
from router_core.security.stored_keys import KeyRoom
from router_core.types import Principal

__all__ = ["KnownKeys"]

_MOST: Final = 10_000
"""Keys that are remembered, and as many ids that belong to none."""
_GUESSES: Final = 500.0
_GUESSES_A_SECOND: Final = 100.0
_SOON: Final = 0.5
"""Share of the belief after which a key in use is looked up beside the calls."""
_SECOND_LOOK: Final = 1.0
_NOTED_EVERY: Final = 60.0
_KEY: Final = "API key"


class _Seen:
    """A key, and since when it is known."""

    __slots__ = ("noted", "principal", "read_at", "record", "soon", "until")

    def __init__(self, record: KeyRecord, principal: Principal, read_at: float, belief: float) -> None:
        self.record = record
        self.principal = principal
        self.read_at = read_at
        self.soon = read_at + belief * _SOON
        self.until = read_at + belief
        self.noted = 0.0
        """When its use was last written down."""


class KnownKeys:
    """Says whose key it is. Made for one event loop at a time."""

    def __init__(
        self, room: KeyRoom, clock: Clock, *, belief: float = 5.0, stale: float = 60.0,
        roles: Mapping[str, frozenset[str]] = ROLES, most: int = _MOST,
    ) -> None:  # fmt: skip
        self._room = room
        self._clock = clock
        self._monotonic: Callable[[], float] = clock.monotonic
        self._belief = belief
        self._stale = stale
        self._roles = roles
        self._most = most
        self._seen: OrderedDict[str, _Seen] = OrderedDict()
        self._unknown: dict[str, float] = {}
        self._reads: dict[str, asyncio.Task[_Seen | None]] = {}
        self._changed: set[str] = set()
        """Of those that are being looked up: changed here since, so that what was read may be older."""
        self._notes: set[asyncio.Task[None]] = set()
        self._guesses = _GUESSES
        self._guessed_at = clock.monotonic()

    # --- without waiting ------------------------------------------------------------------------

    def recall(self, key_id: str, digest: bytes) -> tuple[Principal, float] | None:
        """Return whose key it is and until when that is believed; None: the store has to be asked.

        Raises Unauthorized where it is known to open nothing.
        """
        now = self._monotonic()
        seen = self._seen.get(key_id)
        if seen is None:
            if self._unknown.get(key_id, 0.0) > now:
                raise invalid(_KEY)
            return None
        if now >= seen.until:
            return None
        until = self._until(seen, digest, now)
        if not until:
            if now - seen.read_at >= _SECOND_LOOK:
                return None
            raise invalid(_KEY)
        if now >= seen.soon:
            self._note(key_id, seen, now)
            self._read(key_id)
            return seen.principal, min(until, seen.until)
        return seen.principal, min(until, seen.soon)

    def _until(self, seen: _Seen, digest: bytes, now: float) -> float:
        """Return until when the key opens, by the monotonic clock; 0: it does not."""
        wall = self._clock.now()
        ends = seen.record.opens(digest, wall)
        return now + (ends - wall) if ends else 0.0

    # --- by asking the store --------------------------------------------------------------------

    async def identify(self, key_id: str, digest: bytes) -> Principal:
        """Return whose key it is, after a look into the store; raises Unauthorized or StoreError."""
        before = self._seen.get(key_id)
        if before is None:
            self._guess(key_id)
        try:
            seen = await asyncio.shield(self._read(key_id))
        except StoreError:
            if before is None:
                raise
            return self._stale_holder(before, digest)
        if seen is None:
            raise invalid(_KEY)
        if before is None:
            self._guesses += 1.0  # it was none
        now = self._monotonic()
        if not self._until(seen, digest, now):
            raise invalid(_KEY)
        self._note(key_id, seen, now)
        return seen.principal

    def _stale_holder(self, seen: _Seen, digest: bytes) -> Principal:
        """Return whose key it was when the store last answered; raises where that is too long ago."""
        now = self._monotonic()
        ends = seen.read_at + self._belief + self._stale
        if seen.record.status(self._clock.now()) != "active":
            raise invalid(_KEY)
        if now >= ends or not self._until(seen, digest, now):
            raise StoreError("whose key it is cannot be found out at the moment")
        seen.until = seen.soon = min(ends, now + self._belief)
        return seen.principal

    def _guess(self, key_id: str) -> None:
        """Count a look-up of an id that was never seen; raises Unavailable where there are too many."""
        if key_id in self._reads:
            return
        now = self._monotonic()
        earned = (now - self._guessed_at) * _GUESSES_A_SECOND
        self._guesses, self._guessed_at = min(_GUESSES, self._guesses + earned), now
        if self._guesses < 1.0:
            raise Unavailable("too many unknown keys are being asked for", code="keys_busy")
        self._guesses -= 1.0

    def _read(self, key_id: str) -> asyncio.Task[_Seen | None]:
        """Return the task that looks a key up: many may ask for it, it is done once."""
        loop = asyncio.get_running_loop()
        task = self._reads.get(key_id)
        if task is None or task.done() or task.get_loop() is not loop:
            task = self._reads[key_id] = loop.create_task(self._look(key_id))
            task.add_done_callback(lambda done: self._looked(key_id, done))
        return task

    async def _look(self, key_id: str) -> _Seen | None:
        while True:
            self._changed.discard(key_id)
            asked = self._monotonic()
            kept = await self._room.find(key_id)
            if key_id not in self._changed:
                break
        before = self._seen.pop(key_id, None)
        if kept is None:
            self._unknown.pop(key_id, None)
            while len(self._unknown) >= self._most:
                del self._unknown[next(iter(self._unknown))]
            self._unknown[key_id] = asked + self._belief
            return None
        record = kept.record
        seen = _Seen(record, record.principal(self._roles), asked, self._belief)
        seen.noted = before.noted if before is not None else 0.0
        while len(self._seen) >= self._most:
            self._seen.popitem(last=False)
        self._seen[key_id] = seen
        self._unknown.pop(key_id, None)
        return seen

    def _looked(self, key_id: str, task: asyncio.Task[_Seen | None]) -> None:
        if self._reads.get(key_id) is task:
            del self._reads[key_id]
            self._changed.discard(key_id)
        if not task.cancelled():
            task.exception()  # who waits for it has seen it; a look beside the calls is done again

    # --- what others have to know ---------------------------------------------------------------

    def forget(self, key_id: str) -> None:
        """Look a key up again before it is believed: it was changed here."""
        self._seen.pop(key_id, None)
        self._unknown.pop(key_id, None)
        if key_id in self._reads:
            self._changed.add(key_id)

    def _note(self, key_id: str, seen: _Seen, now: float) -> None:
        """Write down that a key is in use, beside the calls and at most once a minute."""
        if seen.noted and now - seen.noted < _NOTED_EVERY:
            return
        seen.noted = now
        task = asyncio.get_running_loop().create_task(_quiet(self._room.used(key_id, self._clock.now())))
        self._notes.add(task)
        task.add_done_callback(self._notes.discard)

    async def close(self) -> None:
        """Let go of what is under way."""
        loop = asyncio.get_running_loop()
        tasks: list[asyncio.Task[Any]] = [*self._reads.values(), *self._notes]
        mine = [task for task in tasks if task.get_loop() is loop and not task.done()]
        for task in mine:
            task.cancel()
        await asyncio.gather(*mine, return_exceptions=True)


async def _quiet(work: Coroutine[Any, Any, None]) -> None:
    """Do what may be left undone where the store is away."""
    try:
        await work
    except StoreError:
        pass
