"""Named places between two writes where a test may kill, freeze or break the process.

Random kills almost never meet the short window between two writes; a named place meets it every time.
Nothing is armed unless ``arm`` was given an environment that holds ``ROUTER_FAILPOINT``.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from typing import Final

from router_core.errors import Misconfigured

__all__ = ["FAILPOINTS", "VARIABLE", "FailpointHit", "arm", "disarm", "failpoint"]

VARIABLE: Final = "ROUTER_FAILPOINT"
"""``name:action`` or ``name:action:n`` (only the n-th time); several are separated by commas."""

FAILPOINTS: Final = (
    "after_claim", "mid_work", "before_blob", "after_blob", "before_settle", "after_settle", "before_webhook",
    "after_add",
)  # fmt: skip
_ACTIONS: Final = frozenset({"kill", "stop", "raise"})


class FailpointHit(RuntimeError):
    """What the action ``raise`` raises."""


class _Armed:
    __slots__ = ("action", "left")

    def __init__(self, action: str, left: int) -> None:
        self.action = action
        self.left = left


# The one mutable module value of the package: the places are spread over rooms that share no object, and
# a fault is a property of the whole process.
_armed: dict[str, _Armed] = {}


def arm(environ: Mapping[str, str]) -> None:
    """Read ``ROUTER_FAILPOINT`` and arm what it names; raises Misconfigured when it cannot be read."""
    _armed.clear()
    for entry in filter(None, (part.strip() for part in environ.get(VARIABLE, "").split(","))):
        name, _, rest = entry.partition(":")
        action, _, count = rest.partition(":")
        if name not in FAILPOINTS or action not in _ACTIONS or not (count or "1").isdigit():
            raise Misconfigured(
                f"{VARIABLE} holds {entry!r}; it must be name:action or name:action:n, with a name out of "
                f"{', '.join(FAILPOINTS)} and an action out of {', '.join(sorted(_ACTIONS))}"
            )
        _armed[name] = _Armed(action, max(1, int(count or 1)))


def disarm() -> None:
    """Forget what was armed."""
    _armed.clear()


def failpoint(name: str) -> None:
    """Do here what was armed under ``name``: nothing, as a rule."""
    if _armed:
        _hit(name)


def _hit(name: str) -> None:
    armed = _armed.get(name)
    if armed is None:
        return
    armed.left -= 1
    if armed.left > 0:
        return
    del _armed[name]
    if armed.action == "raise":
        raise FailpointHit(f"failpoint {name}")
    os.kill(os.getpid(), signal.SIGKILL if armed.action == "kill" else signal.SIGSTOP)
