"""Health and metrics as neutral route functions, so that every platform can serve them.

``ready`` is the app's own judgement, ``{"ready": bool, "checks": {name: {"ok": bool, ...}}}``.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from router_core.clock import rfc3339
from router_core.errors import RouterError
from router_core.http.message import Request, Response
from router_core.routing.permission import check_every_workspace
from router_core.telemetry.metrics import CONTENT_TYPE, Metrics

__all__ = ["Health", "Ping", "Stats", "timed"]

Ready = Callable[[], Mapping[str, Any] | Awaitable[Mapping[str, Any]]]
Ping = Callable[[], Awaitable[None]]
_PING_SECONDS: Final = 6.0
_SERVICE: Final = "router-core service"
_NO_STORE = (("cache-control", "no-store"),)


class Stats(Protocol):
    """Counts of open jobs: what ``JobUpkeep.stats`` gives."""

    @property
    def by_route(self) -> Mapping[tuple[str, Any], int]:
        """Open jobs by route and state."""

    @property
    def oldest_queued_at(self) -> float:
        """When the longest waiting job became ready; 0 means none waits."""


@dataclass(frozen=True, slots=True)
class Health:
    """The handlers of /health, /health/ready, /health/detailed and /metrics."""

    ready: Ready
    metrics: Metrics
    stats: Callable[[], Awaitable[Stats]] | None = None
    """Asked when metrics or details are read, not on every change."""
    service: str = ""
    version: str = ""
    started_at: float = field(default_factory=time.time)
    beside: dict[str, Ping] = field(default_factory=dict)
    """What else is asked for details, by name; a service takes work without it."""

    async def live(self, request: Request) -> Response:
        """Answer 200 as long as this process can answer at all."""
        return Response.json(self._told("healthy"), headers=_NO_STORE)

    async def readiness(self, request: Request) -> Response:
        """Answer 200 when work is taken, otherwise 503 and why."""
        state = await self._state()
        if state["ready"]:
            return Response.json(self._told("ready"), headers=_NO_STORE)
        # names only: anybody may ask this
        body = {**self._told("not_ready"), "reasons": _failing(state)}
        return Response.json(body, 503, (*_NO_STORE, ("retry-after", "1")))

    async def detailed(self, request: Request) -> Response:
        """Answer with everything that an operator asks first."""
        state = dict(await self._state())
        body: dict[str, Any] = {
            **self._told("ready" if state.pop("ready") else "not_ready"),
            "uptime_s": round(time.time() - self.started_at, 3),
            **state,
        }
        if self.beside:
            pings = await asyncio.gather(*map(timed, self.beside.values()))
            body["dependencies"] = dict(zip(self.beside, pings, strict=True))
        stats = await self._stats()
        if stats is not None:
            body["jobs"] = _by_route(stats)
            body["oldest_queued_s"] = _age(stats)
        return Response.json(body, headers=_NO_STORE)

    async def exposition(self, request: Request) -> Response:
        """Answer with the metrics, which are of all workspaces; a store that is down makes a gauge 0."""
        check_every_workspace(request.principal)
        state = await self._state()
        self.metrics.ready.set(1.0 if state["ready"] else 0.0)
        if self.stats is not None:
            stats = await self._stats()
            self.metrics.store_up.set(0.0 if stats is None else 1.0)
            if stats is not None:
                self.metrics.jobs.replace(
                    {
                        (route, str(job_state)): float(count)
                        for (route, job_state), count in stats.by_route.items()
                    }
                )
                self.metrics.oldest_queued.set(_age(stats))
        return Response.text(await self.metrics.exposed(), content_type=CONTENT_TYPE, headers=_NO_STORE)

    def _told(self, status: str) -> dict[str, Any]:
        """Return what every answer says."""
        at = rfc3339(time.time(), "milliseconds")
        version = self.version or _own_version()
        return {"status": status, "timestamp": at, "service": self.service or _SERVICE, "version": version}

    async def _state(self) -> Mapping[str, Any]:
        try:
            state = self.ready()
            if inspect.isawaitable(state):
                state = await state
        except Exception as error:
            return {"ready": False, "checks": {"readiness": {"ok": False, "reason": type(error).__name__}}}
        return state

    async def _stats(self) -> Stats | None:
        if self.stats is None:
            return None
        try:
            return await self.stats()
        except Exception:
            return None


async def timed(ping: Ping) -> dict[str, Any]:
    """Ask something whether it is there: ``ok``, how long that took, and a reason where it is not."""
    began = time.perf_counter()
    try:
        async with asyncio.timeout(_PING_SECONDS):
            await ping()
    except (RouterError, TimeoutError, OSError) as error:
        found: dict[str, Any] = {"ok": False, "reason": str(error) or "no answer in time"}
    else:
        found = {"ok": True}
    return {**found, "latency_ms": round((time.perf_counter() - began) * 1000, 3)}


@functools.cache
def _own_version() -> str:
    """Return the version of this package, for services that have none; looked up by who asks for health."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("router-core")
    except PackageNotFoundError:  # bundled without its metadata
        return "0"


def _failing(state: Mapping[str, Any]) -> list[str]:
    return sorted(name for name, check in state.get("checks", {}).items() if not check.get("ok"))


def _by_route(stats: Stats) -> dict[str, dict[str, int]]:
    table: dict[str, dict[str, int]] = {}
    for (route, state), count in stats.by_route.items():
        table.setdefault(route, {})[str(state)] = count
    return table


def _age(stats: Stats) -> float:
    return round(max(0.0, time.time() - stats.oldest_queued_at), 3) if stats.oldest_queued_at else 0.0
