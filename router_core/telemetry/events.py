"""What happened, as values; logs and metrics listen, and nothing that happens waits for them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import field
from typing import Any, NamedTuple

from router_core.records import dataclass

__all__ = ["Events", "JobMoved", "Listener", "Note", "RequestDone"]


class RequestDone(NamedTuple):
    """A request was answered (a stream: its last byte was handed over or its peer went away).

    A tuple because every request makes one: a frozen dataclass takes four times as long.
    """

    method: str
    path: str
    route: str
    """Key of the route, or empty when none matched: bounded, so it may be a metric label."""
    status: int
    seconds: float
    request_id: str
    principal: str = ""
    client: str = ""
    job_id: str = ""
    bytes_out: int = 0
    disconnected: bool = False


@dataclass(frozen=True, slots=True)
class JobMoved:
    """A record changed state."""

    job_id: str
    route: str
    move: str
    """add, claim, succeed, fail, retry, release, cancel, cancelled, rescue, due, deadline, dead_letter."""
    state: str
    reason: str = ""
    attempt: int = 0
    seconds: float = 0.0
    """For claim: how long it waited; for an end: how long its last attempt ran."""
    request_id: str = ""
    worker_id: str = ""


@dataclass(frozen=True, slots=True)
class Note:
    """Anything else that an operator should see. ``name`` is a stable word and feeds a counter;
    ``level`` is debug, info, warning or error."""

    name: str
    level: str = "info"
    message: str = ""
    fields: dict[str, Any] = field(default_factory=dict)
    error: BaseException | None = None
    """Its traceback goes to the log, never to a caller."""


Listener = Callable[[object], None]


class Events:
    """Hands each event to every listener; a failing listener harms neither the caller nor the others."""

    __slots__ = ("_listeners",)

    def __init__(self, *listeners: Listener) -> None:
        self._listeners = list(listeners)

    def subscribe(self, listener: Listener) -> None:
        """Add a listener; it is called in the thread where the event happens and must be quick."""
        self._listeners.append(listener)

    def emit(self, event: object) -> None:
        """Tell everybody."""
        for listener in self._listeners:
            try:
                listener(event)
            except Exception:  # noqa: S112 - the sink of last resort must not fail what it reports on
                continue
