"""What happened, as values; logs and metrics listen, and nothing that happens waits for them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import field
from typing import Any, NamedTuple

from router_core.records import dataclass

__all__ = ["Events", "Hears", "JobMoved", "Line", "Listener", "Note", "RequestDone"]


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


class Line:
    """Base of events that know what their line in the log says. Whoever makes many of them asks
    ``Events.heard`` first: they are for the log alone."""

    __slots__ = ()

    @property
    def importance(self) -> int:
        """A number of the logging module."""
        raise NotImplementedError

    def told(self) -> dict[str, Any]:
        """Return the members of the line, ``event`` first; called where lines are written, beside the calls.

        They are written as they are: what others wrote has to be masked, and its length bounded.
        """
        raise NotImplementedError


Listener = Callable[[object], None]
Hears = Callable[[int], bool]


class Events:
    """Hands each event to every listener; a failing listener harms neither the caller nor the others."""

    __slots__ = ("_hearing", "_listeners")

    def __init__(self, *listeners: Listener) -> None:
        self._listeners: list[Listener] = []
        self._hearing: list[Hears] = []
        for listener in listeners:
            self.subscribe(listener)

    def subscribe(self, listener: Listener, hears: Hears | None = None) -> None:
        """Add a listener; it is called in the thread where the event happens and must be quick.

        ``hears`` says whether it writes down what is of a level; a log has a method of that name.
        """
        self._listeners.append(listener)
        hears = hears or getattr(listener, "hears", None)
        if hears is not None:
            self._hearing.append(hears)

    def heard(self, level: int) -> bool:
        """Return whether a log writes down what is of this level (a number of the logging module)."""
        for hears in self._hearing:
            if hears(level):
                return True
        return False

    def emit(self, event: object) -> None:
        """Tell everybody."""
        for listener in self._listeners:
            try:
                listener(event)
            except Exception:  # noqa: S112 - the sink of last resort must not fail what it reports on
                continue
