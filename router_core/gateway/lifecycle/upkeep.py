"""What is done for endpoints beside the calls."""

from __future__ import annotations

import asyncio
from typing import Final

from router_core.gateway.lifecycle.endpoints import Lifecycle
from router_core.jobs.upkeep import Loop, Pulse
from router_core.telemetry.events import Events

__all__ = ["EndpointUpkeep"]

_INTERVAL: Final = 10.0
_LOOK_EVERY: Final = 30.0
_AT_ONCE: Final = 8


class EndpointUpkeep:
    """Follows the states of endpoints, and puts to sleep what is idle where the provider does not.

    Where nothing runs beside the calls, ``tick`` on a schedule does all of it.
    """

    name = "endpoints"

    def __init__(self, lifecycle: Lifecycle, events: Events, *, interval: float = _INTERVAL) -> None:
        self._lifecycle = lifecycle
        self._pulse = Pulse(lifecycle.clock, 6 * interval)
        self._loop = Loop(self.name, self.tick, clock=lifecycle.clock, events=events, interval=interval)

    async def run(self) -> None:
        """Work until cancelled."""
        await self._loop.run()

    async def tick(self) -> None:
        """Do what is due, for a few endpoints at a time; one that fails keeps no other from its turn."""
        places = asyncio.Semaphore(_AT_ONCE)

        async def tend(name: str) -> None:
            async with places:
                await self._lifecycle.tend(name, look_every=_LOOK_EVERY)

        done = await asyncio.gather(*map(tend, self._lifecycle.names), return_exceptions=True)
        self._pulse.beat()
        for failure in done:
            if isinstance(failure, Exception):
                raise failure

    async def idle(self) -> None:
        """Do nothing: a tick ends what it begins."""

    def ready(self, now: float) -> bool:
        """Return whether a tick has ended lately; a provider that does not answer is no reason for no."""
        return self._pulse.alive
