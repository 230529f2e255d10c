"""The metrics of several processes of one service, added up: whichever of them is asked answers for all.

Each process writes what it would render into a file of its own every few seconds; whoever is asked adds the
files to what it knows itself. What a process has counted stays when it ends, so that no sum ever goes down:
its file is added to one for all that have ended. Only its gauges go with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final

__all__ = ["INTERVAL", "MetricsPool", "Rendered", "add_up"]

INTERVAL: Final = 5.0
"""Seconds between two writings: so old may be what others tell."""
_ENDED: Final = "ended.prom"
_LOCK: Final = "lock"
_PATIENCE: Final = 2.0
_MERGED: Final = "# merged "

Samples = dict[str, float]


class Rendered:
    """What one process renders, as numbers."""

    __slots__ = ("heads", "kinds", "merged", "samples")

    def __init__(self, text: str = "") -> None:
        self.heads: dict[str, list[str]] = {}
        self.kinds: dict[str, str] = {}
        self.samples: dict[str, Samples] = {}
        """By metric: series -> value, in their order."""
        self.merged: list[str] = []
        """Of the file of those that have ended: whose files are in it."""
        name = ""
        for line in text.split("\n"):
            if line.startswith(_MERGED):
                self.merged = line.removeprefix(_MERGED).split()
            elif line.startswith("# "):
                _, what, name, rest = (*line.split(" ", 3), "")[:4]
                self.heads.setdefault(name, []).append(line)
                self.samples.setdefault(name, {})
                if what == "TYPE":
                    self.kinds[name] = rest
            elif line:
                series, _, value = line.rpartition(" ")
                self.samples.setdefault(name, {})[series] = float(value)

    def text(self) -> str:
        """Return it in Prometheus' text format."""
        lines: list[str] = [f"{_MERGED}{' '.join(self.merged)}"] if self.merged else []
        for name, samples in self.samples.items():
            lines += self.heads.get(name, [])
            lines += [f"{series} {_number(value)}" for series, value in samples.items()]
        return "\n".join([*lines, ""])


def add_up(
    own: Rendered, others: Iterable[Rendered], across: Mapping[str, str], *, ended: bool = False
) -> None:  # fmt: skip
    """Add what other processes render to what this one does.

    ``across`` names for each gauge what holds for all of them together: ``sum``, ``max``, ``min``, or
    ``own``: only who is asked knows. Gauges of processes that have ``ended`` are left out.
    """
    for other in others:
        for name, samples in other.samples.items():
            kind = other.kinds.get(name, "untyped")
            how = "sum" if kind in ("counter", "histogram") else across.get(name, "own")
            if how == "own" or (ended and kind == "gauge"):
                continue
            own.heads.setdefault(name, other.heads.get(name, []))
            own.kinds.setdefault(name, kind)
            into = own.samples.setdefault(name, {})
            for series, value in samples.items():
                held = into.get(series)
                into[series] = value if held is None else _JOIN[how](held, value)


_JOIN: Final[Mapping[str, Callable[[float, float], float]]] = {
    "sum": lambda one, other: one + other, "max": max, "min": min,
}  # fmt: skip


class MetricsPool:
    """One process's place among the others of its service; all of them share a folder."""

    def __init__(
        self, folder: str | Path, render: Callable[[], str], across: Callable[[], Mapping[str, str]],
        *, interval: float = INTERVAL,
    ) -> None:  # fmt: skip
        self._folder = Path(folder)
        self._render = render
        self._across = across
        self._interval = interval
        self._name = f"{os.getpid()}-{time.monotonic_ns():x}"
        self._alive = os.open(self._path("alive"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        # held as long as this process lives, however it ends
        fcntl.flock(self._alive, fcntl.LOCK_EX)

    async def run(self) -> None:
        """Write every few seconds until cancelled."""
        while True:
            # rendered here: what is rendered changes on this loop
            await asyncio.to_thread(self.publish, self._render())
            await asyncio.sleep(self._interval)

    def close(self) -> None:
        """Write a last time and leave."""
        self.publish(self._render())
        os.close(self._alive)

    def publish(self, text: str) -> None:
        """Write what this process renders; a folder that is full or gone stops nobody."""
        with contextlib.suppress(OSError):
            self._write(self._path("prom"), text)

    async def text(self) -> str:
        """Return the metrics of all processes."""
        return await asyncio.to_thread(self._text, self._render(), self._across())

    def _text(self, text: str, across: Mapping[str, str]) -> str:
        own = Rendered(text)
        self.publish(text)  # or the next who is asked would tell less than this one has told
        with contextlib.suppress(OSError), self._locked() as locked:
            living, dead = self._others()
            ended = self._read(self._folder / _ENDED) or Rendered()
            dead = [(name, each) for name, each in dead if name not in ended.merged]
            add_up(own, living, across)
            add_up(own, [ended, *(each for _, each in dead)], across, ended=True)
            if dead and locked:
                self._bury(ended, dead)
        return own.text()

    def _path(self, kind: str) -> Path:
        return self._folder / f"{self._name}.{kind}"

    def _write(self, path: Path, text: str) -> None:
        draft = path.with_suffix(f".{threading.get_ident()}.tmp")
        draft.write_text(text)
        draft.replace(path)

    def _read(self, path: Path) -> Rendered | None:
        try:
            return Rendered(path.read_text())
        except (OSError, ValueError):
            return None

    def _others(self) -> tuple[list[Rendered], list[tuple[str, Rendered]]]:
        """Return what the living render, and what those rendered last that have ended."""
        living: list[Rendered] = []
        dead: list[tuple[str, Rendered]] = []
        for path in sorted(self._folder.glob("*.prom")):
            if path.stem == self._name or path.name == _ENDED:
                continue
            found = self._read(path)
            if found is None:
                continue
            if _is_held(path.with_suffix(".alive")):
                living.append(found)
            else:
                dead.append((path.stem, found))
        return living, dead

    def _bury(self, ended: Rendered, dead: list[tuple[str, Rendered]]) -> None:
        """Add those that have ended to the file of such, which names them until their own are gone."""
        self._remove(ended.merged)
        add_up(ended, (each for _, each in dead), {}, ended=True)
        ended.merged = [name for name, _ in dead]
        self._write(self._folder / _ENDED, ended.text())
        self._remove(ended.merged)

    def _remove(self, names: Iterable[str]) -> None:
        for name in names:
            for kind in ("prom", "alive"):
                (self._folder / f"{name}.{kind}").unlink(missing_ok=True)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[bool]:
        """Keep others from adding up at the same time; one that is frozen meanwhile is not waited for."""
        file = os.open(self._folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            yield _taken(file, time.monotonic() + _PATIENCE)
        finally:
            os.close(file)


def _taken(file: int, until: float) -> bool:
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= until:
                return False
            time.sleep(0.01)


def _is_held(path: Path) -> bool:
    """Return whether the process lives that holds a file."""
    try:
        file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(file)
    return False


def _number(value: float) -> str:
    if value == float("inf"):
        return "+Inf"
    return str(int(value)) if value == int(value) and abs(value) < 1e15 else repr(value)
