"""What a scripted deployment is asked and what it answers, before it is sent."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from router_core.gateway.call import Usage
from router_core.gateway.clients.scripted_args import Step

__all__ = [
    "DONE", "Answer", "Ask", "Piece", "RefusedError", "encode", "event", "prompt_texts", "split_tokens",
    "usage_of",
]  # fmt: skip

Piece = tuple[bytes, int]
"""Bytes of a stream, and how many tokens of content are in them."""

encode: Final = msgspec.json.Encoder().encode
DONE: Final[Piece] = (b"data: [DONE]\n\n", 0)

_MAX_WORD: Final = 64
_MAX_PARTS: Final = 100_000


class RefusedError(Exception):
    """A request that an upstream would refuse."""

    def __init__(self, message: str, param: str | None = None, *, status: int = 400, code: str = "") -> None:
        super().__init__(message)
        self.message, self.param, self.status, self.code = message, param, status, code


@dataclass(frozen=True, slots=True)
class Ask:
    """One request as a scripted deployment reads it."""

    fields: Mapping[str, Any]
    step: Step
    number: int
    """Of the call, from 1."""
    model: str
    name: str
    """Of the deployment; ids of answers are made of it."""
    stream: bool = False
    created: int = field(default_factory=lambda: int(time.time()))

    def id(self, prefix: str, index: int = 0) -> str:
        """Return an id that this call alone has, and has in every run."""
        digest = hashlib.sha256(f"{self.name}/{self.number}/{index}".encode()).hexdigest()
        return f"{prefix}{digest[:24]}"

    def integer(self, name: str, default: int, *, least: int = 1, most: int = 2**31) -> int:
        """Return a number of the request. Raises RefusedError."""
        value = self.fields.get(name)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise RefusedError(f"'{name}' has to be a whole number between {least} and {most}", name)
        return value

    def reply(self, prompt: str) -> str:
        """Return the text of the answer."""
        step = self.step
        if step.tokens is not None:
            return "".join(f"word{index} " for index in range(1, step.tokens + 1)).rstrip()
        if step.echo:
            return prompt[:65_536]
        if step.reply:
            return step.reply[(self.number - 1) % len(step.reply)]
        return f"This is a scripted answer of {self.model}."


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer: a body, or the pieces of a stream."""

    body: bytes = b""
    pieces: Iterator[Piece] | None = None
    tokens: int = 0
    """Of output; they take time where a speed is set."""
    content_type: str = "application/json"


def event(value: Any, tokens: int = 0, name: str = "") -> Piece:
    """Return one event of a stream."""
    head = f"event: {name}\n".encode() if name else b""
    return b"%sdata: %s\n\n" % (head, encode(value)), tokens


def split_tokens(text: str) -> list[str]:
    """Cut a text into words with the blanks after them, so that joining gives it back."""
    words: list[str] = []
    for line in text.splitlines(keepends=True):
        pieces = line.split(" ")
        words += [piece + " " for piece in pieces[:-1]]
        words += pieces[-1:] if pieces[-1] else []
    if all(len(word) <= _MAX_WORD for word in words):
        return words
    return [word[at : at + _MAX_WORD] for word in words for at in range(0, len(word), _MAX_WORD)]


def count_tokens(characters: int) -> int:
    """Estimate the tokens of an input: four characters each."""
    return (characters + 3) // 4


def usage_of(step: Step, characters: int, output: int) -> Usage:
    """Return what a call used: as told, or as counted."""
    return step.usage or Usage(count_tokens(characters), output)


def prompt_texts(messages: Any, param: str) -> list[tuple[str, str]]:
    """Return role and text of each message. Raises RefusedError for what are no messages."""
    if isinstance(messages, str):
        return [("user", messages)]
    if not isinstance(messages, list) or not messages:
        raise RefusedError(f"'{param}' has to be a list of at least one message", param)
    found = []
    for index, message in enumerate(messages):
        if not isinstance(message, Mapping):
            raise RefusedError(f"'{param}[{index}]' has to be an object", f"{param}[{index}]")
        role = message.get("role") or message.get("type")
        if not isinstance(role, str):
            raise RefusedError(f"'{param}[{index}].role' is missing", f"{param}[{index}].role")
        found.append((role, _content_text(message.get("content", message.get("output")))))
    return found


def _content_text(content: Any) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    texts = [part.get("text") for part in content[:_MAX_PARTS] if isinstance(part, Mapping)]
    return "\n".join(text for text in texts if isinstance(text, str))
