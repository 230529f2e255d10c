"""Ask deployments how they are, beside the traffic and mostly for nothing.

What calls tell is believed first: a deployment that has served well since the last look is not asked.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import random
from collections.abc import Callable, Mapping
from typing import Final, Protocol, runtime_checkable

from router_core.gateway.accounting.ledger import Ledger
from router_core.gateway.accounting.usage import usage_of
from router_core.gateway.call import Attempt
from router_core.gateway.clients.probe import Probe
from router_core.gateway.health.billed import billed_call
from router_core.gateway.health.metrics_text import read_busy
from router_core.gateway.health.verdict import Verdict, judge_failure, judge_outcome, judge_reply
from router_core.gateway.health.watch import Key, Watch, grouped, probe_of
from router_core.gateway.outcome import Outcome
from router_core.gateway.reply import Reply, UpstreamFailure
from router_core.gateway.resilience.classify import classify, classify_failure
from router_core.gateway.resilience.ejection import judge
from router_core.gateway.select.candidate import Candidate
from router_core.gateway.values import EjectionPolicy, Model
from router_core.telemetry.events import Events, Note

__all__ = ["Prober", "Source", "Watching"]

AT_ONCE: Final = 16
_JITTER: Final = 0.2
_START: Final = 2.0
"""Seconds over which the first probes are spread."""
_AGAIN: Final = 0.25
"""Share of the interval after which a probe that failed is repeated, for the second opinion."""
_LEAST_BILLED: Final = 60.0
_LONGEST_PAUSE: Final = 1.0
_SHORTEST_PAUSE: Final = 0.05
_MARGIN: Final = 1.0
"""Seconds beyond its timeout after which a probe is given up from outside."""
_MISSED: Final = 30.0


class _Router(Protocol):
    @property
    def model(self) -> Model: ...
    @property
    def candidates(self) -> tuple[Candidate, ...]: ...


class Watching(Protocol):
    """What is looked after at the moment."""

    @property
    def models(self) -> Mapping[str, _Router]:
        """The models by id."""


class Source(Protocol):
    """The registry."""

    @property
    def snapshot(self) -> Watching:
        """What calls go by."""


@runtime_checkable
class _Probed(Protocol):
    """A client that can be asked how it is."""

    async def probe_once(self, timeout: float, probe: Probe | None = None) -> Reply: ...


class Prober:
    """An Upkeep: probes upstreams in their intervals, reads how busy they are, ejects outliers."""

    name = "probes"

    def __init__(
        self, registry: Source, events: Events, *, ready: Callable[[str], bool] | None = None,
        ledger: Ledger | None = None, rng: random.Random | None = None,
        time: Callable[[], float] | None = None, at_once: int = AT_ONCE,
    ) -> None:  # fmt: skip
        """``ready`` tells whether an endpoint is awake, by its name: one that sleeps is not asked, which
        would wake it. Billed probes are booked in ``ledger``. ``time`` is that of the loop unless given."""
        self._registry = registry
        self._events = events
        self._ready = ready or (lambda name: True)
        self._ledger = ledger
        self._random = rng or random.Random()  # noqa: S311 - spreads probes, guards nothing
        self._given_time = time
        self._at_once = max(1, at_once)
        self._snapshot: object = None
        self._watches: dict[Key, Watch] = {}
        self._due: list[tuple[float, int, Watch]] = []
        self._ticket = itertools.count()
        self._running: set[asyncio.Task[None]] = set()
        self._ejections: list[tuple[EjectionPolicy, list[Candidate]]] = []
        self._eject_at: list[float] = []
        self._tidy_at = 0.0
        self._ticked: float | None = None

    # -- an Upkeep -----------------------------------------------------------------------------------

    async def run(self) -> None:
        """Work until cancelled."""
        try:
            while True:
                try:
                    await self.tick()
                except Exception as error:
                    text = "the probes of this round failed; the next ones come"
                    self._events.emit(Note("probes_tick_failed", "error", text, error=error))
                await asyncio.sleep(self._pause())
        finally:
            for task in self._running:
                task.cancel()
            await asyncio.gather(*self._running, return_exceptions=True)

    async def tick(self) -> None:
        """Begin the probes that are due."""
        now = self._time()
        if self._registry.snapshot is not self._snapshot:
            self._follow(now)
        self._look_for_outliers(now)
        self._begin(now)
        self._ticked = now

    async def idle(self) -> None:
        """Wait until everything that was due when it was called has been probed."""
        now = self._time()
        while self._running:
            await asyncio.wait(self._running)
            self._begin(now)

    def ready(self, now: float) -> bool:
        """Whether it goes on; what it finds out about upstreams is no matter of this service's readiness."""
        return self._ticked is None or self._time() - self._ticked < _MISSED

    def _time(self) -> float:
        return asyncio.get_running_loop().time() if self._given_time is None else self._given_time()

    def _pause(self) -> float:
        if not self._due:
            return _LONGEST_PAUSE
        return min(_LONGEST_PAUSE, max(_SHORTEST_PAUSE, self._due[0][0] - self._time()))

    # -- whom to ask, and when -----------------------------------------------------------------------

    def _follow(self, now: float) -> None:
        """Look after what the new snapshot holds; what is known of the rest stays."""
        snapshot = self._registry.snapshot
        routers = list(snapshot.models.values())
        models = {each.id: router.model for router in routers for each in router.candidates}
        watches: dict[Key, Watch] = {}
        for key, members in grouped(each for router in routers for each in router.candidates).items():
            known = self._watches.get(key)
            watch = watches[key] = known or Watch(key)
            watch.take(members, models.get(members[0].id))
            if known is None and watch.policy.interval > 0:
                start = min(_START, watch.policy.interval)
                self._push(watch, now + self._random.uniform(0.0, start))
        self._watches = watches
        self._due = [entry for entry in self._due if watches.get(entry[2].key) is entry[2]]
        heapq.heapify(self._due)
        self._ejections = [
            (router.model.ejection, list(router.candidates))
            for router in routers
            if router.model.ejection.enabled and len(router.candidates) > 1
        ]
        self._eject_at = [now + policy.interval for policy, _ in self._ejections]
        self._snapshot = snapshot

    def _push(self, watch: Watch, at: float) -> None:
        heapq.heappush(self._due, (at, next(self._ticket), watch))

    def _begin(self, now: float) -> None:
        while self._due and self._due[0][0] <= now and len(self._running) < self._at_once:
            watch = heapq.heappop(self._due)[2]
            # until it has ended it is nowhere in the queue: one upstream is never asked twice at once
            task = asyncio.create_task(self._look(watch), name="probe")
            self._running.add(task)
            task.add_done_callback(self._running.discard)

    async def _look(self, watch: Watch) -> None:
        try:
            await self._ask(watch)
        except Exception as error:
            self._tell_wrong(watch, f"the probe does not work: {type(error).__name__}", error)
        finally:
            if self._watches.get(watch.key) is watch and watch.policy.interval > 0:
                self._push(watch, self._time() + self._wait(watch))

    def _wait(self, watch: Watch) -> float:
        interval = watch.policy.interval
        if probe_of(watch.first) is None:
            interval = max(interval, _LEAST_BILLED)
        elif 0 < watch.failures and not watch.is_down:
            interval *= _AGAIN
        return interval * self._random.uniform(1.0 - _JITTER, 1.0 + _JITTER)

    def _look_for_outliers(self, now: float) -> None:
        if now >= self._tidy_at:
            self._tidy_at = now + _LONGEST_PAUSE
            for watch in self._watches.values():
                for each in watch.members:
                    each.standing.tidy(now)
        for index, (policy, candidates) in enumerate(self._ejections):
            if now >= self._eject_at[index]:
                self._eject_at[index] = now + policy.interval
                judge([each.standing for each in candidates], policy, now)

    # -- asking --------------------------------------------------------------------------------------

    async def _ask(self, watch: Watch) -> None:
        first, traffic = watch.first, watch.traffic()
        endpoint = first.deployment.endpoint
        if endpoint and not self._ready(endpoint):
            self._let_sleep(watch)
            return
        if not self._is_needed(watch, traffic):
            watch.failures = 0
        elif (probe := probe_of(first)) is not None:
            self._judge(watch, await self._probe(watch, probe))
        elif watch.policy.billed:
            verdict = await self._bill(watch)
            if verdict is not None:
                self._judge(watch, verdict)
        metrics = probe_of(first, "metrics")
        if metrics is not None and not watch.metrics_missing and not endpoint:
            await self._read_queue(watch, metrics)

    def _is_needed(self, watch: Watch, traffic: str) -> bool:
        """Return whether there is anything to find out that the calls do not tell."""
        if watch.is_down or traffic == "bad" or watch.failures:
            return True
        # an endpoint that can fall asleep is left alone: being asked would keep it awake
        return traffic != "good" and not watch.first.deployment.endpoint

    def _let_sleep(self, watch: Watch) -> None:
        """Hold nothing against an endpoint that sleeps: it could not even be woken by a call any more."""
        watch.failures = 0
        watch.queue(0)
        if watch.is_down:
            watch.tell(True, "asleep", self._time())

    async def _probe(self, watch: Watch, probe: Probe) -> Verdict:
        try:
            return judge_reply(await self._request(watch, probe))
        except UpstreamFailure as failure:
            return judge_failure(failure)
        except TimeoutError:
            return Verdict(False, "no answer in time")

    async def _request(self, watch: Watch, probe: Probe) -> Reply:
        timeout = watch.policy.timeout
        client: object = watch.first.client
        if not isinstance(client, _Probed):
            raise TypeError(f"{type(client).__name__} has no probe_once")
        async with asyncio.timeout(timeout + _MARGIN):
            reply = await client.probe_once(timeout, probe)
        await reply.aclose()
        return reply

    def _judge(self, watch: Watch, verdict: Verdict) -> None:
        watch.judge(verdict, self._time())
        if verdict.wrong:
            self._tell_wrong(watch, verdict.wrong)
        elif verdict.up:
            watch.told = ""

    def _tell_wrong(self, watch: Watch, wrong: str, error: Exception | None = None) -> None:
        if wrong != watch.told:
            watch.told = wrong
            names = [each.id for each in watch.members]
            text = f"{names[0]}: {wrong}; its health is judged by its calls alone"
            self._events.emit(
                Note("probe_misconfigured", "warning", text, {"deployments": names[:20]}, error)
            )

    async def _read_queue(self, watch: Watch, metrics: Probe) -> None:
        """Read how many requests wait in the upstream; 0 where it does not say."""
        try:
            reply = await self._request(watch, metrics)
        except (UpstreamFailure, TimeoutError):
            watch.queue(0)
            return
        busy = read_busy(reply.body or b"") if 200 <= reply.status < 300 else None
        watch.queue(0 if busy is None else busy.waiting)
        watch.metrics_missing = 400 <= reply.status < 500

    async def _bill(self, watch: Watch) -> Verdict | None:
        """Make the smallest real call; None where this kind of model has none."""
        candidate = watch.first
        started = self._time()
        call = None if watch.model is None else billed_call(watch.model, candidate.deployment, started)
        if call is None:
            return None
        timeout = max(watch.policy.timeout, candidate.deployment.timeouts.first_byte)
        attempt = Attempt(1, candidate.deployment.model_id, candidate.id, started, probe=True)
        call.attempts.append(attempt)
        usage = None
        try:
            async with asyncio.timeout(timeout + _MARGIN):
                reply = await candidate.client.send(call, asyncio.get_running_loop().time() + timeout)
            await reply.aclose()
            outcome, usage = classify(reply), usage_of(call.endpoint, reply.body or b"")
            attempt.status = reply.status
        except UpstreamFailure as failure:
            outcome = classify_failure(failure)
        except TimeoutError:
            outcome = Outcome("timeout", "retry", failure=True, safe=False, message="no answer in time")
        attempt.outcome, attempt.seconds = outcome.kind, self._time() - started
        if self._ledger is not None:
            self._ledger.settle(call, attempt, candidate.deployment, usage, undone=outcome.safe)
        return judge_outcome(outcome)
