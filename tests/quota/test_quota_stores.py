"""Limits over every store that we have: races, real processes, and one that is killed."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from router_core.quota.quota import Exceeded, Quota, Taken
from router_core.state import StateStore
from router_core.stores.state_dynamodb import DynamoStateStore, create_state_table
from router_core.stores.state_redis import RedisStateStore
from router_core.stores.state_sqlite import SqliteStateStore
from tests.parts import RedisProcess
from tests.quota.quota_child import BUDGET, MUCH, SEATS, tried
from tests.quota.quota_parts import Shared

ROOT = Path(__file__).parents[2]
CHILD = Path(__file__).parent / "quota_child.py"
_number = count()
Make = Callable[[], Awaitable[StateStore]]


async def _memory(request: pytest.FixtureRequest) -> Make:
    store = Shared()

    async def make() -> StateStore:
        return store

    return make


async def _sqlite(request: pytest.FixtureRequest) -> Make:
    path = request.getfixturevalue("tmp_path") / "state.db"

    async def make() -> StateStore:
        return SqliteStateStore(path)

    return make


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisProcess]:
    """One server for these tests."""
    pytest.importorskip("redis", reason="the package redis is not installed")
    with RedisProcess(tmp_path_factory.mktemp("redis")) as server:
        yield server


async def _redis(request: pytest.FixtureRequest) -> Make:
    server, prefix = request.getfixturevalue("redis"), f"q{next(_number)}"

    async def make() -> StateStore:
        return RedisStateStore(server.url, prefix=prefix)

    return make


async def _dynamodb(request: pytest.FixtureRequest) -> Make:
    request.getfixturevalue("aws")
    name = f"quota{next(_number)}"
    await asyncio.to_thread(create_state_table, name, expire=False)

    async def make() -> StateStore:
        return DynamoStateStore(name, patience=60)

    return make


_KINDS = {"memory": _memory, "sqlite": _sqlite, "redis": _redis, "dynamodb": _dynamodb}


@pytest.fixture(params=_KINDS)
async def quotas(request: pytest.FixtureRequest) -> AsyncIterator[list[Quota]]:
    """Four processes, as far as the store can tell, with their loops."""
    make = await _KINDS[request.param](request)
    stores: list[Any] = [await make() for _ in range(4)]
    for store in stores:
        await store.open()
    found = [Quota(store) for store in stores]
    for quota in found:
        assert quota._keeper is not None
        quota._keeper.patience = 60.0  # however busy the machine is
    loops = [asyncio.create_task(quota.run()) for quota in found]
    await asyncio.sleep(0)
    yield found
    for loop in loops:
        loop.cancel()
    await asyncio.gather(*loops, return_exceptions=True)
    for store in stores:
        await store.close()


async def test_two_hundred_at_once_on_a_budget_for_ten(quotas: list[Quota]) -> None:
    """Four processes with fifty calls each let exactly ten through, and leave nothing reserved."""
    answers = await asyncio.gather(*(tried(quotas[at % 4], BUDGET) for at in range(200)))
    assert sum(answers) == 10
    for quota in quotas:
        await quota.tick()
        await quota.idle()
    (standing,) = await quotas[0].standing("s", BUDGET)
    assert (standing.spent, standing.reserved) == (10, 0)


async def test_a_thousand_who_leave_leave_nothing(quotas: list[Quota]) -> None:
    """Whenever they leave: while they wait for the store, or with what they got."""

    async def visit(quota: Quota) -> None:
        found = quota.take("s", MUCH, 1)
        taken = found if isinstance(found, Taken) else await found
        try:
            await asyncio.Event().wait()
        finally:
            taken.release()

    tasks = [asyncio.create_task(visit(quotas[at % 4])) for at in range(1000)]
    for at in range(20):
        await asyncio.sleep(0.001)
        for task in tasks[at * 25 : (at + 1) * 25]:
            task.cancel()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    standing = None
    for _ in range(100):  # each waits for the store for two seconds at most
        for quota in quotas:
            await quota.aclose()
        (standing,) = await quotas[0].standing("s", MUCH)
        if not standing.reserved:
            break
    assert standing is not None
    assert (standing.spent, standing.reserved) == (0, 0)


# --- real processes -----------------------------------------------------------------------------------


@contextmanager
def child(mode: str, path: Path) -> Iterator[subprocess.Popen[str]]:
    """Run a process, and end it at the latest when the test ends."""
    process = subprocess.Popen(
        [sys.executable, str(CHILD), mode, str(path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def line(process: subprocess.Popen[str]) -> str:
    """Return the next line of a process."""
    assert process.stdout is not None
    return process.stdout.readline().strip()


@pytest.mark.process
@pytest.mark.parametrize(("mode", "amount"), [("race", 10), ("much", 2000)])
def test_four_processes_share_a_budget(tmp_path: Path, mode: str, amount: int) -> None:
    """Scarce or plenty: all of it is given, and not one more, whoever holds headroom meanwhile."""
    path = tmp_path / "state.db"
    with child(mode, path) as a, child(mode, path) as b, child(mode, path) as c, child(mode, path) as d:
        processes = (a, b, c, d)
        assert [line(process) for process in processes] == ["ready"] * 4
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        assert sum(int(line(process)) for process in processes) == amount


@pytest.mark.process
async def test_what_a_killed_process_held_comes_back(tmp_path: Path) -> None:
    """When its lease has ended; until then nobody gets it."""
    path = tmp_path / "state.db"
    store = SqliteStateStore(path)
    await store.open()
    quota = Quota(store)

    async def seats() -> Taken | None:
        try:
            found = quota.take("s", SEATS, 2)
            return found if isinstance(found, Taken) else await found
        except Exceeded:
            return None

    with child("hold", path) as process:
        assert await asyncio.to_thread(line, process) == "held"
        assert await seats() is None
        process.kill()
        await asyncio.to_thread(process.wait)
        taken = None
        for _ in range(600):
            taken = await seats()
            if taken is not None:
                break
            await asyncio.sleep(0.1)
    assert taken is not None
    taken.release()
    await quota.aclose()
    await store.close()
