"""Events as the front doors of AWS write them, and what a client gets to see of the replies."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import parse_qsl, unquote

from router_core.testing.adapter_contract import Answer, Call

__all__ = ["SHAPES", "Context", "alb", "alb_multi", "http_api", "received", "rest_api", "round_trip", "url"]

Pairs = Iterable[tuple[str, str]]
_TEXTS = ("application/json", "text/", "application/x-www-form-urlencoded")


class Context:
    """What the runtime hands to a handler beside the event."""

    function_name = "service"
    invoked_function_arn = "arn:aws:lambda:us-east-1:123456789012:function:service"

    def __init__(
        self, seconds: float = 60.0, request_id: str = "8f507cfc-4f1c-4d5e-9d0e-1c5a1f3b2a10"
    ) -> None:
        self.seconds = seconds
        self.aws_request_id = request_id

    def get_remaining_time_in_millis(self) -> int:
        """Say how long the call may still take."""
        return int(self.seconds * 1000)


def _body(call: Call) -> dict[str, Any]:
    if not call.body:
        return {"body": None, "isBase64Encoded": False}
    media = dict(call.headers).get("content-type", "text/plain")
    if media.startswith(_TEXTS):
        try:
            return {"body": call.body.decode(), "isBase64Encoded": False}
        except UnicodeDecodeError:
            pass
    return {"body": base64.b64encode(call.body).decode(), "isBase64Encoded": True}


def _joined(pairs: Pairs) -> dict[str, str]:
    joined: dict[str, str] = {}
    for name, value in pairs:
        joined[name] = f"{joined[name]},{value}" if name in joined else value
    return joined


def _listed(pairs: Pairs) -> dict[str, list[str]]:
    listed: dict[str, list[str]] = {}
    for name, value in pairs:
        listed.setdefault(name, []).append(value)
    return listed


def _v2(call: Call, path: str, domain: str) -> dict[str, Any]:
    cookies = [one.strip() for name, value in call.headers if name == "cookie" for one in value.split(";")]
    headers = _joined([("host", domain), *(pair for pair in call.headers if pair[0] != "cookie")])
    event = {
        "version": "2.0", "routeKey": "$default", "rawPath": path, "rawQueryString": call.query,
        "headers": headers,
        "requestContext": {
            "accountId": "123456789012", "apiId": "id", "domainName": domain, "domainPrefix": "id",
            "http": {"method": call.method, "path": path, "protocol": "HTTP/1.1", "sourceIp": "192.0.2.7",
                     "userAgent": "agent"},
            "requestId": "id", "routeKey": "$default", "stage": "$default", "timeEpoch": 1583348638390,
        },
        **_body(call),
    }  # fmt: skip
    if cookies:
        event["cookies"] = cookies
    if call.query:
        event["queryStringParameters"] = _joined(parse_qsl(call.query, keep_blank_values=True))
    return event


def http_api(call: Call) -> dict[str, Any]:
    """Return what an HTTP API sends (payload format 2.0): it decodes the path."""
    return _v2(call, unquote(call.path, errors="replace"), "id.execute-api.us-east-1.amazonaws.com")


def url(call: Call) -> dict[str, Any]:
    """Return what a function URL sends: the path as it came."""
    return _v2(call, call.path, "id.lambda-url.us-east-1.on.aws")


def rest_api(call: Call, stage: str = "") -> dict[str, Any]:
    """Return what a REST API sends: names as they were written, every value in a list, the query decoded.

    ``stage`` as it stands in the address, with its slash.
    """
    domain = "id.execute-api.us-east-1.amazonaws.com"
    pairs = [("Host", domain), *((name.title(), value) for name, value in call.headers)]
    items = parse_qsl(call.query, keep_blank_values=True)
    return {
        "resource": "/{proxy+}", "path": call.path, "httpMethod": call.method,
        "headers": dict(pairs), "multiValueHeaders": _listed(pairs),
        "queryStringParameters": dict(items) or None,
        "multiValueQueryStringParameters": _listed(items) or None,
        "pathParameters": {"proxy": call.path[1:]}, "stageVariables": None,
        "requestContext": {
            "accountId": "123456789012", "apiId": "id", "domainName": domain, "httpMethod": call.method,
            "identity": {"sourceIp": "192.0.2.7", "userAgent": "agent", "user": None}, "stage": "prod",
            "path": f"{stage}{call.path}", "protocol": "HTTP/1.1", "requestId": "id",
            "requestTimeEpoch": 1428582896000, "resourcePath": "/{proxy+}",
        },
        **_body(call),
    }  # fmt: skip


def _elb(call: Call) -> dict[str, Any]:
    return {
        "requestContext": {
            "elb": {"targetGroupArn": "arn:aws:elasticloadbalancing:us-east-1:1:targetgroup/a"}
        },
        "httpMethod": call.method,
        "path": call.path,
        **_body(call),
        "body": _body(call)["body"] or "",
    }


def _elb_pairs(call: Call) -> list[tuple[str, str]]:
    return [
        ("host", "lb-1.us-east-1.elb.amazonaws.com"), ("x-forwarded-for", "203.0.113.9, 192.0.2.7"),
        ("x-forwarded-proto", "https"), *call.headers,
    ]  # fmt: skip


def _raw_query(call: Call) -> list[tuple[str, str]]:
    pieces = [piece.partition("=") for piece in call.query.split("&")] if call.query else []
    return [(name, value) for name, _, value in pieces]


def alb(call: Call) -> dict[str, Any]:
    """Return what a load balancer sends: one value a name (the last), nothing decoded."""
    return {**_elb(call), "headers": dict(_elb_pairs(call)), "queryStringParameters": dict(_raw_query(call))}


def alb_multi(call: Call) -> dict[str, Any]:
    """Return what a load balancer sends whose target group has multi-value headers on."""
    return {
        **_elb(call),
        "multiValueHeaders": _listed(_elb_pairs(call)),
        "multiValueQueryStringParameters": _listed(_raw_query(call)),
    }


SHAPES: dict[str, Callable[[Call], dict[str, Any]]] = {
    "http api": http_api, "function url": url, "rest api": rest_api, "alb": alb, "alb multi": alb_multi,
}  # fmt: skip


def received(reply: dict[str, Any]) -> Answer:
    """Return what the client gets when the front door has read the reply."""
    pairs: list[tuple[str, str]] = list(reply.get("headers", {}).items())
    for name, values in reply.get("multiValueHeaders", {}).items():
        pairs += [(name, value) for value in values]
    pairs += [("set-cookie", value) for value in reply.get("cookies", [])]
    body = base64.b64decode(reply["body"]) if reply["isBase64Encoded"] else reply["body"].encode()
    return Answer(reply["statusCode"], tuple((name.lower(), value) for name, value in pairs), body)


def round_trip(value: Any) -> Any:
    """Carry a value through JSON, as the runtime does."""
    return json.loads(json.dumps(value))
