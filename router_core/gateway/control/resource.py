"""What is configured through the API, as immutable values: resources, and all of them as one document."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

import msgspec

__all__ = ["EMPTY", "Document", "Draft", "Resource"]

_encode: Final = msgspec.json.Encoder(order="sorted").encode


@dataclass(frozen=True, slots=True)
class Resource:
    """One thing that was configured: a model, a rule, a workspace."""

    kind: str
    """A name of ``kinds.KINDS``."""
    id: str
    body: Mapping[str, Any]
    """Its fields as they go over the wire, without ``id``. Nobody changes it."""
    created_at: float
    """Seconds since the epoch."""
    updated_at: float
    place: int = 0
    """Among its kind: those that came later stand behind."""

    @property
    def etag(self) -> str:
        """Return the entity tag: another one after every change."""
        told = _encode([self.kind, self.id, self.updated_at, self.body])
        return f'"{hashlib.sha256(told).hexdigest()[:20]}"'

    @property
    def size(self) -> int:
        """Return the bytes of its body."""
        return len(_encode(self.body))


@dataclass(frozen=True, slots=True)
class Document:
    """All resources of one version."""

    kinds: Mapping[str, Mapping[str, Resource]] = field(default_factory=dict)
    """Kind -> id -> resource."""

    def get(self, kind: str, key: str) -> Resource | None:
        """Return one resource, if there is such a one."""
        return self.kinds.get(kind, {}).get(key)

    def of(self, kind: str) -> list[Resource]:
        """Return those of a kind, in the order in which they came."""
        return sorted(self.kinds.get(kind, {}).values(), key=lambda each: (each.place, each.id))

    def draft(self) -> Draft:
        """Return a copy to write into."""
        return Draft(self)


EMPTY: Final = Document()


class Draft:
    """A document that is being changed."""

    def __init__(self, base: Document) -> None:
        self.base = base
        self._changed: dict[str, dict[str, Resource]] = {}
        self._places: dict[str, int] = {}
        self.touched: dict[tuple[str, str], None] = {}
        """Kind and id of what was written or taken away, in order."""

    def get(self, kind: str, key: str) -> Resource | None:
        """Return one resource as it is by now."""
        return self._of(kind).get(key)

    def of(self, kind: str) -> Iterable[Resource]:
        """Return those of a kind as they are by now, in no order."""
        return self._of(kind).values()

    def put(self, kind: str, key: str, body: Mapping[str, Any], now: float) -> Resource:
        """Write a resource; one that says the same already stays as it is."""
        held = self.get(kind, key)
        if held is not None and held.body == body:
            return held
        if held is None:
            made = Resource(kind, key, body, now, now, self._behind(kind))
        else:
            # two changes within one tick of the clock are still two
            made = replace(held, body=body, updated_at=max(now, held.updated_at + 0.001))
        self._mine(kind)[key] = made
        self.touched[(kind, key)] = None
        return made

    def drop(self, kind: str, key: str) -> bool:
        """Take a resource away; False where there is none."""
        if self.get(kind, key) is None:
            return False
        del self._mine(kind)[key]
        self.touched[(kind, key)] = None
        return True

    def become(self, other: Document) -> None:
        """Be what another document is: its resources come back with their tags and times."""
        for kind in {*self.base.kinds, *other.kinds}:
            old, new = self._of(kind), other.kinds.get(kind, {})
            for key in {*old, *new}:
                if old.get(key) != new.get(key):
                    self.touched[(kind, key)] = None
            self._changed[kind] = dict(new)

    def document(self) -> Document:
        """Return what was made of it."""
        return Document({**self.base.kinds, **self._changed}) if self._changed else self.base

    def _behind(self, kind: str) -> int:
        """Return the place behind all others, which are looked through once."""
        last = self._places.get(kind)
        if last is None:
            last = max((each.place for each in self._of(kind).values()), default=0)
        self._places[kind] = last + 1
        return last + 1

    def _of(self, kind: str) -> Mapping[str, Resource]:
        found = self._changed.get(kind)
        return self.base.kinds.get(kind, {}) if found is None else found

    def _mine(self, kind: str) -> dict[str, Resource]:
        if kind not in self._changed:
            self._changed[kind] = dict(self.base.kinds.get(kind, {}))
        return self._changed[kind]
