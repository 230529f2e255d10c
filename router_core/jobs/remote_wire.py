"""What a remote worker and its coordinator say to each other; both sides read this file.

Everything is asked by the worker. A job is named in the path, the lease that allows to touch it stands in two
headers (epoch and token). JSON inside JSON (inputs, results, events) is sent as text, so that it arrives byte
for byte.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, TypeVar

import pydantic_core
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from router_core.errors import ValidationFailed
from router_core.http.media import File
from router_core.jobs.context import MAX_MESSAGE, MAX_STEPS_BYTES
from router_core.jobs.job import Fence, Job, State
from router_core.jobs.retry import MAX_BACKOFF
from router_core.jobs.settle import MAX_INLINE, MAX_RESULT
from router_core.routing.route import Route

__all__ = [
    "EPOCH_HEADER",
    "MAX_BATCH",
    "MAX_FENCES",
    "MAX_WAIT",
    "MOVES",
    "PIECE",
    "PROTOCOL",
    "SHA256_HEADER",
    "SIZE_HEADER",
    "TOKEN_HEADER",
    "AnyMove",
    "Appended",
    "Beat",
    "ClaimJobs",
    "Ended",
    "Hello",
    "Progress",
    "Steps",
    "Succeed",
    "Upload",
    "Wait",
    "job_from_wire",
    "job_to_wire",
    "lease_mark",
    "read",
    "signature_of",
]

PROTOCOL: Final = 1
PIECE: Final = 4 * 1024 * 1024
"""Bytes of one piece of a file: in base64 it still fits into what AWS Lambda takes and answers."""
MAX_BATCH: Final = 10
"""Jobs in one answer, for the same reason."""
MAX_FENCES: Final = 1_000
MAX_WAIT: Final = 20.0
"""Seconds that a worker's question may be held: front doors give up after 29."""
EPOCH_HEADER: Final = "x-lease-epoch"
TOKEN_HEADER: Final = "x-lease-token"  # noqa: S105 - a name
SHA256_HEADER: Final = "x-content-sha256"
SIZE_HEADER: Final = "x-blob-size"

_MAX_TEXT: Final = 2_000
_MAX_PIECES: Final = 2_048
_MAX_EVENT: Final = 1024 * 1024
M = TypeVar("M")

Id = Annotated[str, Field(pattern=r"\A[A-Za-z0-9][A-Za-z0-9_-]{7,63}\z")]
Key = Annotated[str, Field(min_length=1, max_length=500)]
"""A route's."""
Seconds = Annotated[float, Field(gt=0, le=3600, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Message = Annotated[str, Field(max_length=MAX_MESSAGE)]
Digest = Annotated[str, Field(pattern=r"\A[0-9a-f]{64}\z")]
Signatures = Annotated[dict[Key, Digest], Field(min_length=1, max_length=1_000)]
_LINE: Final = r"\A[^\p{Cc}]*\z"
"""No control characters: these texts become header fields."""


class _Message(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class Hello(_Message):
    """A worker introduces itself."""

    protocol: int
    worker_id: Id
    routes: Signatures


class Wait(_Message):
    """A worker with free slots asks to be told when there may be a job for them."""

    worker_id: Id
    routes: Annotated[list[Key], Field(min_length=1, max_length=1_000)]
    seen: Annotated[str, Field(max_length=64)] = ""
    wait: Annotated[float, Field(ge=0, le=MAX_WAIT, allow_inf_nan=False)] = 0.0


class ClaimJobs(_Message):
    """A worker asks for jobs. The same ``claim_id`` gets the same answer, should the first have been lost."""

    worker_id: Id
    claim_id: Id
    lease: Seconds
    slots: Annotated[dict[Key, Annotated[int, Field(ge=1, le=10_000)]], Field(min_length=1, max_length=1_000)]
    signatures: Signatures


class Beat(_Message):
    """A worker renews its leases: id, epoch and token of each."""

    lease: Seconds
    fences: Annotated[
        list[tuple[Id, Annotated[int, Field(ge=0)], Annotated[str, Field(max_length=64)]]],
        Field(min_length=1, max_length=MAX_FENCES),
    ]


class _NewEvent(_Message):
    type: Annotated[str, Field(min_length=1, max_length=200, pattern=_LINE)]
    data: Annotated[str, Field(max_length=_MAX_EVENT)]


class Appended(_Message):
    """Events, and the number of the one before them, so that a repetition is recognised."""

    after: Annotated[int, Field(ge=0)]
    events: Annotated[list[_NewEvent], Field(min_length=1, max_length=1_000)]


class Progress(_Message):
    """How far the function is."""

    move: Literal["progress"]
    progress: Fraction
    message: Message = ""


class Steps(_Message):
    """The outcomes of ``once`` steps, all of them: a JSON object."""

    move: Literal["step"]
    steps: Annotated[str, Field(max_length=2 * MAX_STEPS_BYTES)]


class Upload(_Message):
    """A result that was sent in pieces before."""

    pieces: Annotated[
        list[Annotated[str, Field(min_length=1, max_length=1_024)]],
        Field(min_length=1, max_length=_MAX_PIECES),
    ]
    sha256: Digest
    size: Annotated[int, Field(ge=0, le=MAX_RESULT)]
    content_type: Annotated[str, Field(min_length=1, max_length=200, pattern=r"\A[ -~]+\z")]
    filename: Annotated[str, Field(max_length=255, pattern=_LINE)] | None = None


class Succeed(_Message):
    """The function returned: JSON, or something uploaded."""

    move: Literal["succeed"]
    result: Annotated[str, Field(max_length=MAX_INLINE)] | None = None
    upload: Upload | None = None
    message: Message | None = None


class _Error(_Message):
    type: Annotated[str, Field(max_length=200)]
    message: Annotated[str, Field(max_length=_MAX_TEXT)]
    retryable: bool = False
    status: Annotated[int, Field(ge=0, le=599)] = 0
    code: Annotated[str, Field(max_length=200)] = ""


class Ended(_Message):
    """The attempt ended without a result. What becomes of the job is the coordinator's to decide."""

    move: Literal["fail", "retry", "crash", "release", "cancelled"]
    error: _Error | None = None
    reason: Literal["error", "attempts_exhausted", "timeout", "result_too_large"] = "error"
    delay: Annotated[float, Field(ge=0, le=2 * MAX_BACKOFF, allow_inf_nan=False)] = 0.0
    """Seconds until the next attempt."""
    progress: Fraction | None = None
    message: Message | None = None


AnyMove = Progress | Steps | Succeed | Ended
MOVES: Final[TypeAdapter[AnyMove]] = TypeAdapter(Annotated[AnyMove, Field(discriminator="move")])


def read(model: TypeAdapter[M] | type[M], body: bytes) -> M:
    """Return what a request says; raises ValidationFailed, naming the fields."""
    adapter: TypeAdapter[M] = model if isinstance(model, TypeAdapter) else TypeAdapter(model)
    try:
        return adapter.validate_json(body)
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False, include_input=False)[:20]
        errors = [{"loc": ["body", *each["loc"]], "msg": each["msg"], "type": each["type"]} for each in found]
        raise ValidationFailed(errors=errors) from None


def lease_mark(fence: Fence) -> str:
    """Return what stands in the history of a job for the lease that ended an attempt: who has the token can
    show that it was the one, and nobody learns the token from it."""
    return hashlib.sha256(f"{fence.job_id}:{fence.epoch}:{fence.token}".encode()).hexdigest()[:32]


_PLAIN: Final = ("id", "route", "input_ref", "epoch", "token", "attempt", "max_attempts", "crash_count",
                 "releases", "timeout", "created_at", "started_at", "event_seq", "request_id")  # fmt: skip
_TEXTS: Final = ("input", "steps")


def job_to_wire(job: Job, *, owner: bool) -> dict[str, Any]:
    """Return what a worker has to know of a job: neither its history nor its webhook, and whose it is only
    where the function asks for its caller."""
    values: dict[str, Any] = {name: getattr(job, name) for name in _PLAIN}
    values |= {name: getattr(job, name).decode() for name in _TEXTS}
    return values | ({"owner": job.owner} if owner else {})


def job_from_wire(values: Mapping[str, Any]) -> Job:
    """Return the record as far as the worker knows it. Raises KeyError, TypeError or AttributeError for
    something else."""
    known = {name: values[name] for name in _PLAIN}
    texts = {name: values[name].encode() for name in _TEXTS}
    return Job(owner=str(values.get("owner", "")), state=State.RUNNING, **known, **texts)


def signature_of(route: Route) -> str:
    """Return a hash of what a function takes: two versions of a service with the same hash can share jobs."""
    params = [
        [param.name, param.alias, param.source, param.required, _schema(param.annotation, param.shape.file)]
        for param in route.plan.params
    ]
    text = json.dumps([route.key, params, route.plan.is_generator], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def _schema(annotation: Any, is_file: bool) -> Any:
    if is_file and annotation is bytes:
        annotation = File
    try:
        return _bare(TypeAdapter(annotation).json_schema())
    except Exception:  # a type without a schema is told by its name
        return repr(annotation)


def _bare(value: Any) -> Any:
    """Leave out what describes rather than constrains."""
    if isinstance(value, dict):
        return {
            key: _bare(item) for key, item in value.items() if key not in _WORDS or isinstance(item, dict)
        }
    return [_bare(item) for item in value] if isinstance(value, list) else value


_WORDS: Final = frozenset({"title", "description", "examples", "default"})


def is_json(text: bytes | str) -> bool:
    """Return whether a text is one JSON value without NaN and Infinity."""
    try:
        pydantic_core.from_json(text, allow_inf_nan=False)
    except ValueError:
        return False
    return True
