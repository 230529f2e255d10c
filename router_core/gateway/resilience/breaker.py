"""Leaving a deployment out while it fails, and letting it back in carefully.

            threshold met                 open time over
   closed ────────────────▶ open ────────────────────────▶ half_open
     ▲                        ▲                              │  │
     │                        └──────── a bad probe ─────────┘  │
     └───────────────────── enough good probes ─────────────────┘

Each opening and each closing begins a new generation. What was begun in an earlier one says nothing about
this one: answers that come late neither close a circuit nor open it again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import msgspec

from router_core.gateway.resilience.window import Window
from router_core.gateway.values import BreakerPolicy

__all__ = ["Breaker", "CircuitState", "Permit"]

CircuitState = Literal["closed", "open", "half_open"]


class Permit(msgspec.Struct, eq=False):
    """Leave to make one call; comes from ``Standing.begin`` and goes to ``Standing.end``."""

    generation: int
    begun: float
    """Monotonic seconds."""
    probe: bool = False
    """Whether the circuit was half-open: on this call hangs what becomes of it."""
    sole: bool = False
    """Whether nobody else was left to ask: then one success is enough, for the others have nobody."""
    ended: bool = False


class Breaker:
    """One circuit. It is told of every call's end, and asked only while it is not closed."""

    __slots__ = (
        "_policy", "_probes", "_random", "_row", "_successes", "_trips", "generation", "open_until", "state",
        "window",
    )  # fmt: skip

    def __init__(self, policy: BreakerPolicy, random: Callable[[], float]) -> None:
        self._policy = policy
        self._random = random
        self.window = Window(policy.window)
        self.state: CircuitState = "closed"
        self.generation = 0
        self.open_until = 0.0
        self._row = 0
        """Failures in a row."""
        self._trips = 0
        """Openings since it was last closed."""
        self._successes = 0
        """Good probes in a row."""
        self._probes: list[Permit] = []

    @property
    def policy(self) -> BreakerPolicy:
        """What it goes by."""
        return self._policy

    @property
    def row(self) -> int:
        """Failures in a row of ordinary calls."""
        return self._row

    def follow(self, policy: BreakerPolicy) -> None:
        """Go by another policy from now on; the state stays."""
        if policy.window != self._policy.window:
            self.window = Window(policy.window)
        self._policy = policy

    def forget(self) -> None:
        """Begin anew, closed: what was asked so far is not what will be asked."""
        self._close()

    def admits(self, now: float) -> bool:
        """Return whether a call would be let through now; changes nothing."""
        if self.state == "closed":
            return True
        if self.state == "open":
            return now >= self.open_until
        return self._free(now) > 0

    def back_at(self, now: float) -> float:
        """Return when a call may be let through; ``now`` as well where that hangs on a probe under way."""
        return max(self.open_until, now) if self.state == "open" else now

    def half_open(self) -> None:
        """Let probes through from now on."""
        self.state = "half_open"
        self._successes = 0
        self._probes.clear()

    def take(self, now: float, *, sole: bool = False) -> Permit | None:
        """Return one of the permits of a half-open circuit, or None when all are out."""
        if self._free(now) <= 0:
            return None
        permit = Permit(self.generation, now, probe=True, sole=sole)
        self._probes.append(permit)
        return permit

    def good(self, seconds: float, now: float) -> None:
        """Count the success of an ordinary call."""
        self._row = 0
        self.window.good(seconds, now)

    def bad(self, now: float) -> bool:
        """Count the failure of an ordinary call; returns whether that opened the circuit."""
        self._row += 1
        self.window.bad(now)
        policy = self._policy
        if 0 < policy.in_a_row <= self._row:
            return self._open(now)
        good, bad, _ = self.window.totals(now)
        if good + bad >= max(policy.minimum, 1) and bad >= policy.ratio * (good + bad):
            return self._open(now)
        return False

    def probed(self, permit: Permit, good: bool | None, now: float) -> bool:
        """Take a probe's permit back; None: it ended without saying anything. Returns whether the state
        changed. A probe whose lease was over may still be heard with good news: calls that take longer than
        the lease would never bring the deployment back otherwise."""
        held = permit in self._probes
        if held:
            self._probes.remove(permit)
        if not good:
            in_time = now < permit.begun + self._policy.probe_lease
            return held and good is not None and in_time and self._open(now)
        if not held and (permit.generation != self.generation or self.state != "half_open"):
            return False
        self._successes += 1
        return (permit.sole or self._successes >= self._policy.successes) and self._close()

    def _free(self, now: float) -> int:
        """Return how many permits are left, after taking back those whose lease is over."""
        lease = self._policy.probe_lease
        if self._probes and now >= self._probes[0].begun + lease:
            self._probes = [each for each in self._probes if now < each.begun + lease]
        return max(self._policy.probes, 1) - len(self._probes)

    def _open(self, now: float) -> bool:
        """Open it. The jitter only shortens, so that no circuit is open longer than was configured."""
        policy = self._policy
        seconds = min(policy.open_for * 2.0 ** min(self._trips, 30), policy.open_max)
        self.open_until = now + seconds * (1.0 - 0.2 * self._random())
        self._trips += 1
        self._begin("open")
        return True

    def _close(self) -> bool:
        self._trips = 0
        self._begin("closed")
        return True

    def _begin(self, state: CircuitState) -> None:
        self.state = state
        self.generation += 1
        self._row = self._successes = 0
        self._probes.clear()
        self.window.clear()
