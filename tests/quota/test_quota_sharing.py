"""How an account is divided among processes: windows of time, and a machine that tries to get too much."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import count
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from router_core.errors import StoreError
from router_core.quota.account import Account, Taken
from router_core.quota.cap import Cap, live, slot_at
from router_core.quota.document import Document, Holder, decode, encode
from router_core.quota.line import Line
from router_core.quota.sharing import SHARE, Ask, Need, share

DAY = Cap("daily", 100, "budget", "day")
MINUTE = Cap("requests", 10, "rate", 60_000)
AT_ONCE = Cap("concurrency", 3, "concurrency")


def ms(text: str) -> int:
    """Return a time in UTC as milliseconds."""
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


@pytest.mark.parametrize(
    ("window", "now", "start", "end"),
    [
        ("day", "2026-03-01T23:59:59.999", "2026-03-01", "2026-03-02"),
        ("day", "2026-03-02T00:00:00", "2026-03-02", "2026-03-03"),
        ("week", "2026-03-01T23:59:59", "2026-02-23", "2026-03-02"),
        ("week", "2026-03-02T00:00:00", "2026-03-02", "2026-03-09"),
        ("month", "2024-02-29T12:00:00", "2024-02-01", "2024-03-01"),
        ("month", "2026-12-31T23:59:59", "2026-12-01", "2027-01-01"),
        ("month", "2027-01-01T00:00:00", "2027-01-01", "2027-02-01"),
    ],
    ids=["day", "midnight", "sunday", "monday", "leap", "december", "january"],
)
def test_windows_are_those_of_the_calendar(window: str, now: str, start: str, end: str) -> None:
    """Days, weeks from Monday, and months, in UTC."""
    assert slot_at(Cap("c", 1, "budget", window), ms(now)) == (ms(start), ms(end))


def test_a_window_only_moves_forward() -> None:
    """Whose clock is behind books into the window that another has begun."""
    tomorrow, today = ms("2026-03-02T00:00:01"), ms("2026-03-01T23:59:59")
    ask = Ask("a", 1, 1000, [Need(books={slot_at(DAY, tomorrow)[0]: 60})])
    document = share(Document(), (DAY,), ask, tomorrow).document
    late = Ask("b", 1, 1000, [Need(books={slot_at(DAY, today)[0]: 30})], [(50,), (40,)])
    answer = share(document, (DAY,), late, today)
    assert [each is None for each in answer.verdicts] == [False, True]
    assert answer.document.slots["daily"] == {slot_at(DAY, tomorrow)[0]: 60}


def test_a_rate_counts_in_every_stretch_of_its_window() -> None:
    """Not only in minutes of the clock: ten at 0:59 leave none for 1:01."""
    now = ms("2026-03-01T00:00:59")
    answer = share(Document(), (MINUTE,), Ask("a", 1, 1000, [Need()], [(10,)]), now)
    document = answer.document
    for seconds, granted in ((0, False), (2, False), (59, False), (63, True)):
        found = share(document, (MINUTE,), Ask("b", 1, 1000, [Need()], [(1,)]), now + seconds * 1000)
        assert (found.verdicts[0] is None) is granted
    refused = share(document, (MINUTE,), Ask("b", 1, 1000, [Need()], [(1,)]), now).verdicts[0]
    assert refused is not None
    assert now + 60_000 < refused.resets_at <= now + 62_000


def test_a_rate_written_by_a_wrong_clock_is_forgotten() -> None:
    """What is dated far ahead would count for as long."""
    assert live(MINUTE, {10**12: 5}, 1_000_000) == {}


def test_a_call_gets_all_that_it_wants_or_nothing() -> None:
    """One limit that is short takes nothing off the others."""
    answer = share(Document(), (DAY, AT_ONCE), Ask("a", 1, 1000, [Need(), Need()], [(50, 4), (50, 1)]), 0)
    refused, granted = answer.verdicts
    assert refused is not None
    assert refused.index == 1
    assert granted is None
    assert answer.document.holders["a"].held == {"daily": 50, "concurrency": 1}


def test_headroom_stands_back_for_who_waits() -> None:
    """A call that only the headroom of others keeps out is told to wait, and nobody gets any."""
    document = Document(holders={"b": Holder(1, 5000, {"daily": 60}, {"daily": 60})})
    answer = share(document, (DAY,), Ask("a", 1, 1000, [Need()], [(50,)]), 0)
    assert answer.verdicts[0] is not None
    assert answer.verdicts[0].soon
    theirs = Ask("b", 2, 1000, [Need(wish=60)])
    assert share(answer.document, (DAY,), theirs, 100).spare == [0]
    assert share(answer.document, (DAY,), theirs, 10_000).spare == [0]  # 3 are too few to put aside
    more = Cap("daily", 1000, "budget", "day")
    assert share(answer.document, (more,), theirs, 100).spare == [0]
    assert share(answer.document, (more,), theirs, 10_000).spare == [1000 // SHARE]


def test_a_document_comes_back_as_it_was() -> None:
    """And what nobody of ours wrote is not taken for an account that is empty."""
    document = Document({"a": {1: 2}}, {"h": Holder(1, 2, {"a": 3}, {"a": 1})}, 7)
    assert decode(encode(document)) == document
    for value in (b"", b"{}", b"[]", b'{"v":2}', b'{"v":1,"s":{"a":1},"h":{},"p":0}', b"\xff"):
        with pytest.raises(StoreError, match="cannot be read"):
            decode(value)


class _Owner:
    """Takes no notice."""

    now = 0

    def wall(self) -> int:
        """Return the time of the machine's world."""
        return self.now

    def touched(self, account: Account) -> None:
        """Ignore it."""

    def hungry(self, account: Account) -> None:
        """Ignore it."""

    def passed(self, account: Account, line: Line, mark: int) -> None:
        """Ignore it."""


class Processes(RuleBasedStateMachine):
    """Three processes with one account: they take, settle, write, crash, lose answers, and time goes on.

    What was really taken is counted beside them, by the clock of the world.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = ms("2026-03-01T23:58:00")
        self.document = Document()
        self.version = 0
        self.names = count()
        self.owner = _Owner()

    @initialize(
        budget=st.sampled_from([30, 400, 4000]), rate=st.sampled_from([10, 200, 2000]),
        at_once=st.sampled_from([3, 40, 400]), part=st.sampled_from([2, 4, SHARE]),
    )  # fmt: skip
    def configure(self, budget: int, rate: int, at_once: int, part: int) -> None:
        """Choose the limits, and how much headroom there may be."""
        self.part = part
        self.caps = (
            Cap("daily", budget, "budget", "day"), Cap("requests", rate, "rate", 60_000),
            Cap("concurrency", at_once, "concurrency"),
        )  # fmt: skip
        self.taken: list[tuple[int, int]] = []
        self.processes: list[dict[str, Any]] = [self.process() for _ in range(3)]

    def process(self) -> dict[str, Any]:
        """Return a new one."""
        return {"name": f"p{next(self.names)}", "account": Account("s", self.caps, self.owner), "calls": []}

    def moment(self) -> float:
        """Return monotonic seconds."""
        self.owner.now = self.now
        return self.now / 1000

    def begun(self, process: dict[str, Any], taken: Taken) -> None:
        """Note what a call took."""
        process["calls"].append(taken)
        self.taken.append((self.now, taken.wants[1]))

    @rule(which=st.integers(0, 2), cost=st.integers(0, 60), count=st.integers(1, 60))
    def take(self, which: int, cost: int, count: int) -> None:
        """Take what is held here, if it is enough."""
        process = self.processes[which]
        taken = process["account"].take((cost, count, 1), self.moment())
        if taken is not None:
            self.begun(process, taken)

    @rule(which=st.integers(0, 2), share_of=st.integers(0, 100))
    def settle(self, which: int, share_of: int) -> None:
        """End the oldest call; it cost as much as was thought, or less."""
        process = self.processes[which]
        if process["calls"]:
            taken = process["calls"].pop(0)
            taken.settle((taken.wants[0] * share_of // 100, taken.wants[1], 0))

    @rule(
        which=st.integers(0, 2), wants=st.lists(st.integers(1, 12), max_size=3),
        lost=st.sampled_from([False, False, True]), between=st.integers(0, 60),
    )  # fmt: skip
    def write(self, which: int, wants: list[int], lost: bool, between: int) -> None:
        """Write the account, with calls that wait; the answer may be lost, and calls come meanwhile."""
        self.ask(self.processes[which], wants, lost, between)

    @rule(which=st.integers(0, 2), between=st.integers(0, 20))
    def hurry(self, which: int, between: int) -> None:
        """Make some small calls, so that there is headroom, and end them while the store is being asked."""
        process = self.processes[which]
        self.ask(process, [1, 1], False, 0)
        for _ in range(4):
            self.take(which, 1, 1)
            self.ask(process, [], False, between)
            self.settle(which, 50)

    def ask(self, process: dict[str, Any], wants: list[int], lost: bool, between: int) -> None:
        """Do what a process does with the store."""
        account: Account = process["account"]
        self.recognise(process["name"], account)
        waiting = [(want, 1, 1) for want in wants]
        ask = account.ask(
            process["name"], waiting, self.now, self.moment(), lease=20_000, steady=True, part=self.part
        )
        answer = share(self.document, self.caps, ask, self.now)
        self.document = answer.document
        taken = account.take((between, between, 1), self.moment()) if between else None
        if taken is not None:
            self.begun(process, taken)
        if lost:
            account.unsure = ask.seq
            return
        account.take_in(ask, answer, self.now, self.moment())
        for want, verdict in zip(waiting, answer.verdicts, strict=True):
            if verdict is None:
                self.begun(process, Taken(account, want))

    def recognise(self, name: str, account: Account) -> None:
        """Find out what became of a write whose answer was lost."""
        if account.unsure:
            ours = self.document.holders.get(name)
            if ours is not None and ours.seq == account.unsure:
                for line in account.asking:
                    line.sending = {}
            else:
                account.back()
            account.unsure = 0

    @rule(which=st.integers(0, 2))
    def crash(self, which: int) -> None:
        """Kill a process; another begins in its place."""
        self.processes[which] = self.process()

    @rule(seconds=st.sampled_from([0.3, 1, 5, 17]))
    def wait(self, seconds: float) -> None:
        """Let time pass; processes renew what they hold before it ends."""
        self.now += int(seconds * 1000)
        for process in self.processes:
            if self.moment() >= process["account"].renew_at:
                self.ask(process, [], False, 0)

    @rule()
    def sleep(self) -> None:
        """Let more time pass than a lease lasts: whatever anybody held is free."""
        self.now += 90_000
        self.processes = [self.process() for _ in range(3)]

    @invariant()
    def nothing_is_promised_twice(self) -> None:
        """What was spent and what is held never come to more than there is."""
        for cap in getattr(self, "caps", ()):
            spent = sum(live(cap, self.document.slots.get(cap.name, {}), self.now).values())
            held = sum(each.held.get(cap.name, 0) for each in self.document.holders.values()
                       if each.until > self.now)  # fmt: skip
            assert spent + held <= cap.amount, cap.name

    @invariant()
    def nobody_gives_more_than_he_holds(self) -> None:
        """What a process has given away is part of what the document says that it holds."""
        for process in getattr(self, "processes", ()):
            account, ours = process["account"], self.document.holders.get(process["name"])
            for line in account.lines:
                held = 0 if ours is None or ours.until <= self.now else ours.held.get(line.cap.name, 0)
                # what was spent in slots that have ended is as little written as what is spent in this one
                given = line.used + line.booked + sum(line.old.values())
                assert given <= held, line.cap.name
                if self.moment() < account.fresh_until and not account.unsure:
                    assert given + line.free == held, line.cap.name

    @invariant()
    def no_minute_has_too_many(self) -> None:
        """Calls that were really let through in the minute before now."""
        if hasattr(self, "caps"):
            latest = [amount for at, amount in self.taken if at > self.now - 60_000]
            assert sum(latest) <= self.caps[1].amount

    def teardown(self) -> None:
        """Everything that was reserved comes back."""
        for process in getattr(self, "processes", ()):
            for taken in process["calls"]:
                taken.settle((0, 1, 0))
            for _ in range(2):
                self.ask(process, [], False, 0)
            ours = self.document.holders[process["name"]]
            assert ours.held == {}
            assert process["account"].clean()


TestProcesses = Processes.TestCase
TestProcesses.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
