"""What keeps the accounts of one process in a store that others write to as well.

Of each account one operation is under way at most; everything that comes meanwhile goes into the next one.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from hashlib import sha256
from typing import Final

from router_core.clock import Clock
from router_core.errors import Conflict, PayloadTooLarge, RouterError, StoreError
from router_core.quota.account import Account, Taken
from router_core.quota.cap import BUDGET, CONCURRENCY, slot_at
from router_core.quota.document import Document, decode, encode
from router_core.quota.errors import Exceeded
from router_core.quota.sharing import SHARE, Answer, Verdict, judge, share
from router_core.quota.waiting import Changed, Waiter
from router_core.state import StateStore

__all__ = ["LEASE", "PATIENCE", "Keeper"]

LEASE: Final = 20.0
"""Seconds after which what a killed process held is free again."""
PATIENCE: Final = 2.0
"""Seconds that a call waits in a crowd of processes, and for headroom that others give back."""
_PAUSE: Final = 0.05
"""Seconds between two looks whether they have."""
_JITTER: Final = 0.004
_LONGEST_JITTER: Final = 0.1
_AT_ONCE: Final = 16
"""Accounts that are written at once while nobody waits for them."""
_MARGIN: Final = 5.0
"""Seconds beyond the last call of a process that may be frozen between calls."""
_DAY: Final = 86_400
_LONGEST_NAME: Final = 200


class Keeper:
    """Asks the store for accounts. Everything in it happens on one event loop."""

    def __init__(
        self, store: StateStore, clock: Clock, holder: Callable[[], str], room: str, rng: random.Random
    ) -> None:
        self._holder = holder
        self.steady = False
        """Whether this process goes on between calls, so that it can give back what it holds."""
        self.lease = LEASE
        self.patience = PATIENCE
        self._store = store
        self._clock = clock
        self._room = room
        self._random = rng
        self._waiting: dict[str, deque[Waiter]] = {}
        """By subject."""
        self._busy: dict[str, asyncio.Task[None]] = {}
        self._few = asyncio.Semaphore(_AT_ONCE)
        self._loop: asyncio.AbstractEventLoop | None = None
        """That of ``_busy`` and ``_few``."""

    # -- for calls -----------------------------------------------------------------------------------

    def queue(self, account: Account, wants: Sequence[int]) -> Waiter:
        """Let a call wait for the next operation."""
        waiter = Waiter(account, wants, self._clock.monotonic() + self.patience)
        self._waiting.setdefault(account.subject, deque()).append(waiter)
        self.kick(account)
        return waiter

    def kick(self, account: Account) -> None:
        """See to it that the store is asked."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return  # no loop runs any more: what was used is known to this process alone, which ends
        if loop is not self._loop:
            self._loop, self._few = loop, asyncio.Semaphore(_AT_ONCE)
            self._busy = {}
        if account.subject in self._busy:
            return
        task = loop.create_task(self._work(account), name="quota")
        self._busy[account.subject] = task
        task.add_done_callback(lambda _: self._ended(account, task))

    def _ended(self, account: Account, task: asyncio.Task[None]) -> None:
        """Let nobody wait for work that was cancelled, or has failed as it never should."""
        if self._busy.get(account.subject) is not task:
            return
        del self._busy[account.subject]
        for waiter in self._waiting.pop(account.subject, ()):
            waiter.refuse(StoreError("the limits cannot be asked any more"))
        if not task.cancelled():
            task.result()

    async def idle(self, within: float | None = None, *, account: Account | None = None) -> None:
        """Wait until nothing is under way, of one account or of all; beyond a time let go of it."""
        tasks = list(self._busy.values())
        if account is not None:
            tasks = [task for task in [self._busy.get(account.subject)] if task is not None]
        if not tasks:
            return
        _, left = await asyncio.wait(tasks, timeout=within)
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left)

    # -- one account ---------------------------------------------------------------------------------

    async def _work(self, account: Account) -> None:
        while True:
            batch = self._batch(account)
            try:
                if batch:
                    again = await self._step(account, batch)
                else:
                    async with self._few:
                        batch = self._batch(account)
                        again = await self._step(account, batch)
            except (StoreError, PayloadTooLarge) as error:
                self._without(account, batch, error)
                again = False
            except Changed:
                for waiter in batch:
                    waiter.refuse(Changed())
                again = False
            if again:
                await self._clock.sleep(_PAUSE * (0.5 + self._random.random()))
            elif not self._waiting.get(account.subject):
                self._waiting.pop(account.subject, None)
                del self._busy[account.subject]
                return

    def _batch(self, account: Account) -> list[Waiter]:
        queue = self._waiting.get(account.subject)
        batch = []
        while queue:
            waiter = queue.popleft()
            if waiter.future.done():
                continue
            if waiter.lines is account.lines:
                batch.append(waiter)
            else:
                waiter.refuse(Changed())
        return batch

    async def _step(self, account: Account, batch: list[Waiter]) -> bool:
        """Ask the store once, for all who wait; returns whether some of them go on waiting."""
        asked = await self._ask(account, batch)
        moment = self._clock.monotonic()
        again = []
        for waiter, verdict in zip(batch, asked.verdicts, strict=True):
            if verdict is None:
                waiter.give(Taken(account, waiter.wants, asked=True))
            elif verdict.soon and moment < waiter.until:
                again.append(waiter)
            else:
                waiter.refuse(self.exceeded(account, verdict))
        if again:
            self._waiting.setdefault(account.subject, deque()).extendleft(reversed(again))
        return bool(again) or (account.pressed and any(line.spare for line in account.lines))

    async def _ask(self, account: Account, batch: Sequence[Waiter]) -> Answer:
        until = self._clock.monotonic() + self.patience
        pause = _JITTER
        while True:
            if account.version is None:
                await self._read(account)
            if any(each.lines is not account.lines for each in batch):
                raise Changed
            now, moment = self._now(), self._clock.monotonic()
            ask = account.ask(
                self._holder(), [each.wants for each in batch], now, moment,
                lease=self._lease(account, moment), steady=self.steady, part=SHARE,
            )  # fmt: skip
            answer = share(account.document, account.caps, ask, now)
            try:
                account.version = await self._write(account, answer.document, now)
            except Conflict:
                account.version = None
                account.back()
                if self._clock.monotonic() >= until:
                    raise StoreError("too many processes ask for one limit at once") from None
                await self._clock.sleep(pause * self._random.random())
                pause = min(_LONGEST_JITTER, pause * 2)
                continue
            except BaseException:
                # it may have happened: the next look at the account tells
                account.version, account.unsure = None, ask.seq
                raise
            account.take_in(ask, answer, now, moment)
            return answer

    def _lease(self, account: Account, moment: float) -> int:
        """Return for how many milliseconds others are to believe what we hold."""
        lease = self.lease
        if not self.steady:
            lease = max(lease, account.within - moment + _MARGIN)
        return int(lease * 1000)

    async def _read(self, account: Account) -> None:
        entry = await self._store.get(self._key(account.subject))
        document = Document(born=self._birth()) if entry is None else decode(entry.value)
        if document.born != account.document.born:
            document = account.told(document)
        if account.unsure:
            ours = document.holders.get(self._holder())
            if ours is not None and ours.seq == account.unsure:
                for line in account.asking:
                    line.sending = {}
            else:
                account.back()
            account.unsure = 0
        account.document = document
        account.version = "" if entry is None else entry.version

    def _birth(self) -> str:
        return f"{self._holder()}-{self._random.getrandbits(48):x}"

    async def _write(self, account: Account, document: Document, now: int) -> str:
        key, value, ttl = self._key(account.subject), encode(document), self._ttl(account, now)
        if account.version:
            return await self._store.put(key, value, if_version=account.version, ttl=ttl)
        return await self._store.put(key, value, if_absent=True, ttl=ttl)

    def _without(self, account: Account, batch: Sequence[Waiter], error: RouterError) -> None:
        """Decide about calls for which the store could not be asked."""
        for waiter in (*batch, *self._waiting.pop(account.subject, ())):
            if waiter.future.done():
                continue
            if waiter.lines is not account.lines:
                waiter.refuse(Changed())
                continue
            try:
                waiter.give(self._alone(account, waiter.wants, error))
            except (StoreError, Exceeded) as refusal:
                waiter.refuse(refusal)

    def _alone(self, account: Account, wants: Sequence[int], error: RouterError) -> Taken:
        """Give by what is known here, as far as the limits allow that. Raises StoreError or Exceeded."""
        now = self._now()
        fresh = self._clock.monotonic() < account.fresh_until
        for line, want in zip(account.lines, wants, strict=True):
            if want and line.cap.on_store_failure == "closed" and not (fresh and want <= line.free):
                wait = max(1.0, getattr(error, "retry_after", 0.0))
                raise StoreError(f"the limits cannot be asked: {error.detail}", retry_after=wait)
        account.roll(now)
        spent = [line.used + line.unwritten for line in account.lines]
        verdict = judge(account.document, account.caps, self._holder(), spent, wants, now)
        if verdict is not None:
            raise self.exceeded(account, verdict)
        return account.force(wants, now)

    def exceeded(self, account: Account, verdict: Verdict) -> Exceeded:
        """Return the error for a refusal."""
        seconds = max(0.0, (verdict.resets_at - self._now()) / 1000)
        return Exceeded(account.subject, account.caps[verdict.index], verdict.remaining, seconds)

    # -- the store -----------------------------------------------------------------------------------

    async def look(self, account: Account) -> Document:
        """Return an account as it stands in the store."""
        entry = await self._store.get(self._key(account.subject))
        document = Document() if entry is None else decode(entry.value)
        return document if document.born == account.document.born else account.told(document)

    async def reset(self, account: Account) -> None:
        """Forget what was spent; what calls have reserved stays."""
        until = self._clock.monotonic() + self.patience
        while True:
            entry = await self._store.get(self._key(account.subject))
            if entry is None:
                break
            document = decode(entry.value)
            slots = {name: each for name, each in document.slots.items()
                     if name not in [cap.name for cap in account.caps]}  # fmt: skip
            changed = replace(document, slots=slots)
            ttl = self._ttl(account, self._now())
            with suppress(Conflict):
                await self._store.put(entry.key, encode(changed), if_version=entry.version, ttl=ttl)
                break
            if self._clock.monotonic() >= until:
                raise StoreError("too many processes ask for one limit at once")
            await self._clock.sleep(_JITTER * self._random.random())

    def _key(self, subject: str) -> str:
        if len(subject) > _LONGEST_NAME or not (subject.isascii() and subject.isprintable()):
            subject = f"sha256-{sha256(subject.encode(errors='surrogatepass')).hexdigest()}"
        return f"{self._room}/{subject}"

    def _ttl(self, account: Account, now: int) -> float:
        """Return how long an account is worth keeping when nobody writes it any more."""
        seconds = self.lease + 2 * 60
        for cap in account.caps:
            if cap.kind == BUDGET:
                seconds = max(seconds, (slot_at(cap, now)[1] - now) / 1000 + _DAY)
            elif cap.kind != CONCURRENCY:
                seconds = max(seconds, 2 * int(cap.window) / 1000)
        return seconds

    def _now(self) -> int:
        return int(self._clock.now() * 1000)
