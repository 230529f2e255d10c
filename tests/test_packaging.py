"""Check what is shipped: versions, pins and the contents of the wheel."""

import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    table: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return table


@pytest.fixture(scope="module")
def requirements(project: dict[str, Any]) -> list[Requirement]:
    extras: dict[str, list[str]] = project["optional-dependencies"]
    lines = [*project["dependencies"], *(line for extra in extras.values() for line in extra)]
    return [Requirement(line) for line in lines]


def pins() -> dict[str, str]:
    lines = [line.strip() for line in (ROOT / "constraints.txt").read_text().splitlines()]
    pairs = (line.split("==", 1) for line in lines if line and not line.startswith("#"))
    return {canonicalize_name(name): version for name, version in pairs}


def test_changelog_knows_the_version_or_the_next_one(project: dict[str, Any]) -> None:
    headings = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)
    assert {"Unreleased", project["version"]} & set(headings)


def test_constraints_are_plain_pins() -> None:
    """Refuse a host, a path or an option: any index must be able to serve these."""
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        assert re.fullmatch(r"#.*|[A-Za-z0-9._-]+==[A-Za-z0-9.+!]+", line), line
        assert "://" not in line


def test_every_dependency_is_pinned_within_its_range(requirements: list[Requirement]) -> None:
    pinned = pins()
    for requirement in requirements:
        version = pinned.get(canonicalize_name(requirement.name))
        assert version is not None, f"{requirement.name} is not in constraints.txt"
        assert requirement.specifier.contains(version, prereleases=True), requirement


def test_base_install_stays_small(project: dict[str, Any]) -> None:
    names = {Requirement(line).name for line in project["dependencies"]}
    assert names == {"pydantic", "python-multipart"}


@pytest.mark.process
def test_wheel_holds_the_two_packages_and_nothing_else(tmp_path: Path, project: dict[str, Any]) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/", 1)[0] for name in names}
    assert tops == {"router_core", "handlers", f"router_core-{project['version']}.dist-info"}
    assert {"router_core/py.typed", "handlers/py.typed"} <= set(names)
    found = [path.relative_to(ROOT) for path in ROOT.glob("infra/runpod/*.toml")]
    profiles = {f"handlers/deploy/files/{path}" for path in found}
    assert profiles
    assert profiles <= set(names)
    licences = [name for name in names if name.endswith("/licenses/LICENSE")]
    assert licences
