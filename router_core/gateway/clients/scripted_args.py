"""What a scripted deployment was told to do: ``Deployment.args`` read into steps, once.

A script is a list of steps that are played in turn, one for each call. What stands beside ``script`` holds
for every step that does not say otherwise. Without ``script`` there is one step, played for ever.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, get_args

from router_core.errors import Misconfigured
from router_core.gateway.call import Usage
from router_core.gateway.reply import FailureKind
from router_core.gateway.values import Deployment

__all__ = ["Script", "Step", "ToolUse", "parse_script"]


@dataclass(frozen=True, slots=True)
class ToolUse:
    """A tool call that a script wants, whatever the request says."""

    name: str
    arguments: Mapping[str, Any] | None = None
    """None: made up by the schema of the tool."""


@dataclass(frozen=True, slots=True)
class Step:
    """How one call is answered."""

    reply: tuple[str, ...] = ()
    """Texts, used in turn; empty: a sentence that names the model."""
    echo: bool = False
    """Answer with the last message of the user."""
    tokens: int | None = None
    """Make up a text of so many tokens instead."""
    tool_calls: tuple[ToolUse, ...] = ()
    finish_reason: str = ""
    latency: tuple[float, float] = (0.0, 0.0)
    """Seconds before the first byte: between these two."""
    tokens_per_second: float = 0.0
    """Speed of a stream; a whole answer takes as long as its stream would. 0: at once."""
    chunk_delay: float = 0.0
    """Seconds between two chunks of a stream, whatever the speed."""
    fail_every: int = 0
    """Fail call n, 2n, 3n ..."""
    fail_first: int = 0
    """Fail the first n calls."""
    fail_rate: float = 0.0
    """Fail this share of the calls, drawn from the seed."""
    fail_status: int = 0
    """Status of failing calls. Alone, without one of the three above, every call fails."""
    fail_kind: str = ""
    """Fail without an answer instead: one of ``reply.FailureKind``."""
    fail_message: str = ""
    fail_code: str = ""
    retry_after: str = ""
    """Header of failing calls, in whatever form."""
    refuse: tuple[str, ...] = ()
    """Words that the content filter of this deployment refuses."""
    error_in_stream_after: int | None = None
    """Send an error event after so many chunks of content, and end."""
    cut_after: int | None = None
    """Lose the connection after so many chunks of content; whole answers are lost half-way."""
    hang_after: int | None = None
    """Send nothing more after so many chunks of content, and keep the connection."""
    hang: bool = False
    """Take the call and never answer."""
    usage: Usage | None = None
    """Instead of what was counted."""
    report_usage: bool = True
    asleep_for: float = 0.0
    """Seconds for which the first call (and those after it) meet a deployment that wakes up: 503."""
    vector_size: int = 8

    @property
    def fails(self) -> bool:
        """Whether it was told to fail every call."""
        given = self.fail_status or self.fail_kind
        return bool(given) and not (self.fail_every or self.fail_first or self.fail_rate)


@dataclass(frozen=True, slots=True)
class Script:
    """The steps of a deployment."""

    steps: tuple[Step, ...] = field(default_factory=lambda: (Step(),))
    seed: int = 0
    at_end: str = "loop"
    """``loop``: begin again; ``last``: stay with the last step."""

    def step(self, number: int) -> Step:
        """Return the step of call ``number``, which counts from 1."""
        if number <= len(self.steps):
            return self.steps[number - 1]
        return self.steps[-1] if self.at_end == "last" else self.steps[(number - 1) % len(self.steps)]


_MAX_STEPS: Final = 10_000
_MAX_TOKENS: Final = 100_000
_MAX_SECONDS: Final = 86_400.0
_OF_THE_CONNECTION: Final = frozenset(
    {"api_key", "api_url", "base_url", "key", "model", "model_name", "timeout", "timeouts", "url"}
)
"""Arguments of other client types, so that ``type: scripted`` can stand in for them in a configuration."""


def parse_script(deployment: Deployment) -> Script:
    """Read the arguments of a deployment. Raises Misconfigured, naming the argument."""
    args = {name: value for name, value in deployment.args.items() if name not in _OF_THE_CONNECTION}
    try:
        seed, at_end = _count(args.pop("seed", 0)), args.pop("at_end", "loop")
        listed = args.pop("script", None)
        if at_end not in ("loop", "last"):
            raise ValueError(f"at_end is 'loop' or 'last', not {at_end!r}")
        basis = _step(Step(), args, "")
        steps = (basis,) if listed is None else _steps(basis, listed)
    except ValueError as exc:
        raise Misconfigured(f"deployment {deployment.id!r} (scripted): {exc}") from None
    return Script(steps, seed, at_end)


def _steps(basis: Step, listed: Any) -> tuple[Step, ...]:
    if not isinstance(listed, list) or not 1 <= len(listed) <= _MAX_STEPS:
        raise ValueError(f"script is a list of 1 to {_MAX_STEPS} steps")
    return tuple(_step(basis, each, f"script[{index}].") for index, each in enumerate(listed))


def _step(basis: Step, given: Any, where: str) -> Step:
    if isinstance(given, str):
        given = {"reply": given}
    if not isinstance(given, Mapping):
        raise ValueError(f"{where.rstrip('.')} is a text (the reply) or a mapping, not {given!r}")
    values: dict[str, Any] = {}
    for name, value in given.items():
        read = _READERS.get(name)
        if read is None:
            raise ValueError(f"{where}{name} is unknown; known are {', '.join(sorted(_READERS))}")
        try:
            values.update(read(value) if name == "usage" else {name: read(value)})
        except ValueError as exc:
            raise ValueError(f"{where}{name} {exc}, not {value!r}") from None
    return replace(basis, **values)


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("is true or false")
    return value


def _count(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**53:
        raise ValueError("is a whole number of at least 0")
    return value


def _tokens(value: Any) -> int:
    if _count(value) > _MAX_TOKENS:
        raise ValueError(f"is at most {_MAX_TOKENS}")
    return _count(value)


def _vector_size(value: Any) -> int:
    if not 1 <= _count(value) <= 65_536:
        raise ValueError("is between 1 and 65536")
    return int(value)


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        raise ValueError("is a number of at least 0")
    return float(value)


def _seconds(value: Any) -> float:
    if _number(value) > _MAX_SECONDS:
        raise ValueError("is at most a day, in seconds")
    return float(value)


def _share(value: Any) -> float:
    if _number(value) > 1:
        raise ValueError("is a share between 0 and 1")
    return float(value)


def _span(value: Any) -> tuple[float, float]:
    pair = value if isinstance(value, list) else [value, value]
    if len(pair) != 2 or _seconds(pair[0]) > _seconds(pair[1]):
        raise ValueError("is a number of seconds or [from, to]")
    return float(pair[0]), float(pair[1])


def _text(value: Any) -> str:
    if not isinstance(value, str) or len(value) > 1_000_000:
        raise ValueError("is a text")
    return value


def _texts(value: Any) -> tuple[str, ...]:
    return tuple(_text(each) for each in (value if isinstance(value, list) else [value]))


def _status(value: Any) -> int:
    if not 400 <= _count(value) <= 599:
        raise ValueError("is between 400 and 599")
    return int(value)


def _kind(value: Any) -> str:
    if value not in get_args(FailureKind):
        raise ValueError(f"is one of {', '.join(get_args(FailureKind))}")
    return str(value)


def _header(value: Any) -> str:
    text = f"{value:g}" if isinstance(value, int | float) and not isinstance(value, bool) else _text(value)
    if not text.isascii() or not text.isprintable():
        raise ValueError("is a number of seconds or a header value")
    return text


def _tool_uses(value: Any) -> tuple[ToolUse, ...]:
    listed = value if isinstance(value, list) else [value]
    found = []
    for each in listed:
        given = {"name": each} if isinstance(each, str) else each
        arguments = given.get("arguments") if isinstance(given, Mapping) else None
        if not isinstance(given, Mapping) or not isinstance(given.get("name"), str):
            raise ValueError("is the name of a tool, or {name, arguments}, or a list of these")
        if arguments is not None and not isinstance(arguments, Mapping):
            raise ValueError("holds arguments that are no mapping")
        found.append(ToolUse(given["name"], arguments))
    return tuple(found)


_USAGE: Final = {
    "prompt_tokens": "input_tokens", "input_tokens": "input_tokens", "completion_tokens": "output_tokens",
    "output_tokens": "output_tokens", "cached_tokens": "cached_tokens",
    "reasoning_tokens": "reasoning_tokens",
}  # fmt: skip


def _usage(value: Any) -> dict[str, Any]:
    if isinstance(value, bool):
        return {"report_usage": value}
    if not isinstance(value, Mapping) or not set(value) <= set(_USAGE):
        raise ValueError(f"is true, false or a mapping of {', '.join(_USAGE)}")
    counts = {_USAGE[name]: _count(count) for name, count in value.items()}
    return {
        "usage": Usage(
            counts.get("input_tokens", 0), counts.get("output_tokens", 0), counts.get("cached_tokens", 0),
            counts.get("reasoning_tokens", 0),
        )
    }  # fmt: skip


_READERS: Final[Mapping[str, Callable[[Any], Any]]] = {
    "reply": _texts, "echo": _flag, "tokens": _tokens, "tool_calls": _tool_uses, "finish_reason": _text,
    "latency": _span, "tokens_per_second": _number, "chunk_delay": _seconds, "fail_every": _count,
    "fail_first": _count, "fail_rate": _share, "fail_status": _status, "fail_kind": _kind,
    "fail_message": _text, "fail_code": _text, "retry_after": _header, "refuse": _texts,
    "error_in_stream_after": _count, "cut_after": _count, "hang_after": _count, "hang": _flag,
    "usage": _usage, "report_usage": _flag, "asleep_for": _seconds, "vector_size": _vector_size,
}  # fmt: skip
