"""What an error body says, whoever wrote it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from router_core.gateway.resilience.wording import STATUS_WORDS

__all__ = ["ErrorBody", "read_error", "said_status"]

_MAX_BODY: Final = 256 * 1024
"""Bytes; a larger error body is judged by its status alone."""
_MAX_TEXT: Final = 4096
_MAX_WORD: Final = 64
_WORD: Final = re.compile(r"[A-Za-z0-9_.:-]+", re.ASCII)
_DEPTH: Final = 4


@dataclass(frozen=True, slots=True)
class ErrorBody:
    """The parts of an error that are looked at, in lower case."""

    codes: tuple[str, ...] = ()
    """Every code and type in it, the outermost first."""
    text: str = ""
    """The messages, cut."""
    param: str = ""
    status: int = 0
    """Where it says one."""
    structured: bool = False
    """Whether it is JSON of a known shape: an application wrote it, not a proxy on the way."""

    @property
    def word(self) -> str:
        """A code that is fit for logs, or nothing: messages may hold parts of the prompt."""
        return next((code for code in self.codes if len(code) <= _MAX_WORD and _WORD.fullmatch(code)), "")


def read_error(body: bytes | None) -> ErrorBody | None:
    """Read an error body; None when it does not say that there is an error (empty, or another document).

    Understood are OpenAI's and Azure's ``{"error": {...}}``, Anthropic's ``{"type": "error"}``, the older
    form of vLLM and Mistral (``{"object": "error"}``), TGI's and TEI's ``{"error": "text"}``, FastAPI's
    ``detail``, Bedrock's ``message`` with ``__type``, problem+json, and Gemini's list of one.
    """
    if not body or len(body) > _MAX_BODY:
        return None
    try:
        data = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ErrorBody(text=body[:_MAX_TEXT].decode("utf-8", "replace").lower())
    if isinstance(data, list) and len(data) == 1:
        data = data[0]
    if not isinstance(data, dict):
        return None
    codes: list[str] = []
    texts: list[str] = []
    known = _collect(data, codes, texts, 0)
    inner = data.get("error")
    param = inner.get("param") if isinstance(inner, dict) else data.get("param")
    return ErrorBody(
        codes=tuple(codes),
        text="\n".join(texts)[:_MAX_TEXT].lower(),
        param=param.lower() if isinstance(param, str) else "",
        status=_status(data) or (_status(inner) if isinstance(inner, dict) else 0),
        structured=known,
    )


def _collect(data: dict[str, Any], codes: list[str], texts: list[str], depth: int) -> bool:
    """Gather codes and messages of an object and of the errors inside it; False when it holds none."""
    before = len(codes) + len(texts)
    for name in ("code", "type", "__type", "error_type", "status"):
        value = data.get(name)
        if isinstance(value, str) and value and value != "error":
            codes.append(value.lower())
    for name in ("message", "detail", "title", "msg", "error", "innererror", "inner_error", "metadata"):
        value = data.get(name)
        if isinstance(value, str):
            texts.append(value[:_MAX_TEXT])
        elif isinstance(value, dict) and depth < _DEPTH:
            _collect(value, codes, texts, depth + 1)
        elif isinstance(value, list) and depth < _DEPTH:
            _collect_list(value, codes, texts, depth)
    return len(codes) + len(texts) > before


def _collect_list(values: list[Any], codes: list[str], texts: list[str], depth: int) -> None:
    for value in values[:8]:
        if isinstance(value, str):
            texts.append(value[:_MAX_TEXT])
        elif isinstance(value, dict):
            _collect(value, codes, texts, depth + 1)


def _status(data: dict[str, Any]) -> int:
    """Return the HTTP status that an error object gives itself."""
    for name in ("status", "status_code", "code"):
        value = data.get(name)
        if isinstance(value, str) and len(value) == 3 and value.isascii() and value.isdigit():
            value = int(value)
        if isinstance(value, int) and not isinstance(value, bool) and 400 <= value <= 599:
            return value
    return 0


def said_status(error: ErrorBody) -> int:
    """Return the status that an error inside an answer of 200 stands for; 500 where nothing tells."""
    if error.status:
        return error.status
    for code in error.codes:
        for part, status in STATUS_WORDS:
            if part in code:
                return status
    return 500
