"""What an installed router-core needs to deploy: there is no clone beside it."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from handlers.deploy.aws_template import parameter_names, stage_template

ROOT = Path(__file__).parent.parent.parent
FILES = ("template.yaml", "infra/aws/Makefile")


@pytest.mark.process
def test_the_wheel_brings_the_template(tmp_path: Path) -> None:
    """Find template and Makefile in an installed wheel, equal to those of the clone."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    program = (
        "import pathlib, sys, handlers.deploy.aws_template as t; t.stage_template(pathlib.Path(sys.argv[1]))"
    )
    place = tmp_path / "place"
    place.mkdir()
    done = subprocess.run(
        [sys.executable, "-P", "-c", program, str(place)], cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "site")}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for name in FILES:
        assert (place / name).read_bytes() == (ROOT / name).read_bytes()
        assert (tmp_path / "site" / "handlers" / "deploy" / "files" / name).is_file()


def test_the_clone_has_the_template(tmp_path: Path) -> None:
    """Find them in a clone, too, and read the names of the parameters."""
    template = stage_template(tmp_path)
    assert (tmp_path / "infra" / "aws" / "Makefile").is_file()
    names = parameter_names(template)
    assert names[:2] == ["App", "Stage"]
    assert {"ApiKeys", "JobTimeout", "AlarmTopicArn"} <= set(names)
    assert "Type" not in names


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("Resources: {}\n", []),
        (
            "Parameters:\n  A:\n    Type: String\n\n  # note\n  Bc:\n    Type: Number\nResources: {}\n",
            ["A", "Bc"],
        ),
        ("Parameters:\n    A: {Type: String}\n", ["A"]),
        ("Parameters: {A: {Type: String}}\n", []),
        ("", []),
    ],
)
def test_parameters_are_read(tmp_path: Path, text: str, names: list[str]) -> None:
    """Read the names where a template is written in block style; elsewhere know none."""
    (tmp_path / "t.yaml").write_text(text)
    assert parameter_names(tmp_path / "t.yaml") == names
