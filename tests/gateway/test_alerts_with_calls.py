"""Alerts of budgets where a process is frozen between calls: told with them, and none is lost."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from router_core.gateway.budgets.alerts import Alerts
from router_core.gateway.config.load import parse_config
from router_core.quota.cap import BUDGET, Cap
from router_core.security.fetch import GuardedHttp
from router_core.stores.state_memory import MemoryStateStore
from router_core.telemetry.events import Events, Note
from router_core.testing.clock import FakeClock

CONFIG = """
models:
  - {id: m, type: text-generation, clients: [{type: scripted, model: x}]}
workspaces:
  acme: {budgetLimits: {daily: 1}, alerts: [50], webhook: "https://hooks.example.com/budget"}
"""


class _Answer:
    status = 204


class Receiver:
    """Stands in for the way out: hangs until it is told to answer."""

    def __init__(self) -> None:
        self.ids: list[str] = []
        self.asked, self.answers = asyncio.Event(), asyncio.Event()

    async def post(self, url: str, headers: dict[str, str], body: bytes, seconds: float) -> Any:
        """Take a message."""
        self.ids.append(next(value for name, value in headers.items() if name.lower() == "webhook-id"))
        self.asked.set()
        await self.answers.wait()
        return _Answer()


def _others() -> list[asyncio.Task[Any]]:
    return [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]


async def test_a_message_that_was_cut_off_is_sent_with_a_later_call() -> None:
    """The process was frozen while the receiver was asked; the alert itself is told once."""
    notes: list[str] = []
    events = Events(lambda event: notes.append(event.name) if isinstance(event, Note) else None)
    config = parse_config(CONFIG, "gateway.yaml", {})
    clock, receiver = FakeClock(), Receiver()
    state = MemoryStateStore(clock)
    alerts = Alerts(lambda: state, lambda: config, events, clock)
    alerts.send_by(cast(GuardedHttp, receiver), ("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",))
    cap = Cap("daily", 1_000_000, BUDGET, "day")
    alerts.passed("workspace:acme", cap, 500_000, 500_000, 0)
    assert not _others()  # there is a loop elsewhere, until somebody says that there is none
    alerts.tell_with_calls()
    alerts.called()
    await receiver.asked.wait()
    for task in _others():  # what the adapter does when a call's moment is over
        task.cancel()
    await asyncio.gather(*_others(), return_exceptions=True)
    receiver.answers.set()
    alerts.called()
    await asyncio.gather(*_others())
    alerts.called()
    assert not _others()
    assert len(receiver.ids) == 2
    assert len({*receiver.ids}) == 1
    assert notes == ["budget_alert"]
