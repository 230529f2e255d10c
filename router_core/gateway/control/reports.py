"""What others say about the health of models: an opinion that runs out, shared by all processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, Protocol

import msgspec

from router_core.clock import Clock
from router_core.errors import Conflict, PayloadTooLarge, StoreError, Unavailable
from router_core.gateway.rules.read import members, number, refuse, text
from router_core.gateway.select.candidate import Candidate
from router_core.state import StateStore

__all__ = ["HealthReports", "Report", "parse_report"]

_KEY: Final = "gwc/health"
_FIELDS: Final = ("status", "responseTime", "errorRate", "availability", "detail", "ttl", "endpointId")
_STATUSES: Final = ("healthy", "degraded", "unhealthy")
_TTL: Final = 60.0
_LONGEST: Final = 3600.0
_MOST: Final = 1000
_TRIES: Final = 10


class Report(msgspec.Struct, frozen=True):
    """One opinion."""

    status: str
    at: float
    """Seconds since the epoch, as ``until``."""
    until: float
    who: str = ""
    response_time: float | None = None
    """Milliseconds."""
    error_rate: float | None = None
    availability: float | None = None
    """Percent."""
    detail: str = ""
    endpoint: str = ""
    """Id of the endpoint that it is about; empty: all of the model's."""


class _Models(Protocol):
    @property
    def candidates(self) -> tuple[Candidate, ...]: ...


_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder(dict[str, Report]).decode


def parse_report(data: Mapping[str, Any], now: float, who: str) -> Report:
    """Return the report that a JSON object says. Raises ValueError, beginning with the wrong field."""
    given = members(data, "", _FIELDS)
    if "status" not in given:
        refuse("status", "is missing")
    status = text(given["status"], "status")
    if status not in _STATUSES:
        refuse("status", f"is {status[:40]!a}; there are {', '.join(_STATUSES)}")
    most = {"errorRate": 1.0, "availability": 100.0, "ttl": _LONGEST}
    figures = {name: number(given[name], name) for name in ("responseTime", *most) if name in given}
    for name, limit in most.items():
        if figures.get(name, 0.0) > limit:
            refuse(name, f"may be {limit:g} at most")
    return Report(
        status, now, now + figures.get("ttl", _TTL), who, figures.get("responseTime"),
        figures.get("errorRate"), figures.get("availability"),
        text(given["detail"], "detail") if "detail" in given else "",
        text(given["endpointId"], "endpointId") if "endpointId" in given else "",
    )  # fmt: skip


class HealthReports:
    """The reports of all processes; deployments that are said to be ill are left out while that holds."""

    def __init__(
        self, state: Callable[[], StateStore], models: Callable[[], Mapping[str, _Models]], clock: Clock,
        monotonic: Callable[[], float],
    ) -> None:  # fmt: skip
        """``monotonic`` is the clock that deployments are judged by."""
        self._state = state
        self._models = models
        self._clock = clock
        self._monotonic = monotonic
        self._reports: dict[str, Report] = {}
        self._token = ""
        self._advised: set[str] = set()
        """Ids of deployments that are left out on somebody's word."""

    def of(self, model_id: str) -> list[Report]:
        """Return what is said of a model, and has not run out."""
        now = self._clock.now()
        return [
            report
            for key, report in self._reports.items()
            if key.partition("\n")[0] == model_id and now < report.until
        ]

    async def put(self, model_id: str, report: Report) -> None:
        """Keep a report, and go by it. Raises StoreError; nothing has changed then."""
        state = self._state()
        for _ in range(_TRIES):
            entry = await state.get(_KEY)
            now = self._clock.now()
            held = {} if entry is None else _decoded(entry.value)
            held = {key: one for key, one in held.items() if now < one.until}
            held[f"{model_id}\n{report.endpoint}"] = report
            if len(held) > _MOST:
                raise PayloadTooLarge(f"there are {_MOST} reports already; some have to run out first")
            try:
                version = None if entry is None else entry.version
                token = await state.put(
                    _KEY, _encode(held), if_version=version, if_absent=entry is None, ttl=2 * _LONGEST
                )
            except Conflict:
                continue
            self._reports, self._token = held, token
            self._advise()
            return
        raise Unavailable("reports of health come in too quickly; try again", code="config_busy")

    async def look(self) -> None:
        """Take what other processes were told; never raises."""
        try:
            entry = await self._state().get(_KEY)
        except StoreError:
            return self._advise()  # what was said holds until it runs out
        if entry is None:
            self._reports, self._token = {}, ""
        elif entry.version != self._token:
            self._reports, self._token = _decoded(entry.value), entry.version
        self._advise()

    def _advise(self) -> None:
        """Tell the deployments; those that are not spoken of any more are told that, too."""
        if not self._reports and not self._advised:
            return
        wall, now = self._clock.now(), self._monotonic()
        advised: set[str] = set()
        for candidate, report in self._ill(wall):
            candidate.standing.advise(now + report.until - wall, report.detail or "reported", now)
            advised.add(candidate.id)
        for router in self._models().values() if self._advised - advised else ():
            for candidate in router.candidates:
                if candidate.id in self._advised - advised:
                    candidate.standing.advise(0.0, "reported", now)
        self._advised = advised

    def _ill(self, wall: float) -> Iterator[tuple[Candidate, Report]]:
        models = self._models()
        for key, report in self._reports.items():
            name, _, endpoint = key.partition("\n")
            router = models.get(name) if report.status == "unhealthy" and wall < report.until else None
            for candidate in router.candidates if router is not None else ():
                if not endpoint or candidate.id in (endpoint, f"{name}/{endpoint}"):
                    yield candidate, report


def _decoded(value: bytes) -> dict[str, Report]:
    try:
        return _decode(value)
    except msgspec.MsgspecError:
        return {}  # of another version of ours; reports run out soon
