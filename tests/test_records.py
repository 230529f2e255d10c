"""Our way to make dataclasses gives what ``dataclasses`` gives."""

from __future__ import annotations

import copy
import dataclasses
from dataclasses import field
from typing import Any, ClassVar

import pytest

from router_core.records import dataclass


@dataclass(frozen=True, slots=True)
class Ours:
    """A value."""

    kind: ClassVar[str] = "value"
    name: str
    count: int = 1
    tags: dict[str, int] = field(default_factory=dict)
    hidden: str = field(default="x", repr=False, compare=False)

    def twice(self) -> int:
        """Be no field."""
        return self.count * 2


@dataclasses.dataclass(frozen=True, slots=True)
class Theirs:
    """The same value."""

    kind: ClassVar[str] = "value"
    name: str
    count: int = 1
    tags: dict[str, int] = field(default_factory=dict)
    hidden: str = field(default="x", repr=False, compare=False)


@dataclass(slots=True)
class Open:
    """Something that changes."""

    name: str
    items: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.name = self.name.upper()


@dataclass(frozen=True, slots=True)
class Plain:
    name: str = ""


def test_a_value_is_read_and_written_down_alike() -> None:
    """Fields, defaults, text, annotations."""
    ours, theirs = Ours("a"), Theirs("a")
    assert repr(ours) == repr(theirs).replace("Theirs", "Ours")
    assert [(one.name, one.type) for one in dataclasses.fields(ours)] == [
        (one.name, one.type) for one in dataclasses.fields(theirs)
    ]
    assert dataclasses.asdict(ours) == dataclasses.asdict(theirs)
    assert dataclasses.is_dataclass(Ours)
    assert Ours.__match_args__ == Theirs.__match_args__
    assert Ours.__slots__ == Theirs.__slots__
    assert Ours.__doc__ == "A value."
    assert ours.tags is not Ours("b").tags
    assert ours.twice() == 2
    assert Plain() == Plain(name="")


def test_values_are_equal_by_their_fields() -> None:
    """Only to their own kind; what cannot be hashed is no key."""
    assert Ours("a", 2, hidden="y") == Ours("a", 2)
    assert Ours("a") != Ours("b")
    other: Any = Theirs("a")
    assert Ours("a") != other
    assert hash(Plain("a")) == hash(Plain("a")) == hash(("a",))
    with pytest.raises(TypeError):
        hash(Ours("a"))
    with pytest.raises(TypeError):
        hash(Open("a"))


def test_a_value_cannot_be_changed() -> None:
    """Nor can a field be added or removed; a copy with another value can be made."""
    value = Ours("a")
    for name in ("name", "other"):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(value, name, "b")
    with pytest.raises(dataclasses.FrozenInstanceError):
        delattr(value, "name")
    assert dataclasses.replace(value, count=5) == Ours("a", 5)
    assert value.count == 1


def test_copies_are_equal() -> None:
    """And made without the first step, as pickles are."""
    for value in (Ours("a", 2, {"x": 1}), Open("a", [1])):
        assert copy.copy(value) == copy.deepcopy(value) == value


def test_what_changes_is_written_as_usual() -> None:
    """And the last step of its making is taken."""
    value = Open("a")
    value.items.append(1)
    assert value == Open("A", [1])
    value.name = "b"
    assert repr(value) == "Open(name='b', items=[1])"


def test_wrong_arguments_are_refused() -> None:
    """As by any function."""
    make: Any = Ours
    with pytest.raises(TypeError):
        make()
    with pytest.raises(TypeError):
        make("a", 1, {}, "x", "too many")
    with pytest.raises(TypeError):
        make("a", other=1)


def test_what_is_not_built_is_refused() -> None:
    """Rather than half done."""
    with pytest.raises(TypeError, match="left to dataclasses"):

        @dataclass(slots=True)
        class Half:
            """A value with a field that nobody can give."""

            name: str = field(default="", init=False)
