"""A short way in and out for what most calls are: a plain event of an HTTP API or a function URL.

What is read here is read by ``http_v2`` and ``read_fields`` in the same sense, and checked in the same way.
They do it one header at a time, from the bytes that it is on the wire, and know what to say of a wrong one;
so whatever is not plainly right goes their way: None stands for "look closer". Both ways lead to the same
``handle``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from handlers.aws.limits import HTTP_DOOR, URL_DOOR, Door, answer_seconds
from router_core.http.head import MAX_HEADERS, MAX_TARGET, TextHeaders
from router_core.http.message import Request, Response
from router_core.types import ANONYMOUS, Counted

if TYPE_CHECKING:
    from handlers.aws.reply import Fields
    from router_core.clock import Clock
    from router_core.settings import Settings

__all__ = ["PlainDoor"]

_METHODS: Final = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"})
_NO_PARAMS: Final[Mapping[str, str]] = {}
_ODD: Final = frozenset({"prefer", "x-request-id", "content-encoding", "transfer-encoding"})
"""Headers that change what is to be done."""
_KEPT: Final = 64
_LONG: Final = 2048
_SPARE: Final = 256
"""Bytes of header fields that the long way may add, and one field of each."""


class PlainDoor:
    """Reads events of payload format 2.0 and writes their replies."""

    __slots__ = ("_body_bytes", "_header_bytes", "_known", "_monotonic")

    def __init__(self, settings: Settings, clock: Clock) -> None:
        self._header_bytes = settings.max_header_bytes - _SPARE
        self._body_bytes = settings.max_body_bytes
        self._monotonic = clock.monotonic
        self._known: dict[str, int] = {}

    def read(self, event: Mapping[str, Any], context: Any, ids: Counted) -> tuple[Request, Door] | None:
        """Return the request and where it came from; None for what has to be looked at more closely."""
        try:
            at = event["requestContext"]
            http, domain = at["http"], at["domainName"]
            method, path = http["method"], event["rawPath"]
            if (
                at["stage"] != "$default"
                or method not in _METHODS
                or event.get("cookies")
                or event.get("isBase64Encoded")
                or event.get("multiValueHeaders") is not None
                or path[0] != "/"
                or "%" in path
                or "\0" in path
                or not path.isascii()
                or len(path) > MAX_TARGET
            ):
                return None
            query = _text(event.get("rawQueryString"), MAX_TARGET)
            body = _text(event.get("body"), self._body_bytes).encode()
            headers = self._headers(event["headers"], body)
            door = URL_DOOR if ".lambda-url." in domain else HTTP_DOOR
            seconds = answer_seconds(door, at.get("timeEpoch"), context)
        except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError):
            return None
        if headers is None or len(body) > self._body_bytes or not query.isascii():
            return None
        client = http.get("sourceIp")
        request = Request(
            method,
            path,
            query,
            headers,
            body,
            ids.new(),
            client if isinstance(client, str) else "",
            "https",
            ANONYMOUS,
            _NO_PARAMS,
            {"event": event, "context": context},
            "",
            None,
            door.body_bytes,
            self._monotonic() + seconds,
        )
        return request, door

    def write(self, response: Response, body: bytes, known: Mapping[Any, Fields]) -> dict[str, Any] | None:
        """Return the reply; None for one whose headers are not known yet, or whose body is not text."""
        headers = response.headers
        if not headers or headers[-1][0] != "x-request-id":
            return None
        fields = known.get(headers[:-1])
        if fields is None or not fields.is_text:
            return None
        try:
            text = body.decode()
        except UnicodeDecodeError:
            return None
        return {
            "statusCode": response.status,
            "headers": {**fields.joined, "x-request-id": headers[-1][1]},
            "cookies": fields.cookies,
            "body": text,
            "isBase64Encoded": False,
        }

    def _headers(self, fields: dict[str, str], body: bytes) -> TextHeaders | None:
        names, values = "\n".join(fields), "".join(fields.values())
        if self._known.get(names) != len(fields) and not self._is_plain(fields, names):
            return None
        if len(names) + len(values) > self._header_bytes or not values.isascii():
            return None
        stated = fields.get("content-length")
        if body:
            length = str(len(body))
            if stated is None:
                fields = {"content-length": length, **fields}
            elif stated != length:
                return None
        elif stated is not None:
            return None
        return TextHeaders(fields)

    def _is_plain(self, fields: dict[str, str], names: str) -> bool:
        """Judge the names of all headers, and keep the judgement: the same few sets come with all calls.

        How many they are is kept as well, for a name might hold the sign that stands between two.
        """
        if (
            type(fields) is not dict
            or len(fields) >= MAX_HEADERS - 2
            or not names.isascii()
            or not names.islower()
            or "host" not in fields
            or not _ODD.isdisjoint(fields)
        ):
            return False
        if len(self._known) < _KEPT and len(names) < _LONG:
            self._known[names] = len(fields)
        return True


def _text(value: Any, limit: int) -> str:
    """Return a member that is text, or none; raises ValueError for anything else."""
    if value is None:
        return ""
    if type(value) is not str or len(value) > limit:
        raise ValueError
    return value
