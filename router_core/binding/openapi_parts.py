"""Parts that every OpenAPI document of ours has in common."""

from __future__ import annotations

from typing import Any, Final

__all__ = ["BUILTIN_PARAMETERS", "COMPONENTS", "FILE_SCHEMA", "JOB_RESPONSE", "PROBLEM_RESPONSES", "Json"]

Json = dict[str, Any]

FILE_SCHEMA: Final[Json] = {
    "type": "string",
    "format": "binary",
    "contentMediaType": "application/octet-stream",
}

BUILTIN_PARAMETERS: Final[tuple[Json, ...]] = (
    {
        "name": "sync",
        "in": "query",
        "required": False,
        "description": "Wait for the result (up to a limit) instead of answering with the job.",
        "schema": {"type": "boolean", "default": False},
        "x-builtin": True,
    },
)
"""What every job route takes besides its function's parameters."""

_JOB: Final[Json] = {
    "type": "object",
    "required": ["job_id", "status", "links"],
    "properties": {
        "job_id": {"type": "string"},
        "route": {"type": "string"},
        "status": {"type": "string"},
        "progress": {"type": "number", "minimum": 0, "maximum": 1},
        "message": {"type": "string"},
        "result": {},
        "error": {
            "type": "object",
            "properties": {
                "type": {"type": "string"},
                "message": {"type": "string"},
                "attempt": {"type": "integer"},
                "retryable": {"type": "boolean"},
            },
        },
        "attempt": {"type": "integer"},
        "created_at": {"type": "string", "format": "date-time"},
        "started_at": {"type": "string", "format": "date-time"},
        "finished_at": {"type": "string", "format": "date-time"},
        "metrics": {"type": "object", "additionalProperties": True},
        "links": {"type": "object", "additionalProperties": {"type": "string"}},
    },
}

_PROBLEM: Final[Json] = {
    "type": "object",
    "required": ["type", "title", "status", "detail", "code"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "instance": {"type": "string"},
        "code": {"type": "string"},
        "request_id": {"type": "string"},
    },
}

_VALIDATION_PROBLEM: Final[Json] = {
    "allOf": [
        {"$ref": "#/components/schemas/Problem"},
        {
            "type": "object",
            "properties": {
                "errors": {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "required": ["loc", "msg", "type"],
                        "properties": {
                            "loc": {"type": "array", "items": {"type": ["string", "integer"]}},
                            "msg": {"type": "string"},
                            "type": {"type": "string"},
                        },
                    },
                }
            },
        },
    ]
}


def _problem(description: str, schema: str) -> Json:
    reference = {"$ref": f"#/components/schemas/{schema}"}
    return {"description": description, "content": {"application/problem+json": {"schema": reference}}}


COMPONENTS: Final[Json] = {
    "schemas": {"Job": _JOB, "Problem": _PROBLEM, "ValidationProblem": _VALIDATION_PROBLEM},
    "responses": {
        "Problem": _problem("An error", "Problem"),
        "ValidationProblem": _problem("One or more values are wrong", "ValidationProblem"),
    },
}

PROBLEM_RESPONSES: Final[Json] = {
    "4XX": {"$ref": "#/components/responses/Problem"},
    "5XX": {"$ref": "#/components/responses/Problem"},
}

JOB_RESPONSE: Final[Json] = {
    "description": (
        "Accepted: the job. A request with an `Idempotency-Key` header may be repeated: the same key with "
        "the same request names the same job."
    ),
    "headers": {
        "Location": {"description": "Where to read the job", "schema": {"type": "string"}},
        "Retry-After": {"description": "Seconds until it is worth asking", "schema": {"type": "string"}},
    },
    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Job"}}},
}
