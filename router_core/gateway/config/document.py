"""Read YAML into a tree that knows its lines, and that no file can make large, deep or endless.

The loaders of PyYAML give values without lines, take the last of two equal keys, and guess types: ``NO`` is
false to them and ``2024-10-21`` a date. Here a scalar stays text until somebody says what it should be.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from router_core.errors import Misconfigured

__all__ = ["MAX_BYTES", "MAX_DEPTH", "MAX_NODES", "Items", "Node", "Scalar", "Table", "plain", "read"]

MAX_BYTES: Final = 16 * 1024 * 1024
"""A file of 10,000 models and as many rules has about half of it."""
MAX_DEPTH: Final = 32
MAX_NODES: Final = 2_000_000
"""With every alias counted as what it stands for: a few lines of aliases can stand for billions."""

_STANDARD: Final = "tag:yaml.org,2002:"
_NULLS: Final = frozenset({"", "~", "null", "Null", "NULL"})
_BOOLS: Final = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_INTEGER: Final = re.compile(r"[-+]?[0-9]{1,18}\Z")
_FLOAT: Final = re.compile(r"[-+]?(?:[0-9]{1,300}\.[0-9]{0,300}|\.[0-9]{1,300}|[0-9]{1,300}(?=[eE]))"
                           r"(?:[eE][-+]?[0-9]{1,2})?\Z")  # fmt: skip


@dataclass(slots=True, eq=False)
class Scalar:
    """One value, as it is written."""

    text: str
    plain: bool
    """Without quotes, so that it may be a number or nothing at all."""
    line: int
    size: int = 1

    @property
    def empty(self) -> bool:
        """Whether it says that there is no value."""
        return self.plain and self.text in _NULLS


@dataclass(slots=True, eq=False)
class Items:
    """A list."""

    values: list[Node]
    line: int
    size: int = 1


@dataclass(slots=True, eq=False)
class Table:
    """A mapping: key -> line of the key, and what it holds."""

    entries: dict[str, tuple[int, Node]]
    line: int
    size: int = 1


Node = Scalar | Items | Table


def plain(node: Node) -> Any:
    """Return the value that a tree stands for: text, numbers, true, false, None, lists, dicts."""
    if isinstance(node, Items):
        return [plain(each) for each in node.values]
    if isinstance(node, Table):
        return {key: plain(each) for key, (_, each) in node.entries.items()}
    return _value(node) if node.plain else node.text


def _value(node: Scalar) -> Any:
    text = node.text
    if text in _NULLS:
        return None
    if text in _BOOLS:
        return _BOOLS[text]
    if _INTEGER.match(text):
        return int(text)
    return float(text) if _FLOAT.match(text) else text


def read(data: str | bytes, source: str) -> Node | None:
    """Return the tree of one YAML (or JSON) document, None for an empty one.

    Raises Misconfigured, ``source:line: ...``, without quoting the file: what is wrong may be a secret.
    """
    text = _decoded(data, source)
    try:
        return _Composer(source).compose(_events(text))
    except Misconfigured:
        raise
    except Exception as error:
        raise Misconfigured(_told(error, text, source)) from None


def _decoded(data: str | bytes, source: str) -> str:
    size = len(data)
    if size > MAX_BYTES:
        raise Misconfigured(f"{source}:1: the file has {size} bytes; {MAX_BYTES} are allowed")
    if isinstance(data, str):
        return data.removeprefix("\ufeff")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise Misconfigured(f"{source}:{line}: this is not UTF-8; save the file as UTF-8") from None


def _events(text: str) -> Iterator[Any]:
    try:
        import yaml  # only who has a file pays for it
    except ImportError:  # pragma: no cover - without the extra
        raise Misconfigured(
            "the configuration of the gateway needs PyYAML: pip install 'router-core[gateway]'"
        ) from None
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # some builds come without libyaml
    parsed: Iterator[Any] = yaml.parse(text, Loader=loader)
    return parsed


def _told(error: Exception, text: str, source: str) -> str:
    """Say what PyYAML complains of, without the piece of the file that it would show."""
    mark = getattr(error, "problem_mark", None)
    position = getattr(error, "position", None)
    line = 1
    if mark is not None:
        line = min(mark.line, text.count("\n")) + 1  # the end may be told as the line after the last
    elif isinstance(position, int):
        line = text.count("\n", 0, position) + 1
    problem = getattr(error, "problem", None) or getattr(error, "reason", None) or type(error).__name__
    written = text.split("\n", line)[line - 1]
    hint = "; inside { } and [ ] put what holds ${NAME} into quotes" if "${" in written else ""
    return f"{source}:{line}: this is not YAML: {problem}{hint}"


class _Open:
    """A list or mapping whose end has not come yet."""

    __slots__ = ("anchor", "key", "key_line", "merged", "node")

    def __init__(self, node: Items | Table, anchor: str | None) -> None:
        self.node = node
        self.anchor = anchor
        self.key: str | None = None
        self.key_line = 0
        self.merged: list[Node] = []


class _Composer:
    """Makes a tree of the events of one document."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._anchors: dict[str, Node] = {}
        self._open: list[_Open] = []
        self._root: Node | None = None
        self._documents = 0

    def compose(self, events: Iterator[Any]) -> Node | None:
        """Read all events and return the root."""
        for event in events:
            self._take(event, type(event).__name__)
        root = self._root
        return None if isinstance(root, Scalar) and root.empty else root

    def _take(self, event: Any, kind: str) -> None:
        line = event.start_mark.line + 1
        if kind == "ScalarEvent":
            self._add(Scalar(event.value, self._untagged(event, line), line), event.anchor, line)
        elif kind == "AliasEvent":
            if event.anchor not in self._anchors:
                raise self._wrong(line, f"*{event.anchor} names no anchor that ends before it")
            self._add(self._anchors[event.anchor], None, line)
        elif kind in ("MappingStartEvent", "SequenceStartEvent"):
            self._begin(event, kind, line)
        elif kind in ("MappingEndEvent", "SequenceEndEvent"):
            self._end(line)
        elif kind == "DocumentStartEvent":
            self._documents += 1
            if self._documents > 1:
                raise self._wrong(line, "a second document begins here; write one document without ---")

    def _untagged(self, event: Any, line: int) -> bool:
        """Return whether a scalar is plain; refuse tags that would make other things of it."""
        tag = event.tag
        if tag is None or tag == "!":
            return tag is None and bool(event.implicit[0])
        if tag == f"{_STANDARD}str":
            return False
        if tag in [_STANDARD + name for name in ("int", "float", "bool", "null")]:
            return True
        raise self._wrong(line, f"the tag {tag.replace(_STANDARD, '!!')} is not taken; leave it out")

    def _begin(self, event: Any, kind: str, line: int) -> None:
        if event.tag not in (None, "!", f"{_STANDARD}map", f"{_STANDARD}seq"):
            raise self._wrong(
                line, f"the tag {event.tag.replace(_STANDARD, '!!')} is not taken; leave it out"
            )
        if len(self._open) >= MAX_DEPTH:
            raise self._wrong(line, f"this is nested more than {MAX_DEPTH} deep")
        node: Items | Table = Table({}, line) if kind == "MappingStartEvent" else Items([], line)
        if self._open and isinstance(self._open[-1].node, Table) and self._open[-1].key is None:
            raise self._wrong(line, "a key must be a text")
        self._open.append(_Open(node, event.anchor))

    def _end(self, line: int) -> None:
        done = self._open.pop()
        if isinstance(done.node, Table):
            for merged in done.merged:
                self._merge(done.node, merged, line)
        self._add(done.node, done.anchor, done.node.line)

    def _merge(self, into: Table, node: Node, line: int) -> None:
        """Add the entries that ``<<`` names; those that are written out win."""
        if isinstance(node, Items):
            for each in node.values:
                self._merge(into, each, line)
            return
        if not isinstance(node, Table):
            raise self._wrong(node.line, "<< takes a mapping (*name), or a list of them")
        for key, entry in node.entries.items():
            into.entries.setdefault(key, entry)

    def _add(self, node: Node, anchor: str | None, line: int) -> None:
        if anchor is not None:
            self._anchors[anchor] = node
        if not self._open:
            self._root = node
            return
        parent = self._open[-1]
        if isinstance(parent.node, Items):
            parent.node.values.append(node)
        elif parent.key is None:
            self._key(parent, node, line)
            return
        else:
            self._entry(parent, parent.node, parent.key, node)
        parent.node.size += node.size
        if parent.node.size > MAX_NODES:
            raise self._wrong(line, f"this stands for more than {MAX_NODES} values; use fewer aliases")

    def _key(self, parent: _Open, node: Node, line: int) -> None:
        if not isinstance(node, Scalar):
            raise self._wrong(line, "a key must be a text")
        parent.key, parent.key_line = node.text, line

    def _entry(self, parent: _Open, table: Table, key: str, node: Node) -> None:
        if key == "<<":
            parent.merged.append(node)
        elif key in table.entries:
            before = table.entries[key][0]
            raise self._wrong(
                parent.key_line, f"{key[:60]!r} stands here a second time (first in line {before})"
            )
        else:
            table.entries[key] = (parent.key_line, node)
        parent.key = None

    def _wrong(self, line: int, what: str) -> Misconfigured:
        return Misconfigured(f"{self._source}:{line}: {what}")
