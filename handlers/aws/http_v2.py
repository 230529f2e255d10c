"""Events of an HTTP API (payload format 2.0) and of a function URL, and their replies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from handlers.aws.fields import (
    Raw,
    body_of,
    listed,
    member,
    method_of,
    pair,
    path_of,
    text,
    under_stage,
    wire,
)
from handlers.aws.limits import HTTP_DOOR, URL_DOOR, Door
from handlers.aws.reply import Reply, joined
from router_core.http.message import Headers

__all__ = ["door", "read", "received_ms", "write"]


def door(event: Mapping[str, Any]) -> Door:
    """Tell a function URL from an HTTP API, whose address may be any."""
    name = event["requestContext"].get("domainName")
    return URL_DOOR if isinstance(name, str) and ".lambda-url." in name else HTTP_DOOR


def received_ms(event: Mapping[str, Any]) -> object:
    """Return when the front door took the request."""
    return event["requestContext"].get("timeEpoch")


def read(event: Mapping[str, Any]) -> Raw:
    """Return what the event says.

    An HTTP API has decoded the path already, a function URL has not. Repeated headers come joined by commas,
    repeated query values stand in ``rawQueryString``, cookies in a list of their own.
    """
    context: Mapping[str, Any] = event["requestContext"]
    http = member(context, "http")
    is_url = door(event) is URL_DOOR
    path = text(event.get("rawPath"), "rawPath") or text(http.get("path"), "the path", "/")
    inner, staged = under_stage(path, context.get("stage"))
    headers = [pair(name, value) for name, value in member(event, "headers").items()]
    cookies = listed(event.get("cookies"), "cookies")
    if cookies:
        headers = [one for one in headers if one[0] != b"cookie"]
        headers.append(pair("cookie", "; ".join(text(cookie, "a cookie") for cookie in cookies)))
    domain = context.get("domainName")
    if isinstance(domain, str) and not any(name == b"host" for name, _ in headers):
        headers.append(pair("host", domain))
    client = http.get("sourceIp")
    return Raw(
        method_of(http.get("method")),
        path_of(inner, encoded=is_url),
        wire(text(event.get("rawQueryString"), "rawQueryString"), "the query"),
        headers,
        body_of(event),
        client if isinstance(client, str) else "",
        "https",
        f"/{context['stage']}" if staged and _at_home(domain) else "",
    )


def _at_home(domain: object) -> bool:
    # a domain of the user's own names the stage by its mapping, not in the path
    return not isinstance(domain, str) or ".execute-api." in domain


def write(_event: Mapping[str, Any], reply: Reply) -> dict[str, Any]:
    """Return the reply: cookies in a list, other repeated headers joined."""
    return {
        "statusCode": reply.status,
        "headers": joined(pair for pair in reply.headers if pair[0] != "set-cookie"),
        "cookies": Headers(reply.headers).getlist("set-cookie"),
        "body": reply.body,
        "isBase64Encoded": reply.is_base64,
    }
