"""Spread the resources of a kind over values that every store can keep, each named by what it holds.

A change of one resource rewrites one bucket; the others keep their names, and are not even read again by
those that follow.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec

from router_core.errors import PayloadTooLarge, StoreError
from router_core.gateway.control.resource import Resource

__all__ = ["BUCKETS", "MAX_BUCKET", "Bucket", "Known", "Spread", "decoded", "name_of", "spread"]

BUCKETS: Final = 64
"""Buckets of a kind; four times as many where one of them would get too large."""
MAX_BUCKET: Final = 256 * 1024
"""Bytes, well below what a store keeps in one value."""
_MOST: Final = 4096

_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder(list[tuple[str, float, float, int, dict[str, Any]]]).decode

Bucket = tuple[Resource, ...]
"""What one of them holds, in order of id."""
Known = Mapping[tuple[str, int, int], tuple[Bucket, str]]
"""Kind, number of buckets and place -> what is there already, and its name."""


class Spread:
    """The buckets of one kind: how many there are, and the name of each that holds anything."""

    __slots__ = ("count", "kind", "names")

    def __init__(self, kind: str, count: int, names: Mapping[int, str]) -> None:
        self.kind = kind
        self.count = count
        self.names = names


def name_of(value: bytes) -> str:
    """Return the name of a value: equal values, equal names."""
    return hashlib.sha256(value).hexdigest()[:40]


def spread(
    kind: str, resources: Iterable[Resource], known: Known, made: dict[str, tuple[bytes, Bucket]]
) -> Spread:
    """Return the buckets of a kind. Those that are not ``known`` are put into ``made``, to be written."""
    everything = sorted(resources, key=lambda each: each.id)
    count = BUCKETS
    while True:
        found = _tried(kind, everything, count, known, made)
        if found is not None:
            return found
        if count >= _MOST:
            raise PayloadTooLarge(f"there are too many {kind}, or too large ones, to be kept")
        count *= 4


def _tried(
    kind: str, everything: list[Resource], count: int, known: Known, made: dict[str, tuple[bytes, Bucket]]
) -> Spread | None:
    groups: dict[int, list[Resource]] = {}
    for each in everything:
        groups.setdefault(zlib.crc32(each.id.encode()) % count, []).append(each)
    names: dict[int, str] = {}
    fresh: dict[str, tuple[bytes, Bucket]] = {}
    for place, group in groups.items():
        bucket = tuple(group)
        there = known.get((kind, count, place))
        if there is not None and there[0] == bucket:  # the same objects, mostly: nothing is compared then
            name = there[1]
        else:
            value = _encode([(one.id, one.created_at, one.updated_at, one.place, one.body) for one in bucket])
            if len(value) > MAX_BUCKET:
                return None
            name = name_of(value)
            fresh[name] = (value, bucket)
        names[place] = name
    made.update(fresh)
    return Spread(kind, count, names)


def decoded(kind: str, name: str, value: bytes) -> Bucket:
    """Return what a bucket holds. Raises StoreError where it is not what its name says."""
    if name_of(value) != name:
        raise StoreError(f"the bucket {name} of the configuration is damaged")
    try:
        rows = _decode(value)
    except msgspec.MsgspecError:
        raise StoreError(f"the bucket {name} of the configuration cannot be read") from None
    return tuple(Resource(kind, *_in_order(row)) for row in rows)


def _in_order(row: tuple[str, float, float, int, dict[str, Any]]) -> tuple[Any, ...]:
    key, created_at, updated_at, place, body = row
    return key, body, created_at, updated_at, place
