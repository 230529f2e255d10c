"""Several server processes on one socket: start them, replace those that die, end them together."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from multiprocessing import get_context, parent_process
from multiprocessing.connection import wait
from types import FrameType
from typing import Any, Final

from handlers.local.processes import kill_tree

__all__ = ["Supervisor", "end_with_parent"]

_YOUNG_SECONDS: Final = 5.0
_MAX_EARLY_DEATHS: Final = 3
_TICK: Final = 0.5


class Supervisor:
    """Runs ``target(*args, sockets)`` in ``count`` processes until a signal comes.

    The first SIGTERM or SIGINT is passed on and the processes drain; the second kills them.
    """

    def __init__(
        self,
        target: Callable[..., None],
        args: tuple[Any, ...],
        count: int,
        sockets: list[socket.socket],
        grace: float,
    ) -> None:
        self._target = target
        self._args = args
        self._count = count
        self._sockets = sockets
        self._grace = grace
        self._context = get_context("spawn")
        self._children: dict[Any, float] = {}
        self._signals = 0
        self._early_deaths = 0

    def run(self) -> int:
        """Supervise; returns the exit code."""
        before = {
            number: signal.signal(number, self._on_signal) for number in (signal.SIGTERM, signal.SIGINT)
        }
        try:
            for _ in range(self._count):
                self._spawn()
            while not self._signals and self._early_deaths < _MAX_EARLY_DEATHS:
                self._replace_dead()
            failed = not self._signals
            return 1 if self._end() or failed else 0
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self._signals += 1
        if self._signals > 1:
            self._kill()

    def _spawn(self) -> None:
        process = self._context.Process(target=self._target, args=(*self._args, self._sockets))
        process.start()
        self._children[process] = time.monotonic()

    def _replace_dead(self) -> None:
        wait([process.sentinel for process in self._children], _TICK)
        for process, born in list(self._children.items()):
            if process.is_alive() or self._signals:
                continue
            del self._children[process]
            young = time.monotonic() - born < _YOUNG_SECONDS
            self._early_deaths = self._early_deaths + 1 if young else 0
            print(f"worker {process.pid} ended with {process.exitcode}, starting another", file=sys.stderr)
            if self._early_deaths < _MAX_EARLY_DEATHS:
                self._spawn()

    def _end(self) -> bool:
        """Let the workers drain; returns whether one of them failed to."""
        for process in self._children:
            process.terminate()
        limit = time.monotonic() + self._grace
        for process in self._children:
            while process.is_alive() and time.monotonic() < limit:
                process.join(_TICK)
        self._kill()
        return any(process.exitcode != 0 for process in self._children)

    def _kill(self) -> None:
        for process in self._children:
            if process.is_alive() and process.pid is not None:
                kill_tree(process.pid)
                process.join(_TICK)


def end_with_parent() -> None:
    """Have this worker drain when its supervisor is gone, however it went."""
    parent = parent_process()
    if parent is None:
        return

    def watch() -> None:
        wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="router-parent-watch", daemon=True).start()
