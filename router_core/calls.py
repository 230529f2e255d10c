"""A service of plain calls, ready before its jobs, documents and metrics are put together.

Where a process is started for a call, as on AWS Lambda, what that call does not need only makes it wait.
The routes of the author are served by the same layers as everywhere; any other request, a job's or one that
finds no route among them, is answered by the whole app, which is built when the first of those comes.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Coroutine
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from router_core.binding.depends import DependencyScope, RunSync, run_hook
from router_core.binding.inputs import Intake
from router_core.clock import Clock, SystemClock
from router_core.errors import RouterError
from router_core.middleware.dispatch import Dispatch
from router_core.middleware.stack import build_stack
from router_core.middleware.threads import CallThreads
from router_core.routing.permission import manages
from router_core.routing.table import Match, Table
from router_core.telemetry.events import Events, Note

if TYPE_CHECKING:
    from router_core.app import App
    from router_core.http.media import File
    from router_core.http.message import Request, Response
    from router_core.identity import Identity
    from router_core.middleware.exchange import Authenticator
    from router_core.middleware.limit import Limit
    from router_core.routing.router import Router
    from router_core.security.fetch import GuardedHttp
    from router_core.settings import Settings

__all__ = ["CallService"]


class CallService:
    """Answers calls of a router that has no job routes; drives like an App."""

    def __init__(
        self,
        router: Router,
        settings: Settings,
        *,
        clock: Clock | None = None,
        events: Events | None = None,
        run_sync: RunSync | None = None,
    ) -> None:
        """``run_sync`` runs sync functions, by default in threads."""
        named = (settings.api_keys, settings.jwt_secret, settings.state, settings.encryption_key)
        if any("${" in text for text in named):
            from router_core.secrets.resolve import settings_with_secrets  # most begin without it

            settings = settings_with_secrets(settings, os.environ)
        self.settings = settings
        self.clock: Clock = clock or SystemClock()
        self.events = events or Events()
        self._router = router
        self._threads = CallThreads()
        self._scope = DependencyScope(
            run_sync=run_sync or self._threads.run, overrides=router.dependency_overrides
        )
        self._table = Table(router.routes)
        intake = Intake(max_json_depth=settings.max_json_depth, fetch=self._fetch)
        keys, self._identity = _callers(settings, self.clock, self.events)
        stack = build_stack(
            settings=settings, table=self._table, events=self.events, authenticator=keys,
            monotonic=self.clock.monotonic,
            dispatch=Dispatch(None, intake, self._scope, self.events),
            exception_handlers=router.exception_handlers, limit=_limit(settings, self.clock, self.events),
        )  # fmt: skip
        self._handle, self._admit = stack.handle, stack.admit
        limited = bool(settings.rate_limit_max or settings.rate_limit_window_ms)
        self._by_whole = limited and not settings.state.startswith("memory:")
        """Whether the whole app answers all, since it counts them together with other processes."""
        self._web: GuardedHttp | None = None
        self._app: App | None = None
        self._lock: asyncio.Lock | None = None
        self._started = False

    # -- life ----------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Run the start-up hooks."""
        if self._started:
            return
        try:
            for hook in self._router.startup_hooks:
                await run_hook(hook)
        except BaseException:
            await self._scope.aclose()
            raise
        self._started = True

    async def stop(self) -> None:
        """Run the shut-down hooks and let go of everything."""
        if not self._started:
            return
        self._started = False
        if self._app is not None:
            await self._app.stop(0)
        for hook in self._router.shutdown_hooks:
            try:
                await run_hook(hook)
            except Exception as error:
                self.events.emit(Note("shutdown_hook_failed", "error", str(error), error=error))
        if self._identity is not None:
            await self._identity.close()
        self._threads.close()
        await self._scope.aclose()

    async def whole(self) -> App:
        """Return the whole app, which shares dependencies, events and clock with the calls."""
        if self._app is not None:
            return self._app
        self._lock = self._lock or asyncio.Lock()
        async with self._lock:
            if self._app is None:
                from router_core.wiring import build_app

                app = build_app(
                    self._router, self.settings, clock=self.clock, events=self.events, scope=self._scope,
                    identity=self._identity,
                )  # fmt: skip
                await app.start(background=False)
                self._app = app
        return self._app

    # -- calls ---------------------------------------------------------------------------------------

    def handle(self, request: Request) -> Coroutine[Any, Any, Response]:
        """Answer a request; errors are answers too."""
        match = self._call(request)
        return self._handle_whole(request) if match is None else self._handle(request, match)

    async def _handle_whole(self, request: Request) -> Response:
        return await (await self.whole()).handle(request)

    async def admit(self, request: Request) -> int | None:
        """Judge a request before its body is looked at."""
        if self._call(request) is not None:
            return await self._admit(request)
        return await (await self.whole()).admit(request)

    def _call(self, request: Request) -> Match | None:
        """Return the route of the author that answers, unless with a job or with what is written down."""
        if self._by_whole or "prefer" in request.headers:
            return None
        try:
            match = self._table.match(request.method, request.path)
        except RouterError:
            return None
        if match.route.kind == "job" or manages(match.route):
            return None
        return match

    async def _fetch(self, url: str) -> File:
        if self._web is None:
            from router_core.security.fetch import GuardedHttp
            from router_core.security.url_guard import UrlGuard

            guard = UrlGuard(allow_private=self.settings.allow_private_urls)
            self._web = GuardedHttp(guard, max_bytes=self.settings.max_upload_bytes)
        return await self._web(url)


def _callers(
    settings: Settings, clock: Clock, events: Events
) -> tuple[Authenticator | None, Identity | None]:
    """Return what knows the callers, and the rest of it where that is more than keys of a setting."""
    if not settings.authenticates:
        return None, None
    if replace(settings, api_keys="").authenticates:
        from router_core.backends import open_state
        from router_core.identity import Identity

        identity = Identity(settings, clock, events, lambda: open_state(settings, clock, events))
        return identity.authenticator, identity
    from router_core.security.api_keys import ApiKeys
    from router_core.security.roles import parse_roles

    return ApiKeys.from_setting(settings.api_keys, roles=parse_roles(settings.roles)), None


def _limit(settings: Settings, clock: Clock, events: Events) -> Limit | None:
    if not (settings.rate_limit_max or settings.rate_limit_window_ms):
        return None
    from router_core.middleware.limit import limit_of

    return limit_of(settings, clock, events)[0]
