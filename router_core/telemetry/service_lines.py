"""Lines of the log for collectors that look for ``timestamp``, ``service``, ``requestId`` and ``latency``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

__all__ = ["Shape", "service_shape"]

Shape = Callable[[Mapping[str, Any]], dict[str, Any]]

_NAMES: Final = {"ts": "timestamp", "duration_ms": "latency", "model": "modelId", "model_id": "modelId"}
_FIRST: Final = ("timestamp", "level", "service", "message")


def service_shape(service: str) -> Shape:
    """Return what gives the members of a line these names; the others are theirs in camelCase."""

    def shaped(line: Mapping[str, Any]) -> dict[str, Any]:
        told: dict[str, Any] = {}
        for name, value in line.items():
            told[_NAMES.get(name) or _camel(name)] = value
        told["service"] = service
        told["message"] = told.get("message") or _message(line)
        return {name: told[name] for name in _FIRST} | told

    return shaped


def _message(line: Mapping[str, Any]) -> str:
    """Return a sentence for events that have none."""
    event = str(line.get("event", ""))
    if event == "request":
        return f"{line.get('method')} {line.get('path')} {line.get('status')}"
    if event == "job":
        return f"job {line.get('move')}: {line.get('state')}"
    return event


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(word[:1].upper() + word[1:] for word in rest) if first else name
