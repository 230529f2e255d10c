"""The gateway as a part of an app: everything put together, once, in one place."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

from router_core.app import Host, Upkeep
from router_core.clock import Clock, SystemClock
from router_core.errors import StoreError
from router_core.gateway.accounting.journal import Journal
from router_core.gateway.accounting.ledger import Ledger
from router_core.gateway.accounting.metrics import GatewayMetrics
from router_core.gateway.accounting.prices import Prices
from router_core.gateway.accounting.sinks import JsonLinesFile, Sink
from router_core.gateway.admission import Admission
from router_core.gateway.analytics.collect import Collector
from router_core.gateway.analytics.deployments import Deployments
from router_core.gateway.analytics.gauges import Gauges
from router_core.gateway.analytics.keeper import Analytics
from router_core.gateway.analytics.tracing import CallTraces
from router_core.gateway.api.analytics import analytics_router
from router_core.gateway.api.budgets import budgets_router
from router_core.gateway.api.control import control_routers
from router_core.gateway.api.endpoints import endpoints_router
from router_core.gateway.api.openai import OpenAIRoutes
from router_core.gateway.api.overview import overview_router
from router_core.gateway.api.requests import requests_router
from router_core.gateway.api.route import routing_router
from router_core.gateway.api.select_endpoint import EndpointSelector
from router_core.gateway.api.trials import trials_router
from router_core.gateway.budgets.part import Limits
from router_core.gateway.call import Attempt, Call
from router_core.gateway.config.load import load_config
from router_core.gateway.config.watch import ConfigWatcher
from router_core.gateway.control.addresses import PRIVATE_URLS, FencedResolver, flag
from router_core.gateway.control.control import Control
from router_core.gateway.control.reports import HealthReports
from router_core.gateway.control.upkeep import ControlUpkeep, LookFirst
from router_core.gateway.environment import from_environment
from router_core.gateway.health.probes import Prober
from router_core.gateway.lifecycle.drivers import Drivers
from router_core.gateway.lifecycle.endpoints import Lifecycle
from router_core.gateway.lifecycle.upkeep import EndpointUpkeep
from router_core.gateway.outcome import Outcome
from router_core.gateway.pipeline import Pipeline
from router_core.gateway.pipeline.attempt import Attempts
from router_core.gateway.pipeline.hedge import Hedger
from router_core.gateway.pipeline.retry import Retry
from router_core.gateway.pipeline.wake import Waker
from router_core.gateway.registry import Registry
from router_core.gateway.resilience.standing import Standings
from router_core.gateway.transport.pool import ConnectionPool
from router_core.gateway.transport.protocol import Transport
from router_core.gateway.trials.trials import Trials
from router_core.gateway.values import GatewayConfig
from router_core.routing.router import Router
from router_core.secrets.resolve import SecretEnviron, Secrets
from router_core.state import StateStore
from router_core.stores.state_memory import MemoryStateStore
from router_core.telemetry.events import Events, Note

__all__ = ["RECORDS", "Gateway"]

RECORDS: Final = "ROUTER_GATEWAY_RECORDS"
"""Names a file that gets a line of JSON for each attempt."""


class Gateway:
    """Models behind one address. ``router.include_router(gateway.router)`` serves it.

    Everything that a call needs is made here and lives as long as this object: one pool of connections, one
    standing for each deployment. A configuration that is applied later changes what they are used for.
    """

    def __init__(
        self, config: GatewayConfig | None = None, *, path: str = "",
        environ: Mapping[str, str] | None = None, transport: Transport | None = None,
        state: StateStore | None = None, sink: Sink | None = None, clock: Clock | None = None,
        rng: random.Random | None = None, admission: Admission | None = None,
    ) -> None:  # fmt: skip
        """``path`` names the file that ``config`` came from, which is watched then; without ``config`` it is
        read, together with what ``environ`` says. ``sink`` keeps the records of attempts, by default in the
        file that ``ROUTER_GATEWAY_RECORDS`` names. ``state`` is where the processes of this gateway tell
        each other of endpoints, by default the app's ``ROUTER_STATE``. ``admission`` limits calls. Raises
        Misconfigured.
        """
        self.events = Events()
        self._secrets = Secrets(environ or {})
        self.clock: Clock = clock or SystemClock()
        self._environ: Mapping[str, str] = SecretEnviron(dict(environ or {}), self._secrets)
        self._path = path
        self.transport: Transport = transport or ConnectionPool(
            resolver=FencedResolver(lambda: self.control.fenced())
        )
        self.metrics = GatewayMetrics()
        self.standings = Standings(self.events)
        self.prices = Prices()
        records = self._environ.get(RECORDS, "").strip()
        if sink is None and records:
            sink = JsonLinesFile(records)
        self.journal = Journal(self.events)
        self.ledger = Ledger(
            self.prices, self.metrics, self.events, self.clock, sink=sink, on_stream=self._stream_settled
        )
        self._own_state = state is not None
        self._state: StateStore = state or MemoryStateStore(self.clock)
        self.lifecycle = Lifecycle(
            (), Drivers(self.transport, self.clock), self._state, self.clock, self.events,
            in_flight=self._in_flight,
        )  # fmt: skip
        self.registry = Registry(
            self.transport,
            self.standings,
            self.events,
            price_of=self.prices.price,
            locate=self.lifecycle.url_of,
        )
        self.analytics = Analytics(
            Collector(self.clock), Deployments(self.metrics, self._model_of), self._state, self.clock,
            self.events, lambda: {"version": self.registry.snapshot.version},
        )  # fmt: skip
        self.traces: CallTraces | None = None
        """None: nothing is traced."""
        self.metrics.watch(lambda: self.registry.snapshot.candidates.values())
        self._random = rng or random.Random()  # noqa: S311 - spreads calls, keeps no secret
        self.trials = Trials(self._state, self.clock, self.events)
        self.pipeline = self._pipeline()
        self.control = Control(
            lambda: self._state, self.registry.check, self._serve_by, self.clock, self.events,
            environ=self._environ, private=flag(self._environ, PRIVATE_URLS), prepare=self.registry.prepare,
        )  # fmt: skip
        self.reports = HealthReports(
            lambda: self._state, lambda: self.registry.snapshot.models, self.clock, time.monotonic
        )
        self._look_first: LookFirst | None = LookFirst(self.control, self.reports, None)
        self.limits = Limits(
            lambda: self.registry.snapshot.config, lambda: self._state, self.prices.reserved,
            self.pipeline.who, self.clock, self.events,
        )  # fmt: skip
        self.admission = admission or self.limits.admission
        self.apply(config if config is not None else self.read())
        self.router = self._router()
        self.router.extend(self)
        self.router.on_startup(self.ledger.write_at_once)
        self.router.on_startup(self.analytics.flush_with_calls)
        self.router.on_startup(self.limits.tend_with_calls)
        self.router.on_startup(self._open_state)
        self.router.on_startup(self.control.start)
        self.router.on_startup(self.trials.begin)
        self.router.on_startup(self.tell)
        self.router.on_shutdown(self.stop)

    @property
    def admission(self) -> Admission | None:
        """What limits calls; None: nothing does. May be set before the first call."""
        return self._admission

    @admission.setter
    def admission(self, admission: Admission | None) -> None:
        self._admission = self.pipeline.admission = admission
        if self._look_first is not None:
            self._look_first.inner, self.pipeline.admission = admission, self._look_first

    def _look_beside(self) -> None:
        """Look for other versions of the configuration in a loop from now on, and no more at calls."""
        self._look_first, self.pipeline.admission = None, self._admission

    # -- configuration -----------------------------------------------------------------------------------

    def read(self) -> GatewayConfig:
        """Read the file and the environment again. Raises Misconfigured, naming file and line."""
        return load_config(self._path, self._environ) if self._path else from_environment(self._environ)

    def apply(self, config: GatewayConfig) -> None:
        """Serve by another file from now on, and what was configured through the API beside it: by all of
        it or, when Misconfigured is raised, by what was before."""
        self.control.follow(config)

    def _serve_by(self, config: GatewayConfig) -> None:
        """Make a whole configuration the current one. Raises Misconfigured, and then nothing has changed."""
        self.registry.check(config)
        self.lifecycle.apply(config.endpoints)
        self.registry.apply(config)
        self.trials.follow(config)
        self.ledger.follow(each.deployment for each in self.registry.snapshot.candidates.values())

    # -- life --------------------------------------------------------------------------------------------

    def bind(self, host: Host) -> Sequence[Upkeep]:
        """Join an app: tell it what happens here, and hand it the loops that tend deployments."""
        self.events.subscribe(host.events.emit, host.events.heard)
        if host.tracer is not None and self.traces is None:
            self.traces = CallTraces(host.tracer)
            self.registry.wrap(self.traces.wrap)
        self.metrics.join(host.metrics)
        Gauges(self.limits.quota, self.trials).join(host.metrics)
        if not self._own_state and getattr(host.state, "multi_process", True):
            self._state = host.state
            self.lifecycle.share(host.state)
            self.analytics.share(host.state)
            self.trials.share(host.state)
            self.limits.share(host.state)
        if host.settings.allow_private_urls:
            self.control.allow_private()
        loops: list[Any] = [
            Prober(self.registry, self.events, ready=self.lifecycle.ready, ledger=self.ledger),
            EndpointUpkeep(self.lifecycle, self.events),
            self.ledger,
            self.analytics,
            self.trials,
            *self.limits.bind(host.settings),
        ]
        loops.append(ControlUpkeep(self.control, self.reports, self.events, began=self._look_beside))
        # without a file it only sees to clients that were replaced
        loops.append(ConfigWatcher(self._path, self.read, self.apply, self.events, drain=self.registry.drain,
                                   stale=self._secrets.stale))  # fmt: skip
        return loops

    def restored(self) -> None:
        """Draw otherwise than the process that a snapshot was taken of."""
        self._random.seed()

    def tell(self) -> None:
        """Say by what the gateway begins to serve, or that it has nothing to serve."""
        snapshot = self.registry.snapshot
        models = len(list(snapshot.models.values()))
        fields = {"version": snapshot.version, "models": models, "file": self._path or None}
        text, level = f"serving models: {models}{f', of {self._path}' if self._path else ''}", "info"
        if not models and not len(snapshot.selector):
            text, level = "there is no model to serve: ROUTER_GATEWAY names the file of models", "warning"
        self.events.emit(Note("gateway_serving", level, text, fields))

    async def _open_state(self) -> None:
        """Refuse to start with state that is set up wrongly; one that is away may come back."""
        if self.lifecycle.names:
            with suppress(StoreError):
                await self._state.open()

    async def stop(self) -> None:
        """Hand over the last accounts and close the connections."""
        await self.lifecycle.aclose()
        await self.limits.aclose()
        await self.ledger.aclose()
        await self.analytics.aclose()
        await self.trials.aclose()
        await self.registry.aclose()
        await self.transport.aclose()

    # -- parts -------------------------------------------------------------------------------------------

    def _pipeline(self) -> Pipeline:
        clock = time.monotonic
        attempts = Attempts(
            self.ledger, clock, touch=self.lifecycle.touch, found_asleep=self.lifecycle.found_asleep
        )
        hedger, waker = Hedger(attempts, clock), Waker(self.lifecycle, clock)
        return Pipeline(
            self.registry, Retry(attempts, hedger, waker, clock, self._random), attempts, clock, self._called,
            self.metrics.rule_matched, self.trials,
        )  # fmt: skip

    def _router(self) -> Router:
        router = Router()
        selector = EndpointSelector(
            lambda: [each.client for each in self.registry.snapshot.selector], self.events, self._random,
            self.metrics.selected,
        )  # fmt: skip
        for part in (
            OpenAIRoutes(self.pipeline, self.registry).router(),
            routing_router(self.pipeline, self.registry),
            selector.router(),
            endpoints_router(self.lifecycle),
            budgets_router(self.limits.admission, lambda: self.registry.snapshot.config),
            *control_routers(self.control, self.reports, self.registry, time.monotonic),
            trials_router(self.control, self.trials, self.pipeline),
            requests_router(self.analytics, self.registry),
            analytics_router(self.analytics, self.registry),
            overview_router(self.analytics, self.registry, self.lifecycle),
        ):
            router.include_router(part)
        return router

    def _called(self, call: Call, model_id: str, outcome: Outcome | None) -> None:
        """Count a call that has ended or begun to stream, and tell of it."""
        self.metrics.called(call, model_id, outcome)
        self.journal.called(call, model_id, outcome)
        self.analytics.called(call, model_id, outcome)
        self.limits.called()
        if self.traces is not None:
            self.traces.called(call, model_id, outcome)
        if call.trial:
            self.trials.called(call, model_id, outcome, time.monotonic())

    def _stream_settled(self, call: Call, attempt: Attempt) -> None:
        """Take an attempt of a stream that has been booked, with which the call may have ended."""
        self.journal.settled(call, attempt)
        self.analytics.settled(call, attempt)
        if self.traces is not None:
            self.traces.settled(call, attempt)
        if call.trial:
            self.trials.settled(call, attempt)

    def _model_of(self, deployment_id: str) -> str:
        """Return the model of a deployment; empty where it is gone."""
        candidate = self.registry.snapshot.candidates.get(deployment_id)
        return "" if candidate is None else candidate.deployment.model_id

    def _in_flight(self, endpoint: str) -> int:
        """Return the calls that an endpoint is serving."""
        return sum(
            candidate.standing.inflight
            for router in self.registry.snapshot.models.values()
            for candidate in router.candidates
            if candidate.deployment.endpoint == endpoint
        )
