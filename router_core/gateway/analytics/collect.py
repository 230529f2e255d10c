"""Adds each call to the sums of its minute when it ends, and keeps the last ones; nothing is awaited."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from itertools import islice
from time import monotonic
from typing import Any, Final

from router_core.clock import Clock, SystemClock
from router_core.gateway.accounting.records import MAX_NAME
from router_core.gateway.analytics.records import CallRecord
from router_core.gateway.analytics.sums import Table, Used
from router_core.gateway.call import Attempt, Call
from router_core.gateway.outcome import Outcome

__all__ = ["MINUTE", "Collector"]

MINUTE: Final = 60.0
UNKNOWN: Final = "unknown"
"""The model of calls for a name that nobody bears."""


class Collector:
    """Told of every call once; whoever flushes takes the minutes that are over."""

    __slots__ = ("_clock", "_epoch", "_next", "_recent", "_streams", "_time", "closed", "counted", "minute",
                 "rewound", "start")  # fmt: skip

    def __init__(
        self, clock: Clock | None = None, *, time: Callable[[], float] = monotonic, recent: int = 1000
    ) -> None:
        """``time`` is the clock of ``Call.started`` (``loop.time``, which is ``time.monotonic``)."""
        self._clock = clock or SystemClock()
        self._time = time
        self._epoch = 0.0
        self._streams: dict[int, str] = {}
        """Streams under way, by identity of the call: the model that was asked for."""
        self._recent: deque[tuple[Any, ...]] = deque(maxlen=recent)
        """The members of records of the last calls, the latest at the end."""
        self.counted = 0
        """Calls since the start."""
        self.closed: list[tuple[int, int, Table]] = []
        """Minutes that are over: ``rewound`` at their time, when they began, what was counted."""
        self.rewound = 0
        """How often the clock was set back, so that minutes came again."""
        self.minute = Table()
        self.start = 0
        """When the minute began, in seconds since the epoch."""
        self._next = 0.0
        self.synchronise()

    def synchronise(self) -> None:
        """Follow the machine's clock, which may have been set, and close the minute if it is over."""
        at = self._clock.now()
        self._epoch = at - self._time()
        self._turn(at)

    def called(self, call: Call, model_id: str, outcome: Outcome | None, now: float | None = None) -> None:
        """Take a call that has ended or begun to stream; ``None`` as outcome: it was cancelled."""
        if call.in_flight:
            self._streams[id(call)] = model_id
            return
        self._count(call, model_id, "cancelled" if outcome is None else outcome.kind, now or self._time())

    def settled(self, call: Call, attempt: Attempt, now: float | None = None) -> None:
        """Take an attempt of a stream that has ended, and with it perhaps the call."""
        begun = self._streams.get(id(call))
        if begun is not None and not call.in_flight:
            del self._streams[id(call)]
            self._count(call, begun, attempt.outcome, now or self._time())

    def last(self, count: int | None = None) -> list[CallRecord]:
        """Return the last calls, the latest first."""
        return [CallRecord(*each) for each in islice(reversed(self._recent), count)]

    def _count(self, call: Call, asked: str, outcome: str, now: float) -> None:
        at = now + self._epoch
        if not self.start <= at < self._next:
            self._turn(at)
        attempts, seconds = call.attempts, max(0.0, now - call.started)
        used = _used(attempts)
        given, made, cost, unpriced, estimated, served = used
        model, deployment, status, first = asked or UNKNOWN, "", 0, 0.0
        if served is not None:
            deployment, status = served.deployment_id, served.status
            if served.first_byte:
                model = served.model_id
                if call.stream:
                    first = served.started - call.started + served.first_byte
        attributes = call.attributes
        workspace, agent = call.workspace or attributes.workspace_id, attributes.agent_type
        row = self.minute.rows.get((model, workspace, agent, outcome))
        if row is None:
            row = self.minute.find((model, workspace, agent, outcome))
        row.count(seconds, first, used, len(attempts), model != asked and asked != "")
        self.counted += 1
        name = call.model_name
        # a tuple, since hardly any of them is ever looked at
        self._recent.append((
            at, call.request_id, workspace if len(workspace) <= MAX_NAME else workspace[:MAX_NAME],
            agent if len(agent) <= MAX_NAME else agent[:MAX_NAME], call.endpoint,
            name if len(name) <= MAX_NAME else name[:MAX_NAME], model, asked, deployment, outcome, status,
            seconds, first, given, made, None if unpriced else cost, estimated, len(attempts),
            call.stream, call.rule, call.trial,
        ))  # fmt: skip

    def _turn(self, at: float) -> None:
        """Begin the minute of a moment."""
        start = int(at // MINUTE * MINUTE)
        if start == self.start:
            return
        if self.minute:
            self.closed.append((self.rewound, self.start, self.minute))
            self.minute = Table()
        if start < self.start:
            self.rewound += 1
        self.start, self._next = start, start + MINUTE


def _used(attempts: Sequence[Attempt]) -> Used:
    """Return what attempts used together, and the one whose answer went to the caller, or the last."""
    if len(attempts) == 1:  # as nearly always
        only = attempts[0]
        usage, price = only.usage, only.cost
        if usage is None:
            return 0, 0, 0, False, False, only
        return usage.input_tokens, usage.output_tokens, price or 0, price is None, usage.estimated, only
    given = made = cost = 0
    estimated = unpriced = False
    served = None
    for attempt in attempts:
        usage = attempt.usage
        if usage is not None:
            given += usage.input_tokens
            made += usage.output_tokens
            estimated = estimated or usage.estimated
            if attempt.cost is None:
                unpriced = True
            else:
                cost += attempt.cost
        if served is None or not served.first_byte:
            served = attempt
    return given, made, cost, unpriced, estimated, served
