"""One process that writes rules: ``python -m tests.gateway.control_writer STATE NAME COUNT``."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

from router_core.clock import SystemClock
from router_core.errors import Unavailable
from router_core.gateway.control.control import Control
from router_core.gateway.control.resource import Draft
from router_core.stores.state_guard import GuardedStateStore
from router_core.stores.state_sqlite import SqliteStateStore
from router_core.telemetry.events import Events

_TARGETS = [{"modelId": "m", "weight": 1.0, "fallbackOrder": 1}]


def rule(name: str, priority: int = 0) -> dict[str, Any]:
    """Return the body of a rule; what the tests share is not imported: five processes would wait for it."""
    return {"name": name, "condition": {}, "targetModels": _TARGETS, "priority": priority, "enabled": True,
            "shadow": False}  # fmt: skip


async def main(path: str, name: str, count: int) -> None:
    """Write rules, and count up one that all processes share."""
    clock, events = SystemClock(), Events()
    state = GuardedStateStore(SqliteStateStore(Path(path)), clock, events, patience=30.0)
    control = Control(lambda: state, lambda config: None, lambda config: None, clock, events, environ={})
    await control.start()
    for number in range(count):

        def edit(draft: Draft, number: int = number) -> None:
            draft.put("routingRules", f"{name}-{number % 50}", rule(name), clock.now())
            held = draft.get("routingRules", "shared")
            priority = 0 if held is None else held.body["priority"]
            draft.put("routingRules", "shared", rule("shared", priority=priority + 1), clock.now())

        while True:
            try:
                await control.change(edit, who=name)
                break
            except (
                Unavailable
            ):  # others were faster many times over: nothing was written, as callers are told
                await asyncio.sleep(0.01)
    await state.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
