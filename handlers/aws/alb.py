"""Events of an application load balancer, with single or multi-value headers, and their replies."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from http import HTTPStatus
from itertools import product
from typing import Any, Final

from handlers.aws.fields import Raw, body_of, listed, member, method_of, pairs_of, path_of, text, wire
from handlers.aws.limits import ALB_DOOR
from handlers.aws.reply import Reply, listed_headers

__all__ = ["read", "write"]


def read(event: Mapping[str, Any]) -> Raw:
    """Return what the event says. Path and query values come as they stood on the wire."""
    headers = pairs_of(event)
    fields = dict(reversed(headers))
    scheme = fields.get(b"x-forwarded-proto", b"http").decode("latin-1")
    # the balancer appends who it was called by; what stands before is the caller's own claim
    client = fields.get(b"x-forwarded-for", b"").decode("latin-1").rpartition(",")[2].strip()
    return Raw(
        method_of(event.get("httpMethod")),
        path_of(text(event.get("path"), "the path", "/") or "/", encoded=True),
        _query(event),
        headers,
        body_of(event),
        client,
        "https" if scheme == "https" else "http",
        "",
        ALB_DOOR,
        None,  # it does not say when it took the request
    )


def _query(event: Mapping[str, Any]) -> bytes:
    lists = event.get("multiValueQueryStringParameters")
    if lists is None:
        items = list(member(event, "queryStringParameters").items())
    else:
        items = [
            (name, value)
            for name, values in member(event, "multiValueQueryStringParameters").items()
            for value in listed(values, f"the query value {name}")
        ]
    return wire(
        "&".join(f"{name}={text(value, f'the query value {name}')}" for name, value in items), "the query"
    )


def write(event: Mapping[str, Any], reply: Reply) -> dict[str, Any]:
    """Return the reply in the manner of the event: the balancer takes only one of the two."""
    answer: dict[str, Any] = {
        "statusCode": reply.status,
        "statusDescription": f"{reply.status} {_phrase(reply.status)}",
        "body": reply.body,
        "isBase64Encoded": reply.is_base64,
    }
    if event.get("multiValueHeaders") is not None:
        answer["multiValueHeaders"] = listed_headers(reply)
    else:
        answer["headers"] = _single(reply)
    return answer


def _single(reply: Reply) -> dict[str, str]:
    """Return one value a name. Cookies cannot be joined: each gets a spelling of the name to itself."""
    fields = {**reply.fields.joined, **dict(zip(_spellings(), reply.fields.cookies, strict=False))}
    if reply.request_id:
        fields["x-request-id"] = reply.request_id
    return fields


def _spellings() -> Iterator[str]:
    letters: Final = [(letter, letter.upper()) if letter != "-" else ("-",) for letter in "set-cookie"]
    return ("".join(each) for each in product(*letters))


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Status"
