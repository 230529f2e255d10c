"""``router-core dev``: whatever is saved is what runs next."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from handlers.cli import dev
from tests.served import ROOT, free_port

pytestmark = pytest.mark.process

SERVICE = """\
import os
from router_core import Router
from words import WORD

router = Router()

@router.get("/said")
def said() -> list[str]:
    return [WORD, str(os.getpid())]
"""
_PATIENCE = 60.0


@contextmanager
def developing(folder: Path) -> Iterator[str]:
    """Run ``dev`` in the folder and yield its address."""
    port = free_port()
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("ROUTER_", "EXECUTION_", "PYTHON"))}
    with (folder / "dev.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "handlers.cli", "dev", "svc:router", "--port", str(port)], cwd=folder,
            env={**inherited, "PYTHONPATH": str(ROOT)}, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
        )  # fmt: skip
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(_PATIENCE) == 0


def said_by_another(url: str, than: str, folder: Path) -> tuple[str, str]:
    """Return the word and the process id of a server that is not the one of that id."""
    until = time.monotonic() + _PATIENCE
    while True:
        try:
            with urllib.request.urlopen(f"{url}/said", timeout=5) as answer:
                word, pid = json.load(answer)
            if pid != than:
                return word, pid
        except OSError:
            pass
        assert time.monotonic() < until, (folder / "dev.log").read_text(errors="replace")[-3000:]
        time.sleep(0.02)


def save(path: Path, text: str, second: int) -> None:
    """Write a file as an editor does, all at once, as if it were that second."""
    beside = path.with_suffix(".saved")
    beside.write_text(text)
    os.utime(beside, (second, second))
    beside.replace(path)


def test_a_version_of_the_same_length_and_second_is_run(tmp_path: Path) -> None:
    """By these two alone Python knows whether what it has compiled is of this source."""
    second = int(time.time())
    save(tmp_path / "svc.py", SERVICE, second)
    save(tmp_path / "words.py", 'WORD = "one"\n', second)
    with developing(tmp_path) as url:
        word, pid = said_by_another(url, "", tmp_path)
        assert word == "one"
        assert list(tmp_path.glob("__pycache__/words.*.pyc")), "this Python keeps nothing to be mistaken for"
        save(tmp_path / "words.py", 'WORD = "two"\n', second)
        word, pid = said_by_another(url, pid, tmp_path)
        assert word == "two"
        save(tmp_path / "words.py", 'WORD = "six"\n', second)
        assert said_by_another(url, pid, tmp_path)[0] == "six"


def test_nothing_starts_before_changes_are_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is saved after the first server has read it, and before the watch has begun, would be missed."""
    seen: list[str] = []
    changed = tmp_path / "svc.py"

    class Child:
        def __init__(self, command: list[str]) -> None:
            seen.append(command[-1])

        def follow(self, paths: list[str]) -> None:
            seen.append(" ".join(paths) or "start")

        def stop(self) -> None:
            seen.append("end")

    def watch(*folders: str, **_: object) -> Iterator[set[tuple[int, str]]]:
        seen.append("watch")
        yield set()
        yield {(2, str(changed)), (1, str(changed))}

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("watchfiles.watch", watch)
    monkeypatch.setattr(dev, "_Child", Child)
    parser = argparse.ArgumentParser()
    dev.add_arguments(parser)
    assert dev.run(parser.parse_args(["svc:router"])) == 0
    assert seen == ["svc:router", "watch", "start", str(changed), "end"]
