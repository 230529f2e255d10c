"""The configuration of a RunPod endpoint: read from files and options, compared with what is there.

Field names are those of the REST API, so that its reference is the reference of a file.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from handlers.deploy.errors import NotPrepared

__all__ = ["EndpointConfig", "merged", "profile_names", "read_config", "read_env", "read_profile"]

_HERE: Final = Path(__file__).parent
_PROFILES: Final = (_HERE / "files" / "infra" / "runpod", _HERE.parent.parent / "infra" / "runpod")
"""In an installed package, and in a clone."""
_NAME: Final = r"^[A-Za-z_][A-Za-z0-9_]*$"
_CUDA: Final = r"^\d+\.\d+$"
_PART: Final = r"[a-z0-9]+(?:[._-]+[a-z0-9]+)*"
_IMAGE: Final = re.compile(
    rf"(?:[A-Za-z0-9.-]+(?::\d+)?/)?{_PART}(?:/{_PART})*(?::\w[\w.-]{{0,127}})?(?:@[a-z0-9]+:[0-9a-f]+)?\Z",
    re.ASCII,
)


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Gpu(_Part):
    """Which GPUs a worker may run on."""

    pools: list[str] | None = Field(None, min_length=1)
    excludedTypes: list[str] | None = None
    count: int | None = Field(None, ge=1)
    allowedCudaVersions: list[str] | None = None
    minCudaVersion: str | None = Field(None, pattern=_CUDA)


class Cpu(_Part):
    """A CPU configuration that a worker may run on."""

    id: str = Field(min_length=1)
    vcpuCount: int = Field(ge=2)


class Workers(_Part):
    """How many workers there are, and how long they wait for the next job."""

    min: int | None = Field(None, ge=0)
    max: int | None = Field(None, ge=0)
    idleTimeout: int | None = Field(None, ge=1, le=3600)


class QueueDelay(_Part):
    """Start workers by how long jobs wait."""

    type: Literal["QUEUE_DELAY"]
    queueDelay: float = Field(ge=0.5)


class RequestCount(_Part):
    """Start workers by how many jobs there are."""

    type: Literal["REQUEST_COUNT"]
    requestCount: int = Field(ge=1)


class EndpointConfig(_Part):
    """What may be said about an endpoint; what is left out stays as it is, or as RunPod has it."""

    image: str | None = Field(None, min_length=1)
    args: str | None = None
    disk: int | None = Field(None, ge=1)
    env: dict[str, str] | None = None
    ports: list[str] | None = None
    registry: str | None = None
    gpu: Gpu | None = None
    cpu: list[Cpu] | None = Field(None, min_length=1)
    workers: Workers | None = None
    scaling: QueueDelay | RequestCount | None = Field(None, discriminator="type")
    dataCenterIds: list[str] | None = None
    networkVolumes: list[str] | None = None
    timeout: int | None = Field(None, ge=1_000)
    """Milliseconds that one job may run."""
    flashboot: Literal["OFF", "FLASHBOOT", "PRIORITY_FLASHBOOT"] | None = None

    @field_validator("image")
    @classmethod
    def _is_image(cls, image: str | None) -> str | None:
        # a worker would look for it in vain until the test request is given up
        if image is not None and not _IMAGE.match(image):
            raise ValueError("must name an image in small letters, such as docker.io/ann/service:1.0")
        return image

    @model_validator(mode="after")
    def _one_family(self) -> EndpointConfig:
        if self.gpu is not None and self.cpu is not None:
            raise ValueError("gpu and cpu exclude each other")
        return self

    def wire(self) -> dict[str, Any]:
        """Return the fields that were given, as the API names them."""
        return self.model_dump(exclude_none=True)


def read_config(path: Path) -> EndpointConfig:
    """Read a .toml or .json file. Raises NotPrepared."""
    try:
        text = path.read_text(encoding="utf-8")
        found = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except OSError as error:
        raise NotPrepared(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise NotPrepared(f"{path} is no {path.suffix.lstrip('.').upper() or 'TOML'}: {error}") from error
    return checked(found, str(path))


def checked(found: Any, where: str) -> EndpointConfig:
    """Return a configuration, or raise NotPrepared with the first thing that is wrong with it."""
    try:
        return EndpointConfig.model_validate(found)
    except ValidationError as error:
        # the value is left out: it may be a secret
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        field = ".".join(str(part) for part in first["loc"]) or "it"
        known = (
            ""
            if first["type"] != "extra_forbidden"
            else f" (known: {', '.join(EndpointConfig.model_fields)})"
        )
        raise NotPrepared(f"{where}: {field}: {first['msg']}{known}") from None


def profile_names() -> list[str]:
    """Return the names of the configurations that come with the package."""
    return sorted({path.stem for folder in _PROFILES for path in folder.glob("*.toml")})


def read_profile(name: str) -> EndpointConfig:
    """Return a configuration that comes with the package. Raises NotPrepared."""
    for folder in _PROFILES:
        path = folder / f"{name}.toml"
        if path.parent == folder and path.is_file():
            return read_config(path)
    raise NotPrepared(f"there is no profile {name!r}; there are {', '.join(profile_names()) or 'none'}")


def read_env(pairs: Sequence[str], files: Sequence[Path], environ: Mapping[str, str]) -> dict[str, str]:
    """Read KEY=VALUE options over the lines of files; a KEY alone takes its value from here.

    A file has a KEY=VALUE on a line, quotes around the value are taken off, and # begins a comment.
    """
    found: dict[str, str] = {}
    for path in files:
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise NotPrepared(f"{path} cannot be read: {getattr(error, 'strerror', 0) or error}") from error
        for number, line in enumerate(lines, 1):
            text = line.strip().removeprefix("export ").strip()
            if text and not text.startswith("#"):
                name, value = _pair(text, f"{path}:{number}", environ)
                found[name] = _unquoted(value)
    found.update(_pair(pair, "--env", environ) for pair in pairs)
    return found


def _pair(text: str, where: str, environ: Mapping[str, str]) -> tuple[str, str]:
    import re

    name, separator, value = text.partition("=")
    name = name.strip()
    if not re.fullmatch(_NAME, name):
        # the text may be a secret that lost its name
        raise NotPrepared(f"{where}: write NAME=VALUE; a name has letters, digits and _ only")
    if separator:
        return name, value.strip() if where != "--env" else value
    if name not in environ:
        raise NotPrepared(f"{where}: {name} has no value, and there is no variable of that name here")
    return name, environ[name]


def _unquoted(value: str) -> str:
    if len(value) >= 2 and value[0] == value[-1] and value[0] in "'\"":
        return value[1:-1]
    return value.split(" #", 1)[0].rstrip()


def merged(*layers: EndpointConfig) -> EndpointConfig:
    """Lay configurations over each other, the last on top; parts and env are merged by member."""
    found: dict[str, Any] = {}
    for layer in layers:
        for name, value in layer.wire().items():
            before = found.get(name)
            if name == "gpu":
                found.pop("cpu", None)
            elif name == "cpu":
                found.pop("gpu", None)
            mixes = isinstance(before, dict) and isinstance(value, dict) and name != "scaling"
            found[name] = {**before, **value} if mixes and isinstance(before, dict) else value
    return checked(found, "the options")
