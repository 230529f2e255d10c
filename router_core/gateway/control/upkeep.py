"""How a process learns of versions that others have made: by looking, every second or at calls."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, cast

from router_core.gateway.admission import Admission, Permit, has_to_wait
from router_core.gateway.call import Call
from router_core.gateway.control.control import Control
from router_core.gateway.control.reports import HealthReports
from router_core.jobs.upkeep import Loop, Pulse
from router_core.telemetry.events import Events

__all__ = ["ControlUpkeep", "LookFirst"]

INTERVAL: Final = 1.0


class ControlUpkeep:
    """An Upkeep: looks for another version every second, and for reports of health."""

    name = "control"

    def __init__(
        self, control: Control, reports: HealthReports, events: Events, *,
        began: Callable[[], None] = lambda: None, interval: float = INTERVAL,
    ) -> None:  # fmt: skip
        """``began`` is told when the loop begins: nobody has to look at calls then."""
        self._control = control
        self._reports = reports
        self._began = began
        self._pulse = Pulse(control.clock, interval)
        self._loop = Loop(self.name, self.tick, clock=control.clock, events=events, interval=interval)

    def ready(self, now: float) -> bool:
        """Always: a process whose store is away serves on by what it has."""
        return True

    async def run(self) -> None:
        """Work until cancelled; never raises."""
        self._began()
        await self._loop.run()

    async def idle(self) -> None:
        """Nothing goes on beside a tick."""

    async def before_call(self) -> None:
        """Look when that is a second ago: who reads what is configured is to see what others have changed,
        also where no loop looks. Never raises."""
        if self._control.due:
            await self._control.look_if_due()
            await self._reports.look()

    async def tick(self) -> None:
        """Look."""
        await self._control.tick()
        await self._reports.look()
        self._pulse.beat()


class LookFirst:
    """An Admission for a process that is frozen between its calls: the first call after a second looks for
    another version before it is admitted by whoever else limits calls."""

    def __init__(self, control: Control, reports: HealthReports, inner: Admission | None) -> None:
        self._control = control
        self._reports = reports
        self.inner = inner

    def admit(self, call: Call, now: float) -> Permit | Awaitable[Permit | None] | None:
        """Let a call in, after a look where one is due."""
        if self._control.due:
            return self._look(call, now)
        return None if self.inner is None else self.inner.admit(call, now)

    async def _look(self, call: Call, now: float) -> Permit | None:
        await self._control.look_if_due()
        await self._reports.look()
        admitted = None if self.inner is None else self.inner.admit(call, now)
        if has_to_wait(admitted):
            return await admitted
        return cast("Permit | None", admitted)
