"""The page about RunPod can be followed, against the pretended platform."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from router_core.testing.runpod_rest import RunpodRest
from tests.docs_blocks import ROOT, blocks

PAGE = ROOT / "docs" / "deploy-runpod.md"
QUICK = 'router-core() { command router-core "$@" --poll 0.01; }\n'


@pytest.mark.process
def test_the_page_can_be_followed(runpod: RunpodRest, tmp_path: Path) -> None:
    """Its files are saved and its commands are run, in order."""
    (tmp_path / ".env").write_text("TOKEN=secret-of-the-page\n")
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("ROUTER_", "RUNPOD_"))}
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environ = {**inherited, **runpod.environ(), "PATH": path, "PYTHONPATH": str(ROOT)}
    images = []
    for block in blocks(PAGE, "sh", "python", "toml"):
        if block.file:
            (tmp_path / block.file).write_text(block.code, encoding="utf-8")
        if block.language != "sh" or block.not_run:
            continue
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", QUICK + block.code],
            cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{block.where}\n{done.stderr}"
        assert "secret-of-the-page" not in done.stdout + done.stderr
        images += [runpod.endpoint(name)["image"] for name in runpod.names()]
    assert images == ["docker.io/ann/service:1.0", "docker.io/ann/service:1.1"]
    assert runpod.names() == []
