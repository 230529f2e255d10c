"""Limits of many subjects, kept in this process or shared through a store; never exceeded by all together.

Usually a call takes from what its process holds, and nobody is asked. Where that is not enough it waits for
one operation of the store, together with everybody who came meanwhile.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from typing import Final, NamedTuple

from router_core.clock import Clock, SystemClock
from router_core.errors import StoreError, Unavailable
from router_core.quota.account import Account, Taken
from router_core.quota.cap import BUDGET, Cap, live
from router_core.quota.document import Document
from router_core.quota.errors import Exceeded
from router_core.quota.keeper import Keeper
from router_core.quota.line import Line
from router_core.quota.sharing import share
from router_core.quota.standing import Standing, standings
from router_core.quota.waiting import Changed, Later, Waiter
from router_core.state import StateStore
from router_core.types import new_id

__all__ = ["Demand", "Exceeded", "Quota", "Taken"]

FLUSH: Final = 0.5
"""Seconds after which what was used is written; the second time that nothing was, headroom is given back."""
MAX_ACCOUNTS: Final = 50_000
_GOODBYE: Final = 2.0
"""Seconds that the end of the process waits for the store."""
_TRIES: Final = 3

OnMark = Callable[[str, Cap, int, int, int], None]
"""Told of subject, limit, mark, what was spent, and the beginning of the window in milliseconds."""


class Demand(NamedTuple):
    """What a call takes of one subject."""

    subject: str
    caps: Sequence[Cap]
    """The same object for as long as they are the same."""
    wants: Sequence[int]
    """Of each limit."""


class Quota:
    """Takes, settles and shows. It belongs to one event loop.

    Without a store, or with one that other processes do not see, nothing ever waits. With one, ``run`` has to
    run beside the calls (it is an Upkeep): without it no headroom is held, and every call asks the store.
    """

    name = "quota"

    def __init__(
        self, store: StateStore | None = None, *, clock: Clock | None = None, room: str = "quota",
        on_mark: OnMark | None = None, rng: random.Random | None = None,
    ) -> None:  # fmt: skip
        """``store`` has to answer in time, as ``GuardedStateStore`` does."""
        self._clock: Clock = clock or SystemClock()
        self._time = self._clock.monotonic
        self._room = room
        self._on_mark = on_mark
        self._random = rng or random.Random()  # noqa: S311 - spreads load, guards nothing
        self._name = ""
        self._accounts: dict[str, Account] = {}
        self._dirty: dict[str, Account] = {}
        self._keeper: Keeper | None = None
        if store is not None:
            self.join(store)

    def join(self, store: StateStore) -> None:
        """Share the limits with all processes that use a store; before the first call."""
        self._accounts, self._dirty, self._keeper = {}, {}, None
        if getattr(store, "multi_process", True):
            self._keeper = Keeper(store, self._clock, self._holder, self._room, self._random)

    def restored(self) -> None:
        """Be another process than the one that a snapshot was taken of."""
        self._name = ""
        self._random.seed()

    def _holder(self) -> str:
        """Return what this process is called in accounts. Drawn when it is first needed: processes may be
        copies of one that has not taken a call."""
        self._name = self._name or new_id()[:24]
        return self._name

    @property
    def shared(self) -> bool:
        """Whether other processes take of the same limits."""
        return self._keeper is not None

    # -- taking --------------------------------------------------------------------------------------

    def take(
        self, subject: str, caps: Sequence[Cap], amount: int | Sequence[int] = 1
    ) -> Taken | Awaitable[Taken]:
        """Take an amount of each limit of a subject (or of each its own), all or nothing.

        An awaitable says that the store has to be asked. Raises Exceeded, here or when awaited, and
        StoreError when the store is away and a limit is ``closed``. ``caps`` are not to be changed, and the
        same object for as long as they say the same.
        """
        wants = (amount,) * len(caps) if isinstance(amount, int) else amount
        account = self._account(subject, caps)
        taken = account.take(wants, self._time())
        if taken is not None:
            return taken
        if self._keeper is None:
            return self._decide(account, wants)
        return Later(lambda: self._wait(Demand(subject, caps, wants)))

    def take_all(
        self, demands: Sequence[Demand], *, within: float = 0.0
    ) -> list[Taken] | Awaitable[list[Taken]]:
        """Take of several subjects, all or nothing; otherwise as ``take``. ``within`` so many seconds the
        call is over: so long its part is held where no loop runs that could renew it."""
        now = self._time()
        held: list[Taken] = []
        try:
            for demand in demands:
                account = self._account(demand.subject, demand.caps)
                taken = account.take(demand.wants, now)
                if taken is None and self._keeper is None:
                    taken = self._decide(account, demand.wants)
                if taken is None:
                    break
                held.append(taken)
            else:
                return held
        except Exceeded:
            _release(held)
            raise
        _release(held)
        return Later(lambda: self._wait_all(demands, within))

    def _account(self, subject: str, caps: Sequence[Cap]) -> Account:
        account = self._accounts.get(subject)
        if account is None:
            if len(self._accounts) >= MAX_ACCOUNTS:
                self._make_room()
            account = self._accounts[subject] = Account(subject, caps, self)
            account.dirty = self._keeper is None
        elif account.caps is not caps and account.caps != caps:
            account.follow(caps)
        else:
            account.caps = caps
        return account

    def _decide(self, account: Account, wants: Sequence[int]) -> Taken:
        """Take of limits that nobody else uses, when what was put aside for the fast way is not enough."""
        now, moment = self.wall(), self._time()
        denied = account.denied
        if denied is not None and denied[0] == wants and moment < account.fresh_until:
            raise self._exceeded(account, *denied[1:], now)
        ask = account.ask("", (wants,), now, moment, lease=0, steady=True, part=1)
        answer = share(account.document, account.caps, ask, now)
        account.take_in(ask, answer, now, moment)
        verdict = answer.verdicts[0]
        if verdict is None:
            return Taken(account, wants, asked=True)
        account.denied = (wants, verdict.index, verdict.remaining, verdict.resets_at)
        raise self._exceeded(account, verdict.index, verdict.remaining, verdict.resets_at, now)

    def _exceeded(self, account: Account, index: int, remaining: int, resets_at: int, now: int) -> Exceeded:
        return Exceeded(account.subject, account.caps[index], remaining, max(0.0, (resets_at - now) / 1000))

    async def _wait(self, demand: Demand) -> Taken:
        return (await self._wait_all((demand,)))[0]

    async def _wait_all(self, demands: Sequence[Demand], within: float = 0.0) -> list[Taken]:
        for demand in demands if within else ():
            account = self._account(demand.subject, demand.caps)
            account.within = max(account.within, self._time() + within)
        for _ in range(_TRIES):
            with suppress(Changed):
                return await self._once(demands)
        raise Unavailable("the limits are being changed")

    async def _once(self, demands: Sequence[Demand]) -> list[Taken]:
        keeper = self._keeper
        if keeper is None:  # pragma: no cover - a store was taken away meanwhile
            raise StoreError("the limits are not shared any more")
        held: dict[int, Taken] = {}
        waiting: dict[int, Waiter] = {}
        try:
            for index, demand in enumerate(demands):
                account = self._account(demand.subject, demand.caps)
                taken = account.take(demand.wants, self._time())
                if taken is None:
                    waiting[index] = keeper.queue(account, demand.wants)
                    if keeper.steady:
                        self._mark(account)
                else:
                    held[index] = taken
            for index, waiter in list(waiting.items()):
                held[index] = await waiter.future
                del waiting[index]
        except BaseException:
            for waiter in waiting.values():
                waiter.abandon()
            _release(list(held.values()))
            raise
        return [held[index] for index in range(len(demands))]

    # -- what accounts tell --------------------------------------------------------------------------

    def wall(self) -> int:
        """Return milliseconds since the epoch."""
        return int(self._clock.now() * 1000)

    def touched(self, account: Account) -> None:
        """Note that there is something to write."""
        if self._keeper is None:
            return
        if self._keeper.steady:
            self._mark(account)
        else:
            self._keeper.kick(account)

    def _mark(self, account: Account) -> None:
        account.dirty = True
        self._dirty[account.subject] = account

    def hungry(self, account: Account) -> None:
        """Ask for more before there is nothing left."""
        if self._keeper is not None:
            self._keeper.kick(account)

    def passed(self, account: Account, line: Line, mark: int) -> None:
        """Tell of a mark."""
        if self._on_mark is not None:
            self._on_mark(account.subject, line.cap, mark, line.spent + line.unwritten, line.slot)

    # -- for those who ask ---------------------------------------------------------------------------

    def spent(self) -> Iterator[tuple[str, str, int, int]]:
        """Go through the budgets that calls have used here: subject, limit, what was spent in the window by
        all processes as far as is known here, and the amount."""
        now = self.wall()
        for account in self._accounts.values():
            for line in account.lines:
                if line.budget:
                    known = line.spent + line.unwritten if now < line.slot_end else 0
                    yield account.subject, line.cap.name, known, line.amount

    async def standing(self, subject: str, caps: Sequence[Cap]) -> list[Standing]:
        """Return how the limits of a subject stand, of all processes. Raises StoreError."""
        account = self._account(subject, caps)
        now = self.wall()
        account.roll(now)
        document = account.document if self._keeper is None else await self._keeper.look(account)
        own = {line.cap.name: (line.unwritten, line.used) for line in account.lines}
        return standings(document, caps, self._holder(), own, now)

    async def reset(self, subject: str, caps: Sequence[Cap]) -> None:
        """Forget what was spent of a subject; what calls have reserved stays. Raises StoreError."""
        account = self._account(subject, caps)
        if self._keeper is not None:
            await self._keeper.idle(account=account)
            await self._keeper.reset(account)
        names = {cap.name for cap in caps}
        kept = account.document
        slots = {name: each for name, each in kept.slots.items() if name not in names}
        account.document = Document(slots, kept.holders, kept.pressed, kept.born)
        account.forget()

    # -- beside the calls ----------------------------------------------------------------------------

    async def run(self) -> None:
        """Write what was used, twice a second, until cancelled; then give back what is held."""
        if self._keeper is not None:
            self._keeper.steady = True
        try:
            while True:
                await self._clock.sleep(FLUSH)
                await self.tick()
        finally:
            await self.aclose()

    async def tick(self) -> None:
        """Begin to write what has to be written."""
        keeper, now = self._keeper, self._time()
        if keeper is None:
            return
        if not keeper.steady:  # calls write for themselves; this is what they could not
            self._dirty = {name: each for name, each in self._accounts.items() if not each.clean()}
        for subject, account in list(self._dirty.items()):
            if account.due(now):
                keeper.kick(account)
            elif account.clean():
                account.dirty = False
                del self._dirty[subject]

    async def idle(self) -> None:
        """Wait until what was begun is written, or has failed."""
        if self._keeper is not None:
            await self._keeper.idle()

    def ready(self, now: float) -> bool:
        """Always: limits say for themselves what happens when they cannot be asked."""
        return True

    async def aclose(self) -> None:
        """Write what was used and give back what is held, for a moment at most. What is settled later is
        written by another call of it."""
        keeper = self._keeper
        if keeper is None:
            return
        keeper.steady = False
        for account in list(self._accounts.values()):
            if not account.clean():
                keeper.kick(account)
        await keeper.idle(_GOODBYE)

    def _make_room(self) -> None:
        """Forget subjects of which nothing is to be known any more, or else some that limit only rates."""
        now = self.wall()
        for subject, account in list(self._accounts.items()):
            if account.clean() if self._keeper is not None else _over(account, now):
                del self._accounts[subject]
        if len(self._accounts) < MAX_ACCOUNTS * 0.9:
            return
        idle = [
            subject for subject, account in self._accounts.items()
            if not any(line.budget or line.used for line in account.lines)
        ]  # fmt: skip
        for subject in idle[: MAX_ACCOUNTS // 10]:
            del self._accounts[subject]
            self._dirty.pop(subject, None)


def _over(account: Account, now: int) -> bool:
    """Return whether nothing that counts was taken of limits that this process has alone."""
    for line in account.lines:
        if line.used or line.booked:
            return False
        slots = account.document.slots.get(line.cap.name, {})
        if line.cap.kind != BUDGET and live(line.cap, slots, now):
            return False
        if line.cap.kind == BUDGET and any(slots.values()) and line.slot_end > now:
            return False
    return True


def _release(held: Sequence[Taken]) -> None:
    for taken in held:
        taken.release()
