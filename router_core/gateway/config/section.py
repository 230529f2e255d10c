"""Read a mapping of the file key by key, collecting all that is wrong with it.

Messages quote what stands in the file, never what a reference to the environment stood for, and of a secret
nothing at all.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from decimal import Decimal, InvalidOperation
from typing import Any, Final

from router_core.errors import Misconfigured, Unavailable
from router_core.gateway.config.document import Items, Node, Scalar, Table, plain
from router_core.gateway.config.otherwise import instead, reference
from router_core.gateway.values import Secret

__all__ = ["MaskedText", "Problems", "Section", "near"]

_REFERENCE: Final = re.compile(
    r"\$(\$\{)|\$\{(?:([A-Za-z_][A-Za-z0-9_]*|(?:file|vault|aws-sm|aws-ssm):[^{}\s]+?)(?::-([^}]*))?\}|())"
)
_CONTROLS: Final = re.compile(r"[\x00-\x1f\x7f]")
_FLAGS: Final = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
_SHOWN: Final = 60
_TOLD: Final = 100
_SECRET_ENDS: Final = ("key", "token", "secret", "password", "credential", "credentials")


class MaskedText(str):
    """A text that does not show itself where a value is shown: a header, an argument of a client."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'***'"


class Problems:
    """All that is wrong with one file."""

    def __init__(self, source: str) -> None:
        self.source = source
        self._found: dict[tuple[int, str], None] = {}
        """Without repeats: what an alias stands for is read wherever it stands."""

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self._found)

    def add(self, line: int, what: str) -> None:
        """Note one more."""
        self._found[(line, what)] = None

    def check(self) -> None:
        """Raise Misconfigured with all of them, one a line in the order of the file."""
        if not self._found:
            return
        found = sorted(self._found, key=lambda each: each[0])
        told = [f"{self.source}:{line}: {what}" for line, what in found[:_TOLD]]
        if len(found) > _TOLD:
            told.append(f"{self.source}: and {len(found) - _TOLD} more")
        raise Misconfigured("\n".join(told))


def near(word: str, known: Iterable[str]) -> str:
    """Return "; did you mean ...?" where something known is like a word, else nothing."""
    close = difflib.get_close_matches(word.lower(), list(known), 1, 0.7)
    return f"; did you mean {close[0]!r}?" if close else ""


class Section:
    """One mapping of the file. Whoever has read all it knows calls ``close``, which refuses the rest."""

    __slots__ = ("_asked", "_table", "environ", "line", "name", "problems")

    def __init__(self, table: Table, name: str, problems: Problems, environ: Mapping[str, str]) -> None:
        self._table = table
        self._asked: set[str] = set()
        self.name = name
        """What messages call it: ``model 'turbo'``."""
        self.line = table.line
        self.problems = problems
        self.environ = environ

    def wrong(self, key: str, what: str) -> None:
        """Note that the value of a key is wrong, at its line."""
        entry = self._table.entries.get(key)
        self.problems.add(entry[0] if entry else self.line, f"{key} of {self.name} {what}")

    def line_of(self, key: str) -> int:
        """Return the line of a key, or of the section."""
        entry = self._table.entries.get(key)
        return entry[0] if entry else self.line

    def find(self, *keys: str) -> tuple[str, Node] | None:
        """Return which of several names of one thing is there, and its value; None without a value."""
        self._asked.update(keys)
        entries = self._table.entries
        if len(keys) == 1 and keys[0] not in entries:
            return None
        there = [key for key in keys if key in entries]
        if len(there) > 1:
            self.wrong(there[1], f"says the same as {there[0]}; keep one of them")
        if not there:
            return None
        node = entries[there[0]][1]
        if isinstance(node, Scalar) and node.empty:
            return None
        return there[0], node

    def ignore(self, *keys: str) -> None:
        """Take keys that mean something to others and nothing here."""
        self._asked.update(keys)

    def close(self) -> None:
        """Refuse every key that nobody asked for."""
        for key, (line, _) in self._table.entries.items():
            if key not in self._asked:
                hint = instead(key) or near(key, self._asked)
                hint = hint or f"; it takes {', '.join(sorted(self._asked))}"
                self.problems.add(line, f"{self.name} takes no key {key[:_SHOWN]!r}{hint}")

    # --- values ---

    def text(self, *keys: str, default: str = "", required: bool = False) -> str:
        """Return one line of text."""
        found = self.find(*keys)
        if found is None:
            if required:
                self.problems.add(self.line, f"{self.name} needs a {keys[0]}")
            return default
        key, node = found
        text = self._scalar(key, node)
        if required and not text and isinstance(node, Scalar) and "${" not in node.text:
            self.wrong(key, "is empty")
        return text

    def secret(self, *keys: str) -> Secret:
        """Return a credential."""
        found = self.find(*keys)
        if found is None:
            return Secret()
        named = reference(found[1].text) if isinstance(found[1], Scalar) else ""
        if named:
            self.wrong(found[0], f"is no key; a reference to a variable is written ${{{named}}}")
            return Secret()
        text = self._scalar(*found)
        if not text.isascii() or not text.isprintable() or " " in text:
            self.wrong(found[0], "holds a space or a sign that no credential has")
            return Secret()
        return Secret(text)

    def number(
        self, *keys: str, default: float, least: float = 0.0, most: float = float("inf"), above: bool = False
    ) -> float:
        """Return a number between ``least`` (``above`` it) and ``most``."""
        found = self.find(*keys)
        if found is None:
            return default
        value = self._decimal(*found)
        if value is None:
            return default
        return float(value) if self._inside(found[0], value, least, most, above) else default

    def whole(self, *keys: str, least: int = 0, most: int = 10**12) -> int | None:
        """Return a whole number; None without one."""
        found = self.find(*keys)
        value = self._decimal(*found) if found is not None else None
        if found is None or value is None:
            return None
        if value != value.to_integral_value():
            self.wrong(found[0], f"is {self._shown(found[1])}; write a whole number")
            return None
        return int(value) if self._inside(found[0], value, least, most, False) else None

    def money(self, *keys: str) -> int | None:
        """Return dollars as micro-dollars, exactly; None without any."""
        found = self.find(*keys)
        value = self._decimal(*found) if found is not None else None
        if found is None or value is None or not self._inside(found[0], value, 0, 10**6, False):
            return None
        return int((value * 1_000_000).to_integral_value())

    def flag(self, key: str, default: bool = False) -> bool:
        """Return true or false."""
        found = self.find(key)
        if found is None:
            return default
        word = self._scalar(*found).lower()
        if word not in _FLAGS:
            self.wrong(key, f"is {self._shown(found[1])}; write true or false")
            return default
        return _FLAGS[word]

    def off(self, *keys: str) -> bool:
        """Return whether a key that may hold a mapping holds ``false``."""
        found = self.find(*keys)
        return (
            found is not None and isinstance(found[1], Scalar) and _FLAGS.get(found[1].text.lower()) is False
        )

    def words(self, key: str) -> tuple[str, ...]:
        """Return the texts of a list; one text alone is a list of one."""
        return tuple(word for _, word in self.lined_words(key))

    def lined_words(self, key: str) -> list[tuple[int, str]]:
        """Return the texts of a list, each with its line."""
        found = self.find(key)
        if found is None:
            return []
        node = found[1]
        if isinstance(node, Table):
            self.wrong(key, "is a mapping; write a list")
            return []
        values = node.values if isinstance(node, Items) else [node]
        words = [(each.line, self._scalar(key, each)) for each in values]
        for line, word in words:
            if not word:
                self.problems.add(line, f"{key} of {self.name} holds an empty text")
        return [(line, word) for line, word in words if word]

    def choice(self, *keys: str, known: Iterable[str], default: str = "", required: bool = False) -> str:
        """Return one of a few words; ``-`` is read as ``_`` where that makes it one."""
        word = self.text(*keys, required=required)
        if not word:
            return default
        known = tuple(known)
        for each in (word, word.replace("-", "_")):
            if each in known:
                return each
        found = self.find(*keys)
        if found is not None:
            shown = self._shown(found[1])
            self.wrong(found[0], f"is {shown}{near(word, known) or '; it is one of ' + ', '.join(known)}")
        return default

    def texts(self, key: str) -> dict[str, MaskedText]:
        """Return a mapping of texts that are not shown (headers)."""
        found = self.find(key)
        if found is None:
            return {}
        if not isinstance(found[1], Table):
            self.wrong(key, "must be a mapping of names to texts")
            return {}
        entries = found[1].entries.items()
        return {name: MaskedText(self._scalar(key, node)) for name, (_, node) in entries}

    def section(self, *keys: str, name: str = "") -> Section | None:
        """Return the mapping under a key."""
        found = self.find(*keys)
        if found is None:
            return None
        key, node = found
        if not isinstance(node, Table):
            self.wrong(key, f"must be a mapping of keys, not {self._shown(node)}")
            return None
        return Section(node, name or f"{key} of {self.name}", self.problems, self.environ)

    def sections(self, *keys: str, name: str) -> list[Section]:
        """Return the mappings of a list."""
        found = self.find(*keys)
        if found is None:
            return []
        key, node = found
        if not isinstance(node, Items):
            self.wrong(key, f"must be a list (of entries that begin with -), not {self._shown(node)}")
            return []
        made = []
        for number, each in enumerate(node.values, 1):
            if isinstance(each, Table):
                made.append(Section(each, f"{name} {number}", self.problems, self.environ))
            else:
                self.problems.add(each.line, f"{name} {number} must be a mapping, not {self._shown(each)}")
        return made

    def free(self) -> dict[str, Any]:
        """Return everything that nobody asked for, as plain values, and let ``close`` have no objection."""
        left = {key: entry for key, entry in self._table.entries.items() if key not in self._asked}
        self._asked.update(left)
        return {key: self._free(key, node) for key, (_, node) in left.items()}

    @property
    def left(self) -> list[tuple[str, int]]:
        """Names and lines of the keys that nobody asked for yet."""
        return [(key, line) for key, (line, _) in self._table.entries.items() if key not in self._asked]

    # --- how they are made ---

    def _free(self, key: str, node: Node) -> Any:
        if isinstance(node, Items):
            return [self._free(key, each) for each in node.values]
        if isinstance(node, Table):
            return {name: self._free(name, each) for name, (_, each) in node.entries.items()}
        if key.lower().endswith(_SECRET_ENDS):
            return None if node.empty else MaskedText(self._scalar(key, node))
        if "${" not in node.text:
            return plain(node)
        # As if it stood there: a number, unless it is in quotes.
        value = plain(Scalar(self._expanded(key, node), node.plain, node.line))
        return MaskedText(value) if isinstance(value, str) else value

    def _scalar(self, key: str, node: Node) -> str:
        if not isinstance(node, Scalar):
            self.wrong(key, f"must be one value, not a {'list' if isinstance(node, Items) else 'mapping'}")
            return ""
        text = self._expanded(key, node).strip()
        if _CONTROLS.search(text):
            self.wrong(key, "holds a line break or another control character")
            return ""
        return text

    def _expanded(self, key: str, node: Scalar) -> str:
        """Put the environment into the references of a text."""
        if "${" not in node.text:
            return node.text
        before = self.problems.count
        text = _REFERENCE.sub(lambda match: self._looked_up(key, node.line, match), node.text)
        return text if self.problems.count == before else ""

    def _looked_up(self, key: str, line: int, match: re.Match[str]) -> str:
        literal, name, default, broken = match.groups()
        if literal is not None:
            return "${"
        if broken is not None or (default is not None and "${" in default):
            self.problems.add(
                line,
                f"{key} of {self.name}: a reference is written ${{NAME}} or ${{NAME:-default}}, that of a "
                "secret elsewhere like ${vault:path#field}",
            )
            return ""
        try:
            value = self.environ.get(name, "")
        except (Misconfigured, Unavailable) as error:  # of a secret that stands somewhere else
            self.problems.add(line, f"{key} of {self.name}: {error}")
            return ""
        if value or (default is None and name in self.environ):
            return value
        if default is None:
            self.problems.add(line, f"{key} of {self.name}: the environment variable {name} is not set")
        return default or ""

    def _decimal(self, key: str, node: Node) -> Decimal | None:
        text = self._scalar(key, node)
        try:
            value = Decimal(text)
        except InvalidOperation:
            value = Decimal("NaN")
        if value.is_finite() and -400 < value.adjusted() < 300:
            return value
        if isinstance(node, Scalar) and text:
            self.wrong(key, f"is {self._shown(node)}; write a number")
        return None

    def _inside(self, key: str, value: Decimal, least: float, most: float, above: bool) -> bool:
        low, high = Decimal(str(least)), Decimal(str(most))  # 0.1 is meant, not the float next to it
        fits = (value > low if above else value >= low) and value <= high
        if not fits:
            bound = f"more than {least:.15g}" if above else f"at least {least:.15g}"
            limit = "" if most == float("inf") else f" and at most {most:.15g}"
            found = self.find(key)
            shown = self._shown(found[1]) if found else ""
            self.wrong(key, f"is {shown}; it must be {bound}{limit}")
        return bool(fits)

    @staticmethod
    def _shown(node: Node) -> str:
        """Return how a message shows what stands in the file."""
        if isinstance(node, Items):
            return "a list"
        if isinstance(node, Table):
            return "a mapping"
        return repr(node.text[:_SHOWN])
