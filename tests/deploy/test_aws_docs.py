"""The page about AWS can be followed, with a quick SAM and against the emulator's CloudFormation."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.deploy.aws_deploying import Account, FakeSam
from tests.docs_blocks import ROOT, blocks
from tests.served import served

PAGE = ROOT / "docs" / "deploy-aws.md"


@pytest.mark.process
@pytest.mark.usefixtures("aws")
def test_the_page_can_be_followed(tmp_path: Path) -> None:
    """Its files are saved and its commands are run, in order; the address is that of the service run here."""
    place, folder = tmp_path / "bin", tmp_path / "app"
    place.mkdir()
    folder.mkdir()
    sam = FakeSam.made(place)
    account = Account("service")
    path = os.pathsep.join((str(place), str(Path(sys.executable).parent), os.environ["PATH"]))
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("ROUTER_")}
    environ = {**inherited, "PATH": path, "FAKE_SAM": str(place), "PYTHONPATH": str(ROOT)}
    found = blocks(PAGE, "sh", "python", "toml")
    for block in found:
        if block.file:
            (folder / block.file).write_text(block.code, encoding="utf-8")
    statuses = []
    with served("service:router", folder, ROUTER_JOBS="memory://", ROUTER_BLOBS="memory://") as service:
        sam.plan(url=service.url)
        for block in found:
            if block.language != "sh" or block.not_run:
                continue
            done = subprocess.run(
                ["bash", "-euo", "pipefail", "-c", block.code],
                cwd=folder, env=environ, capture_output=True, text=True, timeout=90, check=False,
            )  # fmt: skip
            assert done.returncode == 0, f"{block.where}\n{done.stderr}"
            statuses.append(account.status())
    assert statuses == ["", "CREATE_COMPLETE", "UPDATE_COMPLETE", ""]
    assert (folder / "keys.txt").read_text().startswith("ann:sha256=")
    deployed = [call["parameters"] for call in sam.calls() if call["words"][0] == "deploy"]
    assert [given.get("Stage") for given in deployed] == [None, "prod"]
    assert deployed[0]["ApiKeys"] == (folder / "keys.txt").read_text().strip()
