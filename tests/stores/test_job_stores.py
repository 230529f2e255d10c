"""Run the job store contract over memory and SQLite."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from router_core.stores.memory import MemoryJobStore
from router_core.stores.sqlite import SqliteJobStore
from router_core.testing.clock import FakeClock
from router_core.testing.job_store_contract import JobStoreContract


class TestMemory(JobStoreContract):
    """The contract over memory."""

    @pytest.fixture
    async def store(self, clock: FakeClock) -> AsyncIterator[MemoryJobStore]:
        """A fresh store."""
        store = MemoryJobStore(clock)
        await store.open()
        yield store
        await store.close()


class TestSqlite(JobStoreContract):
    """The contract over a file that one process holds."""

    @pytest.fixture
    async def store(self, clock: FakeClock, tmp_path: Path) -> AsyncIterator[SqliteJobStore]:
        """A fresh file."""
        store = SqliteJobStore(tmp_path / "jobs.db", clock, exclusive=True)
        await store.open()
        yield store
        await store.close()


class TestSqliteShared(JobStoreContract):
    """The contract over a file that several processes may hold: nothing is carried in memory."""

    @pytest.fixture
    async def store(
        self, clock: FakeClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> AsyncIterator[SqliteJobStore]:
        """A fresh file, as with a SQLite that has no WAL-reset bug."""
        monkeypatch.setattr("router_core.stores.sqlite.has_wal_reset_bug", lambda: False)
        store = SqliteJobStore(tmp_path / "jobs.db", clock)
        await store.open()
        yield store
        await store.close()
