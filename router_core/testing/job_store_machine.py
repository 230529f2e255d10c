"""The invariants of reliability as a state machine, over any job store.

``JobStoreMachine`` makes random walks through everything that callers, workers, reaper and sweeper do to a
store, keeps a model of plain Python beside it, and compares after each step. Subclass it, say how a store is
made, and let pytest find ``MyMachine.TestCase``::

    class MyMachine(JobStoreMachine):
        def make_store(self, clock):
            return MyStore(clock)

It checks I2 (terminal never changes), I3 (version and epoch only rise), I4 (one token writes), I5 (progress),
I6 (cancelling never succeeds), I7 (attempts and crashes), I8 (one key, one job), I9 (one outbox row for each
end), I10 (nothing starts too early or too late), I12 (queue and ring are bounded), and at the end I1: once
faults stop, every accepted job ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, ClassVar, Final, TypeVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from router_core.errors import Fenced, KeyReused, QueueFull
from router_core.jobs import moves
from router_core.jobs.job import MAX_CRASHES, TERMINAL, TRANSITIONS, WAITING, Fence, Job, State
from router_core.jobs.moves import Move
from router_core.jobs.store import Claim, IdempotencyKey, NewEvent, Store
from router_core.testing.clock import FakeClock
from router_core.testing.job_records import new_job, worker_moves

__all__ = ["JobStoreMachine"]

_T = TypeVar("_T")
_LIMIT: Final = 3
_LEASE: Final = 30.0
_KEPT: Final = 1e9
"""Retention: the walk ends long before a record goes."""
_ROUTES: Final = ("/a", "/b")
_HELD: Final = frozenset({State.RUNNING, State.CANCELLING})
_COUNTED: Final = frozenset({State.QUEUED, State.SCHEDULED})
_picks = st.integers(0, 1 << 16)
_routes = st.sampled_from(_ROUTES)


class JobStoreMachine(RuleBasedStateMachine):
    """Random walks over one store; the model is ``known``: each record as the store last showed it."""

    max_events: ClassVar[int] = 1000

    def make_store(self, clock: FakeClock) -> Store:
        """Return a store that nobody has used."""
        raise NotImplementedError("give the machine a method `make_store`")

    def drop_store(self) -> None:
        """Remove what ``make_store`` has put somewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.clock = FakeClock()
        self.store = self.make_store(self.clock)
        self.known: dict[str, Job] = {}
        self.stale: list[Fence] = []
        """Fences that a later claim, rescue or end has made worthless."""
        self.keys: dict[str, tuple[str, str]] = {}
        self.hooked_ends: set[str] = set()
        self.events: dict[str, int] = {}
        self.changed: set[str] = set()

    def do(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Run one call of the store to its end."""
        return self.loop.run_until_complete(work)

    @initialize()
    def open_store(self) -> None:
        """Begin each walk with an open, empty store."""
        self.do(self.store.open())

    # --- what callers do --------------------------------------------------------------------

    @rule(
        route=_routes,
        delay=st.sampled_from([0, 0, 0, 5]),
        deadline=st.sampled_from([0, 0, 20]),
        priority=st.integers(-2, 2),
        hook=st.booleans(),
        attempts=st.integers(1, 3),
        keyed=st.integers(0, 5),
        body=st.sampled_from("xxxy"),
    )
    def submit(
        self,
        route: str,
        delay: int,
        deadline: int,
        priority: int,
        hook: bool,
        attempts: int,
        keyed: int,
        body: str,
    ) -> None:
        """Add a job: plain or keyed, now or later, with or without deadline and webhook."""
        now = self.clock.now()
        job = new_job(
            self.clock, route=route, state=State.SCHEDULED if delay else State.QUEUED, not_before=now + delay,
            deadline_at=now + deadline if deadline else 0.0, priority=priority, rank=now - 60.0 * priority,
            max_attempts=attempts, webhook='{"url":"https://example.com/"}' if hook else "",
        )  # fmt: skip
        key = IdempotencyKey(f"{route}{keyed}", body, now + _KEPT) if keyed < 3 else None
        waiting = sum(j.route == route and j.state in _COUNTED for j in self.known.values())
        earlier = self.keys.get(key.scope_hash) if key else None
        try:
            added = self.do(self.store.add(job, queue_limit=_LIMIT, key=key))
        except KeyReused:
            assert earlier is not None
            assert earlier[1] != body
        except QueueFull:
            assert earlier is None
            assert waiting >= _LIMIT, "I12: refused although there was room"
            assert self.do(self.store.get(job.id)) is None
        else:
            assert added.replayed == (earlier is not None)
            if earlier is not None:
                assert (added.job.id, body) == earlier, "I8: one key, one job"
                assert added.job == self.known[added.job.id]
                return
            assert waiting < _LIMIT, "I12: taken although the queue was full"
            assert added.job == job
            self.known[job.id] = job
            self.changed.add(job.id)
            if key:
                self.keys[key.scope_hash] = (job.id, body)

    @precondition(lambda self: self.known)
    @rule(pick=_picks)
    def cancel(self, pick: int) -> None:
        """Cancel any job: at once while it waits, by asking its worker while it runs."""
        job = self._pick(pick)
        now = self.clock.now()
        waits = job.state in WAITING
        move = moves.cancel_waiting(now=now, retention=_KEPT) if waits else moves.cancel_running(now=now)
        assert self._move(job, move) == (job.state in WAITING or job.state is State.RUNNING)

    # --- what workers do --------------------------------------------------------------------

    @rule(one=st.integers(0, 3), other=st.integers(0, 2))
    def claim_some(self, one: int, other: int) -> None:
        """Take up to so many jobs of each route."""
        self.claim(dict(zip(_ROUTES, (one, other), strict=True)))

    def claim(self, slots: dict[str, int]) -> None:
        """Take ready jobs by route: the best ranks, and nothing that is not ready (I10)."""
        ready = {route: self._ready(route) for route in slots}
        taken = self.do(self.store.claim(Claim("w", _LEASE, slots)))
        for route, free in slots.items():
            got = [job for job in taken if job.route == route]
            expected = sorted(job.rank for job in ready[route])[:free]
            assert [job.rank for job in got] == expected, "best rank first, as many as there is room for"
        for job in taken:
            self._check_claim(job)

    @precondition(lambda self: self.known)
    @rule(pick=_picks)
    def claim_by_id(self, pick: int) -> None:
        """Take one job by its id, as a queue outside does."""
        job = self._pick(pick)
        taken = self.do(self.store.claim(Claim("w", _LEASE, job_id=job.id)))
        assert len(taken) == (job in self._ready(job.route))
        for claimed in taken:
            self._check_claim(claimed)

    @precondition(lambda self: self._of(_HELD))
    @rule(pick=_picks, part=st.floats(0, 1))
    def report(self, pick: int, part: float) -> None:
        """Write progress: the larger value stays, and nothing is written once a cancel was asked for."""
        job = self._pick(pick, _HELD)
        applied = self._move(job, moves.progress(job.fence, fraction=part, message=str(part)))
        assert applied == (job.state is State.RUNNING)

    @precondition(lambda self: self._of(_HELD))
    @rule(pick=_picks, kind=st.sampled_from([0, 1, 2, 3, 3, 4, 6]), later=st.sampled_from([0, 7]))
    def work(self, pick: int, kind: int, later: int) -> None:
        """Let a worker write one of the things it may write; a cancelling job takes only `cancelled` (I6)."""
        job = self._pick(pick, _HELD)
        now = self.clock.now()
        move = worker_moves(job.fence, now)[kind]
        if move.name == "retry":
            if job.attempt >= job.max_attempts:
                return
            move = moves.retry(
                job.fence, now=now, not_before=now + later, rank=now + later, attempts=b"[]", error=b"{}"
            )
        allowed = (move.name == "cancelled") == (job.state is State.CANCELLING)
        assert self._move(job, move) == allowed

    @precondition(lambda self: self._of(_HELD))
    @rule(pick=_picks)
    def heartbeat(self, pick: int) -> None:
        """Extend a lease and learn of a cancel."""
        job = self._pick(pick, _HELD)
        (renewal,) = self.do(self.store.renew([job.fence], _LEASE))
        assert (renewal.held, renewal.cancel) == (True, job.state is State.CANCELLING)
        self.changed.add(job.id)

    @precondition(lambda self: self._of(_HELD))
    @rule(pick=_picks, count=st.sampled_from([1, 3, 700]))
    def append(self, pick: int, count: int) -> None:
        """Write events; the ring stays bounded and its numbers have no gap (I12)."""
        job = self._pick(pick, _HELD)
        if job.state is State.CANCELLING:
            self._refuses_events(job.fence)
            return
        last = self.events.get(job.id, 0) + count
        assert self.do(self.store.append(job.fence, [NewEvent("log", b"1")] * count)) == last
        self.events[job.id] = last
        self.changed.add(job.id)
        page = self.do(self.store.events(job.id, limit=2 * self.max_events))
        first = max(1, last - self.max_events + 1)
        assert [event.seq for event in page.events] == list(range(first, last + 1))
        assert (page.first_seq, page.last_seq) == (first, last)

    @precondition(lambda self: self.stale)
    @rule(pick=_picks, kind=st.integers(0, 8))
    def zombie(self, pick: int, kind: int) -> None:
        """Let a worker that was replaced write something: nothing of it lands (I4)."""
        fence = self.stale[pick % len(self.stale)]
        if kind == 7:
            (renewal,) = self.do(self.store.renew([fence], _LEASE))
            assert not renewal.held
        elif kind == 8:
            self._refuses_events(fence)
        else:
            moved = self.do(self.store.move(fence.job_id, worker_moves(fence, self.clock.now())[kind]))
            assert not moved.applied, "I4: a stale token wrote"
        assert self.do(self.store.get(fence.job_id)) == self.known[fence.job_id]

    # --- what time, reaper and sweeper do ---------------------------------------------------

    @rule(seconds=st.sampled_from([1, 6, 31]))
    def time_passes(self, seconds: int) -> None:
        """Let leases, delays and deadlines come."""
        self.clock.advance(seconds)

    @rule()
    def reap(self) -> None:
        """Rescue every job whose worker is gone; too many crashes end it (I7)."""
        late = {job.id for job in self._of(_HELD) if job.lease_until < self.clock.now()}
        found = self.do(self.store.overdue(limit=1000))
        assert {job.id for job in found} == late
        for job in found:
            assert job == self.known[job.id]
            assert self._move(job, self._rescue(job))

    @rule()
    def sweep(self) -> None:
        """Start what is due, end what is past its deadline."""
        now = self.clock.now()
        waiting = self._of(WAITING)
        late = {job.id for job in waiting if 0 < job.deadline_at <= now}
        due = {job.id for job in waiting if job.state is State.SCHEDULED and job.not_before <= now}
        found = self.do(self.store.due(limit=1000))
        assert {job.id for job in found} == late | due
        for job in found:
            ended = moves.deadline(job, now=now, retention=_KEPT) if job.id in late else moves.due(now=now)
            assert self._move(job, ended)

    @precondition(lambda self: self.known)
    @rule(pick=_picks, kind=st.integers(0, 5))
    def disturb(self, pick: int, kind: int) -> None:
        """Try a change that may not fit the state: the table of transitions decides, not the caller."""
        job = self._pick(pick)
        now = self.clock.now()
        move = [
            moves.cancel_waiting(now=now, retention=_KEPT), moves.cancel_running(now=now), moves.due(now=now),
            moves.dispatched(), self._rescue(job) if job.state in _HELD else moves.due(now=now),
            moves.dead_letter(job, now=now, retention=_KEPT, attempts=b"[]", error=b"{}")
            if State.FAILED in TRANSITIONS[job.state] else moves.due(now=now),
        ][kind]  # fmt: skip
        held = move.lease_before is None or job.lease_until < move.lease_before
        due = move.name != "due" or job.not_before <= now
        if due:
            assert self._move(job, move) == (job.state in move.frm and held)

    # --- what holds at all times ------------------------------------------------------------

    @invariant()
    def records_are_as_expected(self) -> None:
        """Look again at what changed, and check the way that each record took."""
        changed, self.changed = self.changed, set()
        for job_id in changed:
            now = self.do(self.store.get(job_id))
            assert isinstance(now, Job)
            self._check_step(self.known[job_id], now)
            self.known[job_id] = now

    def teardown(self) -> None:
        """Check everything once more, then let all jobs end (I1)."""
        try:
            for job_id, job in self.known.items():
                assert self.do(self.store.get(job_id)) == job
            self._settle_all()
            rows = self.do(self.store.deliveries(limit=10_000))
            assert sorted(row.id for row in rows) == sorted(self.hooked_ends), "I9: one row for each end"
        finally:
            self.do(self.store.close())
            self.loop.close()
            self.drop_store()

    # --- inside -----------------------------------------------------------------------------

    def _settle_all(self) -> None:
        for _ in range(200):
            if not any(job.state not in TERMINAL for job in self.known.values()):
                break
            self.clock.advance(31)
            self.reap()
            self.records_are_as_expected()
            self.sweep()
            self.records_are_as_expected()
            self.claim(dict.fromkeys(_ROUTES, 50))
            self.records_are_as_expected()
            for job in self._of(frozenset({State.RUNNING})):
                end = moves.succeed(job.fence, now=self.clock.now(), retention=_KEPT, attempts=b"[]")
                assert self._move(job, end)
            self.records_are_as_expected()
        assert all(job.state in TERMINAL for job in self.known.values()), "I1: every accepted job ends"
        assert not self.do(self.store.stats()).by_route

    def _pick(self, number: int, states: frozenset[State] = frozenset(State)) -> Job:
        among = self._of(states)
        return among[number % len(among)]

    def _of(self, states: frozenset[State]) -> list[Job]:
        return [job for job in self.known.values() if job.state in states]

    def _ready(self, route: str) -> list[Job]:
        now = self.clock.now()
        ready = self._of(frozenset({State.QUEUED, State.RETRYING}))
        return [
            job
            for job in ready
            if job.route == route and job.not_before <= now and not 0 < job.deadline_at <= now
        ]

    def _rescue(self, job: Job) -> Move:
        now = self.clock.now()
        lost = job.crash_count + 1 >= MAX_CRASHES or job.attempt >= job.max_attempts
        return moves.rescue(
            job, now=now, retention=_KEPT, not_before=now + 1, attempts=b"[]", error=b"{}", lost=lost
        )

    def _refuses_events(self, fence: Fence) -> None:
        try:
            self.do(self.store.append(fence, [NewEvent("log", b"1")]))
        except Fenced:
            return
        raise AssertionError("I4: a stale token wrote an event")

    def _move(self, job: Job, move: Move) -> bool:
        moved = self.do(self.store.move(job.id, move))
        assert moved.job is not None
        if not moved.applied:
            assert moved.job == self.known[job.id], "a refused move changed something"
            return False
        if moved.job.state in TERMINAL and job.webhook:
            self.hooked_ends.add(f"{job.id}.{moved.job.state.value}")
        if job.token and moved.job.token != job.token:
            self.stale.append(job.fence)
        self.changed.add(job.id)
        return True

    def _check_claim(self, job: Job) -> None:
        before = self.known[job.id]
        now = self.clock.now()
        assert before in self._ready(job.route), "I10: started too early or too late"
        assert (job.state, job.epoch, job.attempt) == (State.RUNNING, before.epoch + 1, before.attempt + 1)
        assert job.token
        assert job.token != before.token
        assert (job.lease_until, job.started_at, job.progress) == (now + _LEASE, now, 0.0)
        self.changed.add(job.id)

    def _check_step(self, before: Job, now: Job) -> None:
        if before == now:
            return
        assert before.state not in TERMINAL, "I2: an ended job changed"
        assert now.version > before.version, "I3: the version did not rise"
        assert now.epoch >= before.epoch, "I3: the epoch fell"
        assert now.state is before.state or now.state in TRANSITIONS[before.state]
        if now.epoch == before.epoch and now.state in _HELD:
            assert now.progress >= before.progress, "I5: progress fell"
        if before.state is State.CANCELLING:
            assert now.state in {State.CANCELLING, State.CANCELLED}, "I6: left cancelling for something else"
        assert now.attempt <= now.max_attempts, "I7: too many attempts"
        assert now.crash_count <= MAX_CRASHES, "I7: too many crashes"
