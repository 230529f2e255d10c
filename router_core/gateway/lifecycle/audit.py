"""Who did what to which endpoint, and whether it worked; and every change of a state."""

from __future__ import annotations

from typing import Any, Literal

from router_core.clock import Clock
from router_core.gateway.lifecycle.endpoint import Endpoint
from router_core.gateway.lifecycle.states import State
from router_core.telemetry.events import Events, Note

__all__ = ["Audit", "Operation"]

Operation = Literal["wake", "sleep", "status", "auto_sleep_setting"]


class Audit:
    """Writes notes to the events: they are lines of the log, and counters by their name."""

    def __init__(self, events: Events, clock: Clock) -> None:
        self._events = events
        self._now = clock.now

    def operation(
        self, operation: Operation, endpoint: str, who: str, error: str = "", *, detail: str = ""
    ) -> None:
        """Record one operation; without an ``error`` it worked."""
        fields: dict[str, Any] = {
            "timestamp": int(self._now()), "operation": operation, "endpoint": endpoint, "who": who,
            "success": not error, "error": error or None,
        }  # fmt: skip
        if detail:
            fields["detail"] = detail
        text = f"{operation} of endpoint {endpoint} by {who}: {error or detail or 'done'}"
        level = "warning" if error else "info"
        self._events.emit(Note(f"endpoint_{operation}", level, text, fields))

    def change(self, endpoint: Endpoint, before: State) -> None:
        """Record a change of state, if there was one."""
        after = endpoint.state
        if after is before:
            return
        fields: dict[str, Any] = {
            "endpoint": endpoint.spec.name, "before": before.value, "after": after.value, "sub": endpoint.sub,
        }  # fmt: skip
        if endpoint.message:
            fields["said"] = endpoint.message
        level = "warning" if after in (State.ERROR, State.UNKNOWN) else "info"
        text = f"endpoint {endpoint.spec.name}: {before} -> {after}"
        self._events.emit(Note("endpoint_state", level, text, fields))

    def fault(self, endpoint: str, error: Exception) -> None:
        """Record an error that no driver should raise."""
        text = f"endpoint {endpoint}: looking failed"
        self._events.emit(Note("endpoint_look_failed", "error", text, {"endpoint": endpoint}, error))

    def awake(self, endpoint: str, seconds: float) -> None:
        """Record that a wake has come to its good end."""
        fields: dict[str, Any] = {"endpoint": endpoint, "seconds": round(seconds, 3)}
        self._events.emit(Note("endpoint_awake", "info", f"endpoint {endpoint} is awake", fields))
