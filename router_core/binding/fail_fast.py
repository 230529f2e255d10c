"""Validators for large bodies: a list ends at its first wrong item.

An error takes a hundred times the memory of the byte that caused it. Ten megabytes of wrong items would
become a gigabyte of errors, of which nobody reads more than the first few.
"""

from __future__ import annotations

from typing import Any, Final

from pydantic import TypeAdapter
from pydantic_core import SchemaValidator

__all__ = ["LARGE", "fail_fast"]

LARGE: Final = 128 * 1024
"""Bytes of JSON from which on errors are counted only as far as the first of each list."""

_LISTS: Final = frozenset({"list", "tuple", "set", "frozenset"})
_NO_SCHEMA: Final = frozenset({"config", "default", "expected", "members", "metadata", "serialization"})
"""Members of a schema that hold values of an author's rather than more schema."""


def fail_fast(adapter: TypeAdapter[Any]) -> SchemaValidator:
    """Return a validator that takes and gives what the adapter's own does, and reports less."""
    schema: Any = _stopping(adapter.core_schema)
    make: Any = SchemaValidator
    try:
        # without it the validator of a model is its class's own, whatever its schema says here
        validator: SchemaValidator = make(schema, _use_prebuilt=False)
    except TypeError:
        validator = make(schema)
    return validator


def _stopping(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_stopping(item) for item in schema]
    if isinstance(schema, tuple):
        return tuple(_stopping(item) for item in schema)
    if not isinstance(schema, dict):
        return schema
    copy = {key: value if key in _NO_SCHEMA else _stopping(value) for key, value in schema.items()}
    if copy.get("type") in _LISTS:
        copy["fail_fast"] = True
    return copy
