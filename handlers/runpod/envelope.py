"""What RunPod hands to a worker: a job with its id and input; the rest is the platform's business."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from router_core.errors import ValidationFailed

__all__ = ["Envelope", "read_job", "read_key"]

_KEYS: Final = ("idempotency_key", "Idempotency-Key")
"""How a caller may spell it in the input; there are no headers to put it into."""
_POLICY_KEYS: Final = ("idempotencyKey", "idempotency_key")


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


def read_key(envelope: Envelope, arguments: dict[str, Any], taken: frozenset[str]) -> str:
    """Return the caller's idempotency key, or nothing, and take it out of the arguments.

    ``taken`` holds the names of the function's own parameters, which are never mistaken for it. Raises
    ValidationFailed for a key that is no text.
    """
    found: Any = None
    for name in _KEYS:
        if name not in taken and name in arguments:
            found = arguments.pop(name)
    for name in _POLICY_KEYS:
        found = envelope.policy.get(name) if found is None else found
    if found is None:
        return ""
    if not isinstance(found, str) or not found:
        error = {"loc": ["input", _KEYS[0]], "msg": "must be a text that is not empty", "type": "string_type"}
        raise ValidationFailed("input.idempotency_key must be a text that is not empty", errors=[error])
    return found
