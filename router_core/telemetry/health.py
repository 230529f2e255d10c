"""Health and metrics as neutral route functions, so that every platform can serve them.

``ready`` is the app's own judgement, ``{"ready": bool, "checks": {name: {"ok": bool, ...}}}``.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from router_core.http.message import Request, Response
from router_core.telemetry.metrics import CONTENT_TYPE, Metrics

__all__ = ["Health", "Stats"]

Ready = Callable[[], Mapping[str, Any] | Awaitable[Mapping[str, Any]]]
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

    async def live(self, request: Request) -> Response:
        """Answer 200 as long as this process can answer at all."""
        body = {"status": "ok", "service": self.service, "version": self.version}
        return Response.json({key: value for key, value in body.items() if value}, headers=_NO_STORE)

    async def readiness(self, request: Request) -> Response:
        """Answer 200 when work is taken, otherwise 503 and why."""
        state = await self._state()
        if state["ready"]:
            return Response.json({"status": "ready"}, headers=_NO_STORE)
        # names only: anybody may ask this
        body = {"status": "not_ready", "reasons": _failing(state)}
        return Response.json(body, 503, (*_NO_STORE, ("retry-after", "1")))

    async def detailed(self, request: Request) -> Response:
        """Answer with everything that an operator asks first."""
        state = dict(await self._state())
        body: dict[str, Any] = {
            "status": "ready" if state.pop("ready") else "not_ready",
            "service": self.service,
            "version": self.version,
            "uptime_s": round(time.time() - self.started_at, 3),
            **state,
        }
        stats = await self._stats()
        if stats is not None:
            body["jobs"] = _by_route(stats)
            body["oldest_queued_s"] = _age(stats)
        return Response.json(body, headers=_NO_STORE)

    async def exposition(self, request: Request) -> Response:
        """Answer with the metrics; a store that is down makes a gauge 0, not an error."""
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
        return Response.text(self.metrics.render(), content_type=CONTENT_TYPE, headers=_NO_STORE)

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


def _failing(state: Mapping[str, Any]) -> list[str]:
    return sorted(name for name, check in state.get("checks", {}).items() if not check.get("ok"))


def _by_route(stats: Stats) -> dict[str, dict[str, int]]:
    table: dict[str, dict[str, int]] = {}
    for (route, state), count in stats.by_route.items():
        table.setdefault(route, {})[str(state)] = count
    return table


def _age(stats: Stats) -> float:
    return round(max(0.0, time.time() - stats.oldest_queued_at), 3) if stats.oldest_queued_at else 0.0
