"""One call of a model on its way through the gateway, and what became of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import inf
from typing import Any, Final

import msgspec

from router_core.types import ANONYMOUS, Principal

__all__ = ["Attempt", "Attributes", "Call", "Usage"]


class Usage(msgspec.Struct, frozen=True, gc=False):
    """What a call used, as the upstream counted it, or as we estimated where it said nothing.

    A struct because every attempt makes one: a frozen dataclass takes ten times as long.
    """

    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    """Of the input, those read from the provider's cache."""
    reasoning_tokens: int = 0
    """Of the output, those nobody sees."""
    estimated: bool = False
    seconds: int = 0
    """Of audio, rounded up, where the upstream counts time instead of tokens."""


class Attributes(msgspec.Struct, frozen=True):
    """What rules look at; from the body of /api/route, or from x-router-* headers."""

    agent_type: str = ""
    request_type: str = ""
    workspace_id: str = ""
    user_id: str = ""
    user_tier: str = ""
    content_length: int = 0
    """Characters of the prompt."""
    tags: frozenset[str] = frozenset()
    custom: Mapping[str, str] = {}


class Attempt(msgspec.Struct):
    """One try at one deployment. Becomes a record of the ledger when it has ended."""

    number: int
    model_id: str
    deployment_id: str
    started: float
    """Monotonic seconds."""
    outcome: str = ""
    """A word of ``outcome.KINDS``; empty while it runs."""
    status: int = 0
    """HTTP status of the upstream, 0 without one."""
    seconds: float = 0.0
    first_byte: float = 0.0
    """Seconds to the first content; 0 without one."""
    usage: Usage | None = None
    cost: int | None = None
    """Micro-dollars; None: unpriced."""
    hedge: bool = False
    probe: bool = False
    """Whether it was a half-open breaker's probe."""


_NONE: Final[frozenset[str]] = frozenset()


def _no_header(name: str) -> str | None:
    return None


class Call(msgspec.Struct, eq=False):
    """One call. Mutable: the layers fill it in as it goes down, and the record is made of it at the end."""

    endpoint: str
    """One of ``values.ENDPOINTS``."""
    model_name: str
    """As the caller wrote it: an id or an alias."""
    body: bytes = b""
    """As it came."""
    fields: Mapping[str, Any] | None = None
    """The JSON object of the body: name -> ``msgspec.Raw`` (bytes of the value, as they came). None for a
    body that is not JSON (audio uploads)."""
    content_type: str = "application/json"
    request_id: str = ""
    principal: Principal = ANONYMOUS
    stream: bool = False
    started: float = 0.0
    """Monotonic seconds (``loop.time()``), as is the deadline."""
    wants_usage: bool = False
    """Whether the caller asked for usage in the stream; else it is taken out again."""
    headers: Mapping[str, str] = {}
    """Headers of the caller that are passed on (a short allow-list)."""
    header: Callable[[str], str | None] = _no_header
    """Looks up any header of the caller, for whoever may need one; none of these is passed on."""
    max_tokens: int | None = None
    """Of each choice."""
    choices: int = 1
    """Answers that are asked for at once (``n``), each of which is paid for."""
    input_tokens: int = 0
    """Estimate, from the size of the body."""
    needs: frozenset[str] = _NONE
    """Capabilities without which it cannot be served: tools, vision, json."""
    tags: frozenset[str] = _NONE
    region: str = ""
    compliance: frozenset[str] = _NONE
    max_cost: int | None = None
    """Micro-dollars that the caller allows for it."""
    sticky: str = ""
    attributes: Attributes = Attributes()
    deadline: float = inf
    workspace: str = ""
    """The tenant that it belongs to, as the access control has settled it; empty: none."""
    trial: str = ""
    """``id/arm`` of the rollout or experiment that it takes part in; empty: none."""
    rule: str = ""
    """Name of the routing rule that led to the model; empty: the caller named it."""
    attempts: list[Attempt] = []
    decision: Any = None
    """``select.decision.Decision`` once one was made."""
    left: tuple[Any, ...] = ()
    """The decisions of models that had nobody to ask, so that another model was turned to."""
    bounds: Any = None
    """``select.bounds.Bounds`` of its workspace, where that has any."""
    allowance: Any = None
    """What can tell, to its end, how the limits stand that it was admitted under; None: it has none."""
    permit: Any = None
    """``admission.Permit`` while the call holds one."""

    @property
    def in_flight(self) -> bool:
        """Whether it is being answered with a stream that has not ended: its last attempt goes on."""
        return self.stream and bool(self.attempts) and not self.attempts[-1].outcome
