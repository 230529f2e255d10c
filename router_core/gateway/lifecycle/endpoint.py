"""One endpoint as this process knows it. All of it is plain state: no I/O, and time comes as a value."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from router_core.gateway.lifecycle.driver import EndpointDriver, Seen
from router_core.gateway.lifecycle.shared import Record
from router_core.gateway.lifecycle.states import TRANSITIONS, Event, State, after
from router_core.gateway.values import EndpointSpec

if TYPE_CHECKING:
    from router_core.gateway.lifecycle.waking import Waking

__all__ = ["HELD", "Before", "Endpoint"]

HELD: Final = 60.0
"""Seconds for which an order of ours is believed while the provider does not speak of it yet."""
_TRUSTED: Final = 5.0
"""Seconds after a good look for which a 503 is taken as one of a busy endpoint, not of one asleep."""
_EVENTS: Final[dict[State, Event]] = {
    State.RUNNING: "running", State.STARTING: "starting", State.SLEEPING: "sleeping",
    State.STOPPING: "starting", State.ERROR: "failed", State.UNKNOWN: "lost",
}  # fmt: skip
_DOWN: Final = (State.SLEEPING, State.STOPPING)


@dataclass(frozen=True, slots=True)
class Before:
    """What holds again when an order to sleep is not taken."""

    state: State
    last_known: State
    serving: bool
    sleep_time: float
    since: float


class Endpoint:
    """Mutable; lives on one event loop."""

    __slots__ = (
        "_hold", "_trusted", "driver", "gives_up", "last_activity", "last_known", "looked_at", "looking",
        "message", "pushed", "record", "serving", "shared_at", "since", "sleep_time", "spec", "state", "sub",
        "timer", "url", "wake_time", "waking",
    )  # fmt: skip

    def __init__(self, spec: EndpointSpec, driver: EndpointDriver) -> None:
        self.spec = spec
        self.driver = driver
        self.state = State.UNKNOWN
        self.last_known = State.UNKNOWN
        """The state before it became unknown."""
        self.sub = ""
        self.message = ""
        self.url = driver.url
        """Where inference goes; empty until the provider has said so."""
        self.serving = True
        """Whether calls may be sent, whatever the state is called. Hopeful at first: a process that has
        just begun should not ask a management API before it lets the first call through."""
        self.timer: float | None = None
        self.pushed = False
        """Whether the provider was told to put it to sleep by itself."""
        # wall-clock seconds, because other processes read them; 0: never
        self.last_activity = 0.0
        self.wake_time = 0.0
        self.sleep_time = 0.0
        self.since = 0.0
        """Since when it is known to run."""
        # monotonic seconds
        self.looked_at = float("-inf")
        self.shared_at = float("-inf")
        self.gives_up = float("-inf")
        """Until when nobody tries to wake it, because that has just failed."""
        self._hold = float("-inf")
        self._trusted = float("-inf")
        self.record = Record()
        """What the processes share, as last read."""
        self.looking: asyncio.Task[None] | None = None
        self.waking: Waking | None = None

    @property
    def ready(self) -> bool:
        """Whether calls may be sent."""
        return self.serving and bool(self.url)

    # -- what happens to it: each returns the state before, so that a change can be told ----------------

    def seen(self, seen: Seen, now: float, wall: float) -> State:
        """Take what the provider says."""
        before = self._move(_EVENTS[seen.state], now, wall)
        self.looked_at = now
        self.sub, self.message = seen.sub, seen.message
        self.url = seen.url or self.url
        self.timer = seen.timer
        if self.state is State.STOPPING:
            self.serving = False
        elif seen.serving is not None:
            self.serving = seen.serving
        if self.serving and seen.serving:
            self._trusted = now + _TRUSTED
        return before

    def lost(self, message: str, now: float, wall: float) -> State:
        """Note that the provider cannot be asked. Whether calls are sent does not change by that."""
        self.looked_at = now
        self.message = message
        return self._move("lost", now, wall)

    def woken(self, now: float, wall: float) -> State:
        """Note that the provider took our order to wake it."""
        before = self.state
        self.state, self.wake_time, self._hold = after(before, "wake"), wall, now + HELD
        self._mark(before, wall)
        return before

    def stops(self, now: float, wall: float) -> Before:
        """Send no more calls, because it is about to be put to sleep."""
        before = Before(self.state, self.last_known, self.serving, self.sleep_time, self.since)
        self.state, self.sleep_time, self._hold = after(self.state, "sleep"), wall, now + HELD
        self.serving = False
        self._mark(before.state, wall)
        return before

    def stays(self, before: Before) -> None:
        """Take that back: the provider did not take the order."""
        self._hold = float("-inf")
        self.state, self.last_known = before.state, before.last_known
        self.serving, self.sleep_time, self.since = before.serving, before.sleep_time, before.since

    def asleep(self, now: float, wall: float, *, certain: bool = False) -> bool:
        """Take the word of a call that was answered as if it slept; returns whether it was believed."""
        if now < self._trusted and self.serving and not certain:
            return False
        self.serving = False
        self.driver.doubt()
        self._move("asleep", now, wall)
        return True

    def absorb(self, record: Record) -> None:
        """Take what other processes know."""
        self.record = record
        self.last_activity = max(self.last_activity, record.last_activity)
        self.wake_time = max(self.wake_time, record.wake_time)
        self.sleep_time = max(self.sleep_time, record.sleep_time)
        self.url = self.url or record.url
        if self.state is State.RUNNING and record.since > self.sleep_time:
            self.since = min(self.since or record.since, record.since)

    def known(self) -> Record:
        """Return what other processes should know."""
        return Record(self.last_activity, self.wake_time, self.sleep_time, self.since, self.url)

    # -- questions -----------------------------------------------------------------------------------

    @property
    def self_sleeping(self) -> bool:
        """Whether the provider puts it to sleep by itself, no later than about when we would."""
        return self.timer is not None and self.timer <= self.spec.auto_sleep + 60.0

    def idle_left(self, wall: float, in_flight: int) -> float | None:
        """Return the seconds until it is put to sleep for idleness; None where it is not."""
        theirs = self.self_sleeping or not self.spec.auto_sleep
        limit = self.timer if theirs else self.spec.auto_sleep
        if self.state is not State.RUNNING or not limit or self.driver.provider == "none":
            return None
        last = wall if in_flight else max(self.last_activity, self.wake_time, self.since)
        return max(0.0, min(limit, limit - (wall - last)))

    def _move(self, event: Event, now: float, wall: float) -> State:
        before = self.state
        held = now < self._hold
        self.state = after(before, event, held=held)
        spoken = event != "asleep" and self.state is TRANSITIONS[event][before]
        if spoken or not held:
            self._hold = float("-inf")
        self._mark(before, wall)
        return before

    def _mark(self, before: State, wall: float) -> None:
        """Keep the times of the changes that were not ordered here."""
        known = self.last_known if before is State.UNKNOWN else before
        if self.state is State.UNKNOWN:
            self.last_known = known
            return
        if self.state is State.RUNNING:
            self.since = self.since or self._since(wall, first=known is State.UNKNOWN)
        elif self.state is not State.STARTING or known in _DOWN:
            self.since = 0.0
        if known in _DOWN and self.state in (State.STARTING, State.RUNNING):
            self.wake_time = self.wake_time if self.wake_time >= self.sleep_time and self.wake_time else wall
        elif self.state is State.SLEEPING and known in (State.RUNNING, State.STARTING):
            self.sleep_time = wall
        self.last_known = self.state

    def _since(self, wall: float, *, first: bool) -> float:
        """Return since when it runs, when that is newly seen; ``first``: at the first look here."""
        if self.record.since > self.sleep_time:
            return self.record.since
        return self.last_activity if first and wall > self.last_activity > self.sleep_time else wall
