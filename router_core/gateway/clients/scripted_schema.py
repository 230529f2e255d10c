"""Make up a value that satisfies a JSON schema: the arguments of a scripted tool call."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

__all__ = ["example"]

_MAX_DEPTH: Final = 8
_MAX_VALUES: Final = 256
_FORMATS: Final = {
    "date": "2026-01-31", "date-time": "2026-01-31T12:00:00Z", "time": "12:00:00", "email": "ann@example.org",
    "uri": "https://example.org/", "uuid": "00000000-0000-4000-8000-000000000000", "ipv4": "192.0.2.1",
}  # fmt: skip


def example(schema: Any) -> Any:
    """Return a value for a schema; the same schema gives the same value. Bounded, whatever it is given."""
    return _Maker(schema if isinstance(schema, Mapping) else {}).make(schema, 0)


class _Maker:
    def __init__(self, root: Mapping[str, Any]) -> None:
        self._root = root
        self._left = _MAX_VALUES

    def make(self, schema: Any, depth: int) -> Any:
        self._left -= 1
        if not isinstance(schema, Mapping) or depth > _MAX_DEPTH or self._left < 0:
            return None
        for word in ("const", "default"):
            if word in schema:
                return schema[word]
        for word in ("examples", "enum"):
            if isinstance(schema.get(word), list) and schema[word]:
                return schema[word][0]
        if "$ref" in schema:
            return self.make(self._resolve(schema["$ref"]), depth + 1)
        for word in ("anyOf", "oneOf", "allOf"):
            if isinstance(schema.get(word), list) and schema[word]:
                return self.make(schema[word][0], depth + 1)
        return self._typed(schema, depth)

    def _typed(self, schema: Mapping[str, Any], depth: int) -> Any:
        kind = schema.get("type", "object" if "properties" in schema else "string")
        if isinstance(kind, list):
            kind = next((each for each in kind if each != "null"), "null")
        if kind == "object":
            return self._object(schema, depth)
        if kind == "array":
            count = min(max(_number(schema, "minItems", 1), 0), 16)
            return [self.make(schema.get("items", {}), depth + 1) for _ in range(int(count))]
        if kind in ("integer", "number"):
            return _numeric(schema, kind)
        if kind == "boolean":
            return True
        return None if kind == "null" else _string(schema)

    def _object(self, schema: Mapping[str, Any], depth: int) -> dict[str, Any]:
        properties = schema.get("properties")
        if not isinstance(properties, Mapping):
            return {}
        required = schema.get("required")
        names = required if isinstance(required, list) else list(properties)
        known = [name for name in names if isinstance(name, str) and name in properties]
        return {name: self.make(properties[name], depth + 1) for name in known[:64]}

    def _resolve(self, reference: Any) -> Any:
        if not isinstance(reference, str) or not reference.startswith("#"):
            return {}
        found: Any = self._root
        for part in reference[1:].strip("/").split("/")[:_MAX_DEPTH]:
            found = found.get(part) if isinstance(found, Mapping) and part else found
        return found


def _number(schema: Mapping[str, Any], name: str, default: float) -> float:
    value = schema.get(name)
    usable = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 2**53
    return float(value) if usable and value is not None else default


def _numeric(schema: Mapping[str, Any], kind: str) -> int | float:
    above = _number(schema, "exclusiveMinimum", 0.0) + 1 if "exclusiveMinimum" in schema else 1.0
    least = _number(schema, "minimum", above)
    step = _number(schema, "multipleOf", 0.0)
    value = min(max(1.0, least), _number(schema, "maximum", float("inf")))
    if step > 0:
        value = -(-least // step) * step
    return int(value) if kind == "integer" or value == int(value) else value


def _string(schema: Mapping[str, Any]) -> str:
    text = _FORMATS.get(str(schema.get("format")), "text")
    least = int(min(_number(schema, "minLength", 0), 1000))
    most = int(min(_number(schema, "maxLength", 1000), 1000))
    return text.ljust(least, "x")[: max(most, 0)]
