"""Dataclasses that are made in a third of the time.

``dataclasses`` compiles up to seven functions for each class, and a process that is started for a call waits
for that: with two dozen classes it was a tenth of a cold start. Here one is compiled, ``__init__``, and the
others are shared. What comes out is a dataclass to everybody: fields, ``replace``, comparison, hash, text,
copies and pickles are the same. Type checkers see the original.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

__all__ = ["dataclass"]

if TYPE_CHECKING:
    from dataclasses import dataclass
else:

    def dataclass(*, frozen: bool = False, slots: bool = False, init: bool = True) -> Callable[[type], type]:
        """Make a dataclass: the options are those of ``dataclasses.dataclass``."""

        def make(cls: type) -> type:
            cls.__doc__ = cls.__doc__ or cls.__name__  # or a signature would be made for it
            own = frozenset(vars(cls))
            made: Any = dataclasses.dataclass(init=False, repr=False, eq=False, slots=slots)(cls)
            made.__dataclass_params__.frozen = frozen
            shared = {"__repr__": _repr, "__eq__": _eq, "__hash__": _hash if frozen else None}
            if frozen:
                shared |= {"__setattr__": _refuse, "__delattr__": _refuse, "__getstate__": _getstate,
                           "__setstate__": _setstate}  # fmt: skip
            if init:
                shared["__init__"] = _init(made, frozen)
            for name, value in shared.items():
                if name not in own:
                    setattr(made, name, value)
            return made

        return make


_SET: Final = object.__setattr__


def _init(cls: Any, frozen: bool) -> Callable[..., None]:
    known: dict[str, Any] = {"_set": _SET, "_missing": dataclasses.MISSING}
    arguments, lines = ["self"], []
    for field in dataclasses.fields(cls):
        name, value = field.name, field.name
        if not field.init or field.kw_only:
            raise TypeError(f"{cls.__name__}.{name}: such a field is left to dataclasses")
        if field.default_factory is not dataclasses.MISSING:
            known[f"_make_{name}"] = field.default_factory
            arguments.append(f"{name}=_missing")
            value = f"_make_{name}() if {name} is _missing else {name}"
        elif field.default is not dataclasses.MISSING:
            known[f"_default_{name}"] = field.default
            arguments.append(f"{name}=_default_{name}")
        else:
            arguments.append(name)
        lines.append(f" _set(self, {name!r}, {value})" if frozen else f" self.{name} = {value}")
    if hasattr(cls, "__post_init__"):
        lines.append(" self.__post_init__()")
    exec(f"def __init__({', '.join(arguments)}):\n" + "\n".join(lines or [" pass"]), known)  # noqa: S102
    init: Any = known["__init__"]
    init.__qualname__ = f"{cls.__qualname__}.__init__"
    return init  # type: ignore[no-any-return]


def _compared(self: Any) -> tuple[Any, ...]:
    return tuple([getattr(self, field.name) for field in dataclasses.fields(self) if field.compare])


def _repr(self: Any) -> str:
    pairs = [
        f"{field.name}={getattr(self, field.name)!r}" for field in dataclasses.fields(self) if field.repr
    ]
    return f"{type(self).__qualname__}({', '.join(pairs)})"


def _eq(self: Any, other: object) -> Any:
    return _compared(self) == _compared(other) if type(other) is type(self) else NotImplemented


def _hash(self: Any) -> int:
    return hash(_compared(self))


def _refuse(_self: Any, name: str, *_value: Any) -> None:
    raise dataclasses.FrozenInstanceError(f"cannot change the field {name!r}")


def _getstate(self: Any) -> list[Any]:
    return [getattr(self, field.name) for field in dataclasses.fields(self)]


def _setstate(self: Any, state: list[Any]) -> None:
    for field, value in zip(dataclasses.fields(self), state, strict=True):
        _SET(self, field.name, value)
