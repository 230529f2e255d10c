"""Spans of calls and of their attempts, below that of the request; only where somebody traces.

The client of each deployment is wrapped: an attempt gets its span before it is sent, so that the upstream is
told of it. When the call has ended, its spans end with what was booked.
"""

from __future__ import annotations

import time as wall
from collections.abc import Callable
from time import monotonic
from typing import Any, Final, cast

from router_core.gateway.call import Attempt, Call
from router_core.gateway.clients.protocol import ModelClient
from router_core.gateway.outcome import Outcome
from router_core.gateway.reply import Reply
from router_core.telemetry import conventions as names
from router_core.telemetry.tracing import Tracer

__all__ = ["CallTraces"]

_REMEMBERED: Final = 10_000
"""Calls under way that are known at once."""
_EXPECTED: Final = frozenset({"ok", "cancelled"})


class _Spans:
    """The spans of one call."""

    __slots__ = ("asked", "attempts", "call", "span")

    def __init__(self, call: Call, span: Any) -> None:
        self.call = call
        self.span = span
        self.asked = ""
        """The model that the name stood for, once that is known."""
        self.attempts: dict[int, tuple[float, Any]] = {}
        """By number: when it began, and its span."""


class CallTraces:
    """Traces calls; told of them as the accounts are."""

    def __init__(self, tracer: Tracer, time: Callable[[], float] = monotonic) -> None:
        """``time`` is the clock of ``Call.started``."""
        self._tracer = tracer
        self._time = time
        self._open: dict[int, _Spans] = {}

    def wrap(self, client: ModelClient) -> ModelClient:
        """Return a client whose attempts are traced."""
        return cast("ModelClient", client if isinstance(client, _Traced) else _Traced(client, self))

    def sending(self, call: Call, client: ModelClient) -> None:
        """Begin the span of an attempt, and tell the upstream of it."""
        attempt, deployment = call.attempts[-1], client.deployment
        spans = self._open.get(id(call)) or self._begin(call)
        now = wall.time()
        provider = names.PROVIDERS.get(deployment.type, deployment.type)
        span = self._tracer.begin(
            f"{_operation(call)} {deployment.model}",
            {
                names.OPERATION: _operation(call), names.PROVIDER: provider, names.SYSTEM: provider,
                names.REQUEST_MODEL: deployment.model, names.DEPLOYMENT: deployment.id,
                names.ATTEMPT: attempt.number, names.HEDGE: attempt.hedge, names.STREAM: call.stream,
            },
            kind="client", at=now, parent=spans.span,
        )  # fmt: skip
        spans.attempts[attempt.number] = (now, span)
        call.headers = {**call.headers, **self._tracer.headers(span)}

    def called(self, call: Call, model_id: str, outcome: Outcome | None) -> None:
        """Take a call that has ended or begun to stream; ``None``: it was cancelled."""
        spans = self._open.get(id(call))
        if call.in_flight:
            if spans is not None:
                spans.asked = model_id
            return
        spans = spans or self._begin(call)
        self._end(spans, model_id, "cancelled" if outcome is None else outcome.kind)

    def settled(self, call: Call, attempt: Attempt) -> None:
        """Take an attempt of a stream that has ended, and with it perhaps the call."""
        spans = self._open.get(id(call))
        if spans is not None and spans.asked and not call.in_flight:
            self._end(spans, spans.asked, attempt.outcome)

    def _begin(self, call: Call) -> _Spans:
        began = wall.time() - max(0.0, self._time() - call.started)
        attributes: dict[str, Any] = {
            names.OPERATION: _operation(call),
            names.REQUEST_MODEL: call.model_name[:200],
            names.ENDPOINT: call.endpoint,
            names.STREAM: call.stream,
            names.REQUEST_ID: call.request_id,
            names.WORKSPACE: call.workspace or call.attributes.workspace_id[:200],
            names.AGENT_TYPE: call.attributes.agent_type[:200],
        }
        if call.max_tokens is not None:
            attributes[names.MAX_TOKENS] = call.max_tokens
        given = {name: value for name, value in attributes.items() if value != ""}
        spans = _Spans(call, self._tracer.begin(f"gateway {_operation(call)}", given, at=began))
        self._open[id(call)] = spans
        if len(self._open) > _REMEMBERED:
            lost = self._open.pop(next(iter(self._open)))
            self._tracer.end(lost.span, {}, error="lost")
        return spans

    def _end(self, spans: _Spans, model_id: str, outcome: str) -> None:
        call, tracer = spans.call, self._tracer
        self._open.pop(id(call), None)
        served = None
        for attempt in call.attempts:
            began, span = spans.attempts.get(attempt.number, (0.0, None))
            if served is None or not served.first_byte:
                served = attempt
            if span is not None:
                error = "" if attempt.outcome in _EXPECTED else attempt.outcome
                tracer.end(span, _of_attempt(attempt, call.stream), at=began + attempt.seconds, error=error)
        told: dict[str, Any] = {names.OUTCOME: outcome, names.ATTEMPTS: len(call.attempts)}
        if served is not None:
            told |= {**_used(served), names.DEPLOYMENT: served.deployment_id}
            told[names.RESPONSE_MODEL] = served.model_id
            if model_id and served.model_id != model_id:
                told[names.FALLBACK_FROM] = model_id
        for name, value in ((names.RULE, call.rule), (names.TRIAL, call.trial)):
            if value:
                told[name] = value
        tracer.end(spans.span, told, error="" if outcome in _EXPECTED else outcome)


class _Traced:
    """A client that tells of what it sends; everything else is that of the client within."""

    _client: ModelClient
    _traces: CallTraces

    def __init__(self, client: ModelClient, traces: CallTraces) -> None:
        # not by assignment, which is the client's
        self.__dict__.update(_client=client, _traces=traces)

    async def send(self, call: Call, deadline: float) -> Reply:
        """Make one attempt."""
        if call.attempts:  # a probe of ours has none
            self._traces.sending(call, self._client)
        return await self._client.send(call, deadline)

    def __getattr__(self, name: str) -> Any:
        if name == "ask":  # the way round ``send``
            raise AttributeError(name)
        return getattr(self._client, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._client, name, value)


def _operation(call: Call) -> str:
    return names.OPERATIONS.get(call.endpoint, call.endpoint)


def _of_attempt(attempt: Attempt, stream: bool) -> dict[str, Any]:
    told: dict[str, Any] = {names.OUTCOME: attempt.outcome, **_used(attempt)}
    if attempt.status:
        told[names.HTTP_STATUS] = attempt.status
    if stream and attempt.first_byte:
        told[names.FIRST_CHUNK] = attempt.first_byte
    return told


def _used(attempt: Attempt) -> dict[str, Any]:
    usage = attempt.usage
    if usage is None:
        return {}
    told: dict[str, Any] = {
        names.INPUT_TOKENS: usage.input_tokens,
        names.OUTPUT_TOKENS: usage.output_tokens,
        names.ESTIMATED: usage.estimated,
    }
    if usage.cached_tokens:
        told[names.CACHED_TOKENS] = usage.cached_tokens
    if usage.reasoning_tokens:
        told[names.REASONING_TOKENS] = usage.reasoning_tokens
    if attempt.cost is not None:
        told[names.COST] = attempt.cost
    return told
