"""Draws that come out the same again: same key, same arm, in every process and after every restart.

Weighted rendezvous: each arm gets a number out of (key, arm), and the least wins. Each arm wins its weight's
share of all keys; an arm that goes away gives up its own keys alone, and one whose weight grows takes keys
without any moving between the others. A ring or ``hash % n`` would move keys that have no reason to move.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from math import inf, log
from typing import Final

__all__ = ["digest", "draw", "race"]

_MASK: Final = (1 << 64) - 1
_ODD: Final = 0x9E3779B97F4A7C15
_ODDER: Final = 0xD6E8FEB86659FD93
_SPAN: Final = 1 << 52
"""So many parts of (0, 1), that the last one is still below 1 as a float."""


def digest(text: str) -> int:
    """Return 64 bits of a text: not Python's ``hash``, which differs from process to process."""
    return int.from_bytes(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")


def race(point: int, seed: int, weight: float) -> float:
    """Return when an arm comes in, the least being the winner: exponential, ``weight`` being its rate."""
    if weight <= 0.0:
        return inf
    mixed = (point ^ seed) * _ODD & _MASK
    mixed = (mixed ^ mixed >> 32) * _ODDER & _MASK
    return -log((((mixed ^ mixed >> 32) >> 12) + 0.5) / _SPAN) / weight


def draw(point: int, arms: Sequence[tuple[int, float]]) -> int:
    """Return the index of the arm, of (seed, weight), that a point falls to; weights of 0 only if all are."""
    best, found, index = inf, -1, 0
    for seed, weight in arms:
        if weight > 0.0:  # ``race``, written out: this is on the way of every sticky call
            mixed = (point ^ seed) * _ODD & _MASK
            mixed = (mixed ^ mixed >> 32) * _ODDER & _MASK
            late = -log((((mixed ^ mixed >> 32) >> 12) + 0.5) / _SPAN) / weight
            if late < best:
                best, found = late, index
        index += 1
    if found < 0:
        return draw(point, [(seed, 1.0) for seed, _ in arms])
    return found
