"""Where sums lie: one key for each stretch of time and process, so that nobody waits for anybody to write.

A process writes its own sums of a minute (an hour, a day) again and again, whole: what is written twice
is not counted twice. Whoever reads adds up what all processes have written.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import msgspec

from router_core.gateway.analytics.sums import DeploymentSum, Key, Sum, Table

__all__ = [
    "DAY",
    "HOUR",
    "MINUTE",
    "ROOM",
    "Level",
    "Part",
    "pack",
    "prefixes",
    "start_of",
    "unpack",
]

ROOM: Final = "gwa"
MAX_BYTES: Final = 300 * 1024
"""Of one value, well below what a store takes."""


class Level(NamedTuple):
    """A length of time for which sums are kept."""

    letter: str
    width: int
    """Seconds."""
    group: int
    """Seconds whose keys have one prefix, by which they are listed."""
    ttl: float

    def floor(self, at: float) -> int:
        """Return when the stretch of a moment began."""
        return int(at // self.width * self.width)

    def key(self, start: int, process: str, part: int = 0) -> str:
        """Return the key of what a process has of the stretch that began then."""
        return f"{self.prefix(start)}{start // self.width:010d}/{process}.{part}"

    def prefix(self, at: float) -> str:
        """Return how the keys around a moment begin."""
        return f"{ROOM}/{self.letter}/{int(at) // self.group:07d}/"


MINUTE: Final = Level("m", 60, 3600, 3 * 3600 + 600.0)
HOUR: Final = Level("h", 3600, 86_400, 8 * 86_400 + 3600.0)
DAY: Final = Level("d", 86_400, 32 * 86_400, 401 * 86_400.0)


class Part(msgspec.Struct):
    """Some of the sums of one process and stretch of time."""

    rows: list[tuple[Key, Sum]] = []
    deployments: dict[str, DeploymentSum] = {}


_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(Part).decode


def pack(table: Table) -> list[bytes]:
    """Return a table as values that a store takes."""
    return _split(Part(list(table.rows.items()), table.deployments))


def _split(part: Part) -> list[bytes]:
    data = _encode(part)
    if len(data) <= MAX_BYTES or len(part.rows) + len(part.deployments) < 2:
        return [data]
    middle, names = len(part.rows) // 2, list(part.deployments)
    half = {name: part.deployments[name] for name in names[: len(names) // 2]}
    rest = {name: each for name, each in part.deployments.items() if name not in half}
    return _split(Part(part.rows[:middle], half)) + _split(Part(part.rows[middle:], rest))


def unpack(value: bytes) -> Part | None:
    """Return what was packed; None where it cannot be read."""
    try:
        return _decode(value)
    except (msgspec.MsgspecError, RecursionError):
        return None


def start_of(level: Level, key: str) -> int | None:
    """Return when the stretch of a key began; None for a key that is none of this level."""
    parts = key.split("/")
    if len(parts) != 5 or parts[1] != level.letter or not parts[3].isdigit():
        return None
    return int(parts[3]) * level.width


def prefixes(level: Level, start: float, end: float) -> list[str]:
    """Return what to list for everything between two moments."""
    first, last = int(start) // level.group, int(max(start, end - 1)) // level.group
    return [level.prefix(index * level.group) for index in range(first, last + 1)]
