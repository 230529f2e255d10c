"""A chat as upstreams with a protocol of their own need it: the parts of its messages, taken apart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

__all__ = [
    "Cache", "ChatRequest", "Document", "Image", "JsonFormat", "Part", "Text", "Thinking", "Tool",
    "ToolResult", "ToolUse", "Turn",
]  # fmt: skip


Cache = Mapping[str, Any] | None


@dataclass(frozen=True, slots=True)
class Text:
    """Text, never empty."""

    text: str
    cache: Cache = None
    """``cache_control`` of the part: the prompt may be cached up to here."""


@dataclass(frozen=True, slots=True)
class Image:
    """An image: its bytes as base64 or an address."""

    media_type: str = ""
    data: str = ""
    url: str = ""
    cache: Cache = None
    param: str = ""
    """Where it stands in the request, for errors."""


@dataclass(frozen=True, slots=True)
class Document:
    """A file to be read."""

    media_type: str
    data: str
    """Base64."""
    name: str = ""
    cache: Cache = None
    param: str = ""


@dataclass(frozen=True, slots=True)
class ToolUse:
    """A call of a tool that the model has made."""

    id: str
    name: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What a tool has answered."""

    id: str
    parts: tuple[Text | Image | Document, ...]


@dataclass(frozen=True, slots=True)
class Thinking:
    """What the model has thought, with its signature; or, with ``redacted``, what it does not show."""

    text: str = ""
    signature: str = ""
    redacted: str = ""


Part = Text | Image | Document | ToolUse | ToolResult | Thinking


@dataclass(frozen=True, slots=True)
class Turn:
    """Everything that one side says before the other does."""

    role: Literal["user", "assistant"]
    parts: tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool that the model may call."""

    name: str
    description: str
    schema: Mapping[str, Any]
    strict: bool = False
    cache: Cache = None


@dataclass(frozen=True, slots=True)
class JsonFormat:
    """JSON that the answer has to be."""

    name: str
    schema: Mapping[str, Any] | None
    """None: any object."""
    strict: bool = False
    description: str = ""


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """A request of chat/completions."""

    system: tuple[Text, ...]
    """Of all system and developer messages, in their order."""
    turns: tuple[Turn, ...]
    """Never two of one role in a row."""
    tools: tuple[Tool, ...] = ()
    tool_choice: str = ""
    """``auto none required tool``, or empty."""
    tool_name: str = ""
    """With ``tool_choice`` tool."""
    parallel: bool = True
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    stop: tuple[str, ...] = ()
    stream: bool = False
    user: str = ""
    effort: str = ""
    """``reasoning_effort``; empty: not given."""
    format: JsonFormat | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Other fields, as they came: name -> ``msgspec.Raw``."""

    @property
    def uses_tools(self) -> bool:
        """Whether the conversation holds calls of tools."""
        return any(isinstance(part, ToolUse | ToolResult) for turn in self.turns for part in turn.parts)
