"""``router-core dev``: a server in a child process that starts again whenever a file changes."""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from types import FrameType

from handlers.cli.output import say
from handlers.cli.serve import add_serve_arguments, settings_from

__all__ = ["DESCRIPTION", "EXAMPLES", "add_arguments", "run"]

DESCRIPTION = (
    "Serve an app and start it again whenever a file changes. Jobs are kept: their records are on disk."
)
EXAMPLES = """\
examples:
  router-core dev service:router
  router-core dev service:router --port 9000 --watch ../library"""

_GRACE = "2"
"""Seconds that running jobs get before a restart; they are given back and run again."""
_LOOK_MS = 50
"""Milliseconds after which a watch without a change answers, for the first time once it has begun."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what dev takes."""
    add_serve_arguments(parser)
    parser.add_argument(
        "--watch", action="append", default=[], metavar="FOLDER", help="watch this as well (repeatable)"
    )


def run(args: argparse.Namespace) -> int:
    """Serve and watch."""
    from watchfiles import PythonFilter, watch

    from handlers.cli.exits import UsageError

    settings = settings_from(args)
    if not settings.app:
        raise UsageError("name the app as module:attribute, or set ROUTER_APP")
    folders = [os.getcwd(), *args.watch]
    missing = [folder for folder in folders if not os.path.isdir(folder)]
    if missing:
        raise UsageError(f"there is no folder {missing[0]}")
    stop = threading.Event()
    child = _Child(_command(args, settings.app))
    with _stopping(stop):
        say(f"watching {', '.join(folders)}; Ctrl-C ends")
        looks = watch(
            *folders,
            watch_filter=PythonFilter(),
            stop_event=stop,
            rust_timeout=_LOOK_MS,
            yield_on_timeout=True,
        )
        try:
            for changes in looks:
                child.follow(sorted({path for _, path in changes}))
        finally:
            child.stop()
    return 0


class _Child:
    """The server process. One that ended by itself (an error in the app) stays down until the next change."""

    def __init__(self, command: list[str]) -> None:
        self._command = command
        self._process: subprocess.Popen[bytes] | None = None

    def follow(self, changed: list[str]) -> None:
        """Start it at the first look, which finds the watch begun, and again after every change."""
        if changed:
            names = [os.path.relpath(path) for path in changed[:3]]
            say(f"changed: {', '.join(names)}{' ...' if len(changed) > 3 else ''}; starting again")
            self.stop()
            _forget_compiled(changed)
        if self._process is None:
            self.start()

    def start(self) -> None:
        env = {**os.environ, "ROUTER_DRAIN_GRACE": os.environ.get("ROUTER_DRAIN_GRACE", _GRACE)}
        # its own group: Ctrl-C reaches it through ``stop``, once
        self._process = subprocess.Popen(self._command, env=env, start_new_session=True)  # noqa: S603 - ourselves

    def stop(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            process.wait(30.0)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _forget_compiled(paths: Iterable[str]) -> None:
    """Remove what Python keeps of these files, while no child is there to write it anew.

    It knows a source by its size and by the second of its last change: of two versions of one length that
    are saved within a second, the older would be run.
    """
    for path in paths:
        for level in ("", 1, 2):
            with contextlib.suppress(OSError):
                os.unlink(importlib.util.cache_from_source(os.path.abspath(path), optimization=level))


@contextlib.contextmanager
def _stopping(stop: threading.Event) -> Iterator[None]:
    def end(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _command(args: argparse.Namespace, app: str) -> list[str]:
    command = [sys.executable, "-m", "handlers.cli", "serve", app]
    for option, value in (("--host", args.host), ("--port", args.port), ("--log-level", args.log_level)):
        if value is not None:
            command += [option, str(value)]
    return command
