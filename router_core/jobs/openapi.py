"""What the OpenAPI document says about the job routes: they take a plain request, so it has to be told."""

from __future__ import annotations

from typing import Any, Final

from router_core.http.ndjson import NDJSON_TYPE
from router_core.http.sse import SSE_TYPE
from router_core.jobs.job import State

__all__ = ["SUBMIT_PARAMETERS", "describe"]

Json = dict[str, Any]

_DURATION: Final = r"^[0-9]{1,4}(ms|s|m)?$"


def _parameter(name: str, place: str, description: str, **schema: Any) -> Json:
    return {
        "name": name, "in": place, "required": place == "path", "description": description, "schema": schema,
    }  # fmt: skip


SUBMIT_PARAMETERS: Final[tuple[Json, ...]] = (
    _parameter(
        "Idempotency-Key", "header", "The same key with the same request names the same job.",
        type="string", pattern="^[!-~]([ -~]{0,253}[!-~])?$",
    ),
    _parameter(
        "Prefer", "header",
        "`wait=N`: wait up to N seconds for the result. `respond-async`: answer with a job.", type="string",
    ),
    _parameter(
        "X-Job-Priority", "header", "Higher runs earlier; one point weighs a minute of waiting.",
        type="integer", minimum=-100, maximum=100,
    ),
    _parameter(
        "X-Job-Delay", "header", "Start no earlier than after these seconds, or a duration such as 5m.",
        type="string", pattern=_DURATION,
    ),
    _parameter(
        "Cancel-After", "header", "Do not start any more after these seconds, or a duration such as 5m.",
        type="string", pattern=_DURATION,
    ),
    _parameter("X-Webhook-Url", "header", "Told, signed, when the job has ended.", type="string"),
)  # fmt: skip
"""What a job route takes besides ``sync``."""

_ID: Final = _parameter("job_id", "path", "Id of the job", type="string")
_SHAPE: Final = _parameter(
    "shape", "query", "Write the job as apipod services do", type="string", enum=["apipod"]
)
_WAIT: Final = _parameter(
    "wait", "query",
    "Hold the answer for up to these seconds, until the job has ended (with If-None-Match: has changed)",
    type="number", minimum=0, maximum=999_999,
)  # fmt: skip
_NONE_MATCH: Final = _parameter("If-None-Match", "header", "ETag of what you have", type="string")
_AFTER: Final = (
    _parameter(
        "starting_after",
        "query",
        "Number of the last event you have",
        type="integer",
        minimum=0,
        maximum=999_999_999_999,
    ),
    _parameter(
        "Last-Event-ID", "header", "The same, as browsers send it", type="string", pattern="^[0-9]{0,12}$"
    ),
)
_STATES: Final[Json] = {
    "type": "array",
    "items": {"type": "string", "enum": [state.value for state in State]},
    "minItems": 1,
}


def _is(description: str, schema: Json | None = None, media: str = "application/json") -> Json:
    return {
        "description": description,
        **({"content": {media: {"schema": schema}}} if schema is not None else {}),
    }


_JOB: Final[Json] = {"$ref": "#/components/schemas/Job"}
_SHAPED: Final[Json] = {
    "type": "object",
    "description": "The job as apipod services write it, for `shape=apipod`",
    "required": ["job_id", "status", "links"],
    "properties": {"job_id": {"type": "string"}, "status": {"type": "string"}, "error": {"type": "string"}},
}
_PAGE: Final[Json] = {
    "type": "object",
    "required": ["jobs"],
    "properties": {"jobs": {"type": "array", "items": _JOB}, "cursor": {"type": "string"}},
}
_DEFAULT: Final[Json] = {"default": {"$ref": "#/components/responses/Problem"}}
_READ: Final[Json] = {
    "parameters": [_ID, _WAIT, _SHAPE, _NONE_MATCH],
    "responses": {"200": _is("The job", {"anyOf": [_JOB, _SHAPED]}), "304": _is("Unchanged"), **_DEFAULT},
}
_EVENTS: Final[Json] = {"description": "One after the other; OpenAPI 3.1 cannot say more of a stream"}
_FOLLOWED: Final[Json] = {
    "description": "Events as they happen",
    "content": {SSE_TYPE: {"schema": _EVENTS}, NDJSON_TYPE: {"schema": _EVENTS}},
}
_CANCEL: Final[Json] = {
    "parameters": [_ID],
    "responses": {"200": _is("It is cancelled", _JOB), "202": _is("It is stopping", _JOB), **_DEFAULT},
}

_OPERATIONS: Final[dict[tuple[str, str], Json]] = {
    ("GET", "/jobs"): {
        "parameters": [
            {
                **_parameter("status", "query", "States to list"),
                "schema": _STATES,
                "style": "form",
                "explode": False,
            },
            _parameter("route", "query", "Route to list", type="string"),
            _parameter("limit", "query", "Jobs a page", type="integer", minimum=1, maximum=200, default=50),
            _parameter(
                "cursor",
                "query",
                "`cursor` of the page before",
                type="string",
                pattern="^([A-Za-z0-9][A-Za-z0-9_-]{7,63})?$",
            ),
        ],
        "responses": {"200": _is("Your jobs, newest first", _PAGE), **_DEFAULT},
    },
    ("GET", "/jobs/{job_id}"): _READ,
    ("DELETE", "/jobs/{job_id}"): {
        "parameters": [_ID],
        "responses": {"204": _is("It is deleted"), **_DEFAULT},
    },
    ("GET", "/jobs/{job_id}/result"): {
        "parameters": [_ID],
        "responses": {
            "200": {"description": "The result, in its own content type", "content": {"*/*": {"schema": {}}}},
            "303": _is("It is larger than this platform can answer: read it at `Location`, without your key"),
            **_DEFAULT,
        },
    },
    ("GET", "/jobs/{job_id}/events"): {
        "parameters": [_ID, *_AFTER],
        "responses": {"200": _FOLLOWED, "204": _is("There is nothing left to follow"), **_DEFAULT},
    },
    ("POST", "/jobs/{job_id}/cancel"): _CANCEL,
    ("POST", "/jobs/{job_id}/retry"): {
        "parameters": [_ID, *SUBMIT_PARAMETERS[1:]],
        "responses": {"202": _is("The new job", _JOB), **_DEFAULT},
    },
    ("GET", "/status/{job_id}"): _READ,
    ("POST", "/status/{job_id}"): _READ,
    ("GET", "/stream/{job_id}"): {
        "parameters": [_ID, _SHAPE, *_AFTER],
        "responses": {
            "200": _is("Output as it comes", _EVENTS, SSE_TYPE),
            "204": _is("There is nothing left to follow"),
            **_DEFAULT,
        },
    },
    ("POST", "/cancel/{job_id}"): _CANCEL,
}


def describe(method: str, path: str) -> Json:
    """Return the members of an operation that its handler's signature does not show."""
    return _OPERATIONS[method, path]
