"""What is kept of a call: names and numbers, never what was said."""

from __future__ import annotations

import msgspec

__all__ = ["CallRecord"]


class CallRecord(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One call that has ended. Fields are only ever added at the end: others' records are read."""

    at: float
    """When it ended, in seconds since the epoch."""
    request_id: str
    workspace: str
    agent_type: str
    endpoint: str
    asked: str
    """The model as the caller wrote it."""
    model: str
    """The model that served it, else the one that was to."""
    asked_model: str
    """The model that the name stood for; empty: nobody knows it."""
    deployment: str
    outcome: str
    """A word of ``outcome.KINDS``."""
    status: int
    """HTTP status of the upstream; 0 without an answer."""
    seconds: float
    """Of a stream: to its end."""
    first_byte: float
    """Seconds to the first content of a stream; 0 without one."""
    input_tokens: int
    output_tokens: int
    cost: int | None
    """Micro-dollars; None: something in it has no price."""
    estimated: bool
    tries: int
    stream: bool
    rule: str
    trial: str
