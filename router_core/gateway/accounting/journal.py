"""The line of the log that each call gets: who served it, why that one, who was tried before, what it cost.

Nothing is put into words here: a call costs a look at the level of the log, and where its line is wanted, one
value that holds what the line is made of. The thread that writes the log makes the words of it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any, Final

from router_core.gateway.accounting.records import MAX_NAME
from router_core.gateway.call import Attempt, Call
from router_core.gateway.outcome import Outcome
from router_core.gateway.select.decision import Decision
from router_core.records import dataclass
from router_core.telemetry.events import Events, Line
from router_core.telemetry.masking import mask_text

__all__ = ["Journal", "ModelCall"]

_INFO: Final = logging.INFO
_WARNING: Final = logging.WARNING
_EXPECTED: Final = frozenset(
    {"ok", "cancelled", "client_error", "not_found", "context_window", "content_policy"}
)
"""What nobody who runs the gateway has to look into."""
_SHOWN: Final = 20
"""Attempts, and removed deployments, that a line names."""


@dataclass(frozen=True, slots=True)
class ModelCall(Line):
    """A call of a model has ended, or its stream has."""

    request_id: str
    principal: str
    endpoint: str
    asked: str
    """The model as the caller wrote it."""
    model_id: str
    """The model that it stood for; empty: nobody knows it."""
    outcome: str
    """A word of ``outcome.KINDS``."""
    message: str
    """What is said about an outcome that is not ``ok``."""
    seconds: float
    stream: bool
    attempts: Sequence[Attempt]
    decision: Decision | None
    """The last choice that was made."""
    rule: str = ""
    left: Sequence[Decision] = ()
    """Those of models that had nobody to ask."""
    trial: str = ""
    """``id/arm`` of the trial that it took part in."""

    @property
    def importance(self) -> int:
        """Info for what went as it should, or was the caller's own mistake."""
        return _INFO if self.outcome in _EXPECTED else _WARNING

    def told(self) -> dict[str, Any]:
        """Return the members of the line."""
        served = self._served()
        asked = mask_text(self.asked[:MAX_NAME])
        whom = served.deployment_id if served is not None else "nobody"
        line: dict[str, Any] = {
            "event": "model_call",
            "message": f"{asked} -> {whom}: {self.outcome}",
            "request_id": self.request_id,
            "principal": self.principal,
            "endpoint": self.endpoint,
            "asked": asked,
            "model": served.model_id if served is not None else self.model_id or None,
            "deployment": None if served is None else whom,
            "outcome": self.outcome,
            "duration_ms": round(self.seconds * 1000, 3),
            "stream": self.stream,
        }
        if self.message:
            line["detail"] = mask_text(self.message[:500])
        if served is not None and self.model_id and served.model_id != self.model_id:
            line["fallback_from"] = self.model_id
        if self.rule:
            line["rule"] = self.rule
        if self.trial:
            line["trial"] = self.trial
        line["tried"] = [_tried(each) for each in self.attempts[:_SHOWN]]
        if self.decision is not None:
            line["decision"] = _decided(self.decision)
        left = [each for each in self.left if each is not self.decision]
        if left:
            line["left"] = [{"model": each.model_id, **_decided(each)} for each in left[:_SHOWN]]
        line.update(_used(self.attempts))
        return line

    def _served(self) -> Attempt | None:
        """Return the attempt whose answer went to the caller, be it an error or a stream that broke off."""
        for each in reversed(self.attempts):
            if each.outcome == "ok" or each.first_byte:
                return each
        last = self.attempts[-1] if self.attempts else None
        return last if last is not None and last.outcome == self.outcome in _EXPECTED else None


class Journal:
    """Tells of calls when they have ended. A stream that was begun ends with its last attempt."""

    __slots__ = ("_emit", "_heard", "_streams", "_time")

    def __init__(self, events: Events, time: Callable[[], float] = monotonic) -> None:
        self._emit = events.emit
        self._heard = events.heard
        self._time = time
        self._streams: dict[int, str] = {}
        """Streams under way, by identity of the call: the model that was asked for."""

    def called(self, call: Call, model_id: str, outcome: Outcome | None) -> None:
        """Take a call that has ended or begun to stream; ``None``: it was cancelled."""
        if call.stream and call.in_flight:
            self._streams[id(call)] = model_id
            return
        kind, message = ("cancelled", "") if outcome is None else (outcome.kind, outcome.message)
        if self._heard(_INFO if kind in _EXPECTED else _WARNING):
            self._tell(call, model_id, kind, message)

    def settled(self, call: Call, attempt: Attempt) -> None:
        """Take an attempt of a stream that has ended, and with it perhaps the call."""
        begun = self._streams.pop(id(call), None)
        if begun is not None and self._heard(_INFO if attempt.outcome in _EXPECTED else _WARNING):
            self._tell(call, begun, attempt.outcome, "")

    def _tell(self, call: Call, model_id: str, kind: str, message: str) -> None:
        self._emit(
            ModelCall(
                call.request_id, call.principal.id, call.endpoint, call.model_name, model_id, kind, message,
                max(0.0, self._time() - call.started), call.stream, call.attempts, call.decision, call.rule,
                call.left, call.trial,
            )
        )  # fmt: skip


def _tried(attempt: Attempt) -> dict[str, Any]:
    """Return one attempt: whom, and how that ended."""
    tried: dict[str, Any] = {
        "deployment": attempt.deployment_id,
        "outcome": attempt.outcome,
        "ms": round(attempt.seconds * 1000, 3),
    }
    if attempt.status:
        tried["status"] = attempt.status
    if attempt.first_byte:
        tried["first_byte_ms"] = round(attempt.first_byte * 1000, 3)
    if attempt.hedge:
        tried["hedge"] = True
    return tried


def _decided(decision: Decision) -> dict[str, Any]:
    """Return the last choice that was made: how, among how many, and what spoke against the others."""
    line: dict[str, Any] = {"strategy": decision.strategy, "considered": decision.considered}
    if decision.removals:
        line["removed"] = {each.id: each.reason for each in decision.removals[:_SHOWN]}
    if decision.reason:
        line["reason"] = decision.reason
    return line


def _used(attempts: Sequence[Attempt]) -> dict[str, Any]:
    """Return the tokens of all attempts together, and dollars; null where the price of one is not known."""
    usages = [each.usage for each in attempts if each.usage is not None]
    if not usages:
        return {}
    used: dict[str, Any] = {
        "input_tokens": sum(each.input_tokens for each in usages),
        "output_tokens": sum(each.output_tokens for each in usages),
    }
    if any(each.estimated for each in usages):
        used["estimated"] = True
    costs = [each.cost for each in attempts if each.usage is not None]
    used["cost"] = None if None in costs else sum(each for each in costs if each is not None) / 1_000_000
    return used
