"""The one place that puts an app together: from settings to parts to an app."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from router_core.app import App, Host, Parts, Upkeep
from router_core.backends import open_blobs, open_jobs, open_queue, open_state
from router_core.binding.depends import DependencyScope
from router_core.binding.inputs import Intake
from router_core.binding.openapi import openapi_document
from router_core.binding.result import encode_result
from router_core.clock import Clock, SystemClock
from router_core.errors import Misconfigured
from router_core.http.message import Request, Response
from router_core.identity import Identity, open_identity, worker_keys
from router_core.jobs.inputs import load
from router_core.jobs.isolation import ChildPool
from router_core.jobs.openapi import SUBMIT_PARAMETERS
from router_core.jobs.reaper import Reaper
from router_core.jobs.routes import job_routes
from router_core.jobs.runner import Runner
from router_core.jobs.service import JobService
from router_core.jobs.sweeper import Sweeper
from router_core.jobs.watch import Hub, WatchedStore
from router_core.jobs.webhooks import WebhookSender
from router_core.jobs.worker import WorkerPool
from router_core.middleware.auditing import open_audit
from router_core.middleware.dispatch import Dispatch
from router_core.middleware.limit import limit_of
from router_core.middleware.stack import build_stack
from router_core.middleware.threads import CallThreads
from router_core.routing.product import UNLIMITED, product_route
from router_core.routing.route import Route
from router_core.routing.table import Table
from router_core.secrets.resolve import settings_with_secrets
from router_core.security.audit_routes import audit_routes
from router_core.security.fetch import GuardedHttp
from router_core.security.signing import parse_secrets, sign
from router_core.security.url_guard import UrlGuard
from router_core.settings import Settings
from router_core.telemetry.events import Events, Note
from router_core.telemetry.health import Health
from router_core.telemetry.logging import EventLogger, mask_of
from router_core.telemetry.metrics import Metrics
from router_core.telemetry.tracing import open_tracing

if TYPE_CHECKING:
    from router_core.jobs.blobs import BlobStore
    from router_core.jobs.dispatch import Dispatcher
    from router_core.jobs.store import Store
    from router_core.routing.router import Router
    from router_core.state import StateStore

__all__ = ["build_app", "open_blobs", "open_jobs"]

_SECURITY_SCHEMES: Final[Mapping[str, Mapping[str, Any]]] = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "apiKey": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
}
_JOB_PROTOCOL: Final = "1.0"


@dataclass(frozen=True, slots=True)
class Core:
    """What routes of an adapter may build on."""

    settings: Settings
    service: JobService
    routes: tuple[Route, ...]
    """Those of the author."""
    events: Events
    intake: Intake
    openapi: Callable[[], Mapping[str, Any]]
    pool: WorkerPool


ExtraRoutes = Callable[[Core], Iterable[Route]]


class _Build:
    """The steps of ``build_app``, one part after the other."""

    def __init__(
        self, router: Router, settings: Settings, clock: Clock, events: Events, scope: DependencyScope | None,
        identity: Identity | None = None,
    ) -> None:  # fmt: skip
        self.router = router
        self.settings = settings
        self.clock = clock
        self.events = events
        self.own = tuple(router.routes)
        self.by_key = {route.key: route for route in self.own}
        self.web = GuardedHttp(
            UrlGuard(allow_private=settings.allow_private_urls), max_bytes=settings.max_upload_bytes
        )
        self.intake = Intake(max_json_depth=settings.max_json_depth, fetch=self.web)
        self._document: Mapping[str, Any] | None = None
        self.threads = CallThreads()
        self.hooked = scope is not None
        self.scope = scope or DependencyScope(
            run_sync=self.threads.run, overrides=router.dependency_overrides
        )
        self.tracer = open_tracing(settings, events)
        if self.tracer is not None:
            events.subscribe(self.tracer)
        self._state: StateStore | None = None if identity is None else identity.state
        self.identity = identity or open_identity(settings, clock, events, self.state)

    def state(self) -> StateStore:
        """Return what processes share: made when it is first asked for, opened when it is first used."""
        if self._state is None:
            self._state = open_state(self.settings, self.clock, self.events)
        return self._state

    async def let_go(self) -> None:
        """Close what was opened for callers and extensions."""
        if self.identity is not None:
            await self.identity.close()
        if self._state is not None:
            await self._state.close()

    def app(self, store: Store, blobs: BlobStore, extra_routes: ExtraRoutes | None) -> App:
        """Put everything together."""
        settings, clock, events = self.settings, self.clock, self.events
        self.check_jobs()
        hub = Hub()
        watched = WatchedStore(store, hub, events)
        children = ChildPool(routes=self.by_key, events=events, origin=settings.app)
        runner = self.runner(watched, blobs, children, hub)
        pool = WorkerPool(
            store=watched, runner=runner, routes=self.by_key, clock=clock, settings=settings, events=events
        )
        dispatcher = open_queue(settings, clock, pool)
        runner.settlement.external = dispatcher.abilities.external
        service = JobService(
            store=watched, hub=hub, dispatcher=dispatcher, blobs=blobs, routes=self.by_key, clock=clock,
            settings=settings, events=events, check_url=self.web.check,
        )  # fmt: skip
        metrics = Metrics()
        events.subscribe(metrics)
        # for apps that are mounted elsewhere; where the server's own log is installed, this one is silent
        events.subscribe(EventLogger(mask=mask_of(settings)))
        health = Health(
            lambda: app.ready(),
            metrics,
            stats=watched.stats,
            service=self.router.title,
            version=self.router.version,
        )
        core = Core(settings, service, self.own, events, self.intake, lambda: self.document(routes), pool)
        realms = worker_keys(settings, self.by_key)
        remote = self.remote_routes(service, dispatcher, lambda: app.background) if realms else ()
        routes = (
            *self.own,
            *self.product_routes(core, health),
            *(self.identity.routes() if self.identity is not None else ()),
            *remote,
            *(extra_routes(core) if extra_routes else ()),
        )
        identity = self.identity
        audit = open_audit(settings, self.state, clock, events, routes, always=identity is not None)
        if audit is not None:
            routes = (*routes, *audit_routes(audit.trail))
        limit, counting = limit_of(settings, clock, events, self.state)
        table = Table(routes)
        dispatch = Dispatch(service, self.intake, self.scope, events)
        stack = build_stack(
            settings=settings, table=table, dispatch=dispatch, events=events,
            authenticator=None if identity is None else identity.authenticator, realms=realms,
            exception_handlers=self.router.exception_handlers, monotonic=clock.monotonic,
            limit=limit, audit=audit,
        )  # fmt: skip
        children.check()
        extensions = self.extensions(metrics, health)
        upkeep = (
            *self.upkeep(watched, blobs, dispatcher), *extensions,
            *(() if audit is None else (audit.trail,)), *counting,
        )  # fmt: skip
        alike = (*self.router.extensions, *upkeep)
        app = App(
            Parts(
                settings=settings, clock=clock, events=events, routes=routes, table=table, store=watched,
                blobs=blobs, dispatcher=dispatcher, service=service, runner=runner, pool=pool, stack=stack,
                dispatch=dispatch, scope=self.scope, metrics=metrics,
                upkeep=upkeep,
                restored=tuple(part.restored for part in alike if hasattr(part, "restored")),
                on_startup=(
                    *(() if identity is None else (identity.check,)),
                    *(() if self.hooked else self.router.startup_hooks),
                ),
                on_shutdown=() if self.hooked else tuple(self.router.shutdown_hooks),
                closing=(
                    children.close, self.threads.close,
                    *(() if audit is None else (audit.trail.close,)), self.let_go,
                    *(() if self.tracer is None else (self.tracer.close,)),
                ),
                remarks=self.remarks(dispatcher), tracer=self.tracer,
            )
        )  # fmt: skip
        return app

    def extensions(self, metrics: Metrics, health: Health) -> Sequence[Upkeep]:
        """Bind the extensions of the router and return their loops."""
        settings = self.settings
        if not self.router.extensions and settings.state == Settings().state and self._state is None:
            return ()  # nobody would ask for it, and a cold start need not load it
        state = self.state()
        health.beside["state"] = state.ping
        host = Host(settings, self.clock, self.events, metrics, state, self.tracer)
        return [loop for each in self.router.extensions for loop in each.bind(host)]

    def check_jobs(self) -> None:
        """Raise Misconfigured where there are job routes and no store for their records."""
        job = next((route for route in self.own if route.kind == "job"), None)
        if job is not None and self.settings.jobs.startswith("none:"):
            raise Misconfigured(
                f"{job.key} is a job route, and ROUTER_JOBS={self.settings.jobs} keeps no jobs: use "
                "sqlite:///path, or another store"
            )

    def remarks(self, dispatcher: Dispatcher) -> tuple[Note, ...]:
        """Return what to say at the start: an option of a route that the queue here does nothing about.

        The same router has to run everywhere, so it is no error; a caller who asks for it is refused.
        """
        if dispatcher.abilities.priority:
            return ()
        text = "has priority={}, and the queue of ROUTER_QUEUE={} knows no priorities: jobs run as they come"
        return tuple(
            Note(
                "priority_ignored",
                "warning",
                f"{route.key} {text.format(route.job.priority, self.settings.queue)}",
            )
            for route in self.own
            if route.job.priority
        )

    def runner(self, store: Store, blobs: BlobStore, children: ChildPool, hub: Hub) -> Runner:
        """Return what runs a claimed job."""
        return Runner(
            store=store, routes=self.by_key, blobs=blobs, clock=self.clock, settings=self.settings,
            events=self.events, load_inputs=lambda job, _route: load(job, blobs), encode=encode_result,
            children=children, subscribe=hub.subscribe,
            new_scope=lambda run_sync: DependencyScope(app=self.scope, run_sync=run_sync),
        )  # fmt: skip

    def remote_routes(
        self, service: JobService, dispatcher: Dispatcher, holds: Callable[[], bool]
    ) -> Sequence[Route]:
        """Return the routes under which workers elsewhere come for jobs."""
        if dispatcher.abilities.external:
            raise Misconfigured(
                "remote workers take jobs from the record store, and the queue of "
                f"ROUTER_QUEUE={self.settings.queue} hands them out as well: set ROUTER_QUEUE=pull, or "
                "inprocess to work here, too"
            )
        from router_core.jobs.remote import RemoteRoutes
        from router_core.jobs.remote_wait import Wakeups

        wakeups = getattr(dispatcher, "wakeups", None)
        if wakeups is None:  # a queue that knows only the workers of this process
            wakeups = Wakeups()
            self.events.subscribe(wakeups.listen)
        return RemoteRoutes(
            service=service, routes=self.by_key, dispatcher=dispatcher, wakeups=wakeups, events=self.events,
            holds=holds, title=self.router.title,
        ).routes()  # fmt: skip

    def product_routes(self, core: Core, health: Health) -> list[Route]:
        """Return the routes that every service has."""

        async def document(request: Request) -> Response:
            """Describe this service."""
            return Response.json(core.openapi())

        system = (
            ("/openapi.json", document, "The OpenAPI document", True),
            ("/health", health.live, "Whether this process answers", True),
            ("/health/ready", health.readiness, "Whether this process takes work", True),
            ("/health/detailed", health.detailed, "The state of every part", False),
            ("/metrics", health.exposition, "Metrics for Prometheus", False),
        )
        routes = job_routes(core.service, self.own)
        for path, handler, summary, public in system:
            scopes = () if public else ("read",)
            meta = {UNLIMITED: True} if path in ("/health", "/health/ready") else {}
            routes.append(
                product_route(
                    "GET", path, handler, summary, public=public, scopes=scopes, tags=("system",), meta=meta
                )
            )
        return routes

    def document(self, routes: Iterable[Route]) -> Mapping[str, Any]:
        """Return the OpenAPI document; it is made when it is first asked for."""
        if self._document is None:
            router, settings = self.router, self.settings
            self._document = openapi_document(
                routes,
                title=router.title or settings.app or "router-core service",
                version=router.version or "0",
                description=router.description,
                servers=(settings.server_url,) if settings.server_url else (),
                security_schemes=_SECURITY_SCHEMES if settings.authenticates else None,
                # what fastsdk looks for: this service speaks its job protocol
                job_parameters=SUBMIT_PARAMETERS,
                info_extra={"apipod": {"compute": "serverless", "version": _JOB_PROTOCOL}},
            )
        return self._document

    def upkeep(self, store: Store, blobs: BlobStore, dispatcher: Dispatcher) -> tuple[Upkeep, ...]:
        """Return the loops beside the work."""
        loops: list[Upkeep] = [
            Reaper(
                store=store, routes=self.by_key, clock=self.clock, settings=self.settings, events=self.events,
                dispatcher=dispatcher,
            ),
            Sweeper(
                store=store, blobs=blobs, dispatcher=dispatcher, routes=self.by_key, clock=self.clock,
                settings=self.settings, events=self.events,
            ),
        ]  # fmt: skip
        if _signs(self.settings):
            loops.append(
                WebhookSender(
                    store=store, clock=self.clock, settings=self.settings, events=self.events,
                    post=self.web.post, sign=sign,
                )
            )  # fmt: skip
        return tuple(loops)


def build_app(
    router: Router,
    settings: Settings | None = None,
    *,
    clock: Clock | None = None,
    store: Store | None = None,
    blobs: BlobStore | None = None,
    events: Events | None = None,
    extra_routes: ExtraRoutes | None = None,
    scope: DependencyScope | None = None,
    identity: Identity | None = None,
) -> App:
    """Return the app of a router: every part chosen by the settings, or given (by tests).

    Nothing is opened or started yet. Raises Misconfigured when the settings or a route cannot work.
    ``extra_routes`` adds the routes of an adapter; ``scope`` holds the app-wide dependencies where the
    service is alive already, so that its hooks have run, and ``identity`` knows its callers.
    """
    if settings is None:
        settings = Settings.from_env(os.environ, **router.settings_overrides)
    settings = settings_with_secrets(settings, os.environ)
    clock = clock or SystemClock()
    build = _Build(router, settings, clock, events or Events(), scope, identity)
    return build.app(store or open_jobs(settings, clock), blobs or open_blobs(settings, clock), extra_routes)


def _signs(settings: Settings) -> bool:
    """Whether there are secrets to sign webhooks with; raises Misconfigured for one that cannot."""
    if not settings.webhook_secret:
        return False
    try:
        if not parse_secrets(settings.webhook_secret):
            raise Misconfigured("it holds no secret")
        return True
    except Misconfigured as error:
        raise Misconfigured(
            f"ROUTER_WEBHOOK_SECRET cannot be used: {error}; `router-core keys webhook` makes one"
        ) from None
