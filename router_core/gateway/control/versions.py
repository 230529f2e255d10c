"""Versions of the configuration in the state store: whole, immutable, and one key that says which is it.

``gwc/current``     number and manifest of the version that holds, moved by compare-and-set
``gwc/m/NAME``      manifest: who made the version, when and why, its buckets, and the versions before it
``gwc/b/NAME``      bucket: resources of one kind

Whatever is named by ``current`` was written before ``current`` was moved, so that who reads it finds all of
it. What a writer leaves behind that came too late, or died half-way, is collected later.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from router_core.errors import Conflict, NotFound, StoreError
from router_core.gateway.control.buckets import Bucket, Spread, decoded, name_of, spread
from router_core.gateway.control.resource import EMPTY, Document
from router_core.state import Entry, StateStore

__all__ = ["KEPT", "ROOM", "Held", "Version", "Versions"]

ROOM: Final = "gwc"
CURRENT: Final = f"{ROOM}/current"
_MANIFESTS: Final = f"{ROOM}/m/"
_BUCKETS: Final = f"{ROOM}/b/"
_COLLECTING: Final = f"{ROOM}/collecting"
KEPT: Final = 50
"""Versions that can be gone back to."""
_YOUNG: Final = 3600.0
"""Seconds in which what nobody names may still be about to be named by whoever has written it."""
_AT_ONCE: Final = 8
_MAX_TEXT: Final = 200


class Version(msgspec.Struct, frozen=True):
    """One version, as the list of them tells it."""

    number: int
    manifest: str = ""
    at: float = 0.0
    """Seconds since the epoch."""
    who: str = ""
    why: str = ""
    changes: int = 0
    """Resources that it wrote or took away."""


class _Kind(msgspec.Struct):
    count: int
    names: dict[int, str]


class _Manifest(msgspec.Struct):
    version: Version
    kinds: dict[str, _Kind]
    history: list[Version] = []
    """The versions before it that are kept, the newest first."""


class _Current(msgspec.Struct):
    number: int
    manifest: str


_encode: Final = msgspec.json.Encoder().encode
_read_current: Final = msgspec.json.Decoder(_Current).decode
_read_manifest: Final = msgspec.json.Decoder(_Manifest).decode


@dataclass(frozen=True, slots=True)
class Held:
    """One version, read or written whole."""

    version: Version = field(default_factory=lambda: Version(0))
    """0: nothing was ever configured."""
    document: Document = EMPTY
    spreads: Mapping[str, Spread] = field(default_factory=dict)
    buckets: Mapping[str, Bucket] = field(default_factory=dict)
    history: tuple[Version, ...] = ()
    token: str = ""
    """Of the key ``current``; empty: there was none."""

    @property
    def known(self) -> dict[tuple[str, int, int], tuple[Bucket, str]]:
        """Return the buckets by where they stand."""
        return {
            (kind, one.count, place): (self.buckets[name], name)
            for kind, one in self.spreads.items()
            for place, name in one.names.items()
        }


class Versions:
    """Reads and writes versions. Raises StoreError where the store does not answer."""

    def __init__(self, state: Callable[[], StateStore], now: Callable[[], float]) -> None:
        self._state = state
        self._now = now

    async def look(self, held: Held) -> Held:
        """Return the version that holds now: the same object where that is the one that is held."""
        entry = await self._state().get(CURRENT)
        if entry is None:
            return await self._restore(held) if held.token else held
        if entry.version == held.token:
            return held
        current = _readable(_read_current, entry)
        return await self._load(current.manifest, entry.version, held)

    async def version(self, number: int, held: Held) -> Held:
        """Return another version of those that are kept. Raises NotFound."""
        if number == held.version.number:
            return held
        found = next((each for each in held.history if each.number == number), None)
        if found is None:
            raise NotFound(f"there is no version {number}; the last {KEPT} are kept")
        return await self._load(found.manifest, held.token, held)

    async def publish(self, held: Held, document: Document, *, who: str, why: str, changes: int) -> Held:
        """Make a document the next version after the one that is held. Raises Conflict when that is not the
        one any more, and then nothing has changed."""
        history = ([held.version] if held.version.number else []) + list(held.history)
        version = Version(held.version.number + 1, "", self._now(), who[:_MAX_TEXT], why[:_MAX_TEXT], changes)
        return await self._put(held, document, version, history[: KEPT - 1])

    async def _put(self, held: Held, document: Document, version: Version, history: list[Version]) -> Held:
        """Write all of a version that is not there yet, and then move ``current`` to it."""
        made: dict[str, tuple[bytes, Bucket]] = {}
        known = held.known
        spreads = {
            kind: held.spreads[kind]
            if kind in held.spreads and document.kinds[kind] is held.document.kinds.get(kind)
            else spread(kind, document.kinds[kind].values(), known, made)
            for kind in document.kinds
        }
        kinds = {kind: _Kind(one.count, dict(one.names)) for kind, one in spreads.items()}
        manifest = _encode(_Manifest(version, kinds, history))
        name = name_of(manifest)
        await self._write((f"{_BUCKETS}{one}", value) for one, (value, _) in made.items())
        await self._write([(f"{_MANIFESTS}{name}", manifest)])
        token = await self._move(held.token, _encode(_Current(version.number, name)))
        fresh = {one: bucket for one, (_, bucket) in made.items()}
        used = {one for each in spreads.values() for one in each.names.values()}
        buckets = {one: fresh[one] if one in fresh else held.buckets[one] for one in used}
        told = msgspec.structs.replace(version, manifest=name)
        return Held(told, document, spreads, buckets, tuple(history), token)

    async def _restore(self, held: Held) -> Held:
        """Write what is held into a store that has forgotten it: a Redis without a disk was started again."""
        try:
            return await self._put(Held(), held.document, held.version, [])
        except Conflict:
            return held  # another process was quicker; the next look finds what it wrote

    async def collect(self, held: Held) -> int:
        """Delete what no version that is kept has named for an hour; returns how much that was."""
        state = self._state()
        try:
            await state.put(_COLLECTING, b"1", if_absent=True, ttl=300.0)
        except Conflict:
            return 0  # somebody does
        kept = {held.version.manifest, *(each.manifest for each in held.history)}
        names = {f"{_MANIFESTS}{name}" for name in kept}
        for name in kept:
            entry = await state.get(f"{_MANIFESTS}{name}")
            if entry is None:
                continue  # it fell out of the history meanwhile
            kinds = _readable(_read_manifest, entry).kinds.values()
            names.update(f"{_BUCKETS}{one}" for each in kinds for one in each.names.values())
        return await self._sweep(_MANIFESTS, names) + await self._sweep(_BUCKETS, names)

    # --- inside ---

    async def _load(self, manifest: str, token: str, held: Held) -> Held:
        entry = await self._state().get(f"{_MANIFESTS}{manifest}")
        if entry is None:
            raise StoreError(f"the manifest {manifest} of the configuration is missing")
        read = _readable(_read_manifest, entry)
        wanted = {name: kind for kind, one in read.kinds.items() for name in one.names.values()}
        buckets = {name: held.buckets[name] for name in wanted if name in held.buckets}
        slots = asyncio.Semaphore(_AT_ONCE)

        async def fetch(name: str) -> None:
            async with slots:
                found = await self._state().get(f"{_BUCKETS}{name}")
            if found is None:
                raise StoreError(f"the bucket {name} of the configuration is missing")
            buckets[name] = decoded(wanted[name], name, _content(found.value))

        await asyncio.gather(*(fetch(name) for name in wanted if name not in buckets))
        spreads = {kind: Spread(kind, one.count, one.names) for kind, one in read.kinds.items()}
        document = Document({kind: self._together(one, buckets, held) for kind, one in spreads.items()})
        version = msgspec.structs.replace(read.version, manifest=manifest)
        return Held(version, document, spreads, buckets, tuple(read.history), token)

    @staticmethod
    def _together(one: Spread, buckets: Mapping[str, Bucket], held: Held) -> Mapping[str, Any]:
        before = held.spreads.get(one.kind)
        if before is not None and before.count == one.count and before.names == one.names:
            return held.document.kinds[one.kind]  # so that whoever compares sees that nothing changed
        return {each.id: each for name in one.names.values() for each in buckets[name]}

    async def _write(self, pairs: Iterable[tuple[str, bytes]]) -> None:
        slots = asyncio.Semaphore(_AT_ONCE)
        at = b"%d\n" % int(self._now())

        async def put(key: str, value: bytes) -> None:
            # written also where it stands already: whoever collects looks at when that was last
            async with slots:
                await self._state().put(key, at + value)

        await asyncio.gather(*(put(key, value) for key, value in pairs))

    async def _move(self, token: str, value: bytes) -> str:
        state = self._state()
        try:
            if token:
                return await state.put(CURRENT, value, if_version=token)
            return await state.put(CURRENT, value, if_absent=True)
        except StoreError:
            # it may have happened; nobody else writes the same value
            entry = await state.get(CURRENT)
            if entry is not None and entry.value == value:
                return entry.version
            raise

    async def _sweep(self, prefix: str, kept: set[str]) -> int:
        state, cursor, count = self._state(), "", 0
        while True:
            page = await state.entries(prefix, cursor=cursor, limit=20)
            for entry in page.entries:
                if entry.key not in kept and _written(entry) < self._now() - _YOUNG:
                    count += await self._drop(entry)
            cursor = page.cursor
            if not cursor:
                return count

    async def _drop(self, entry: Entry) -> int:
        try:
            return int(await self._state().delete(entry.key, if_version=entry.version))
        except Conflict:
            return 0  # somebody has just written it again


def _content(value: bytes) -> bytes:
    return value.partition(b"\n")[2]


def _written(entry: Entry) -> float:
    head = entry.value.partition(b"\n")[0]
    return float(head) if head.isdigit() else 0.0


def _readable(read: Callable[[bytes], Any], entry: Entry) -> Any:
    try:
        return read(entry.value if entry.key == CURRENT else _content(entry.value))
    except msgspec.MsgspecError:
        raise StoreError(f"{entry.key} cannot be read") from None
