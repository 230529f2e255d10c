"""What the tests of ``deploy runpod`` share: the command line, against a pretended RunPod."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Deploy", "Ran", "process", "service"]

ROOT = Path(__file__).parent.parent.parent
SERVICE = """\
from router_core import JobProgress, Router

router = Router()


@router.get("/hello")
def hello(name: str = "world") -> str:
    return f"hello {name}"


@router.route("/predict", timeout=1200)
def predict(job_progress: JobProgress, text: str) -> str:
    job_progress.update(0.5)
    return text.upper()
"""


@dataclass(frozen=True, slots=True)
class Ran:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def last(self) -> str:
        """The last line of standard error."""
        return self.err.strip().splitlines()[-1]

    @property
    def json(self) -> Any:
        """Standard output, decoded."""
        return json.loads(self.out)


Deploy = Callable[..., Ran]


def service(folder: Path, text: str = SERVICE) -> Path:
    """Write service.py and return its folder."""
    (folder / "service.py").write_text(text, encoding="utf-8")
    return folder


def process(words: Sequence[str], folder: Path, environ: Mapping[str, str]) -> subprocess.Popen[str]:
    """Start ``router-core deploy`` as a process of its own."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("ROUTER_", "RUNPOD_"))}
    return subprocess.Popen(
        [sys.executable, "-m", "handlers.cli", "deploy", *words],
        cwd=folder, env={**inherited, "PYTHONPATH": str(ROOT), **environ}, text=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
