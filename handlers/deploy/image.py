"""Build a container image with docker and push it to where RunPod can fetch it."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from handlers.deploy.errors import DeployError, NotPrepared
from handlers.deploy.progress import Step

__all__ = ["Build", "build_and_push"]

_PLATFORM: Final = "linux/amd64"
"""What RunPod's machines are, whatever this one is."""
_LAST_LINES: Final = 6


@dataclass(frozen=True, slots=True)
class Build:
    """What to build."""

    image: str
    """With the registry it is pushed to, such as ``docker.io/ann/service:1.2``."""
    dockerfile: Path
    context: Path
    args: Mapping[str, str] = field(default_factory=dict)


def build_and_push(build: Build, step: Step) -> str:
    """Return the image by its digest, which no later push can change. Raises DeployError."""
    docker = shutil.which("docker")
    if docker is None:
        raise NotPrepared(
            "docker is not there: install it, or build and push the image elsewhere and name it with --image "
            "alone"
        )
    if not build.dockerfile.is_file():
        raise NotPrepared(f"there is no {build.dockerfile}; name it with --dockerfile")
    step.status(f"docker build -f {build.dockerfile} {build.context}")
    options = [word for name, value in build.args.items() for word in ("--build-arg", f"{name}={value}")]
    where = ["--platform", _PLATFORM, "-f", str(build.dockerfile), "-t", build.image, *options]
    _run([docker, "build", *where, str(build.context)], "docker build")
    step.status(f"docker push {build.image}")
    _run([docker, "push", build.image], "docker push", "is `docker login` done?")
    found = _run([docker, "image", "inspect", "--format", "{{json .RepoDigests}}", build.image], "docker")
    return _digest(found, build.image)


def _digest(found: str, image: str) -> str:
    try:
        digests = json.loads(found)
    except ValueError:
        digests = None
    repository = _repository(image)
    for each in digests if isinstance(digests, list) else []:
        if _repository(str(each).partition("@")[0]) == repository:
            return str(each)
    return image


def _repository(image: str) -> str:
    """Return the image without tag; docker writes Docker Hub as nothing."""
    folder, separator, name = image.rpartition("/")
    return f"{folder}{separator}{name.partition(':')[0]}".removeprefix("docker.io/").removeprefix("library/")


def _run(command: Sequence[str], what: str, hint: str = "") -> str:
    """Run it and return what it said; an interrupt reaches it, too."""
    with tempfile.TemporaryFile() as out:
        try:
            code = subprocess.run(  # noqa: S603 - docker, with arguments and no shell
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, check=False
            )
        except OSError as error:
            raise NotPrepared(f"{what} cannot be run: {error.strerror}") from error
        out.seek(0)
        said = out.read().decode("utf-8", "replace").strip()
    if code.returncode:
        last = " / ".join(line.strip() for line in said.splitlines()[-_LAST_LINES:])
        raise DeployError(f"{what} failed ({code.returncode}): {last}{f'; {hint}' if hint else ''}")
    return said
