"""Events of an HTTP API (payload format 2.0) and of a function URL, and their replies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pydantic_core

from handlers.aws.fields import (
    Raw,
    body_of,
    listed,
    member,
    method_of,
    pair,
    pairs_of,
    path_of,
    text,
    under_stage,
    wire,
)
from handlers.aws.limits import HTTP_DOOR, URL_DOOR
from handlers.aws.reply import Fields, Reply

__all__ = ["is_url", "prelude", "read", "write"]


def is_url(event: Mapping[str, Any]) -> bool:
    """Tell a function URL from an HTTP API, whose address may be any."""
    name = event["requestContext"].get("domainName")
    return isinstance(name, str) and ".lambda-url." in name


def read(event: Mapping[str, Any]) -> Raw:
    """Return what the event says.

    An HTTP API has decoded the path already, a function URL has not. Repeated headers come joined by commas,
    repeated query values stand in ``rawQueryString``, cookies in a list of their own.
    """
    context: Mapping[str, Any] = event["requestContext"]
    http = member(context, "http")
    url = is_url(event)
    path = text(event.get("rawPath"), "rawPath") or text(http.get("path"), "the path", "/")
    stage = context.get("stage")
    staged = False
    if stage != "$default":
        path, staged = under_stage(path, stage)
    headers = pairs_of(event)
    cookies = event.get("cookies")
    if cookies:
        headers = [one for one in headers if one[0] != b"cookie"]
        headers.append(pair("cookie", "; ".join(text(one, "a cookie") for one in listed(cookies, "cookies"))))
    domain = context.get("domainName")
    client = http.get("sourceIp")
    return Raw(
        method_of(http.get("method")),
        path_of(path, encoded=url),
        wire(text(event.get("rawQueryString"), "rawQueryString"), "the query"),
        headers,
        body_of(event),
        client if isinstance(client, str) else "",
        "https",
        f"/{stage}" if staged and _at_home(domain) else "",
        URL_DOOR if url else HTTP_DOOR,
        context.get("timeEpoch"),
    )


def _at_home(domain: object) -> bool:
    # a domain of the user's own names the stage by its mapping, not in the path
    return not isinstance(domain, str) or ".execute-api." in domain


def write(_event: Mapping[str, Any], reply: Reply) -> dict[str, Any]:
    """Return the reply: cookies in a list, other repeated headers joined."""
    fields, request_id = reply.fields, reply.request_id
    return {
        "statusCode": reply.status,
        "headers": {**fields.joined, "x-request-id": request_id} if request_id else fields.joined.copy(),
        "cookies": fields.cookies,
        "body": reply.body,
        "isBase64Encoded": reply.is_base64,
    }


def prelude(status: int, fields: Fields, request_id: str) -> bytes:
    """Return what a streamed answer begins with: status, headers and cookies, then eight NULs."""
    headers = {**fields.joined, "x-request-id": request_id} if request_id else fields.joined
    head = {"statusCode": status, "headers": headers, "cookies": fields.cookies}
    return pydantic_core.to_json(head) + b"\0" * 8
