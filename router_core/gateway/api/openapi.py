"""What the OpenAPI document says about the models' routes: they take a plain request, so it has to be told.

Named are the members that most calls have. All others pass through to the upstream, whatever they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

__all__ = ["ANY_JSON", "MODEL", "MODELS", "describe"]

Json = dict[str, Any]

_SSE: Final = "text/event-stream"
_TEXT: Final[Json] = {"type": "string"}
_COUNT: Final[Json] = {"type": "integer", "minimum": 1}
_USAGE: Final[Json] = {"type": "object", "additionalProperties": True}
_MODEL: Final[Json] = {
    "type": "string", "description": "Id or alias of a model; `auto` leaves the choice to the rules.",
}  # fmt: skip
_STREAM: Final[Json] = {
    "type": "boolean",
    "default": False,
    "description": "Answer piece by piece, as events.",
}
_USER: Final[Json] = {"type": "string", "description": "Keeps calls together where the strategy is `sticky`."}
_TEMPERATURE: Final[Json] = {"type": "number", "minimum": 0, "maximum": 2}
_MESSAGES: Final[Json] = {
    "type": "array", "minItems": 1,
    "items": {
        "type": "object", "required": ["role"], "additionalProperties": True,
        "properties": {"role": _TEXT, "content": {"description": "A text, or a list of parts"}},
    },
    "examples": [[{"role": "user", "content": "Hello!"}]],
}  # fmt: skip
_TOOLS: Final[Json] = {"type": "array", "items": {"type": "object", "additionalProperties": True}}
_TEXTS: Final[Json] = {
    "anyOf": [_TEXT, {"type": "array", "items": _TEXT}], "examples": ["Hello!"],
    "description": "A text, or a list of texts",
}  # fmt: skip


def _object(required: tuple[str, ...], **properties: Json) -> Json:
    return {
        "type": "object", "required": list(required), "properties": properties, "additionalProperties": True,
    }  # fmt: skip


_SAMPLING: Final[Json] = {"temperature": _TEMPERATURE, "stream": _STREAM, "user": _USER}
_BODIES: Final[Mapping[str, Json]] = {
    "chat/completions": _object(
        ("model", "messages"), model=_MODEL, messages=_MESSAGES, max_tokens=_COUNT, **_SAMPLING,
        tools=_TOOLS, tool_choice={"description": "`auto`, `none`, `required` or a tool"},
        response_format={"type": "object", "additionalProperties": True},
        stream_options=_object((), include_usage={"type": "boolean"}),
    ),
    "completions": _object(("model", "prompt"), model=_MODEL, prompt=_TEXTS, max_tokens=_COUNT, **_SAMPLING),
    "embeddings": _object(
        ("model", "input"), model=_MODEL, input=_TEXTS, dimensions=_COUNT, user=_USER,
        encoding_format={"type": "string", "enum": ["float", "base64"]},
    ),
    "rerank": _object(
        ("model", "query", "documents"), model=_MODEL, query=_TEXT, top_n=_COUNT,
        documents={"type": "array", "items": {"description": "A text, or an object with `text`"},
                   "examples": [["one text", "another text"]]},
        return_documents={"type": "boolean"},
    ),
    "images/generations": _object(
        ("model", "prompt"), model=_MODEL, prompt=_TEXT, n=_COUNT, size={"type": "string"},
        response_format={"type": "string", "enum": ["url", "b64_json"]}, user=_USER,
    ),
    "responses": _object(
        ("model", "input"), model=_MODEL, input={**_TEXTS, "description": "A text, or a list of items"},
        instructions=_TEXT, max_output_tokens=_COUNT, tools=_TOOLS, **_SAMPLING,
    ),
    "audio/transcriptions": _object(
        ("model", "file"), model=_MODEL, file={"type": "string", "format": "binary"},
        language={"type": "string", "description": "As in ISO 639-1"}, prompt=_TEXT, temperature=_TEMPERATURE,
        response_format={"type": "string", "enum": ["json", "text", "srt", "verbose_json", "vtt"]},
    ),
}  # fmt: skip

_LIST: Final[Json] = {"type": "array", "items": {"type": "object", "additionalProperties": True}}
_ANSWERS: Final[Mapping[str, Json]] = {
    "chat/completions": _object(("choices",), id=_TEXT, model=_TEXT, choices=_LIST, usage=_USAGE),
    "completions": _object(("choices",), id=_TEXT, model=_TEXT, choices=_LIST, usage=_USAGE),
    "embeddings": _object(("data",), object=_TEXT, model=_TEXT, data=_LIST, usage=_USAGE),
    "rerank": _object(("results",), results=_LIST),
    "images/generations": _object(("data",), created={"type": "integer"}, data=_LIST),
    "responses": _object(("output",), id=_TEXT, model=_TEXT, output=_LIST, usage=_USAGE),
    "audio/transcriptions": _object((), text=_TEXT),
}  # fmt: skip
_STREAMS: Final = ("chat/completions", "completions", "responses")
_EXAMPLES: Final[Mapping[str, Json]] = {
    "chat/completions": {"model": "small", "messages": [{"role": "user", "content": "Hello!"}]},
    "completions": {"model": "small", "prompt": "Once upon a time"},
    "embeddings": {"model": "embeddings", "input": ["one text", "another text"]},
    "rerank": {"model": "reranker", "query": "fruit", "documents": ["an apple", "a car"]},
    "images/generations": {"model": "painter", "prompt": "a cat", "size": "1024x1024"},
    "responses": {"model": "small", "input": "Hello!"},
}


def _header(name: str, description: str, **schema: Any) -> Json:
    return {
        "name": name, "in": "header", "required": False, "description": description,
        "schema": {"type": "string", **schema}, "x-builtin": True,
    }  # fmt: skip


_WISHES: Final = (
    _header("x-router-tags", "Only deployments with all of these, separated by commas"),
    _header("x-router-region", "Only deployments of this region"),
    _header("x-router-compliance", "Only deployments that satisfy all of these, separated by commas"),
    _header("x-router-max-cost", "Dollars that the call may cost, by estimate", type="number", minimum=0),
    _header("x-router-timeout", "Seconds for the call with all its attempts", type="number", maximum=3600),
    _header("x-router-session", "Keeps calls together"),
)
_TOLD: Final[Json] = {
    name: {"description": description, "schema": {"type": "string"}}
    for name, description in (
        ("x-router-model", "The model that answered"),
        ("x-router-deployment", "Its deployment"),
        ("x-router-attempts", "How many were tried"),
        ("x-router-decision", "The strategy, and who was left out for which reason"),
    )
}
_PROBLEMS: Final[Json] = {
    "4XX": {"$ref": "#/components/responses/Problem"}, "5XX": {"$ref": "#/components/responses/Problem"},
}  # fmt: skip
_REFUSALS: Final[Json] = {
    **_PROBLEMS,
    "4XX": {
        "description": "A problem, with OpenAI's `error` inside; or what the upstream said of the call",
        "content": {
            "application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}},
            "application/json": {"schema": {"type": "object", "additionalProperties": True}},
        },
    },
}


def describe(endpoint: str) -> Json:
    """Return the members of an operation that the handler of an endpoint does not show."""
    body = _BODIES[endpoint]
    media: Json = {"schema": body}
    if endpoint in _EXAMPLES:
        media["example"] = _EXAMPLES[endpoint]
    kind = "multipart/form-data" if "file" in body["properties"] else "application/json"
    content: Json = {"application/json": {"schema": _ANSWERS[endpoint]}}
    if endpoint in _STREAMS:
        content[_SSE] = {"schema": {"description": "With `stream`: an event for each piece, then `[DONE]`"}}
    return {
        "parameters": [dict(each) for each in _WISHES],
        "requestBody": {"required": True, "content": {kind: media}},
        "responses": {
            "200": {"description": "What the model answered", "headers": _TOLD, "content": content},
            **_REFUSALS,
        },
        "x-parameter-order": list(body["properties"]),
    }


def _json_answer(description: str, schema: Json) -> Json:
    answer = {"description": description, "content": {"application/json": {"schema": schema}}}
    return {"responses": {"200": answer, **_PROBLEMS}}


_INFO: Final = _object(
    ("id", "object"), id=_TEXT, object=_TEXT, type=_TEXT, aliases={"type": "array", "items": _TEXT},
    max_context_length={"type": ["integer", "null"]}, owned_by=_TEXT, created={"type": "integer"},
)  # fmt: skip
MODEL: Final = _json_answer("The model", _INFO)
"""``GET /v1/models/{model}``."""
MODELS: Final = _json_answer(
    "The models", _object(("data",), object=_TEXT, data={"type": "array", "items": _INFO})
)
"""``GET /v1/models``."""
ANY_JSON: Final[Json] = {
    "requestBody": {"required": True, "content": {"application/json": {"schema": {
        "type": "object", "additionalProperties": True, "examples": [{"message": "Hello!"}],
    }}}},
    **_json_answer("What the endpoint answered", {}),
}  # fmt: skip
"""``POST /select_endpoint``: what is passed on is not looked at."""
