"""The states of an endpoint, and what moves it from one to another.

```
unknown --look--> running <--look-- starting <--wake-- sleeping
                     |                                     ^
                     +--sleep--> stopping -------look------+        failed look: error
```

What a provider says always counts, but for one thing: an order of ours takes a while until the provider
speaks of it, and Hugging Face has no word for "stopping" at all. So for as long as an order is **held**, what
was true before it is not believed again.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final, Literal

__all__ = ["TRANSITIONS", "Event", "State", "after"]


class State(StrEnum):
    """How an endpoint stands."""

    RUNNING = "running"
    """Answers calls."""
    SLEEPING = "sleeping"
    """Costs nothing and answers nothing."""
    STARTING = "starting"
    STOPPING = "stopping"
    UNKNOWN = "unknown"
    """Nobody can say at the moment; calls are let through."""
    ERROR = "error"
    """The provider says that it failed, and that waiting does not help."""


Event = Literal["wake", "sleep", "asleep", "running", "starting", "sleeping", "failed", "lost"]
"""``wake``, ``sleep``: the provider took our order. ``asleep``: a call found it not running. ``running`` to
``failed``: what the provider says. ``lost``: the provider says nothing, or a word that we do not know."""

_R, _SL, _ST = State.RUNNING, State.SLEEPING, State.STARTING
_SP, _U, _E = State.STOPPING, State.UNKNOWN, State.ERROR

TRANSITIONS: Final[Mapping[Event, Mapping[State, State]]] = MappingProxyType(
    {
        "wake": {_R: _R, _SL: _ST, _ST: _ST, _SP: _ST, _U: _ST, _E: _ST},
        "sleep": {_R: _SP, _SL: _SL, _ST: _SP, _SP: _SP, _U: _SP, _E: _SP},
        "asleep": {_R: _SL, _SL: _SL, _ST: _ST, _SP: _SP, _U: _SL, _E: _E},
        "running": dict.fromkeys(State, _R),
        "starting": dict.fromkeys(State, _ST),
        "sleeping": dict.fromkeys(State, _SL),
        "failed": dict.fromkeys(State, _E),
        "lost": dict.fromkeys(State, _U),
    }
)
"""Event -> state before -> state after it."""

_NOT_YET: Final = frozenset({("running", _SP), ("starting", _SP), ("sleeping", _ST), ("lost", _SP)})
"""What says nothing new while an order is held."""


def after(state: State, event: Event, *, held: bool = False) -> State:
    """Return the state after an event."""
    if held and (event, state) in _NOT_YET:
        return state
    return TRANSITIONS[event][state]
