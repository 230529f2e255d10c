"""Calls that have ended, and sinks that note, fail or hang, for the tests of the ledger."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from router_core.gateway.accounting.ledger import Ledger
from router_core.gateway.accounting.metrics import GatewayMetrics
from router_core.gateway.accounting.prices import Prices
from router_core.gateway.accounting.records import AttemptRecord
from router_core.gateway.accounting.sinks import Sink
from router_core.gateway.call import Attempt, Call, Usage
from router_core.gateway.values import Deployment, Price
from router_core.telemetry.events import Events, Note
from router_core.testing.clock import FakeClock
from router_core.types import Principal

PRICE = Price(2_000_000, 8_000_000, 1_000_000)
DEPLOYMENT = Deployment("turbo-1", "turbo", "openai", "gpt-4o", price=PRICE)
UNPRICED = Deployment("own-1", "own", "vllm", "llama")


class Noting:
    """A sink that keeps everything, unless a test has it hang or fail."""

    def __init__(self) -> None:
        self.batches: list[list[AttemptRecord]] = []
        self.closed = 0
        self.open = asyncio.Event()
        self.open.set()
        self.failures = 0
        """Writes that fail from now on."""
        self.tries = 0

    async def write(self, records: Sequence[AttemptRecord]) -> None:
        """Keep them, when the test lets it."""
        self.tries += 1
        await self.open.wait()
        if self.failures:
            self.failures -= 1
            raise OSError("the disk is full")
        self.batches.append(list(records))

    async def aclose(self) -> None:
        """Count that."""
        self.closed += 1

    @property
    def numbers(self) -> list[int]:
        """The numbers of the attempts, as they came."""
        return [record.attempt for batch in self.batches for record in batch]


def notes_of(events: Events) -> list[Note]:
    """Return a list into which the notes go from now on."""
    notes: list[Note] = []
    events.subscribe(lambda event: notes.append(event) if isinstance(event, Note) else None)
    return notes


def make_ledger(
    sink: Sink | None = None, *, events: Events | None = None, clock: FakeClock | None = None, **more: Any
) -> Ledger:
    """Return a ledger whose clocks stand still."""
    clock = clock or FakeClock()
    prices = Prices(now=clock.now)
    metrics = GatewayMetrics(clock.monotonic)
    return Ledger(
        prices, metrics, events or Events(), clock, sink=sink, time=clock.monotonic, **more
    )  # fmt: skip


def make_call(**more: Any) -> Call:
    """Return a call."""
    made = Call(
        "chat/completions", "turbo-alias", request_id="r-1", principal=Principal("team-a"), started=1000.0
    )
    made.input_tokens = 40
    for name, value in more.items():
        setattr(made, name, value)
    return made


def make_attempt(
    number: int = 1, deployment: Deployment = DEPLOYMENT, outcome: str = "ok", **more: Any
) -> Attempt:
    """Return an attempt that has ended."""
    attempt = Attempt(number, deployment.model_id, deployment.id, 1000.5, outcome=outcome, status=200)
    attempt.seconds, attempt.first_byte = 0.25, 0.125
    for name, value in more.items():
        setattr(attempt, name, value)
    return attempt


def settle(ledger: Ledger, *numbers: int, usage: Usage | None = Usage(100, 10)) -> None:  # noqa: B008
    """Settle attempts of these numbers, each of a call of its own."""
    for number in numbers:
        ledger.settle(make_call(), make_attempt(number), DEPLOYMENT, usage)
