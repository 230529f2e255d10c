"""Errors of upstreams, in the words of OpenAI: bounded, and without our own credentials."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Any, Final

import msgspec

from router_core.gateway.reply import Reply
from router_core.telemetry.masking import MASK, mask_text

__all__ = ["error_body", "error_reply", "holds", "masked", "without"]

_MAX_BODY: Final = 256 * 1024
"""Bytes of an error that are looked at; of a longer one the status alone is passed on."""
_MAX_MESSAGE: Final = 2000
_MAX_WORD: Final = 200
_MAX_INNER: Final = 4096
_MAX_TOLD: Final = 3
"""How many of a list of wrong values are named."""
_SHORTEST: Final = 8
"""Characters that a configured value has at least, to be looked for: shorter ones are part of any text."""
_BEGINNING: Final = 12
_STARRED: Final = re.compile(r"[\w.-]{0,64}\*{3,}[\w.*-]{0,256}")
_CONTROL: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
_BODY_HEADERS: Final = frozenset({
    "content-encoding", "content-length", "content-md5", "digest", "etag", "location", "set-cookie",
    "transfer-encoding", "www-authenticate",
})  # fmt: skip
"""Headers that no longer hold, or that say what only we should know."""
_TYPES: Final[Mapping[int, str]] = {
    400: "invalid_request_error", 401: "authentication_error", 403: "permission_error",
    404: "invalid_request_error", 413: "invalid_request_error", 422: "invalid_request_error",
    429: "rate_limit_error",
}  # fmt: skip


def error_reply(reply: Reply, secrets: Iterable[str] = ()) -> Reply:
    """Return an error of an upstream with a body in the shape of OpenAI; its status stays."""
    error = _read(reply)
    body = error_body(
        reply.status, masked(_text(error.get("message")), secrets),
        kind=masked(_text(error.get("type")), secrets), code=masked(_text(error.get("code")), secrets),
        param=masked(_text(error.get("param")), secrets), inner=_inner(error.get("innererror"), secrets),
    )  # fmt: skip
    headers = {name: value for name, value in reply.headers.items() if name not in _BODY_HEADERS}
    headers["content-type"] = "application/json"
    return Reply(reply.status, headers, body)


def error_body(
    status: int, message: str, *, kind: str = "", code: str = "", param: str = "", inner: Any = None
) -> bytes:  # fmt: skip
    """Return an error in the shape of OpenAI; every text is cut to its bound."""
    error: dict[str, Any] = {
        "message": message[:_MAX_MESSAGE] or f"the upstream answered {status} {_phrase(status)}".rstrip(),
        "type": kind[:_MAX_WORD] or _TYPES.get(status, "server_error" if status >= 500 else "api_error"),
        "param": param[:_MAX_WORD] or None,
        "code": code[:_MAX_WORD] or None,
    }
    if inner is not None:
        error["innererror"] = inner
    return msgspec.json.encode({"error": error})


def masked(text: str, secrets: Iterable[str] = ()) -> str:
    """Return the text without our credentials, whole, cut short or half starred out by who wrote it."""
    for secret in secrets:
        if len(secret) >= _SHORTEST:
            text = _without(text.replace(secret, MASK), secret)
    return _STARRED.sub(MASK, mask_text(_CONTROL.sub(" ", text)))


def holds(data: bytes, secrets: Iterable[str]) -> bool:
    """Return whether JSON may hold one of our credentials; escapes could spell it in many ways."""
    if b"\\u" in data or b"\\/" in data:
        return True
    return any(len(secret) >= _SHORTEST and secret[:_BEGINNING].encode() in data for secret in secrets)


def without(data: bytes, secrets: Iterable[str]) -> bytes:
    """Return JSON without our credentials."""
    if not holds(data, secrets):
        return data
    try:
        data = msgspec.json.encode(msgspec.json.decode(data))  # escapes only where they must be
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        data = data.replace(b"\\", b"")
    text = data.decode("utf-8", "replace")
    for secret in secrets:
        if len(secret) >= _SHORTEST:
            text = _without(text.replace(secret, MASK), secret)
    return text.encode()


def _without(text: str, secret: str) -> str:
    """Take out the longest beginnings of a secret: an upstream may echo some of it."""
    beginning = secret[:_BEGINNING]
    if len(secret) <= _BEGINNING:
        return text
    while (at := text.find(beginning)) >= 0:
        end = at + len(beginning)
        while end < len(text) and end - at < len(secret) and text[end] == secret[end - at]:
            end += 1
        text = text[:at] + MASK + text[end:]
    return text


def _read(reply: Reply) -> Mapping[str, Any]:
    """Return message, type, code, param and innererror, as far as the body has them."""
    body = reply.body or b""
    if not body or len(body) > _MAX_BODY:
        return {}
    try:
        data = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _read_text(reply, body)
    if isinstance(data, list) and data:
        data = data[0]  # as Gemini does
    if isinstance(data, str):
        return {"message": data}
    if not isinstance(data, dict):
        return {}
    error = data.get("error")
    if isinstance(error, dict):
        return _flat(error)
    return _flat({**data, "message": error} if isinstance(error, str) else data)


def _read_text(reply: Reply, body: bytes) -> Mapping[str, Any]:
    """Pass on a short plain text; a page of HTML says less than its status does.

    Nor is that of a 403: where no application wrote it, a firewall on the way disliked the request.
    """
    text = body[:_MAX_MESSAGE].decode("utf-8", "replace").strip()
    if reply.content_type not in ("text/plain", "application/json", "") or text.startswith("<"):
        return {}
    if reply.status == HTTPStatus.FORBIDDEN:
        return {}
    return {"message": text}


def _flat(error: Mapping[str, Any]) -> Mapping[str, Any]:
    """Bring the shapes that upstreams use (vLLM, TGI, TEI, FastAPI, Azure, Gemini, AWS) into one."""
    detail = error.get("detail")
    param = error.get("param")
    message = (
        error.get("message") or error.get("Message") or error.get("error_description") or error.get("msg")
    )
    if isinstance(detail, list):
        wrong = [each for each in detail if isinstance(each, dict)]
        message = "; ".join(_wrong_value(each) for each in wrong[:_MAX_TOLD])
        param = _place(wrong[0]) if wrong else None
    elif isinstance(detail, dict):
        return _flat(detail)
    elif not message:
        message = detail or error.get("title") or _first(error.get("errors"))
    code = error.get("code")
    if not isinstance(code, str):  # vLLM repeats the status there; the words stand elsewhere
        code = error.get("error_type") or error.get("__type") or error.get("status")
    kind = error.get("type")
    return {
        "message": message, "param": param, "code": code,
        "type": None if kind == "error" or _text(kind).startswith(("http:", "https:")) else kind,
        "innererror": error.get("innererror") or error.get("inner_error"),
    }  # fmt: skip


def _place(wrong: Mapping[str, Any]) -> str:
    """Return where a wrong value stands, as FastAPI says it: ("body", "messages", 0) -> messages.0."""
    place = wrong.get("loc")
    return ".".join(str(each)[:80] for each in place[:8] if each != "body") if isinstance(place, list) else ""


def _wrong_value(wrong: Mapping[str, Any]) -> str:
    place, message = _place(wrong), _text(wrong.get("msg"))
    return f"{place}: {message}" if place else message


def _first(errors: Any) -> Any:
    first = errors[0] if isinstance(errors, list) and errors else None
    return first.get("message") if isinstance(first, dict) else first


def _text(value: Any) -> str:
    return value[: _MAX_MESSAGE * 2] if isinstance(value, str) else ""


def _inner(value: Any, secrets: Iterable[str]) -> Any:
    """Return what Azure adds about its content filter, unless it is long or holds something of ours."""
    if not isinstance(value, dict):
        return None
    text = msgspec.json.encode(value).decode()
    return value if len(text) <= _MAX_INNER and masked(text, secrets) == text else None


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""
