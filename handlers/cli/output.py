"""Results on the screen and on disk."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

from handlers.cli.exits import UsageError, printable
from router_core.http.media import File

__all__ = ["say", "table", "to_text", "write_result"]


def say(text: str, stream: TextIO | None = None) -> None:
    """Print a line for the person, on standard error: standard output belongs to the result."""
    print(printable(text), file=sys.stderr if stream is None else stream, flush=True)


def to_text(value: Any, *, raw: bool = False) -> str:
    """Return JSON, indented for a person, one line for a program; bare text stays bare unless ``raw``."""
    if isinstance(value, str) and not raw:
        return value
    indent = 2 if sys.stdout.isatty() else None
    return json.dumps(value, ensure_ascii=False, indent=indent, default=str)


def write_result(value: Any, output: str = "", *, raw: bool = False) -> None:
    """Show a result; its files are written to disk, and their paths are shown in their place.

    ``output`` is where a single file goes, the folder for several, or the file for a result that is none.
    Without it, files go to the working directory under their own names; nothing is overwritten there.
    """
    count = _count(value)
    if not count:
        _write_plain(value, output, raw)
        return
    folder = Path(output) if output and (count > 1 or os.path.isdir(output)) else None
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    shown = _saved(value, folder or Path(), output if folder is None else "")
    if not isinstance(value, File):
        print(printable(to_text(shown, raw=True)) if sys.stdout.isatty() else to_text(shown, raw=True))
    elif raw:
        print(to_text(shown, raw=True))


def _write_plain(value: Any, output: str, raw: bool) -> None:
    text = to_text(value, raw=raw)
    if output:
        if os.path.isdir(output):
            raise UsageError(f"{output} is a folder and the result is no file; name a file with --output")
        Path(output).write_text(text + "\n", encoding="utf-8")
        say(f"wrote {output}")
    elif value is not None or raw:
        print(printable(text) if sys.stdout.isatty() else text)


def _count(value: Any) -> int:
    if isinstance(value, File):
        return 1
    if isinstance(value, dict):
        return sum(map(_count, value.values()))
    return sum(map(_count, value)) if isinstance(value, list) else 0


def _saved(value: Any, folder: Path, path: str) -> Any:
    if isinstance(value, dict):
        return {key: _saved(item, folder, path) for key, item in value.items()}
    if isinstance(value, list):
        return [_saved(item, folder, path) for item in value]
    if not isinstance(value, File):
        return value
    target = Path(path) if path else _free(folder / (value.filename or "result"))
    target.write_bytes(value.read())
    say(f"wrote {target} ({value.content_type}, {value.size} bytes)")
    return {"file": str(target), "content_type": value.content_type, "size": value.size}


def _free(path: Path) -> Path:
    """Return the path, or the next of its kind that does not exist."""
    candidate, number = path, 1
    while candidate.exists():
        candidate = path.with_name(f"{path.stem}-{number}{path.suffix}")
        number += 1
    return candidate


def table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """Return columns, each as wide as it needs to be."""
    lines = [head, *[tuple(" ".join(printable(cell).split()) for cell in row) for row in rows]]
    widths = [max(len(line[index]) for line in lines) for index in range(len(head))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )
