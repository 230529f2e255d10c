"""What the tests of the control plane share: stores, documents, and control planes of several processes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from router_core.clock import Clock
from router_core.errors import StoreError
from router_core.gateway.config.load import parse_config
from router_core.gateway.control.control import Control
from router_core.gateway.control.resource import Document, Draft
from router_core.gateway.registry import Registry
from router_core.gateway.resilience.standing import Standings
from router_core.gateway.values import GatewayConfig
from router_core.state import Entry, StatePage, StateStore
from router_core.stores.state_memory import MemoryStateStore
from router_core.stores.state_sqlite import SqliteStateStore
from router_core.telemetry.events import Events, Note
from router_core.testing.clock import FakeClock
from tests.gateway.test_registry import NoTransport

__all__ = ["STORES", "Breaking", "Plane", "document", "opened", "rule"]

STORES = ("memory", "sqlite")


@asynccontextmanager
async def opened(kind: str, folder: Path, clock: Clock | None = None) -> AsyncIterator[StateStore]:
    """Yield a store of a kind, which is open."""
    made: Any = MemoryStateStore(clock) if kind == "memory" else SqliteStateStore(folder / "state.db", clock)
    await made.open()
    try:
        yield made
    finally:
        await made.close()


def rule(name: str, model: str = "m", **more: Any) -> dict[str, Any]:
    """Return the body of a rule, as it is kept."""
    target = {"modelId": model, "weight": 1.0, "fallbackOrder": 1}
    return {"name": name, "condition": {}, "targetModels": [target], "priority": 0, "enabled": True,
            "shadow": False, **more}  # fmt: skip


def document(*names: str) -> Document:
    """Return a document with rules."""
    draft = Draft(Document())
    for name in names:
        draft.put("routingRules", name, rule(name), 1.0)
    return draft.document()


class Breaking:
    """A store that breaks off when a number of writes have been done, as if the process had died."""

    def __init__(self, inner: StateStore) -> None:
        self._inner = inner
        self.writes_left: int | None = None
        """None: all that come."""
        self.away = False
        self.lose_answer = False
        """Do the next write of ``current``, and say that the store did not answer."""

    def _ask(self, *, write: bool = False) -> None:
        if self.away:
            raise StoreError("away")
        if write and self.writes_left is not None:
            if self.writes_left == 0:
                raise StoreError("died")
            self.writes_left -= 1

    async def get(self, key: str) -> Entry | None:
        """Read."""
        self._ask()
        return await self._inner.get(key)

    async def put(self, key: str, value: bytes, **options: Any) -> str:
        """Write."""
        self._ask(write=True)
        await asyncio.sleep(0)
        version = await self._inner.put(key, value, **options)
        if self.lose_answer and key == "gwc/current":
            self.lose_answer = False
            raise StoreError("no answer in time")
        return version

    async def delete(self, key: str, *, if_version: str | None = None) -> bool:
        """Delete."""
        self._ask(write=True)
        return await self._inner.delete(key, if_version=if_version)

    async def increment(self, key: str, by: int = 1, **options: Any) -> int | None:
        """Count."""
        self._ask(write=True)
        return await self._inner.increment(key, by, **options)

    async def entries(self, prefix: str, *, cursor: str = "", limit: int = 100) -> StatePage:
        """List."""
        self._ask()
        return await self._inner.entries(prefix, cursor=cursor, limit=limit)

    async def ping(self) -> None:
        """Answer."""
        self._ask()

    async def open(self) -> None:
        """Nothing."""

    async def close(self) -> None:
        """Nothing."""


class Plane:
    """The control plane of one process, with a registry of its own."""

    def __init__(
        self, state: StateStore, text: str = "", environ: Mapping[str, str] | None = None,
        clock: Clock | None = None, **options: Any,
    ) -> None:  # fmt: skip
        self.state: StateStore = state
        self.notes: list[Note] = []
        events = Events(lambda event: self.notes.append(event) if isinstance(event, Note) else None)
        given = environ or {}
        self.clock = clock or FakeClock()
        self.registry = Registry(NoTransport(), Standings(events), events)
        self.applied: list[GatewayConfig] = []
        self.control = Control(
            lambda: self.state, self.registry.check, self._apply, self.clock, events, environ=given, **options
        )
        self.control.follow(parse_config(text, "gateway.yaml", given))

    def _apply(self, config: GatewayConfig) -> None:
        self.registry.apply(config)
        self.applied.append(config)

    def told(self, name: str) -> list[Note]:
        """Return the notes of a name."""
        return [note for note in self.notes if note.name == name]

    async def put(self, kind: str, key: str, body: Mapping[str, Any]) -> int:
        """Write one resource; returns the number of the version."""
        now = self.clock.now()
        return (
            await self.control.change(lambda draft: draft.put(kind, key, body, now), who="ann")
        ).version.number
