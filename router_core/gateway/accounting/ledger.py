"""The account of every attempt: what it used and cost, counted at once and written down beside the calls."""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Callable, Iterable
from time import monotonic
from typing import Any, Final

from router_core.clock import Clock, SystemClock
from router_core.gateway.accounting.metrics import DeploymentCells, GatewayMetrics
from router_core.gateway.accounting.prices import Prices, Tariff
from router_core.gateway.accounting.records import MAX_NAME, AttemptRecord
from router_core.gateway.accounting.sinks import Sink
from router_core.gateway.call import Attempt, Call, Usage
from router_core.gateway.values import Deployment
from router_core.telemetry.events import Events, Note

__all__ = ["Ledger"]

INTERVAL: Final = 1.0
BATCH: Final = 1000
DRAIN: Final = 5.0
"""Seconds that the end of the process waits for the sink."""
_RETRY: Final = 0.1
_AUDIO: Final = "audio/transcriptions"
_BILLED: Final = frozenset({"ok", "cancelled"})
"""Outcomes after which what was sent is booked even if nobody counted it, as an estimate."""
_MAYBE_BILLED: Final = frozenset({"timeout", "unclear", "malformed"})
"""The same, unless it is known that the upstream has not done the work."""


class _Account:
    """What is needed to settle the attempts of one deployment, looked up once."""

    __slots__ = ("cells", "deployment", "tariff")

    def __init__(self, deployment: Deployment, tariff: Tariff | None, cells: DeploymentCells) -> None:
        self.deployment = deployment
        self.tariff = tariff
        self.cells = cells


class Ledger:
    """Settles attempts; an Upkeep hands their records on to the sink.

    Records wait in a ring: a sink that is slow or fails keeps no call waiting, and when the ring is full the
    oldest are lost, counted and reported.
    """

    name = "ledger"

    def __init__(
        self, prices: Prices, metrics: GatewayMetrics, events: Events, clock: Clock | None = None, *,
        sink: Sink | None = None, maxsize: int = 10_000, recent: int = 1000, interval: float = INTERVAL,
        time: Callable[[], float] = monotonic, on_stream: Callable[[Call, Attempt], None] | None = None,
    ) -> None:  # fmt: skip
        """``time`` is the clock of ``Attempt.started`` (``loop.time``, which is ``time.monotonic``);
        ``on_stream`` is told of attempts of streams once they are booked."""
        self.prices = prices
        self.metrics = metrics
        self.dropped = 0
        """Records that were lost."""
        self._events = events
        self._sink = sink
        self._maxsize = max(1, maxsize)
        self._interval = interval
        self._clock = clock or SystemClock()
        self._time = time
        self._on_stream = on_stream
        self._accounts: dict[str, _Account] = {}
        self._to_learn: list[Deployment] = []
        self._pending: deque[AttemptRecord] = deque()
        self._recent: deque[AttemptRecord] = deque(maxlen=max(0, recent))
        self._batch = min(BATCH, self._maxsize)
        self._writing: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._at_once = False
        self._failing = False
        self._losing = 0
        """Records lost since the sink last kept up."""
        self._epoch = 0.0
        """Wall-clock time when ``time`` was 0."""
        self._synchronise()

    # -- on the way of a call ------------------------------------------------------------------------

    def settle(
        self, call: Call, attempt: Attempt, deployment: Deployment, usage: Usage | None, *,
        undone: bool = False,
    ) -> None:  # fmt: skip
        """Book one attempt that has ended: fill in its usage and cost, count it, keep a record.

        Call it once for each. Without ``usage`` the input is booked as an estimate where the upstream may
        have done the work. ``undone`` says that after a failure it is known not to have (``Outcome.safe``).
        """
        account = self._accounts.get(deployment.id)
        if account is None or account.deployment is not deployment:
            account = self._open(deployment)
        if usage is None:
            outcome = attempt.outcome
            if outcome in _BILLED or (outcome in _MAYBE_BILLED and not undone):
                usage = Usage(call.input_tokens, estimated=True)
        cost: int | None = 0
        if usage is not None:
            tariff = account.tariff
            cost = None if tariff is None else tariff.cost(usage, audio=call.endpoint == _AUDIO)
            attempt.usage = usage
        attempt.cost = cost
        account.cells.add(attempt, usage, cost, call.stream)
        self._keep(_record(call, attempt, usage or _NOTHING, self._epoch))
        if call.stream and self._on_stream is not None:
            self._on_stream(call, attempt)

    def _open(self, deployment: Deployment) -> _Account:
        tariff = self.prices.tariff(deployment)
        known = self._accounts.get(deployment.id)
        cells = self.metrics.cells(deployment.id) if known is None else known.cells
        account = self._accounts[deployment.id] = _Account(deployment, tariff, cells)
        return account

    def _keep(self, record: AttemptRecord) -> None:
        self._recent.append(record)
        if self._sink is None:
            return
        pending = self._pending
        pending.append(record)
        if self._at_once:
            self._begin()
        waiting = len(pending)
        if waiting == self._batch:
            self._wake.set()
        elif waiting > self._maxsize:
            pending.popleft()
            self._lose(1)

    def _lose(self, count: int) -> None:
        self.dropped += count
        self.metrics.dropped.add(amount=count)
        self._losing += count
        if self._losing == count:
            text = "the ledger's sink does not keep up: the oldest records are dropped"
            self._events.emit(Note("ledger_dropping", "warning", text, {"waiting": len(self._pending)}))

    # -- for those who ask ---------------------------------------------------------------------------

    def recent(self, limit: int = 100) -> list[AttemptRecord]:
        """Return the records of the last attempts, the latest first."""
        return list(itertools.islice(reversed(self._recent), max(0, limit)))

    @property
    def waiting(self) -> int:
        """How many records the sink has not got yet."""
        return len(self._pending)

    def follow(self, deployments: Iterable[Deployment]) -> None:
        """Go by a new configuration: let go of what was looked up for deployments that are gone, and have the
        prices of new ones looked up beside the calls. Without this the first call of each has to wait for
        the list of prices to load (0.2 s, once)."""
        known = {each.id: each for each in deployments}
        self._accounts = {name: account for name, account in self._accounts.items() if name in known}
        self.metrics.forget()
        self._to_learn = self.prices.missing(known.values())

    # -- beside the calls ----------------------------------------------------------------------------

    def write_at_once(self) -> None:
        """Begin to write each record when it comes, until ``run`` does it beside the calls.

        Where a process is frozen after each answer nobody would write them later, and in the end they would
        be lost with the process.
        """
        self._at_once = True

    async def run(self) -> None:
        """Work until cancelled; then write what is left, for a few seconds at most."""
        self._at_once = False
        self._wake = asyncio.Event()  # of this loop
        try:
            while True:
                await self.tick()
                self._wake.clear()
                try:
                    async with asyncio.timeout(self._interval):
                        await self._wake.wait()
                except TimeoutError:
                    continue
        finally:
            await self.aclose()

    async def tick(self) -> None:
        """Begin to write what waits, unless that is under way; look up prices that are new or changed."""
        self._synchronise()
        self._begin()
        try:
            if self._to_learn:
                missing, self._to_learn = self._to_learn, []
                await asyncio.to_thread(self.prices.learn, missing)
            if self.prices.refresh():
                self._accounts = {}
        except Exception as error:
            text = "prices could not be looked up; those of before hold"
            self._events.emit(Note("price_lookup_failed", "error", text, error=error))

    async def idle(self) -> None:
        """Wait until what a tick has begun is written, or has failed."""
        if self._writing is not None:
            await asyncio.shield(self._writing)

    def ready(self, now: float) -> bool:
        """Always: a service whose records get lost goes on serving, and says so elsewhere."""
        return True

    async def aclose(self, within: float = DRAIN) -> int:
        """Write what waits, for so long at most, and close the sink; returns how many records are lost.

        What is settled afterwards may be written by another ``aclose``.
        """
        try:
            async with asyncio.timeout(within):
                while self._pending or self._writing is not None:
                    self._begin()
                    await self.idle()
                    if self._failing:
                        await asyncio.sleep(_RETRY)
        except TimeoutError:
            if self._writing is not None:
                self._writing.cancel()
                await asyncio.gather(self._writing, return_exceptions=True)
        lost = len(self._pending)
        if lost:
            self._pending.clear()
            self.dropped += lost
            self.metrics.dropped.add(amount=lost)
            text = f"{lost} records of attempts are lost: the sink did not take them in {within:g} s"
            self._events.emit(Note("ledger_lost", "error", text, {"records": lost}))
        await self._close()
        return lost

    def _begin(self) -> None:
        if self._writing is None and self._pending and self._sink is not None:
            self._writing = asyncio.create_task(self._write(self._sink), name="ledger-write")
            self._writing.add_done_callback(self._written)

    def _written(self, task: asyncio.Task[None]) -> None:
        self._writing = None

    async def _write(self, sink: Sink) -> None:
        """Write all that waits, a batch at a time; what the sink does not take waits again."""
        while self._pending:
            count = min(len(self._pending), self._batch)
            batch = [self._pending.popleft() for _ in range(count)]
            try:
                await sink.write(batch)
            except asyncio.CancelledError:
                self._put_back(batch)
                raise
            except Exception as error:
                self._put_back(batch)
                self._tell_failing(error)
                return
            self._tell_well()

    def _put_back(self, batch: list[AttemptRecord]) -> None:
        room = self._maxsize - len(self._pending)
        kept = batch[-room:] if room > 0 else []
        self._pending.extendleft(reversed(kept))
        if len(kept) < len(batch):
            self._lose(len(batch) - len(kept))

    def _tell_failing(self, error: Exception) -> None:
        if not self._failing:
            self._failing = True
            text = "the ledger's sink failed; it is tried again, and meanwhile records wait"
            self._events.emit(Note("ledger_sink_failed", "error", text, error=error))

    def _tell_well(self) -> None:
        if self._failing:
            self._failing = False
            self._events.emit(Note("ledger_sink_recovered", "info", "the ledger's sink takes records again"))
        if self._losing and len(self._pending) < self._batch:
            lost, self._losing = self._losing, 0
            text = f"the ledger's sink keeps up again; {lost} records are lost"
            self._events.emit(Note("ledger_keeps_up", "info", text, {"records": lost}))

    async def _close(self) -> None:
        if self._sink is None:
            return
        try:
            await self._sink.aclose()
        except Exception as error:
            self._tell_failing(error)

    def _synchronise(self) -> None:
        """Follow the machine's clock, which may have been set."""
        self._epoch = self._clock.now() - self._time()


_NOTHING: Final = Usage()


def _record(call: Call, attempt: Attempt, usage: Usage, epoch: float) -> AttemptRecord:
    decision: Any = call.decision
    strategy, reason = ("", "") if decision is None else (decision.strategy, decision.reason)
    name, workspace = call.model_name, call.attributes.workspace_id
    return AttemptRecord(
        epoch + attempt.started,
        call.request_id,
        call.principal.id,
        workspace if len(workspace) <= MAX_NAME else workspace[:MAX_NAME],
        call.endpoint,
        name if len(name) <= MAX_NAME else name[:MAX_NAME],
        attempt.model_id,
        attempt.deployment_id,
        attempt.number,
        attempt.outcome,
        attempt.status,
        attempt.seconds,
        attempt.first_byte,
        usage.input_tokens,
        usage.output_tokens,
        usage.cached_tokens,
        usage.reasoning_tokens,
        usage.seconds,
        attempt.cost,
        usage.estimated,
        call.stream,
        attempt.hedge,
        attempt.probe,
        strategy,
        call.rule,
        reason,
    )
