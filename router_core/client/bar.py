"""A progress bar on standard error: rich on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import TextIO

from router_core.jobs.wire import JobView

__all__ = ["job_bar", "printable"]

Show = Callable[[JobView], None]


@contextlib.contextmanager
def job_bar(title: str, stream: TextIO | None = None) -> Iterator[Show]:
    """Give a function that shows how a job stands; the bar stays on the screen as it was last."""
    out = sys.stderr if stream is None else stream
    if not out.isatty():
        yield _lines(out)
        return
    try:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            Progress,
            SpinnerColumn,
            TaskProgressColumn,
            TextColumn,
            TimeElapsedColumn,
        )
        from rich.text import Text
    except ImportError:
        yield _lines(out)
        return
    columns = (
        SpinnerColumn(finished_text=" "), TextColumn("{task.description}", markup=False), BarColumn(),
        TaskProgressColumn(), TimeElapsedColumn(), TextColumn("{task.fields[note]}", markup=False),
    )  # fmt: skip
    with Progress(*columns, console=Console(file=out)) as progress:
        task = progress.add_task(Text(printable(title)).plain, total=1.0, note="queued")

        def show(view: JobView) -> None:
            progress.update(task, completed=view.progress, note=_note(view))

        yield show


def printable(text: str) -> str:
    """Take control characters out of a text that a service sent: a terminal would obey them."""
    return "".join(char if char.isprintable() else " " for char in text)


def _note(view: JobView) -> str:
    message = printable(view.message)[:120]
    if view.status == "running" and message:
        return message
    again = f" (attempt {view.attempt})" if view.attempt > 1 else ""
    return f"{view.status.value}{again}" + (f": {message}" if message and view.status != "succeeded" else "")


def _lines(out: TextIO) -> Show:
    """Print a line when the state, the message or a tenth of the progress has changed."""
    last = ""

    def show(view: JobView) -> None:
        nonlocal last
        step = int(view.progress * 10) * 10
        line = f"{view.job_id} {view.status.value} {step}% {printable(view.message)}".rstrip()
        if line != last:
            last = line
            print(line, file=out, flush=True)

    return show
