"""What RunPod's REST API (v2) takes in the body of a create and of an update, checked as strictly."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

__all__ = ["CONTAINER", "Problem", "read_create", "read_update"]

CONTAINER: Final = frozenset({"image", "args", "disk", "ports", "env", "registry", "gpu", "cpu", "flashboot"})
"""A change of these is a new release: the workers are replaced."""
_CUDA: Final = r"^\d+\.\d+$"


T = TypeVar("T", bound=BaseModel)


class Problem(Exception):
    """An answer of the form application/problem+json."""

    def __init__(self, status: int, title: str, detail: str, errors: tuple[str, ...] = ()) -> None:
        super().__init__(detail)
        self.status = status
        self.title = title
        self.detail = detail
        self.errors = errors

    def body(self) -> dict[str, Any]:
        """Return the members."""
        told = {"title": self.title, "status": self.status, "detail": self.detail}
        return {**told, "errors": list(self.errors)} if self.errors else told


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class _Gpu(_Part):
    pools: list[str] = Field(default_factory=list, min_length=1)
    excludedTypes: list[str] = Field(default_factory=list)
    count: int = Field(1, ge=1)
    allowedCudaVersions: list[str] = Field(default_factory=list)
    minCudaVersion: str = Field("", pattern=f"^$|{_CUDA}")


class _Cpu(_Part):
    id: str = Field(min_length=1)
    vcpuCount: int = Field(ge=2)


class _Workers(_Part):
    min: int = Field(0, ge=0)
    max: int = Field(3, ge=0)
    idleTimeout: int = Field(10, ge=1, le=3600)


class _QueueDelay(_Part):
    type: Literal["QUEUE_DELAY"]
    queueDelay: float = Field(ge=0.5)


class _RequestCount(_Part):
    type: Literal["REQUEST_COUNT"]
    requestCount: int = Field(ge=1)


class _Update(_Part):
    name: str = Field("", min_length=1)
    image: str = ""
    args: str = ""
    disk: int = Field(20, ge=1)
    env: dict[str, str] = Field(default_factory=dict)
    ports: list[str] = Field(default_factory=list)
    registry: str | None = None
    gpu: _Gpu | None = None
    cpu: list[_Cpu] | None = Field(None, min_length=1)
    workers: _Workers = Field(default_factory=_Workers)
    scaling: _QueueDelay | _RequestCount | None = Field(None, discriminator="type")
    dataCenterIds: list[str] = Field(default_factory=list)
    networkVolumes: list[str] = Field(default_factory=list)
    timeout: int = 300_000
    flashboot: Literal["OFF", "FLASHBOOT", "PRIORITY_FLASHBOOT"] = "OFF"


class _Create(_Update):
    name: str = Field(min_length=1)
    image: str = Field(min_length=1)
    type: Literal["QUEUE", "LOAD_BALANCER"]
    scaling: _QueueDelay | _RequestCount = Field(discriminator="type")


def read_create(body: Any) -> dict[str, Any]:
    """Return the fields of a new endpoint, defaults included. Raises Problem."""
    read = _checked(_Create, body)
    if (read.gpu is None) == (read.cpu is None):
        raise Problem(400, "Bad Request", "specify exactly one of gpu or cpu")
    if read.gpu is not None and not read.gpu.pools:
        raise Problem(422, "Unprocessable Entity", "Request validation failed.", ("gpu.pools: required",))
    fields = read.model_dump()
    if "idleTimeout" not in (body.get("workers") or {}) and fields["scaling"]["type"] == "REQUEST_COUNT":
        del fields["workers"]["idleTimeout"]
    return _consistent(_told(fields))


def read_update(body: Any, before: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of an endpoint after an update. Raises Problem."""
    given = _checked(_Update, body).model_dump(exclude_unset=True)
    gpu = given.get("gpu")
    if (gpu is not None and before.get("cpu")) or (given.get("cpu") is not None and before.get("gpu")):
        raise Problem(400, "Bad Request", "the compute family of an endpoint cannot be changed")
    if gpu is not None and "excludedTypes" in gpu and "pools" not in gpu:
        raise Problem(422, "Unprocessable Entity", "gpu.excludedTypes requires gpu.pools")
    fields = {**before, **given}
    if gpu is not None:
        kept = dict(before["gpu"])
        if "pools" in gpu:
            kept.pop("excludedTypes", None)
        fields["gpu"] = {**kept, **gpu}
    if "workers" in given:
        fields["workers"] = {**before["workers"], **given["workers"]}
    if "scaling" in given and given["scaling"]["type"] == "REQUEST_COUNT":
        if "idleTimeout" not in (given.get("workers") or {}):
            fields["workers"] = {k: v for k, v in fields["workers"].items() if k != "idleTimeout"}
    return _consistent(_told(fields))


def _checked(model: type[T], body: Any) -> T:
    try:
        return model.model_validate(body)
    except ValidationError as error:
        found = tuple(
            f"{'.'.join(map(str, each['loc']))}: {each['msg']} (given: {each['input']!r})"
            for each in error.errors(include_url=False)
        )
        raise Problem(422, "Unprocessable Entity", "Request validation failed.", found) from None


def _consistent(fields: dict[str, Any]) -> dict[str, Any]:
    gpu = fields.get("gpu")
    if gpu and gpu["allowedCudaVersions"] and gpu["minCudaVersion"]:
        raise Problem(400, "Bad Request", "allowedCudaVersions and minCudaVersion are mutually exclusive")
    if fields["scaling"]["type"] == "REQUEST_COUNT" and "idleTimeout" in fields["workers"]:
        raise Problem(400, "Bad Request", "workers.idleTimeout is not applicable to REQUEST_COUNT scaling")
    return fields


def _told(fields: dict[str, Any]) -> dict[str, Any]:
    """Return the form in which an endpoint is told: no floor is null, no exclusions are left out."""
    found = dict(fields)
    if found.get("gpu") is not None:
        gpu = dict(found["gpu"])
        gpu["minCudaVersion"] = gpu.get("minCudaVersion") or None
        if not gpu.get("excludedTypes"):
            gpu.pop("excludedTypes", None)
        found["gpu"] = gpu
        found.pop("cpu", None)
    elif found.get("cpu") is not None:
        found["cpu"] = [{**each, "memory": each["vcpuCount"] * 2} for each in found["cpu"]]
        found.pop("gpu", None)
    return found
