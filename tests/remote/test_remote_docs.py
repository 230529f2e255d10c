"""The page about remote workers, followed word by word."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

import pytest

from tests.docs_blocks import ROOT, Block, blocks
from tests.served import free_port

PAGE = ROOT / "docs" / "decentralised-workers.md"
READY = {"router-core serve": "serving on", "router-core worker": "working for"}


class Shell:
    """Runs blocks of a page in one folder."""

    def __init__(self, folder: Path, running: ExitStack) -> None:
        self._folder = folder
        self._running = running
        self._port = free_port()
        binaries = folder / "bin"
        binaries.mkdir()
        command = binaries / "router-core"
        command.write_text(f'#!/bin/sh\nexec {sys.executable} -m handlers.cli "$@"\n', encoding="utf-8")
        command.chmod(0o755)
        self._environ = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("ROUTER_", "EXECUTION_"))},
            "PATH": f"{binaries}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT), "PORT": str(self._port),
            "ROUTER_LOG_FORMAT": "text",
        }  # fmt: skip

    def run(self, block: Block) -> str:
        """Run a block to its end; what serves or works goes on until the test ends."""
        code = block.code.replace("127.0.0.1:8000", f"127.0.0.1:{self._port}")
        for command, ready in READY.items():
            if command in code:
                self._go_on(code, ready)
                return ""
        done = self._bash(code, subprocess.PIPE)
        out, _ = done.communicate(timeout=60)
        assert done.returncode == 0, (block.where, out)
        return out.decode()

    def _bash(self, code: str, out: int | BinaryIO) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            ["bash", "-euo", "pipefail", "-c", code], cwd=self._folder, env=self._environ,
            stdout=out, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip

    def _go_on(self, code: str, ready: str) -> None:
        log = self._folder / f"{ready}.log"
        with log.open("wb") as out:
            process = self._bash(code, out)
        self._running.callback(_end, process)
        end = time.monotonic() + 30
        while ready not in log.read_text(encoding="utf-8"):
            gone = process.poll() is not None or time.monotonic() > end
            assert not gone, log.read_text(encoding="utf-8")
            time.sleep(0.02)


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.mark.process
def test_the_page_can_be_followed(tmp_path: Path) -> None:
    """From the service to the result of a job that another process ran."""
    with ExitStack() as running:
        shell = Shell(tmp_path, running)
        said = ""
        for block in blocks(PAGE, "sh", "python"):
            if block.file:
                (tmp_path / block.file).write_text(block.code, encoding="utf-8")
            if block.language == "sh":
                said += shell.run(block)
        assert "a fox" in said
        assert "job" in (tmp_path / "working for.log").read_text(encoding="utf-8")
