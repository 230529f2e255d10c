"""End processes together with everything that they have started."""

from __future__ import annotations

import os
import signal

__all__ = ["children_of", "kill_tree"]


def kill_tree(pid: int, *, itself: bool = True) -> None:
    """Kill a process and its descendants, the youngest first."""
    for child in children_of(pid):
        kill_tree(child)
    if itself:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            return


def children_of(pid: int) -> list[int]:
    """Return the direct children of a process: on Linux all of them, elsewhere our own that
    ``multiprocessing`` knows."""
    try:
        tasks = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return _known_children() if pid == os.getpid() else []
    found: list[int] = []
    for task in tasks:
        try:
            with open(f"/proc/{pid}/task/{task}/children") as file:
                found += [int(word) for word in file.read().split()]
        except OSError:
            continue
    return found


def _known_children() -> list[int]:
    from multiprocessing import active_children

    return [child.pid for child in active_children() if child.pid is not None]
