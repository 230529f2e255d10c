"""The whole configuration as one JSON object: out of here, into here, and what is different between two."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from router_core.gateway.control.control import Control
from router_core.gateway.control.kinds import KINDS
from router_core.gateway.control.resource import Document, Draft
from router_core.gateway.control.secrets import refuse_keys
from router_core.gateway.rules.read import members, refuse

__all__ = ["Parsed", "Wrong", "diff_of", "exported", "import_into", "parsed"]

_BESIDE: Final = frozenset({"createdAt", "updatedAt", "managedBy", "warnings"})
_MOST: Final = 50_000
_TOLD: Final = 1000
_ERRORS: Final = 100

Parsed = dict[str, dict[str, Mapping[str, Any]]]
"""Kind -> id -> body, as it is kept."""


class Wrong(ValueError):
    """Everything that is wrong with an import, a text for each; they begin with the field."""

    def __init__(self, errors: list[str]) -> None:
        super().__init__(errors[0])
        self.errors = errors


def exported(document: Document) -> dict[str, Any]:
    """Return all that was configured, as an import takes it. Keys are in it by name alone."""
    told: dict[str, Any] = {}
    for name, kind in KINDS.items():
        resources = document.of(name)
        if kind.listed:
            told[name] = [{"id": each.id, **each.body} for each in resources]
        else:
            told[name] = {each.id: dict(each.body) for each in resources}
    return told


def parsed(control: Control, config: Any) -> tuple[Parsed, int]:
    """Return what an import holds, and how much of it is left out because it is a file's.

    Raises Wrong with all that is wrong with it.
    """
    given = members(config, "config", tuple(KINDS))
    errors: list[str] = []
    found: Parsed = {name: {} for name in given}
    skipped = 0
    for name, path, key, body in _entries(given, errors):
        if isinstance(body, Mapping) and body.get("managedBy") in ("file", "environment"):
            skipped += 1
            continue
        try:
            made, kept = _one(control, name, key, body, path)
            if made in found[name]:
                raise ValueError(f"id: {made[:80]!a} stands there a second time")
            found[name][made] = kept
        except ValueError as error:
            errors.append(f"{path}.{error}")
        if len(errors) >= _ERRORS:
            break
    if errors:
        raise Wrong(errors)
    return found, skipped


def _entries(given: Mapping[str, Any], errors: list[str]) -> Iterator[tuple[str, str, str | None, Any]]:
    """Go through all entries: kind, path, id where that is not inside, and what it is."""
    for name, listed in given.items():
        path = f"config.{name}"
        mapping = isinstance(listed, Mapping)
        if not (mapping if not KINDS[name].listed else isinstance(listed, list)):
            errors.append(f"{path}: has to be {'a list' if KINDS[name].listed else 'an object, by id'}")
        elif len(listed) > _MOST:
            errors.append(f"{path}: has {len(listed):,} entries, at most {_MOST:,} are allowed")
        elif mapping:
            yield from ((name, f"{path}.{key[:80]}", key, body) for key, body in listed.items())
        else:
            yield from ((name, f"{path}[{at}]", None, body) for at, body in enumerate(listed))


def _one(control: Control, name: str, key: str | None, body: Any, path: str) -> tuple[str, Mapping[str, Any]]:
    kind = KINDS[name]
    if not isinstance(body, Mapping):
        refuse(f"{kind.word}", "has to be an object")
    refuse_keys(body)
    own = {field: value for field, value in body.items() if field not in _BESIDE}
    made = kind.new_id({**own, "id": key} if key is not None else own)
    if kind.listed:
        own.pop("id", None)
    if kind.parse is None:
        kept = control.bodies.model(own)
    else:
        kept = kind.to_json(kind.parse(made, own))
    return made, kept


def import_into(draft: Draft, found: Parsed, *, replace: bool, now: float) -> None:
    """Write what an import holds; with ``replace`` nothing else is left."""
    for name in KINDS:
        wanted = found.get(name, {})
        if replace:
            for key in [each.id for each in draft.of(name) if each.id not in wanted]:
                draft.drop(name, key)
        for key, body in wanted.items():
            draft.put(name, key, body, now)


def diff_of(before: Document, after: Document) -> dict[str, Any]:
    """Return what is different, kind by kind, and the names of the fields that have changed."""
    told: dict[str, Any] = {}
    for name in KINDS:
        old, new = before.kinds.get(name, {}), after.kinds.get(name, {})
        updated = [
            {"id": key, "fields": _fields(old[key].body, new[key].body)}
            for key in old
            if key in new and new[key] is not old[key] and new[key].body != old[key].body
        ]
        created = [key for key in new if key not in old]
        deleted = [key for key in old if key not in new]
        if created or updated or deleted:
            told[name] = {
                "created": sorted(created)[:_TOLD], "updated": updated[:_TOLD],
                "deleted": sorted(deleted)[:_TOLD],
                "counts": {"created": len(created), "updated": len(updated), "deleted": len(deleted),
                           "unchanged": len(new) - len(created) - len(updated)},
            }  # fmt: skip
    return told


def _fields(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    return sorted(name for name in {*old, *new} if old.get(name) != new.get(name))
