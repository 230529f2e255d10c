"""How one deployment stands, and whether it may be asked: everything that is remembered between calls."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Iterator, Mapping
from math import inf
from typing import Any, Final

from router_core.gateway.outcome import Outcome
from router_core.gateway.resilience.breaker import Breaker, CircuitState, Permit
from router_core.gateway.resilience.latency import AT_ONCE, PeakEwma
from router_core.gateway.resilience.window import Totals
from router_core.gateway.values import BreakerPolicy, Deployment
from router_core.telemetry.events import Events, Note

__all__ = ["Permit", "Report", "Standing", "Standings"]

Report = Callable[[str, str, Mapping[str, Any]], None]
"""Told of every change of state: its name, its level, and what is known about it."""

_UNTRIED: Final = 1e6
"""Load of a deployment that has calls in flight and has never answered: one of them shall come back first."""
_WELL: Final = 0.1
"""Share of failures up to which a deployment is well."""
_SOON: Final = 1.0
"""Seconds after which to look again where nothing says when a place gets free."""


class Standing:
    """The state of one deployment. Everything happens on one event loop, so nothing is locked.

    A deployment in which nothing is wrong is ``clear``; that flag is all that the hot path looks at.
    """

    __slots__ = (
        "_advised_until", "_answered_at", "_breaker", "_cool_until", "_ejected_until", "_forget", "_latency",
        "_report", "_unhealthy_since", "_unhealthy_until", "_upstream", "_window", "clear", "cooled_by",
        "failed", "id", "inflight", "limit", "probe_detail", "probe_ok", "queue", "started",
    )  # fmt: skip

    def __init__(
        self, deployment: Deployment, breaker: BreakerPolicy, report: Report,
        rng: Callable[[], float] = random.random,
    ) -> None:  # fmt: skip
        self.id = deployment.id
        self.inflight = 0
        self.started = 0
        """Calls ever begun."""
        self.failed = 0
        """Calls ever failed."""
        self.cooled_by = ""
        """The outcome that it was last left alone for: a word of ``outcome.KINDS``."""
        self.queue = 0
        """Requests waiting inside the upstream, as it says itself; 0 where nobody knows."""
        self.probe_ok: bool | None = None
        """What the last active probe found, or a good call since; None: not known."""
        self.probe_detail = ""
        self._report = report
        self._breaker = Breaker(breaker, rng)
        self._window = self._breaker.window
        self._latency = PeakEwma()
        self._cool_until = self._ejected_until = 0.0
        self._answered_at = -inf
        """When a stream last had its first content."""
        self._unhealthy_since = self._unhealthy_until = self._advised_until = 0.0
        self.clear = True
        self.limit: float = inf
        self._forget = 0.0
        self._upstream = _upstream(deployment)
        self.follow(deployment, breaker)

    def follow(self, deployment: Deployment, breaker: BreakerPolicy) -> None:
        """Go by a new configuration from now on. What was observed stays, unless another upstream is asked
        from now on, or with another key: nothing is held against it that was its predecessor's."""
        upstream = _upstream(deployment)
        if upstream != self._upstream:
            self._upstream = upstream
            self._begin_anew()
        self.limit = inf if deployment.max_concurrency is None else max(deployment.max_concurrency, 1)
        interval = deployment.health.interval
        self._forget = 3.0 * interval + deployment.health.timeout if interval > 0 else 60.0
        if breaker != self._breaker.policy:
            self._breaker.follow(breaker)
            self._window = self._breaker.window

    def _begin_anew(self) -> None:
        self._breaker.forget()
        self._latency = PeakEwma()
        self._cool_until = self._ejected_until = self._unhealthy_since = self._unhealthy_until = 0.0
        self._advised_until = 0.0
        self._answered_at = -inf
        self.probe_ok, self.probe_detail = None, ""
        self.clear = True

    @property
    def circuit(self) -> CircuitState:
        """The state of the circuit breaker."""
        return self._breaker.state

    @property
    def latency(self) -> float:
        """Peak EWMA in seconds, as of the last answer; 0 before the first."""
        return self._latency.value

    def load(self, now: float | None = None) -> float:
        """Return a number to compare deployments by: seconds of latency times calls in flight, this one
        included. With ``now`` the latency has faded by the time since the last answer."""
        recent = self._latency
        latency = recent.value
        if now is not None and now - recent.at >= AT_ONCE:
            latency = recent.read(now)
        inflight = self.inflight
        if latency == 0.0 and inflight:
            return _UNTRIED * inflight
        return latency * (inflight + 1)

    def totals(self, now: float) -> Totals:
        """Return the calls of the breaker's window since the circuit last changed."""
        return self._window.totals(now)

    def well(self, now: float) -> bool:
        """Return whether its last call ended well, and nearly all of the window's: what has failed elsewhere
        may be asked of it without a thought for the load."""
        if not self.clear or self._breaker.row:
            return False
        good, bad, _ = self._window.totals(now)
        if not good:  # streams are counted when they end, and may go on for long
            return not bad and now - self._answered_at < self._breaker.policy.window
        return bad <= _WELL * (good + bad)

    def out(self, now: float) -> str:
        """Return why it must not be asked now, or nothing when it may; changes nothing."""
        if self.clear:
            return "" if self.inflight < self.limit else "busy"
        if not self._breaker.admits(now):
            return "open_circuit"
        if now < self._cool_until:
            return "cooldown"
        if now < self._ejected_until:
            return "ejected"
        if now < self._unhealthy_until or now < self._advised_until:
            return "unhealthy"
        return "" if self.inflight < self.limit else "busy"

    def back_at(self, now: float) -> float:
        """Return when to try again, as far as that is known; ``now`` when it may be asked."""
        if not self.out(now):
            return now
        at = max(
            self._breaker.back_at(now), self._cool_until, self._ejected_until, self._unhealthy_until,
            self._advised_until,
        )  # fmt: skip
        return at if at > now else now + _SOON

    def begin(self, now: float, *, early: bool = False) -> Permit | None:
        """Admit a call and count it as in flight; None: not admitted.

        Refuses on an open circuit, while it cools down, and when it is full. Health and ejection are the
        selection's to weigh: in a panic it asks although they speak against it. ``early``: an open circuit
        lets its probes through before its time, for when every deployment is out and one must be tried;
        the first of these that ends well closes it.
        """
        if self.inflight >= self.limit:
            return None
        if self.clear:
            permit = Permit(self._breaker.generation, now)
        else:
            admitted = self._admit(now, early)
            if admitted is None:
                return None
            permit = admitted
        self.inflight += 1
        self.started += 1
        return permit

    def end(self, permit: Permit, outcome: Outcome, now: float, seconds: float) -> None:
        """Take the end of a call into account; a second time for the same permit changes nothing.

        ``seconds`` is what speed is judged by: for a stream, the time to its first content.
        """
        if permit.ended:
            return
        permit.ended = True
        self.inflight -= 1
        if outcome.kind == "ok":
            self._latency.observe(seconds, now)
            if self.clear:
                if permit.generation == self._breaker.generation:
                    self._breaker.good(seconds, now)
                return
            self._ended_well(permit, seconds, now)
            return
        if outcome.failure:
            self._ended_badly(permit, outcome, seconds, now)
        elif permit.probe:
            self._breaker.probed(permit, None, now)
        if outcome.cooldown > 0.0:
            self._cool(outcome, now)

    def answered(self, permit: Permit, now: float) -> None:
        """Take the first content of a stream as the success of a probe: how long the stream goes on has
        nothing to do with whether the deployment is back. Its end counts as that of an ordinary call."""
        self._answered_at = now
        if not permit.probe or permit.ended:
            return
        if self._breaker.probed(permit, True, now):
            self._tell("circuit_closed", "info", {})
        permit.probe, permit.generation = False, self._breaker.generation
        self.tidy(now)

    def probed(self, ok: bool, detail: str, now: float) -> None:
        """Take the result of an active probe into account. One that failed is forgotten when no other
        follows: without a prober nothing would ever bring the deployment back."""
        self.probe_ok, self.probe_detail = ok, detail
        was_out = now < self._unhealthy_until
        if ok:
            self._believe(True, now)
            return
        if not was_out:
            self._unhealthy_since = now
        self._unhealthy_until = now + self._forget
        self.clear = False
        if not was_out:
            self._tell("deployment_unhealthy", "warning", {"detail": detail[:200]})

    def advise(self, until: float, detail: str, now: float) -> None:
        """Leave it out until then, because somebody outside says that it is ill; a time that is over takes
        that back. What is measured here changes nothing about it."""
        was_out = now < self._advised_until
        self._advised_until = until if until > now else 0.0
        if until > now:
            self.clear = False
            if not was_out:
                self._tell("deployment_reported_unhealthy", "warning", {"detail": detail[:200]})
        elif was_out:
            self._tell("deployment_reported_healthy", "info", {"detail": detail[:200]})
            self.tidy(now)

    def eject(self, now: float, seconds: float, reason: str) -> None:
        """Leave it out for being unlike its peers; afterwards it is judged by new calls alone."""
        if now >= self._ejected_until:
            self._tell("deployment_ejected", "warning", {"reason": reason, "seconds": round(seconds, 3)})
        self._ejected_until = max(self._ejected_until, now + seconds)
        self.clear = False
        self._window.clear()

    def tidy(self, now: float) -> None:
        """Report what has run out since anybody looked; called before a call and by the health loop."""
        if self.clear:
            return
        if self._ejected_until and now >= self._ejected_until:
            self._ejected_until = 0.0
            self._tell("deployment_readmitted", "info", {})
        if self._unhealthy_until and now >= self._unhealthy_until:
            self._believe(None, now)
        if self._advised_until and now >= self._advised_until:
            self._advised_until = 0.0
            self._tell("deployment_reported_healthy", "info", {"detail": "the report has run out"})
        if now >= self._cool_until:
            self._cool_until = 0.0
        self.clear = self._breaker.state == "closed" and not (
            self._cool_until or self._ejected_until or self._unhealthy_until or self._advised_until
        )

    def _admit(self, now: float, early: bool) -> Permit | None:
        """Admit a call to a deployment in which something is or was wrong."""
        self.tidy(now)
        breaker = self._breaker
        if now < self._cool_until:
            return None
        if breaker.state == "closed":
            return Permit(breaker.generation, now)
        if breaker.state == "open":
            if now < breaker.open_until and not early:
                return None
            breaker.half_open()
            self._tell("circuit_half_open", "info", {})
        return breaker.take(now, sole=early)

    def _ended_well(self, permit: Permit, seconds: float, now: float) -> None:
        breaker = self._breaker
        if permit.begun >= self._unhealthy_since:
            self._believe(True, now)
        if permit.probe:
            if breaker.probed(permit, True, now):
                self._tell("circuit_closed", "info", {})
        elif permit.generation == breaker.generation and breaker.state == "closed":
            breaker.good(seconds, now)
        self.tidy(now)

    def _ended_badly(self, permit: Permit, outcome: Outcome, seconds: float, now: float) -> None:
        self.failed += 1
        if seconds > self._latency.value > 0.0:
            self._latency.observe(seconds, now)  # a failure is never taken for speed, a slow one is slow
        breaker = self._breaker
        if permit.probe:
            opened = breaker.probed(permit, False, now)
        else:
            opened = permit.generation == breaker.generation and breaker.bad(now)
        if opened:
            self.clear = False
            fields = {"seconds": round(breaker.open_until - now, 3), "cause": outcome.kind,
                      "detail": outcome.message}  # fmt: skip
            self._tell("circuit_opened", "warning", fields)

    def _cool(self, outcome: Outcome, now: float) -> None:
        """Leave it alone for as long as it asked; never shorter than was agreed before."""
        was_out = now < self._cool_until
        if now + outcome.cooldown > self._cool_until:
            self._cool_until, self.cooled_by = now + outcome.cooldown, outcome.kind
        self.clear = False
        if not was_out:
            level = "warning" if outcome.kind == "auth" else "info"
            self._tell("cooldown", level, {"seconds": round(outcome.cooldown, 3), "cause": outcome.kind})

    def _believe(self, ok: bool | None, now: float) -> None:
        """Let go of what the last probe held against it."""
        if self._unhealthy_until:
            self._unhealthy_until = self._unhealthy_since = 0.0
            self.probe_ok = ok
            self._tell("deployment_healthy", "info", {} if ok else {"detail": "not probed any more"})
            self.tidy(now)

    def _tell(self, name: str, level: str, fields: Mapping[str, Any]) -> None:
        self._report(name, level, {"deployment": self.id, **fields})


def _upstream(deployment: Deployment) -> tuple[object, ...]:
    """Return what makes an upstream another one, though its deployment keeps its name."""
    return (deployment.type, deployment.base_url, deployment.model, deployment.key, deployment.args)


class Standings:
    """The standings of all deployments of a process; they outlive the configuration that made them."""

    __slots__ = ("_by_id", "_events", "_random")

    def __init__(self, events: Events, rng: random.Random | None = None) -> None:
        self._events = events
        self._random = (rng or random.Random()).random  # noqa: S311 - spreads load, guards nothing
        self._by_id: dict[str, Standing] = {}

    def __iter__(self) -> Iterator[Standing]:
        return iter(list(self._by_id.values()))

    def __len__(self) -> int:
        return len(self._by_id)

    def get(self, deployment: Deployment, breaker: BreakerPolicy) -> Standing:
        """Return the standing of a deployment, which goes by this configuration from now on."""
        found = self._by_id.get(deployment.id)
        if found is None:
            found = Standing(deployment, breaker, self._tell, self._random)
            self._by_id[deployment.id] = found
        else:
            found.follow(deployment, breaker)
        return found

    def find(self, deployment_id: str) -> Standing | None:
        """Return the standing of a deployment, if there is one."""
        return self._by_id.get(deployment_id)

    def keep(self, ids: Collection[str]) -> None:
        """Drop the others, but for those that have calls in flight: these go at a later ``keep``."""
        for gone in [key for key, each in self._by_id.items() if key not in ids and not each.inflight]:
            del self._by_id[gone]

    def _tell(self, name: str, level: str, fields: Mapping[str, Any]) -> None:
        message = f"{fields.get('deployment', '')}: {name.replace('_', ' ')}"
        self._events.emit(Note(name, level, message, dict(fields)))
