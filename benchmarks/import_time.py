"""(d) ``from router_core import Router, JobProgress, File`` against ``import pydantic, asyncio``.

The import that authors write is measured, not the empty package: names are loaded lazily.
"""

from __future__ import annotations

import subprocess
import sys
import time

from benchmarks.report import Row, Skip, median

_OURS = "from router_core import Router, JobProgress, File"
_OTHER = "import asyncio, pydantic; from pydantic import BaseModel"


def _seconds(code: str) -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True)
    return time.perf_counter() - started


def run() -> list[Row | Skip]:
    """Return the ratios of whole-process times, interpreter start subtracted; runs alternate."""
    rows: list[Row | Skip] = []
    for name, code in (("import router_core", "import router_core"), (_OURS, _OURS)):
        ours, other, bare = [], [], []
        for _ in range(15):
            bare.append(_seconds("pass"))
            ours.append(_seconds(code))
            other.append(_seconds(_OTHER))
        base = median(bare)
        a, b = median(ours) - base, median(other) - base
        rows.append(
            Row(name, f"{a * 1000:.0f} ms", f"pydantic+asyncio {b * 1000:.0f} ms", a / b, 1.2, at_least=False)
        )
    return rows
