"""How a deployment is asked how it is, free of charge."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["HEALTH", "METRICS", "MODELS", "Probe", "ProbeKind"]

ProbeKind = Literal["models", "health", "info", "metrics", "none"]


@dataclass(frozen=True, slots=True)
class Probe:
    """One request that costs nothing."""

    method: str
    path: str
    """After the base URL without its ``/v1``."""
    kind: ProbeKind
    """What the answer holds: ``models`` a list of models, ``health`` nothing but its status, ``info`` a JSON
    description of the server, ``metrics`` Prometheus text."""


HEALTH = Probe("GET", "/health", "health")
METRICS = Probe("GET", "/metrics", "metrics")
MODELS = Probe("GET", "/v1/models", "models")
