"""The image of a RunPod worker, as far as it can be checked without building it."""

from __future__ import annotations

import fnmatch
import json
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from router_core.settings import VARIABLES, Settings

ROOT = Path(__file__).parent.parent.parent
DOCKERFILE = ROOT / "Dockerfile.runpod"


@dataclass(frozen=True, slots=True)
class Line:
    """One instruction."""

    name: str
    value: str

    def words(self) -> list[str]:
        """Return the words, or the list of the JSON form."""
        if self.value.startswith("["):
            found: list[str] = json.loads(self.value)
            return found
        return shlex.split(self.value)


def instructions(text: str) -> Iterator[Line]:
    """Yield the instructions; comments and continuations are resolved as docker does."""
    lines = (line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#"))
    for whole in re.split(r"(?<!\\)\n", "\n".join(lines)):
        name, _, value = whole.replace("\\\n", " ").strip().partition(" ")
        yield Line(name.upper(), value.strip())


@pytest.fixture(scope="module")
def stages() -> list[list[Line]]:
    """Return the instructions of each stage; what stands before the first FROM comes first."""
    found: list[list[Line]] = [[]]
    for line in instructions(DOCKERFILE.read_text(encoding="utf-8")):
        if line.name == "FROM":
            found.append([])
        found[-1].append(line)
    return found


def named(stage: list[Line], name: str) -> list[Line]:
    """Return the instructions of one name."""
    return [line for line in stage if line.name == name]


def arguments(stage: list[Line]) -> dict[str, str]:
    """Return the build arguments with their defaults."""
    pairs = (line.value.partition("=") for line in named(stage, "ARG"))
    return {name: value.strip('"') for name, _, value in pairs}


def environment(stage: list[Line]) -> dict[str, str]:
    """Return what ENV sets."""
    pairs = (word.partition("=") for line in named(stage, "ENV") for word in line.words())
    return {name: value for name, _, value in pairs}


# --- the Dockerfile


def test_every_line_is_an_instruction_that_docker_knows(stages: list[list[Line]]) -> None:
    """A slip of the pen ends a build after minutes; here it ends a test."""
    known = {"ARG", "CMD", "COPY", "ENV", "FROM", "HEALTHCHECK", "RUN", "STOPSIGNAL", "USER", "WORKDIR"}
    assert {line.name for stage in stages for line in stage} == known


def test_there_are_two_stages_on_one_pinned_base(stages: list[list[Line]]) -> None:
    """Patch version and distribution are named, nothing is `latest`, and only the version may be chosen."""
    before, build, run = stages
    (version,) = arguments(before).values()
    assert re.fullmatch(r"3\.\d+\.\d+", version)
    assert build[0].value == "python:${PYTHON_VERSION}-slim-bookworm AS build"
    assert run[0].value == "python:${PYTHON_VERSION}-slim-bookworm"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    minor = ".".join(version.split(".")[:2])
    assert f"Programming Language :: Python :: {minor}" in project["classifiers"]


def test_it_runs_as_somebody_who_cannot_change_the_code(stages: list[list[Line]]) -> None:
    """A user with a fixed id; the last USER counts; what is copied stays root's."""
    run = stages[-1]
    assert [line.value for line in named(run, "USER")] == ["router"]
    (added,) = [line.value for line in named(run, "RUN") if "useradd" in line.value]
    assert "--uid 10001" in added
    assert run.index(named(run, "USER")[0]) > max(run.index(line) for line in named(run, "COPY"))
    assert not [line for line in named(run, "COPY") if "--chown" in line.value or "--chmod" in line.value]
    assert named(run, "WORKDIR")[-1].value == "/home/router"


def test_it_starts_our_worker_and_can_be_asked_and_stopped(stages: list[list[Line]]) -> None:
    """The exec form: no shell stands between the signal and the worker."""
    run = stages[-1]
    assert named(run, "CMD")[-1].words() == ["python", "-m", "handlers.runpod"]
    assert named(run, "STOPSIGNAL")[0].value == "SIGTERM"
    (health,) = named(run, "HEALTHCHECK")
    options, _, command = health.value.partition("CMD")
    assert json.loads(command) == ["python", "-m", "handlers.runpod", "--check"]
    assert {"--interval", "--timeout", "--start-period", "--retries"} == {
        word.partition("=")[0] for word in options.split()
    }
    assert (ROOT / "handlers" / "runpod" / "__main__.py").is_file()


def test_what_a_builder_may_choose_has_a_default(stages: list[list[Line]]) -> None:
    """Extras, app, its folder, and Debian packages for either stage."""
    before, build, run = stages
    assert set(arguments(before)) == {"PYTHON_VERSION"}
    assert arguments(build) == {
        "EXTRAS": "runpod,gateway,examples",
        "APT_BUILD_PACKAGES": "",
        "APP_DIR": "examples",
    }
    assert arguments(run) == {"APT_PACKAGES": "", "ROUTER_APP": "examples.app:router"}


def test_the_environment_is_that_of_a_worker_and_holds_no_secret(stages: list[list[Line]]) -> None:
    """Each setting exists and can be read; nothing looks like a key."""
    build, run = environment(stages[1]), environment(stages[2])
    ours = {name: value for name, value in run.items() if name.startswith(("ROUTER_", "EXECUTION_"))}
    assert set(ours) <= {name for names in VARIABLES.values() for name in names}
    settings = Settings.from_env({**ours, "ROUTER_APP": arguments(stages[2])["ROUTER_APP"]})
    assert (settings.provider, settings.environment) == ("runpod", "serverless")
    assert (run["PYTHONUNBUFFERED"], run["PYTHONPATH"]) == ("1", "/app")
    secret = re.compile(r"key|token|secret|passw|credential", re.IGNORECASE)
    for stage in stages:
        assert not [name for name in (*arguments(stage), *environment(stage)) if secret.search(name)]
    assert "ROUTER" not in " ".join(build)


def test_every_source_that_is_copied_exists_and_is_let_in(stages: list[list[Line]]) -> None:
    """Into the build context, past .dockerignore; the other stage's folders were made there."""
    before, build, run = stages
    defaults = {**arguments(before), **arguments(build), **arguments(run)}
    patterns = ignored()
    for line in named(build, "COPY"):
        *sources, _ = line.words()
        for source in sources:
            path = re.sub(r"\$\{(\w+)\}", lambda found: defaults[found[1]], source)
            found = list(ROOT.glob(path))
            assert found, path
            assert not any(is_ignored(str(each.relative_to(ROOT)), patterns) for each in found), path
    for line in named(run, "COPY"):
        origin, source, target = line.words()
        assert (origin, source) == ("--from=build", target)


def test_all_that_the_wheel_is_made_of_is_copied_before_it_is_built(stages: list[list[Line]]) -> None:
    """Packages, forced files, readme and licence: hatchling fails without any of them."""
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wheel = config["tool"]["hatch"]["build"]["targets"]["wheel"]
    needed = {*wheel["packages"], *wheel.get("force-include", {}), "pyproject.toml",
              config["project"]["readme"], *config["project"]["license-files"]}  # fmt: skip
    build = stages[1]
    (install,) = [line for line in named(build, "RUN") if "--no-deps" in line.value]
    copied: set[str] = set()
    for line in build[: build.index(install)]:
        if line.name == "COPY":
            copied |= set(line.words()[:-1])
    missing = [each for each in needed if not any(fnmatch.fnmatchcase(each, source) for source in copied)]
    assert missing == []


def test_shell_lines_are_ones_that_a_shell_understands(stages: list[list[Line]]) -> None:
    """`sh -n` reads each RUN; lists of Debian packages are removed where they were fetched."""
    for stage in stages:
        for line in named(stage, "RUN"):
            done = subprocess.run(["sh", "-n", "-c", line.value], capture_output=True, text=True, check=False)
            assert done.returncode == 0, (line.value, done.stderr)
            assert ("apt-get update" in line.value) == ("rm -rf /var/lib/apt/lists/*" in line.value)


# --- what is installed


@pytest.mark.parametrize("extras", ["runpod,examples", "runpod", "runpod, aws", ""])
def test_the_requirements_of_extras_are_those_of_the_project(extras: str) -> None:
    """Base and extras, each pinned by the constraints that the image installs with."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    script = ROOT / "infra" / "runpod" / "requirements.py"
    done = subprocess.run(
        [sys.executable, str(script), str(ROOT / "pyproject.toml"), extras],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    wanted = {*project["dependencies"]}
    for name in filter(None, (each.strip() for each in extras.split(","))):
        wanted |= {*project["optional-dependencies"][name]}
    lines = done.stdout.split("\n")[:-1]
    assert set(lines) == wanted
    pinned = {canonicalize_name(line.split("==")[0]) for line in pins()}
    assert {canonicalize_name(Requirement(line).name) for line in lines} <= pinned


def test_an_extra_that_is_none_is_named() -> None:
    """The build ends there, with the choices."""
    script = ROOT / "infra" / "runpod" / "requirements.py"
    done = subprocess.run(
        [sys.executable, str(script), str(ROOT / "pyproject.toml"), "runpod,gpu"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "unknown extras: gpu" in done.stderr


def pins() -> list[str]:
    """Return the pins of constraints.txt."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


# --- .dockerignore


def ignored() -> list[str]:
    """Return the patterns."""
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def is_ignored(path: str, patterns: list[str]) -> bool:
    """Say whether a path, or a folder that it lies in, is left out."""
    parts = path.split("/")
    heads = ["/".join(parts[: n + 1]) for n in range(len(parts))]
    return any(
        fnmatch.fnmatchcase(head, pattern) or fnmatch.fnmatchcase(head, pattern.removeprefix("**/"))
        or (pattern.startswith("**/") and fnmatch.fnmatchcase(head.split("/")[-1], pattern[3:]))
        for head in heads for pattern in patterns
    )  # fmt: skip


@pytest.mark.parametrize(
    "path",
    [".env", "examples/.env", "examples/.env.prod", ".git/config", ".venv/bin/python", ".venv-aws/x",
     "key.pem", "examples/server.key", ".router-core/jobs.db", "examples/jobs.sqlite3-wal",
     ".aws/credentials",
     "router_core/__pycache__/app.pyc", "tests/conftest.py", "handlers/aws/.aws/credentials"],
)  # fmt: skip
def test_secrets_and_litter_stay_outside(path: str) -> None:
    """They are not even sent to the docker daemon."""
    assert is_ignored(path, ignored())


@pytest.mark.parametrize(
    "path", ["router_core/app.py", "handlers/aws/entry.py", "examples/photo.jpg", "README.md"]
)
def test_the_code_is_let_in(path: str) -> None:
    """What looks similar is not meant."""
    assert not is_ignored(path, ignored())
