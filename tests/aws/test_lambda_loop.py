"""A call that waits for nothing runs without a task of its own, and cannot tell."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import warnings
from collections.abc import Iterator
from typing import Any

import pytest

from handlers.aws.loop import PersistentLoop, run_inline

_WORD: contextvars.ContextVar[str] = contextvars.ContextVar("_WORD", default="")


@pytest.fixture
def loop() -> Iterator[PersistentLoop]:
    """Run calls."""
    made = PersistentLoop()
    yield made
    made.close()


async def _task(wait: bool = False) -> asyncio.Task[Any] | None:
    if wait:
        await asyncio.sleep(0)
    return asyncio.current_task()


def test_a_call_has_a_task_and_its_loop(loop: PersistentLoop) -> None:
    """Before its first wait, after it, and the same one."""

    async def call() -> bool:
        first, running = asyncio.current_task(), asyncio.get_running_loop()
        assert first is not None
        assert first in asyncio.all_tasks()
        assert running.is_running()
        await asyncio.sleep(0)
        return asyncio.current_task() is first and asyncio.get_running_loop() is running

    assert loop.run(_task()) is not None
    assert loop.run(call())
    with pytest.raises(RuntimeError):
        asyncio.get_running_loop()


def test_a_call_that_waits_keeps_its_task_to_itself(loop: PersistentLoop) -> None:
    """The next one has another."""
    waited = loop.run(_task(wait=True))
    assert waited is not None
    assert waited.done()
    assert loop.run(_task()) is not waited


def test_variables_of_one_call_are_not_those_of_the_next(loop: PersistentLoop) -> None:
    """Each has a copy of those of whoever calls, whether it waits or not."""

    async def call(word: str, wait: bool) -> list[str]:
        seen = [_WORD.get()]
        _WORD.set(word)
        if wait:
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        return [*seen, _WORD.get(), await asyncio.create_task(_word())]

    for wait in (False, True):
        assert loop.run(call("one", wait)) == ["", "one", "one"]
    _WORD.set("caller's")
    assert loop.run(call("two", False)) == ["caller's", "two", "two"]
    assert loop.run(call("two", True)) == ["caller's", "two", "two"]
    assert _WORD.get() == "caller's"
    _WORD.set("")


async def _word() -> str:
    return _WORD.get()


def test_time_runs_out_inside_a_call(loop: PersistentLoop) -> None:
    """A timeout that was begun before the first wait cancels the call's own task."""

    async def call() -> str:
        try:
            async with asyncio.timeout(0.01):
                await asyncio.Event().wait()
        except TimeoutError:
            return "late"
        return "never"

    async def group() -> str:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(_fail())
            await asyncio.Event().wait()
        return "never"

    assert loop.run(_task()) is not None
    assert loop.run(call()) == "late"
    with pytest.raises(ExceptionGroup):
        loop.run(group())


async def _fail() -> None:
    raise ValueError("no")


def test_a_call_that_cancels_itself(loop: PersistentLoop) -> None:
    """The wish comes true at the next wait, not in the next call."""

    async def waits(how: str) -> str:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        try:
            if how == "sleep":
                await asyncio.sleep(0)
            elif how == "future":
                await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            return "cancelled"
        return "done"

    async def leaves() -> str:
        await waits("no")
        return "left"

    assert loop.run(waits("sleep")) == "cancelled"
    assert loop.run(waits("future")) == "cancelled"
    assert loop.run(leaves()) == "left"
    assert loop.run(_task()) is not None

    async def ends() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(1)

    with pytest.raises(asyncio.CancelledError):
        loop.run(ends())
    assert loop.run(_task(wait=True)) is not None


def test_who_asks_for_the_end_of_the_task_is_told(loop: PersistentLoop) -> None:
    """At the end of that call."""
    ended: list[Any] = []

    async def call() -> int:
        task = asyncio.current_task()
        assert task is not None
        task.add_done_callback(ended.append)
        return 5

    assert loop.run(call()) == 5
    (task,) = ended
    assert task.result() == 5
    assert loop.run(_task()) is not task


@pytest.mark.parametrize(
    "error", [ValueError("no"), SystemExit(3), KeyboardInterrupt(), asyncio.CancelledError()]
)
@pytest.mark.parametrize("wait", [False, True])
def test_what_is_raised_comes_out(loop: PersistentLoop, error: BaseException, wait: bool) -> None:
    """Once, and the next call is served."""

    async def call() -> None:
        if wait:
            await asyncio.sleep(0)
        raise error

    with pytest.raises(type(error)):
        loop.run(call())
    assert loop.run(_task()) is not None
    assert loop.run(_task(wait=True)) is not None


def test_one_call_within_another_is_refused(loop: PersistentLoop) -> None:
    """There is one loop, and it runs."""

    async def call() -> None:
        inner = _task()
        try:
            loop.run(inner)
        finally:
            inner.close()

    with pytest.raises(RuntimeError, match="another task"):
        loop.run(call())
    assert loop.run(_task()) is not None


def test_a_sync_function_may_run_a_loop_of_its_own(loop: PersistentLoop) -> None:
    """As if there were none around it."""

    async def call() -> Any:
        return await run_inline(lambda: asyncio.run(_task(wait=True)))

    assert loop.run(call()) is not None
    assert loop.run(_task()) is not None


def test_nothing_is_said_of_a_task_that_was_never_needed() -> None:
    """Neither when the loop is closed nor when the process ends without that."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        closed, dropped = PersistentLoop(), PersistentLoop()
        assert closed.run(_task()) is not None
        closed.close()
        assert dropped.run(_task()) is not None
        inner = dropped._loop
        del closed, dropped
        gc.collect()
        assert inner is not None
        inner.close()


def test_what_a_call_returned_is_not_kept(loop: PersistentLoop) -> None:
    """A reply may have megabytes."""

    class Reply:
        """Something large."""

    async def call(wait: bool) -> Reply:
        if wait:
            await asyncio.sleep(0)
        return Reply()

    for wait in (False, True):
        loop.run(call(wait))
    gc.collect()
    assert not [one for one in gc.get_objects() if isinstance(one, Reply)]
