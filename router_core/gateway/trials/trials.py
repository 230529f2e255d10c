"""All trials of a gateway: whose calls take part, what came of them, and what is decided because of it.

Calls only add to sums. Beside them, every two seconds, each process writes what it has counted, reads what
the others have, and looks at the sum: whichever is first writes down what is decided (compare-and-set), and
all go by that. While the store is away everything stays as it was last known, but that a process which is
certain of a regression takes the calls of its own back at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from time import monotonic
from typing import Any, Final

from router_core.clock import Clock
from router_core.errors import Conflict, NotFound, StoreError
from router_core.gateway.call import Attempt, Call
from router_core.gateway.outcome import Outcome
from router_core.gateway.trials.collect import judge_call
from router_core.gateway.trials.concluding import tested, told_to
from router_core.gateway.trials.experiment import Experiment
from router_core.gateway.trials.live import Live
from router_core.gateway.trials.rollout import Rollout
from router_core.gateway.trials.scores import Noted, Score, Scorer
from router_core.gateway.trials.shared import SharedTrials
from router_core.gateway.trials.staging import SELF, judged, ordered
from router_core.gateway.trials.state import Decision, Trial, TrialState, begun
from router_core.gateway.values import GatewayConfig
from router_core.state import StateStore
from router_core.telemetry.events import Events, Note
from router_core.types import Principal

__all__ = ["INTERVAL", "Trials"]

INTERVAL: Final = 2.0
_AT_ONCE_EVERY: Final = 5.0
_TRIES: Final = 5
_ON: Final = ("running", "paused")


class Trials:
    """Rollouts and experiments; an Upkeep keeps them in step with the other processes."""

    name = "trials"

    def __init__(
        self, store: StateStore, clock: Clock, events: Events, *, time: Callable[[], float] = monotonic,
        interval: float = INTERVAL,
    ) -> None:  # fmt: skip
        """``time`` is the clock of ``Call.started``."""
        self.shared = SharedTrials(store)
        self.by_model: dict[str, Live] = {}
        """Model that is asked first -> trial of its calls."""
        self.by_rule: dict[str, Live] = {}
        """The same by the key of a rule."""
        self.by_condition: tuple[Live, ...] = ()
        """Experiments on ``auto`` calls, in their order."""
        self._lives: dict[str, Live] = {}
        self._labels: dict[str, tuple[Live, int]] = {}
        self._streams: dict[int, float] = {}
        """Streams under way, by identity of the call: seconds to their first content."""
        self._clock = clock
        self._events = events
        self._time = time
        self._interval = interval
        self._wake = asyncio.Event()
        self._ticking: asyncio.Task[None] | None = None
        self._turn = asyncio.Lock()
        """Orders and ticks of one process do not write over each other's counts."""
        self._at_once = False
        self._synced = -_AT_ONCE_EVERY
        self.down = False
        """Whether the store did not answer when it was last asked."""

    # -- configuration -------------------------------------------------------------------------------

    def follow(self, config: GatewayConfig) -> None:
        """Go by a configuration; a trial that has not become another one goes on."""
        before, self._lives = self._lives, {}
        targets = {rule.key: [each.model_id for each in rule.targets] for rule in config.rules}
        trials: tuple[Trial, ...] = (*config.rollouts, *config.experiments)
        for trial in trials:
            models = tuple(targets.get(getattr(trial, "rule", ""), ())[:2])
            live = Live(trial, models)
            held = before.get(trial.id)
            if held is not None and held.definition == live.definition:
                live = held
                live.use(trial, models)
            self._lives[trial.id] = live
        self._labels = {
            label: (live, place) for live in self._lives.values() for place, label in enumerate(live.labels)
        }
        on = [each for each in self._lives.values() if each.trial.enabled]
        self.by_rule = {each.trial.rule: each for each in on
                        if isinstance(each.trial, Rollout) and each.trial.rule}  # fmt: skip
        self.by_model = {each.trial.model: each for each in on if each.trial.model}
        self.by_condition = tuple(each for each in on
                                  if isinstance(each.trial, Experiment) and not each.trial.model)  # fmt: skip
        self._wake.set()

    def share(self, store: StateStore) -> None:
        """Share with other processes through this store from now on."""
        self.shared.use(store)

    def restored(self) -> None:
        """Be another process than the one that a snapshot was taken of."""
        self.shared.restored()

    def get(self, trial_id: str, kind: str) -> Live:
        """Return a trial. Raises NotFound."""
        live = self._lives.get(trial_id)
        if live is None or live.trial.kind != kind:
            raise NotFound(f"there is no {kind} of this id")
        return live

    def all(self, kind: str) -> Iterator[Live]:
        """Return the trials of a kind."""
        return (each for each in self._lives.values() if each.trial.kind == kind)

    # -- on the way of calls -------------------------------------------------------------------------

    def called(self, call: Call, model_id: str, outcome: Outcome | None, now: float) -> None:
        """Take a call that has ended or begun to stream, where it took part in a trial."""
        if call.in_flight:
            self._streams[id(call)] = now - call.started
            return
        self._count(call, now - call.started)

    def settled(self, call: Call, attempt: Attempt) -> None:
        """Take an attempt of a stream that has ended, and with it perhaps the call."""
        begun_in = self._streams.pop(id(call), None)
        if begun_in is not None:
            self._count(call, begun_in)

    def _count(self, call: Call, seconds: float) -> None:
        found = self._labels.get(call.trial)
        if found is None:
            return
        live, place = found
        if live.count(place, judge_call, call, live.arms[place], seconds):
            self._wake.set()
            self._synced -= _AT_ONCE_EVERY  # it is not to wait for others to know
        if isinstance(live.trial, Experiment) and live.trial.metric == "score":
            pure = all(each.model_id == live.arms[place] for each in call.attempts)
            arm = live.names[place] if pure and call.attempts else ""
            live.note(call.request_id, Noted.of(call, arm))
        if self._at_once and self._time() - self._synced >= _AT_ONCE_EVERY:
            self._begin()

    # -- beside them ---------------------------------------------------------------------------------

    async def begin(self) -> None:
        """Learn how trials stand before the first call, and go on to do so with calls until ``run`` does."""
        self._at_once = True
        await self.tick()

    async def run(self) -> None:
        """Work until cancelled."""
        self._at_once = False
        self._wake = asyncio.Event()  # of this loop
        while True:
            await self.tick()
            try:
                async with asyncio.timeout(self._interval):
                    await self._wake.wait()
            except TimeoutError:
                continue
            finally:
                self._wake.clear()

    async def tick(self) -> None:
        """Exchange counts and decide what is to be decided."""
        self._begin()
        await self.idle()

    async def idle(self) -> None:
        """Wait until what a call or a tick has begun is over."""
        if self._ticking is not None:
            await asyncio.shield(self._ticking)

    async def aclose(self) -> None:
        """Tell the others what they have not heard yet, where the store takes it soon."""
        await self.idle()
        async with self._turn:
            for live in self._lives.values():
                if not live.dirty or live.state is None:
                    continue
                try:
                    await self.shared.tell(live.trial.id, live.told())
                except StoreError:
                    return

    def ready(self, now: float) -> bool:
        """Always: calls are served whatever becomes of trials."""
        return True

    def _begin(self) -> None:
        self._synced = self._time()
        if self._ticking is None and any(each.trial.enabled for each in self._lives.values()):
            self._ticking = asyncio.create_task(self._work(), name="trials")
            self._ticking.add_done_callback(self._worked)

    def _worked(self, task: asyncio.Task[None]) -> None:
        self._ticking = None

    async def _work(self) -> None:
        for live in [each for each in self._lives.values() if each.trial.enabled]:
            try:
                async with self._turn:
                    await self._sync(live)
            except StoreError as error:
                self._told(down=True, error=error)
                return
            except Exception as error:
                text = f"{live.trial.kind} {live.trial.id} could not be looked at"
                self._events.emit(Note("trial_failed", "error", text, {"trial": live.trial.id}, error))
        self._told(down=False)

    async def _sync(self, live: Live) -> None:
        version = await self._learn(live)
        if live.state is None:
            return
        if live.state.status not in _ON and not live.dirty:
            return
        await self._exchange(live)
        after = self._judged(live, live.state)
        if after is not None:
            await self._write(live, after, version)

    async def _learn(self, live: Live) -> str:
        """Read how a trial stands, and begin it where it does not; returns the version of that."""
        trial = live.trial
        state, version = await self.shared.read(trial.id)
        if state is None and live.state is not None:
            await self.shared.write(trial.id, live.state, version)  # the store has forgotten it, we have not
            live.dirty = True
            state, version = await self.shared.read(trial.id)
        elif state is None or (state.definition != live.definition and not live.met):
            why = "it is configured" if state is None else "its configuration is another one"
            fresh = begun(trial, live.definition, self._clock.now(), SELF, why, state)
            if await self.shared.write(trial.id, fresh, version):
                self._tell(live, fresh.decisions[-1])
            state, version = await self.shared.read(trial.id)
        live.met = True
        # what another configuration has begun anew is not ours to go on with
        other = state is None or state.definition != live.definition
        live.take(None if other else state)
        return version

    async def _exchange(self, live: Live) -> None:
        """Tell the others what was counted here, and hear what they have."""
        trial = live.trial
        if isinstance(trial, Experiment) and trial.metric == "score":
            scores = await self.shared.scores(trial.id)
            live.waiting.saw(scores)
            for each in scores:
                # one that is not its giver's to give goes, too, and counts for nothing
                if each.request_id in live.noted and await self.shared.take_score(trial.id, each):
                    live.score(each.request_id, each.value, each.scorer)
        if live.dirty:
            live.dirty = False
            try:
                await self.shared.tell(trial.id, live.told())
            except StoreError:
                live.dirty = True
                raise
        live.hear(await self.shared.others(trial.id))

    def _judged(self, live: Live, state: TrialState) -> TrialState | None:
        now, trial = self._clock.now(), live.trial
        if state.status in _ON and not live.guilty:
            live.judge()
        if isinstance(trial, Rollout):
            return judged(trial, state, live.seen, live.stage(), now, live.guilty)
        return tested(trial, state, live.seen, now, live.guilty)

    async def _write(self, live: Live, state: TrialState, version: str) -> bool:
        before = live.state
        if not await self.shared.write(live.trial.id, state, version):
            return False  # another process was first: the next tick goes by what it has decided
        live.take(state)
        if before is None or state.decisions[-1:] != before.decisions[-1:]:
            self._tell(live, state.decisions[-1])
        return True

    # -- orders --------------------------------------------------------------------------------------

    async def order(self, live: Live, action: str, who: str) -> TrialState:
        """Carry out an order. Raises Conflict where it does not fit, StoreError without the store."""
        trial = live.trial
        if not trial.enabled:
            raise Conflict(f"{trial.kind} {trial.id} is not enabled in the configuration")
        async with self._turn:
            for _ in range(_TRIES):
                version = await self._learn(live)
                if live.state is None:
                    raise Conflict(f"{trial.kind} {trial.id} was begun by another configuration")
                await self._exchange(live)
                after = self._ordered(live, live.state, action, who)
                if await self._write(live, after, version):
                    return after
        raise Conflict(f"{trial.kind} {trial.id} is being changed by others; try again")

    def _ordered(self, live: Live, state: TrialState, action: str, who: str) -> TrialState:
        now, trial = self._clock.now(), live.trial
        if isinstance(trial, Rollout):
            return ordered(trial, state, action, who, live.seen, now)
        return told_to(trial, state, action, who, live.seen, now)

    async def forget(self, trial_id: str, who: str) -> None:
        """Let a trial that was taken away leave nothing behind, so that another one of its id begins anew.

        What is left says that it is none of those that anybody may know: a process which has not heard of it
        yet would write down again what it knows.
        """
        now = self._clock.now()
        try:
            async with self._turn:
                state, version = await self.shared.read(trial_id)
                if state is not None:
                    gone = state.decided(Decision(now, "removed", who, "by order"), definition="",
                                         status="stopped", since=now, ended=now)  # fmt: skip
                    await self.shared.write(trial_id, gone, version)
        except StoreError as error:
            self._told(down=True, error=error)

    async def look(self, live: Live) -> None:
        """Bring up to date what is known of a trial; without the store it stays as it was."""
        if not live.trial.enabled:
            return
        try:
            async with self._turn:
                await self._learn(live)
                if live.state is not None:
                    await self._exchange(live)
        except StoreError as error:
            self._told(down=True, error=error)

    async def score(self, live: Live, request_id: str, value: float, principal: Principal) -> str:
        """Take a score: ``counted``, ``left`` for the process that served the call, ``tainted``, or
        ``given`` where there is one already; ``foreign`` where the call is another tenant's, ``full`` where
        too many wait."""
        scorer = Scorer.of(principal)
        result = live.score(request_id, value, scorer)
        if result != "unknown":
            return result
        if live.waiting.full(scorer):
            return "full"
        live.waiting.add(scorer)  # before it is written: many may come at once
        score = Score(f"{scorer.key}:{request_id}", scorer, value)
        return "left" if await self.shared.leave_score(live.trial.id, score) else "given"

    # -- what is told --------------------------------------------------------------------------------

    def _tell(self, live: Live, decision: Decision) -> None:
        fields: dict[str, Any] = {"trial": live.trial.id, "by": decision.by, "why": decision.why}
        if decision.share is not None:
            fields["share"] = decision.share
        waits = live.state is not None and live.state.holding == "minRequests"
        level = "warning" if decision.action in ("rolled_back", "held") and not waits else "info"
        text = f"{live.trial.kind} {live.trial.id} {decision.action.replace('_', ' ')}: {decision.why}"
        self._events.emit(Note(f"{live.trial.kind}_{decision.action}", level, text, fields))

    def _told(self, *, down: bool, error: BaseException | None = None) -> None:
        if down is self.down:
            return
        self.down = down
        if down:
            text = "trials: the state store does not answer; all stays as it was last known"
            self._events.emit(Note("trials_store_down", "warning", text, {"error": str(error)}))
        else:
            self._events.emit(Note("trials_store_up", "info", "trials: the state store is back"))
