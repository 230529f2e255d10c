"""What RunPod hands to a worker: a job with its id and input; the rest is the platform's business."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from router_core.errors import ValidationFailed

__all__ = ["Envelope", "read_job"]


@dataclass(frozen=True, slots=True)
class Envelope:
    """One delivery of a job."""

    id: str
    input: Mapping[str, Any]
    policy: Mapping[str, Any]

    @property
    def sync(self) -> bool:
        """Whether the caller waits at ``/runsync``, whose results may be larger."""
        return self.id.startswith("sync-")


def read_job(job: Mapping[str, Any]) -> Envelope:
    """Read a delivery; raises ValidationFailed. ``webhook``, ``s3Config`` and unknown members are ignored:
    the platform itself acts on them."""
    given = job.get("input")
    if not isinstance(given, Mapping):
        kind = "missing" if given is None else "object_type"
        error = {"loc": ["input"], "msg": "must be an object of arguments", "type": kind}
        raise ValidationFailed("input must be an object of arguments", errors=[error])
    policy = job.get("policy")
    return Envelope(str(job.get("id", "")), given, policy if isinstance(policy, Mapping) else {})
