"""Small shared state beside the jobs: configuration, budgets, counters, locks, whatever has a name.

A key is ``room/name``: a room keeps what belongs together, and only within one can keys be listed, because
that is what every technology can do without reading everything it has. A key holds bytes or a count.

Errors: ``Conflict`` when a condition does not hold, ``StoreError`` when the store cannot answer (what was
asked may have happened), ``BadRequest`` for a key and ``PayloadTooLarge`` for a value that cannot be kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from router_core.errors import BadRequest, PayloadTooLarge

__all__ = [
    "MAX_KEY", "MAX_VALUE", "Entry", "StatePage", "StateStore", "check_key", "check_prefix", "check_value",
    "room_of",
]  # fmt: skip

MAX_VALUE: Final = 350 * 1024
MAX_KEY: Final = 500
"""Bytes in UTF-8."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What stands under a key."""

    key: str
    value: bytes
    """Of a count: its decimal digits."""
    version: str
    """Another one after every write, never the same again."""


@dataclass(frozen=True, slots=True)
class StatePage:
    """One page of a listing; an empty cursor ends it."""

    entries: Sequence[Entry]
    cursor: str = ""


class StateStore(Protocol):
    """Named values with compare-and-set, counts with a limit, and expiry."""

    async def get(self, key: str) -> Entry | None:
        """Return what stands under a key now: a write that was answered before is seen."""

    async def put(
        self,
        key: str,
        value: bytes,
        *,
        if_version: str | None = None,
        if_absent: bool = False,
        ttl: float | None = None,
    ) -> str:
        """Write a value and return its version.

        Only over ``if_version``, or only where nothing stands, when asked so: else Conflict. It expires after
        ``ttl`` seconds; None keeps it, whatever was said of the value before it.
        """

    async def delete(self, key: str, *, if_version: str | None = None) -> bool:
        """Remove what stands under a key; False when nothing did. Raises Conflict for another version."""

    async def increment(
        self, key: str, by: int = 1, *, ttl: float | None = None, limit: int | None = None
    ) -> int | None:
        """Add to a count in one step and return what it is then.

        None, and nothing is changed, when adding would take it above ``limit``. A count begins at 0; ``ttl``
        is said by whoever begins it and is not moved by others, so that it may be a window of time. Raises
        Conflict when the key holds bytes.
        """

    async def entries(self, prefix: str, *, cursor: str = "", limit: int = 100) -> StatePage:
        """List what stands under the keys that begin with ``prefix`` (``room/`` at least), in their order.

        A page may be shorter than ``limit`` and still have a cursor.
        """

    async def ping(self) -> None:
        """Raise StoreError unless a write would succeed now."""

    async def open(self) -> None:
        """Get ready; raises Misconfigured with what to change when the store cannot be used."""

    async def close(self) -> None:
        """Let go; safe to call twice. What comes later is refused with StoreError."""


def room_of(key: str) -> str:
    """Return the room of a key or prefix; raises BadRequest when it has none."""
    room, slash, _ = key.partition("/")
    if not room or not slash:
        raise BadRequest(f"a key of the state is room/name, not {key[:80]!r}")
    return room


def check_key(key: str) -> str:
    """Return a key that can be kept; raises BadRequest."""
    if key == f"{room_of(key)}/":
        raise BadRequest(f"a key of the state is room/name, not {key[:80]!r}")
    try:
        size = len(key.encode())
    except UnicodeEncodeError as error:
        raise BadRequest("a key of the state must be text that UTF-8 can write") from error
    if size > MAX_KEY:
        raise BadRequest(f"a key of the state may have {MAX_KEY} bytes, not {size}")
    return key


def check_prefix(prefix: str, cursor: str = "") -> str:
    """Return a prefix that can be listed; raises BadRequest for it or the cursor."""
    room_of(prefix)
    try:
        (prefix + cursor).encode()
    except UnicodeEncodeError as error:
        raise BadRequest("a prefix of the state must be text that UTF-8 can write") from error
    return prefix


def check_value(value: bytes) -> bytes:
    """Return a value that can be kept; raises PayloadTooLarge."""
    if len(value) > MAX_VALUE:
        raise PayloadTooLarge(f"a value of the state may have {MAX_VALUE} bytes, not {len(value)}")
    return value
