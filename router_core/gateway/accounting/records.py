"""What is kept of an attempt: numbers and names, never what was said."""

from __future__ import annotations

import msgspec

__all__ = ["MAX_NAME", "AttemptRecord"]

MAX_NAME = 200
"""Characters of what a caller names."""


class AttemptRecord(msgspec.Struct, frozen=True, gc=False):
    """One attempt that has ended. A struct because every attempt makes one: it has to be cheap."""

    at: float
    """When it began, in seconds since the epoch."""
    request_id: str
    principal: str
    workspace: str
    endpoint: str
    model: str
    """As the caller wrote it."""
    model_id: str
    """The model that it was tried with."""
    deployment: str
    attempt: int
    outcome: str
    """A word of ``outcome.KINDS``."""
    status: int
    seconds: float
    first_byte: float
    """Seconds to the first content; 0 without one."""
    input_tokens: int
    output_tokens: int
    cached_tokens: int
    reasoning_tokens: int
    audio_seconds: int
    cost: int | None
    """Micro-dollars; None: unpriced."""
    estimated: bool
    """Whether the tokens are our estimate."""
    stream: bool
    hedge: bool
    probe: bool
    strategy: str
    """What drew the deployment."""
    rule: str
    """The routing rule that led to the model; empty without one."""
    reason: str
    """What was out of the ordinary in the choice: ``panic``, ``last_resort``."""
