"""Random walks over memory and SQLite that check the invariants."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from router_core.jobs.store import Store
from router_core.stores.memory import MemoryJobStore
from router_core.stores.sqlite import SqliteJobStore
from router_core.testing.clock import FakeClock
from router_core.testing.job_store_machine import JobStoreMachine

_WALKS = settings(
    max_examples=100,
    stateful_step_count=50,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
_MANY = settings(_WALKS, max_examples=1000)
_MEMORY = Path("/dev/shm")
"""A file system without a disk, where there is one."""


class MemoryMachine(JobStoreMachine):
    """Walks over memory."""

    def make_store(self, clock: FakeClock) -> Store:
        """Return a fresh store."""
        return MemoryJobStore(clock)


class SqliteMachine(JobStoreMachine):
    """Walks over a file; what a disk does to it is tested elsewhere."""

    def make_store(self, clock: FakeClock) -> Store:
        """Return a store on a fresh file."""
        self.folder = tempfile.mkdtemp(dir=_MEMORY if _MEMORY.is_dir() else None)
        return SqliteJobStore(Path(self.folder) / "jobs.db", clock)

    def drop_store(self) -> None:
        """Remove the file."""
        shutil.rmtree(self.folder)


class MemoryMarathon(MemoryMachine):
    """Many walks over memory."""


class SqliteMarathon(SqliteMachine):
    """Many walks over a file."""


TestMemory = MemoryMachine.TestCase
TestMemory.settings = _WALKS
TestSqlite = SqliteMachine.TestCase
TestSqlite.settings = _WALKS
TestMemoryAtLength = pytest.mark.soak(MemoryMarathon.TestCase)
TestMemoryAtLength.settings = _MANY
TestSqliteAtLength = pytest.mark.soak(SqliteMarathon.TestCase)
TestSqliteAtLength.settings = _MANY
