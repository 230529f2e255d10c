"""Events of a REST API, or of an HTTP API with payload format 1.0, and their replies."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote

from handlers.aws.fields import (
    Raw,
    body_of,
    listed,
    member,
    method_of,
    pairs_of,
    path_of,
    text,
    under_stage,
)
from handlers.aws.limits import HTTP_DOOR, REST_DOOR
from handlers.aws.reply import Reply, listed_headers
from router_core.errors import BadRequest

__all__ = ["read", "write"]

_GREEDY: Final = re.compile(r"\{([^}]+)\+\}\Z")


def read(event: Mapping[str, Any]) -> Raw:
    """Return what the event says. Query values come decoded, the path of a REST API does not."""
    context: Mapping[str, Any] = event["requestContext"]
    headers = pairs_of(event)
    domain = context.get("domainName")
    is_rest = event.get("version") != "1.0"  # only an HTTP API names the version of its format
    path, root = (_rest_path if is_rest else _http_path)(event, context, domain)
    client = member(context, "identity").get("sourceIp")
    return Raw(
        method_of(event.get("httpMethod")),
        path_of(path, encoded=is_rest),
        _query(event),
        headers,
        body_of(event),
        client if isinstance(client, str) else "",
        "https",
        root,
        REST_DOOR if is_rest else HTTP_DOOR,
        context.get("requestTimeEpoch"),
    )


def _rest_path(event: Mapping[str, Any], context: Mapping[str, Any], domain: object) -> tuple[str, str]:
    """Return the path, and what stands before it in the address: the stage, or a mapping's base path."""
    path = text(event.get("path"), "the path", "/") or "/"
    whole = text(context.get("path"), "requestContext.path")
    if isinstance(domain, str) and ".execute-api." not in domain:
        base = _base_path(path, event)
        return path[len(base) :] or "/", base
    return path, whole[: -len(path)] if whole.endswith(path) else ""


def _base_path(path: str, event: Mapping[str, Any]) -> str:
    """Return the base path of the mapping of a domain of the user's own.

    It stands before what the API's resource matches, and no member of the event says so.
    """
    resource = text(event.get("resource"), "resource")
    there = [part for part in path.split("/") if part]
    if not resource or "//" in path:
        return ""
    ours = len([part for part in resource.split("/") if part])
    greedy = _GREEDY.search(resource)
    if greedy is not None:
        value = text(member(event, "pathParameters").get(greedy[1]), "a path parameter")
        ours += len([part for part in value.split("/") if part]) - 1
    extra = there[: len(there) - ours] if len(there) > ours else []
    return "".join(f"/{part}" for part in extra)


def _http_path(event: Mapping[str, Any], context: Mapping[str, Any], domain: object) -> tuple[str, str]:
    path = text(event.get("path"), "the path", "/") or "/"
    inner, staged = under_stage(path, context.get("stage"))
    home = not isinstance(domain, str) or ".execute-api." in domain
    return inner, f"/{context['stage']}" if staged and home else ""


def _query(event: Mapping[str, Any]) -> bytes:
    """Return the query, encoded again: what was decoded must not become another value."""
    lists = event.get("multiValueQueryStringParameters")
    if lists is None:
        items = [(name, value) for name, value in member(event, "queryStringParameters").items()]
    else:
        items = [
            (name, value)
            for name, values in member(event, "multiValueQueryStringParameters").items()
            for value in listed(values, f"the query value {name}")
        ]
    try:
        return "&".join(
            f"{quote(name, safe='')}={quote(text(value, f'the query value {name}'), safe='')}"
            for name, value in items
        ).encode()
    except UnicodeEncodeError:
        raise BadRequest("the query is not UTF-8") from None


def write(_event: Mapping[str, Any], reply: Reply) -> dict[str, Any]:
    """Return the reply; every header in a list."""
    return {
        "statusCode": reply.status,
        "multiValueHeaders": listed_headers(reply),
        "body": reply.body,
        "isBase64Encoded": reply.is_base64,
    }
