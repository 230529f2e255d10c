"""What a deployment would change: an endpoint as it is and as it is wanted, and the bodies for both ways."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final

from handlers.deploy.errors import NotPrepared
from handlers.deploy.runpod_config import EndpointConfig

__all__ = ["MARK", "Change", "Plan", "differences", "plan_for", "settable"]

MARK: Final = "ROUTER_DEPLOYMENT"
"""Variable of the worker that holds the id of the deployment: whose an endpoint is, and which release."""
_FIELDS: Final = tuple(EndpointConfig.model_fields)
_UNORDERED: Final = frozenset({"dataCenterIds", "networkVolumes", "ports"})
_SCALING: Final = frozenset({"workers", "scaling", "timeout"})
"""What is changed without new workers."""
_DEFAULTS: Final[Mapping[str, Any]] = {
    "scaling": {"type": "QUEUE_DELAY", "queueDelay": 4},
    "workers": {"min": 0, "max": 3},
}


@dataclass(frozen=True, slots=True)
class Change:
    """One field that will differ."""

    field: str
    old: Any
    new: Any

    def lines(self) -> list[str]:
        """Describe it; of env only the names are told."""
        if self.field == "env":
            return _env_lines(self.old or {}, self.new)
        if isinstance(self.new, dict):
            old = self.old if isinstance(self.old, dict) else {}
            keys = [key for key in {**old, **self.new} if old.get(key) != self.new.get(key)]
            return [f"{self.field}.{key}: {_arrow(old.get(key), self.new.get(key))}" for key in keys]
        return [f"{self.field}: {_arrow(self.old, self.new)}"]


@dataclass(frozen=True, slots=True)
class Plan:
    """A deployment, before anything is done."""

    name: str
    current: Mapping[str, Any] | None
    """The endpoint as the API tells it; None when it is to be created."""
    wanted: Mapping[str, Any]
    """Every field as it is to be."""
    changes: tuple[Change, ...]

    def create_body(self, name: str, mark: str, **workers: int) -> dict[str, Any]:
        """Return the body that creates the endpoint, or a candidate of it with other ``workers``."""
        body = {key: value for key, value in self.wanted.items() if value is not None}
        body["workers"] = {**body["workers"], **workers}
        if "gpu" in body:
            body["gpu"] = {key: value for key, value in body["gpu"].items() if value not in (None, [])}
        return {"name": name, "type": "QUEUE", **body, "env": _marked(body.get("env"), mark)}

    @property
    def replaces_workers(self) -> bool:
        """Whether more changes than how many workers there are."""
        return any(change.field not in _SCALING for change in self.changes)

    def update_body(self, mark: str, *, force: bool = False) -> dict[str, Any]:
        """Return the body that makes the changes; ``force`` starts new workers although nothing changes."""
        body = {change.field: _sent(change.field, self.wanted[change.field]) for change in self.changes}
        if self.replaces_workers or force:
            body["env"] = _marked(self.wanted.get("env"), mark)
        return body

    def restore_body(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Return the body that takes an update back."""
        before = settable(self.current or {})
        return {field: _sent(field, before[field]) for field in body if field in before}

    def foreign(self, now: Mapping[str, Any], body: Mapping[str, Any]) -> list[str]:
        """Name the fields of an update that are neither as they were nor as the update makes them."""
        before, found = settable(self.current or {}), settable(now)
        return [
            field
            for field in body
            if _plain(field, found.get(field))
            not in (_plain(field, before.get(field)), _plain(field, self.wanted[field]))
        ]

    def lines(self) -> list[str]:
        """Describe it."""
        return [line for change in self.changes for line in change.lines()]


def plan_for(
    name: str, current: Mapping[str, Any] | None, config: EndpointConfig, remove_env: Collection[str] = ()
) -> Plan:
    """Lay the configuration over what is there. Raises NotPrepared for what the API could not do."""
    given = config.wire()
    if current is not None:
        _check_kind(name, current, given)
    before = settable(current) if current is not None else {}
    wanted = dict(before) if current is not None else dict(_DEFAULTS)
    for field, value in given.items():
        wanted[field] = _laid(field, wanted.get(field), value)
    wanted["env"] = {key: text for key, text in (wanted.get("env") or {}).items() if key not in remove_env}
    _check(name, wanted)
    changes = tuple(
        Change(field, before.get(field), wanted[field])
        for field in _FIELDS
        if field in wanted and _plain(field, before.get(field)) != _plain(field, wanted[field])
    )
    return Plan(name, current, wanted, changes)


def settable(endpoint: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of an endpoint that can be set, in the form in which they are sent."""
    found = {field: endpoint[field] for field in _FIELDS if field in endpoint}
    found["env"] = dict(found.get("env") or {})
    gpu, cpu = found.get("gpu"), found.get("cpu")
    if isinstance(gpu, Mapping):
        keys = ("pools", "excludedTypes", "count", "allowedCudaVersions", "minCudaVersion")
        found["gpu"] = {key: gpu[key] for key in keys if key in gpu}
    else:
        found.pop("gpu", None)
    if isinstance(cpu, list):
        found["cpu"] = [{"id": each.get("id"), "vcpuCount": each.get("vcpuCount")} for each in cpu]
    else:
        found.pop("cpu", None)
    return found


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Name the fields in which two states of an endpoint differ."""
    old, new = settable(before), settable(after)
    return [
        field
        for field in _FIELDS
        if json.dumps(old.get(field), sort_keys=True) != json.dumps(new.get(field), sort_keys=True)
    ]


def _check_kind(name: str, current: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    if current.get("type", "QUEUE") != "QUEUE":
        raise NotPrepared(
            f"{name} is a load-balancing endpoint, and a worker of router-core takes jobs from a queue: "
            "choose another --name, or destroy it first"
        )
    if ("gpu" in given and current.get("cpu")) or ("cpu" in given and current.get("gpu")):
        raise NotPrepared(
            f"{name} cannot change between GPU and CPU: choose another --name, or destroy it first"
        )


def _check(name: str, wanted: dict[str, Any]) -> None:
    workers, scaling = wanted.get("workers") or {}, wanted.get("scaling") or {}
    if not wanted.get("image"):
        raise NotPrepared(f"there is no endpoint {name} yet, so --image is needed")
    if workers.get("min", 0) > workers.get("max", 0):
        raise NotPrepared(
            f"workers.min {workers.get('min')} is above workers.max {workers.get('max')}: set --workers-max"
        )
    if scaling.get("type") == "REQUEST_COUNT" and "idleTimeout" in workers:
        # the API refuses the two together
        wanted["workers"] = {key: value for key, value in workers.items() if key != "idleTimeout"}


def _laid(field: str, before: Any, value: Any) -> Any:
    if field == "scaling" or not isinstance(value, dict) or not isinstance(before, Mapping):
        return value
    laid = {**before, **value}
    if field == "gpu":
        if "pools" in value and "excludedTypes" not in value:
            laid.pop("excludedTypes", None)
        if value.get("minCudaVersion"):
            laid["allowedCudaVersions"] = value.get("allowedCudaVersions", [])
        elif value.get("allowedCudaVersions"):
            laid["minCudaVersion"] = None
    return laid


def _plain(field: str, value: Any) -> Any:
    """Return a value so that two that mean the same are equal."""
    if field == "env":
        return {key: text for key, text in (value or {}).items() if key != MARK}
    if field == "gpu" and isinstance(value, Mapping):
        found = {key: each for key, each in value.items() if each not in (None, [], "")}
        return {**found, "count": found.get("count", 1)}
    if field in _UNORDERED and isinstance(value, list):
        return sorted(map(str, value))
    return value or None


def _sent(field: str, value: Any) -> Any:
    """Return the form in which an update wants a value: one left out stays, an empty one is cleared."""
    if field == "gpu" and isinstance(value, Mapping):
        return {
            **value, "allowedCudaVersions": value.get("allowedCudaVersions") or [],
            "minCudaVersion": value.get("minCudaVersion") or "",
        }  # fmt: skip
    return value


def _marked(env: Mapping[str, str] | None, mark: str) -> dict[str, str]:
    return {**(env or {}), MARK: mark}


def _env_lines(old: Mapping[str, str], new: Mapping[str, str]) -> list[str]:
    words = [f"+{key}" for key in new if key not in old]
    words += [f"~{key}" for key in new if key in old and old[key] != new[key]]
    words += [f"-{key}" for key in old if key not in new]
    return [f"env: {' '.join(word for word in words if word[1:] != MARK)}"]


def _arrow(old: Any, new: Any) -> str:
    return _shown(new) if old is None else f"{_shown(old)} -> {_shown(new)}"


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
