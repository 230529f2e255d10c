"""The account of one subject, as all processes see it: what was spent, and who holds how much until when."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Final

from router_core.errors import StoreError

__all__ = ["Document", "Holder", "decode", "encode"]

_VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class Holder:
    """What one process holds."""

    seq: int
    """Number of its last write, by which it recognises one whose answer was lost."""
    until: int
    """Until when it is believed."""
    held: dict[str, int] = field(default_factory=dict)
    """By limit: what its calls have reserved, and its headroom."""
    spare: dict[str, int] = field(default_factory=dict)
    """Of that, the headroom."""


@dataclass(frozen=True, slots=True)
class Document:
    """One account. Made anew by every change."""

    slots: dict[str, dict[int, int]] = field(default_factory=dict)
    """By limit: beginning of a slot of time -> what was spent in it."""
    holders: dict[str, Holder] = field(default_factory=dict)
    pressed: int = 0
    """Until when nobody is to hold headroom: somebody waits for it."""
    born: str = ""
    """Another one whenever the store had nothing: what is there no more was not reset, but lost."""


def encode(document: Document) -> bytes:
    """Return the bytes that are kept."""
    told = {
        "v": _VERSION,
        "s": {name: slots for name, slots in document.slots.items() if slots},
        "h": {name: [each.seq, each.until, each.held, each.spare] for name, each in document.holders.items()},
        "p": document.pressed,
        "b": document.born,
    }
    return json.dumps(told, separators=(",", ":")).encode()


def decode(value: bytes) -> Document:
    """Return what was kept. Raises StoreError for what no version of ours has written: to begin anew would
    give away what was spent."""
    try:
        told = json.loads(value)
        if told["v"] != _VERSION:
            raise ValueError
        slots = {name: {int(slot): int(amount) for slot, amount in each.items()}
                 for name, each in told["s"].items()}  # fmt: skip
        holders = {
            name: Holder(int(seq), int(until), _amounts(held), _amounts(spare))
            for name, (seq, until, held, spare) in told["h"].items()
        }
        return Document(slots, holders, int(told["p"]), str(told.get("b", "")))
    except (ValueError, LookupError, TypeError, AttributeError):
        raise StoreError("what the state store holds of a limit cannot be read") from None


def _amounts(told: Any) -> dict[str, int]:
    return {str(name): int(amount) for name, amount in told.items()}
