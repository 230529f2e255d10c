"""One thread that does blocking work in batches for any number of event loops."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterable, Sequence
from queue import SimpleQueue
from typing import Any, Final

from router_core.errors import StoreError

__all__ = ["Lane", "Op"]

_MAX_BATCH: Final = 512
_MAX_PENDING: Final = 20_000


class Op:
    """One piece of work on its way through a lane, and where its answer belongs."""

    __slots__ = ("args", "error", "future", "loop", "result", "run")

    def __init__(
        self,
        run: Callable[..., Any],
        args: tuple[Any, ...],
        loop: asyncio.AbstractEventLoop,
        future: asyncio.Future[Any],
    ) -> None:
        self.run = run
        self.args = args
        self.loop = loop
        self.future = future
        self.result: Any = None
        self.error: BaseException | None = None


RunBatch = Callable[[Sequence[Op]], Iterable[Sequence[Op]]]


class Lane:
    """Feeds whatever has gathered while the last batch ran to ``run_batch`` as the next batch.

    ``run_batch`` sets ``result`` or ``error`` of every op and yields the ops that may be answered, in one or
    more groups, each op once; it does not raise. It and ``at_end`` run in the
    lane's thread. Callers in the same loop get the answers of a batch in one wake-up.
    """

    def __init__(
        self, name: str, run_batch: RunBatch, at_end: Callable[[], None], *, store: str = "job store"
    ) -> None:
        self._store = store
        self._run_batch = run_batch
        self._at_end = at_end
        self._queue: SimpleQueue[Op | None] = SimpleQueue()
        self._guard = threading.Lock()
        self._open = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begin to take work."""
        self._open = True
        self._thread.start()

    def stop(self) -> None:
        """Do what was handed in before, refuse what comes later, and wait for the thread; blocks."""
        with self._guard:
            was_open, self._open = self._open, False
            if was_open:
                self._queue.put(None)
        if self._thread.ident is not None:
            self._thread.join()

    def call(self, run: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:
        """Hand in work from a running event loop.

        A caller that is cancelled stops waiting; the work is done all the same.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        with self._guard:
            if not self._open:
                raise StoreError(f"the {self._store} is not open")
            if self._queue.qsize() >= _MAX_PENDING:
                raise StoreError(f"the {self._store} cannot keep up")
            self._queue.put(Op(run, args, loop, future))
        return future

    def _run(self) -> None:
        queue = self._queue
        ended = False
        while not ended:
            batch: list[Op] = []
            op = queue.get()
            while op is not None:
                batch.append(op)
                if len(batch) >= _MAX_BATCH or not queue.qsize():
                    break
                op = queue.get()
            ended = op is None
            if batch:
                for done in self._run_batch(batch):
                    _answer(done)
        self._at_end()


def _answer(batch: Sequence[Op]) -> None:
    by_loop: dict[asyncio.AbstractEventLoop, list[Op]] = {}
    for op in batch:
        by_loop.setdefault(op.loop, []).append(op)
    for loop, ops in by_loop.items():
        try:
            loop.call_soon_threadsafe(_settle, ops)
        except RuntimeError:  # the loop has ended, and with it everybody who waited
            continue


def _settle(ops: Sequence[Op]) -> None:
    for op in ops:
        future = op.future
        if future.done():
            continue
        if op.error is None:
            future.set_result(op.result)
        else:
            future.set_exception(op.error)
