"""A loop that must not die: what the reaper, the sweeper and the webhook sender have in common."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

from router_core.clock import Clock
from router_core.telemetry.events import Events, Note

__all__ = ["Loop", "Pulse"]

_MISSED: Final = 3
"""Ticks without success after which a loop counts as dead."""


class Pulse:
    """When something was last done with success, and whether that is recent enough."""

    __slots__ = ("_clock", "_interval", "_started", "last_success_at")

    def __init__(self, clock: Clock, interval: float) -> None:
        self._clock = clock
        self._interval = interval
        self._started = clock.monotonic()
        self.last_success_at = 0.0
        """Wall-clock time; 0 before the first success."""

    def beat(self) -> None:
        """Note a success."""
        self.last_success_at = self._clock.now()
        self._started = self._clock.monotonic()

    @property
    def alive(self) -> bool:
        """Whether the last success (or the start) is less than three ticks ago; setting the clock of the
        machine does not change that."""
        return self._clock.monotonic() - self._started <= _MISSED * self._interval


class Loop:
    """Calls ``tick`` every ``interval`` seconds, for ever: an error is reported and the next tick comes."""

    def __init__(
        self, name: str, tick: Callable[[], Awaitable[None]], *, clock: Clock, events: Events, interval: float
    ) -> None:
        self.name = name
        self.interval = interval
        self._tick = tick
        self._clock = clock
        self._events = events

    async def run(self) -> None:
        """Work until cancelled."""
        while True:
            try:
                await self._tick()
            except Exception as error:
                text = f"{self.name}: this tick failed, the next one comes in {self.interval:g} s"
                self._events.emit(Note(f"{self.name}_tick_failed", "error", text, error=error))
            await self._clock.sleep(self.interval)
