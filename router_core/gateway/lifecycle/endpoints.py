"""The endpoints of a gateway: which can be called, and waking and sleeping the others.

A call asks ``ready`` (no I/O), and only where that says no waits in ``wake``. What an endpoint is called in
``status`` and whether calls are sent to it are two things: while a management API is down the status is
``unknown`` and calls flow as they did before.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from router_core.clock import Clock
from router_core.errors import NotFound
from router_core.gateway.lifecycle.audit import Audit
from router_core.gateway.lifecycle.driver import EndpointDriver, ManagementError
from router_core.gateway.lifecycle.endpoint import Endpoint
from router_core.gateway.lifecycle.shared import Shared
from router_core.gateway.lifecycle.states import State
from router_core.gateway.lifecycle.status import EndpointDetail, EndpointStatus, detail_of, status_of
from router_core.gateway.lifecycle.waking import WakeFailed, Waking
from router_core.gateway.lifecycle.words import says_asleep
from router_core.gateway.values import EndpointSpec
from router_core.state import StateStore
from router_core.telemetry.events import Events

__all__ = ["Done", "Lifecycle", "WakeFailed"]

_SHARE: Final = 30.0
"""Seconds between two writes of an endpoint's activity, where it may be idle for long enough."""
_FRESH: Final = 5.0
"""Seconds for which a look is good enough for who asks for the status."""
_LOOK_PATIENCE: Final = 5.0
"""Seconds that who asks for the status waits for a provider that is slow to answer."""
_ORDER_PATIENCE: Final = 15.0
"""Seconds that who orders a wake waits until the provider has taken it."""
_MAY_BE_BUSY: Final = 503
_SLEEP_LEASE: Final = 60.0


@dataclass(frozen=True, slots=True)
class Done:
    """What became of an order to wake or to sleep."""

    state: State
    error: str = ""
    """Why it was not taken; empty when it was, or when there was nothing to do."""
    status: int = 0
    """HTTP status of the management API's refusal."""


class Lifecycle:
    """All endpoints, on one event loop."""

    def __init__(
        self, specs: Iterable[EndpointSpec], drivers: Callable[[EndpointSpec], EndpointDriver],
        state: StateStore, clock: Clock, events: Events,
        *, in_flight: Callable[[str], int] = lambda name: 0, draw: Callable[[], float] = random.random,
    ) -> None:  # fmt: skip
        """``in_flight`` counts the calls of this process that an endpoint is serving.

        Raises Misconfigured for a spec that its driver cannot work with.
        """
        self.clock = clock
        self._drivers = drivers
        self._in_flight = in_flight
        self._draw = draw
        self._shared = Shared(state, events)
        self._audit = Audit(events, clock)
        self._endpoints: dict[str, Endpoint] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self.apply(specs)

    def apply(self, specs: Iterable[EndpointSpec]) -> None:
        """Take a new configuration: what has not changed goes on as it was. Raises Misconfigured, and then
        nothing has changed."""
        made: dict[str, Endpoint] = {}
        for spec in specs:
            held = self._endpoints.get(spec.name)
            made[spec.name] = (
                held if held is not None and held.spec == spec else Endpoint(spec, self._drivers(spec))
            )
        for name, endpoint in self._endpoints.items():
            if made.get(name) is not endpoint and endpoint.waking is not None:
                endpoint.waking.stop("its configuration has changed")
        self._endpoints = made

    def share(self, state: StateStore) -> None:
        """Share with other processes through this store from now on."""
        self._shared.use(state)

    async def aclose(self) -> None:
        """End what goes on in the background; endpoints stay as they are."""
        wakes = [each.waking for each in self._endpoints.values() if each.waking and not each.waking.ended]
        for waking in wakes:
            waking.stop("the gateway stops")
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, *(waking.join() for waking in wakes), return_exceptions=True)

    # -- for calls: quick, and never I/O -----------------------------------------------------------------

    @property
    def names(self) -> tuple[str, ...]:
        """The endpoints, in the order of the configuration."""
        return tuple(self._endpoints)

    def ready(self, name: str) -> bool:
        """Return whether calls may be sent; a name that nobody knows is no reason to hold one back."""
        endpoint = self._endpoints.get(name)
        return endpoint is None or (endpoint.serving and bool(endpoint.url))

    def url_of(self, name: str) -> str:
        """Return where inference goes; empty as long as the provider has not said so."""
        endpoint = self._endpoints.get(name)
        return "" if endpoint is None else endpoint.url

    def state_of(self, name: str) -> State:
        """Return the state as far as it is known here."""
        endpoint = self._endpoints.get(name)
        return State.UNKNOWN if endpoint is None else endpoint.state

    def touch(self, name: str) -> None:
        """Note a call; other processes hear of it within half a minute."""
        endpoint = self._endpoints.get(name)
        if endpoint is None:
            return
        endpoint.last_activity = self.clock.now()
        now = self.clock.monotonic()
        if now - endpoint.shared_at >= _share_every(endpoint):
            endpoint.shared_at = now
            self._spawn(self._share(endpoint))

    def found_asleep(self, name: str, status: int, body: bytes) -> bool:
        """Return whether an answer to a call is that of an endpoint which is to be woken, and not its own."""
        return says_asleep(status, body) and self.saw_asleep(name, certain=status != _MAY_BE_BUSY)

    def saw_asleep(self, name: str, *, certain: bool = False) -> bool:
        """Take the word of a call that got a 503 from an endpoint; returns whether it is to be woken.

        False for one that was just seen to answer, unless it is ``certain``: then it is busy, not asleep.
        """
        endpoint = self._endpoints.get(name)
        if endpoint is None or endpoint.driver.provider == "none":
            return False
        before = endpoint.state
        believed = endpoint.asleep(self.clock.monotonic(), self.clock.now(), certain=certain)
        self._audit.change(endpoint, before)
        return believed

    # -- waking ----------------------------------------------------------------------------------------

    def begin_wake(self, name: str, *, who: str = "traffic") -> None:
        """Wake an endpoint in the background, unless it runs or is being woken already."""
        endpoint = self._named(name)
        if not endpoint.ready and self.clock.monotonic() >= endpoint.gives_up:
            self._waking(endpoint, who)

    async def wake(
        self, name: str, deadline: float, *, who: str = "traffic", running: bool = False
    ) -> None:  # fmt: skip
        """Wait until calls may be sent, waking the endpoint together with everybody else who waits.

        ``deadline`` is in seconds of ``loop.time()``; with ``running`` an endpoint that takes calls while it
        sleeps has to run, too. Raises WakeFailed; the wake itself goes on.
        """
        endpoint = self._named(name)
        if endpoint.ready and (not running or endpoint.state is State.RUNNING):
            return
        if self.clock.monotonic() < endpoint.gives_up:
            raise WakeFailed(name, endpoint.message or "it could not be woken a moment ago")
        waking = self._waking(endpoint, who, force=running)
        left = deadline - asyncio.get_running_loop().time()
        if left > 0 and not waking.done.done():
            await asyncio.wait((waking.done,), timeout=None if left == float("inf") else left)
        if not waking.done.done():
            raise WakeFailed(name, "it is still starting")
        reason = waking.done.result()
        if reason and not endpoint.ready:
            raise WakeFailed(name, reason)

    async def order_wake(self, name: str, *, who: str) -> Done:
        """Wake an endpoint and return as soon as its provider has taken the order, or refused it.

        A provider that is slow is not waited for: the order goes on. What the provider calls failed is tried,
        too. Raises NotFound.
        """
        endpoint = self._named(name)
        await self._looked(endpoint, 0.0)
        if endpoint.ready and endpoint.state is State.RUNNING:
            self._audit.operation("wake", name, who, detail="running")
            return Done(State.RUNNING)
        began = endpoint.waking is None or endpoint.waking.ended
        waking = self._waking(endpoint, who, force=True)
        await asyncio.wait((waking.ordered,), timeout=_ORDER_PATIENCE)
        error = waking.ordered.result() if waking.ordered.done() else ""
        if not began:
            self._audit.operation("wake", name, who, error, detail="woken already")
        return Done(endpoint.state, error)

    def _waking(self, endpoint: Endpoint, who: str, *, force: bool = False) -> Waking:
        if endpoint.waking is None or endpoint.waking.ended:
            endpoint.waking = Waking(
                endpoint, self._look, self._shared, self._audit, self.clock,
                who=who, force=force, draw=self._draw,
            )  # fmt: skip
        return endpoint.waking

    # -- sleeping --------------------------------------------------------------------------------------

    async def sleep(self, name: str, *, who: str, pause: bool = False) -> Done:
        """Put an endpoint to sleep; a wake that goes on is called off. Raises NotFound.

        With ``pause`` only a wake from here ends it, where otherwise any request to the provider does.
        """
        endpoint = self._named(name)
        if endpoint.waking is not None and not endpoint.waking.ended:
            endpoint.waking.stop("it is put to sleep")
        # from here on new calls wait for a wake; those of other processes find out by a 503
        before = endpoint.stops(self.clock.monotonic(), self.clock.now())
        try:
            await endpoint.driver.sleep(pause=pause)
        except ManagementError as error:
            endpoint.stays(before)
            self._audit.operation("sleep", name, who, str(error))
            return Done(endpoint.state, str(error), error.status)
        self._audit.operation("sleep", name, who, detail="paused" if pause else "")
        self._audit.change(endpoint, before.state)
        # the order to wake of a moment ago is spent: the next one is not to wait until it runs out
        await self._shared.cancel("wake", name)
        await self._shared.join(name, endpoint.known())
        await self._looked(endpoint, 0.0)
        return Done(endpoint.state)

    # -- status ----------------------------------------------------------------------------------------

    async def status(self, *, who: str = "") -> Mapping[str, EndpointStatus]:
        """Return how all endpoints stand; a provider that does not answer delays nobody for long."""
        endpoints = list(self._endpoints.values())
        await asyncio.gather(*(self._refreshed(each) for each in endpoints))
        if who:
            for each in endpoints:
                self._audit_status(each, who)
        return {each.spec.name: self._status(each) for each in endpoints}

    async def status_of(self, name: str, *, who: str = "") -> tuple[EndpointStatus, EndpointDetail]:
        """Return how one stands. Raises NotFound."""
        endpoint = self._named(name)
        await self._refreshed(endpoint)
        if who:
            self._audit_status(endpoint, who)
        return self._status(endpoint), detail_of(endpoint, self._in_flight(name))

    def _status(self, endpoint: Endpoint) -> EndpointStatus:
        return status_of(endpoint, self.clock.now(), self._in_flight(endpoint.spec.name))

    def _audit_status(self, endpoint: Endpoint, who: str) -> None:
        lost = endpoint.state is State.UNKNOWN
        error = (endpoint.message or "nothing is known yet") if lost else ""
        self._audit.operation("status", endpoint.spec.name, who, error, detail=endpoint.state.value)

    async def _refreshed(self, endpoint: Endpoint) -> None:
        await asyncio.gather(self._looked(endpoint, _FRESH), self._read_shared(endpoint))

    # -- upkeep: what is done beside the calls -----------------------------------------------------------

    async def tend(self, name: str, *, look_every: float) -> None:
        """Do for one endpoint what is due: look, share, set the provider's timer, put it to sleep."""
        endpoint = self._named(name)
        busy = self._in_flight(name) > 0
        if busy:
            endpoint.last_activity = self.clock.now()
        now = self.clock.monotonic()
        if now - endpoint.shared_at >= _share_every(endpoint):
            endpoint.shared_at = now
            await self._share(endpoint)
        if now - endpoint.looked_at >= look_every:
            await self._look(endpoint)
        due = endpoint.idle_left(self.clock.now(), self._in_flight(name))
        if endpoint.spec.auto_sleep > 0 and due is not None and not endpoint.self_sleeping:
            await self._push_timer(endpoint)
            await self._sleep_if_idle(endpoint)

    async def _push_timer(self, endpoint: Endpoint) -> None:
        """Have the provider do it, once for this setting; what somebody changes there later is left."""
        name, wanted = endpoint.spec.name, endpoint.spec.auto_sleep
        if endpoint.pushed:
            return
        endpoint.pushed = True
        claim = await self._shared.claim("auto_sleep", name, f"{wanted:g}")
        if claim is None:
            endpoint.pushed = not self._shared.down
            return
        try:
            set_there = await endpoint.driver.push_timer(wanted)
        except ManagementError as error:
            self._audit.operation("auto_sleep_setting", name, "gateway", str(error))
            await self._shared.release("auto_sleep", name, claim)
            return
        if set_there:
            self._audit.operation("auto_sleep_setting", name, "gateway", detail=f"{wanted:g} s")
            await self._look(endpoint)

    async def _sleep_if_idle(self, endpoint: Endpoint) -> None:
        name = endpoint.spec.name
        if endpoint.self_sleeping or not self._is_idle(endpoint):
            return
        await self._read_shared(endpoint)
        # with the store away, others may be calling it; a provider's own timer goes on
        if self._shared.down or not self._is_idle(endpoint):
            return
        lease = await self._shared.lease("sleep", name, _SLEEP_LEASE)
        if lease is None or not self._is_idle(endpoint):
            return
        await self.sleep(name, who="auto-sleep")

    def _is_idle(self, endpoint: Endpoint) -> bool:
        in_flight = self._in_flight(endpoint.spec.name)
        return endpoint.idle_left(self.clock.now(), in_flight) == 0

    # -- looking and sharing -----------------------------------------------------------------------------

    def _named(self, name: str) -> Endpoint:
        endpoint = self._endpoints.get(name)
        if endpoint is None:
            raise NotFound("there is no endpoint of this name")
        return endpoint

    async def _looked(self, endpoint: Endpoint, fresh: float) -> None:
        """Look unless that was done just now, but do not wait long for a provider that is slow."""
        if self.clock.monotonic() - endpoint.looked_at < fresh:
            return
        await asyncio.wait((self._look_task(endpoint),), timeout=_LOOK_PATIENCE)

    async def _look(self, endpoint: Endpoint) -> None:
        await asyncio.wait((self._look_task(endpoint),))

    def _look_task(self, endpoint: Endpoint) -> asyncio.Task[None]:
        """Return the look that is going on, or begin one: many ask, the provider is asked once."""
        if endpoint.looking is None or endpoint.looking.done():
            endpoint.looking = self._spawn(self._look_once(endpoint))
        return endpoint.looking

    async def _look_once(self, endpoint: Endpoint) -> None:
        try:
            seen = await endpoint.driver.look()
        except ManagementError as error:
            if not endpoint.url:
                await self._read_shared(endpoint)  # another process may have been told where it is
            before = endpoint.lost(str(error), self.clock.monotonic(), self.clock.now())
        except Exception as error:
            self._audit.fault(endpoint.spec.name, error)
            before = endpoint.lost(type(error).__name__, self.clock.monotonic(), self.clock.now())
        else:
            before = endpoint.seen(seen, self.clock.monotonic(), self.clock.now())
        self._audit.change(endpoint, before)

    async def _read_shared(self, endpoint: Endpoint) -> None:
        record = await self._shared.read(endpoint.spec.name)
        if record is not None:
            endpoint.absorb(record)

    async def _share(self, endpoint: Endpoint) -> None:
        record = await self._shared.join(endpoint.spec.name, endpoint.known())
        if record is not None:
            endpoint.absorb(record)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _share_every(endpoint: Endpoint) -> float:
    """Return the seconds between two writes: others have to hear of a call before they find it idle."""
    auto_sleep = endpoint.spec.auto_sleep
    return min(_SHARE, auto_sleep / 3) if auto_sleep > 0 else _SHARE
