"""What the OpenAPI document says about the routes of keys."""

from __future__ import annotations

from typing import Any, Final

from router_core.security.key_wishes import LIMIT_KINDS, MAX_OVERLAP

__all__ = ["describe"]

Json = dict[str, Any]

_TEXTS: Final[Json] = {"type": "array", "items": {"type": "string"}}
_TIME: Final[Json] = {"type": ["string", "null"], "format": "date-time"}
_LIMITS: Final[Json] = {
    "type": "array",
    "items": {
        "type": "object",
        "required": ["kind", "amount"],
        "additionalProperties": False,
        "properties": {
            "kind": {"type": "string", "enum": list(LIMIT_KINDS)},
            "amount": {"type": "integer", "minimum": 0, "maximum": 10**15},
            "onStoreFailure": {"type": "string", "enum": ["open", "closed"]},
            "alerts": {
                "type": "array", "maxItems": 10, "items": {"type": "integer", "minimum": 1, "maximum": 100},
            },
        },
    },
}  # fmt: skip
_WISHES: Final[Json] = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "name": {"type": "string"}, "roles": _TEXTS, "scopes": _TEXTS, "workspaces": _TEXTS,
        "workspace": {"type": "string"}, "tier": {"type": "string"}, "limits": _LIMITS, "expiresAt": _TIME,
        "expiresIn": {"type": ["number", "null"], "minimum": 0},
    },
}  # fmt: skip
_OVERLAP: Final[Json] = {
    "type": "object",
    "additionalProperties": False,
    "properties": {"overlapSeconds": {"type": "number", "minimum": 0, "maximum": MAX_OVERLAP}},
}
_KEY: Final[Json] = {
    "type": "object",
    "required": ["id", "name", "status", "roles", "scopes", "workspaces"],
    "properties": {
        "id": {"type": "string"}, "name": {"type": "string"},
        "status": {"type": "string", "enum": ["active", "expired", "revoked"]},
        "roles": _TEXTS, "scopes": _TEXTS, "workspaces": _TEXTS, "workspace": {"type": "string"},
        "tier": {"type": "string"}, "limits": _LIMITS, "createdAt": _TIME, "createdBy": {"type": "string"},
        "expiresAt": _TIME, "lastUsedAt": _TIME, "rotatedAt": _TIME, "revokedAt": _TIME,
        "previousValidUntil": _TIME,
    },
}  # fmt: skip
_WITH_SECRET: Final[Json] = {
    **_KEY,
    "required": [*_KEY["required"], "key"],
    "properties": {**_KEY["properties"], "key": {"type": "string"}},
}
_PAGE: Final[Json] = {
    "type": "object",
    "required": ["keys"],
    "properties": {"keys": {"type": "array", "items": _KEY}, "cursor": {"type": "string"}},
}


def _parameter(name: str, place: str, description: str, **schema: Any) -> Json:
    return {
        "name": name, "in": place, "required": place == "path", "description": description, "schema": schema,
    }  # fmt: skip


_ID: Final = _parameter("id", "path", "Id of the key", type="string")
_MATCH: Final = _parameter("If-Match", "header", "ETag of what you have", type="string")
_CURSOR: Final = _parameter("cursor", "query", "Where the page begins", type="string")
_LIMIT: Final = _parameter("limit", "query", "How many", type="integer", minimum=1)


def _body(schema: Json, required: bool = True) -> Json:
    return {"requestBody": {"required": required, "content": {"application/json": {"schema": schema}}}}


def _answers(status: str, description: str, schema: Json | None = None) -> Json:
    answer: Json = {"description": description}
    if schema is not None:
        answer["content"] = {"application/json": {"schema": schema}}
    return {"responses": {status: answer, "default": {"$ref": "#/components/responses/Problem"}}}


_OPERATIONS: Final[dict[tuple[str, str], Json]] = {
    ("POST", "/api/keys"): {**_body(_WISHES), **_answers("201", "The key, and its secret", _WITH_SECRET)},
    ("GET", "/api/keys"): {"parameters": [_CURSOR, _LIMIT], **_answers("200", "Keys", _PAGE)},
    ("GET", "/api/keys/{id}"): {"parameters": [_ID], **_answers("200", "The key", _KEY)},
    ("PATCH", "/api/keys/{id}"): {
        "parameters": [_ID, _MATCH],
        **_body(_WISHES),
        **_answers("200", "The key", _KEY),
    },
    ("DELETE", "/api/keys/{id}"): {"parameters": [_ID, _MATCH], **_answers("204", "It is revoked")},
    ("POST", "/api/keys/{id}/rotate"): {
        "parameters": [_ID, _MATCH],
        **_body(_OVERLAP, required=False),
        **_answers("200", "The key, and its new secret", _WITH_SECRET),
    },
}


def describe(method: str, path: str) -> Json:
    """Return the members of an operation."""
    return _OPERATIONS[method, path]
