"""Where a function lives, in words that another process can follow."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from router_core.errors import Misconfigured

__all__ = ["Address", "address_of"]


@dataclass(frozen=True, slots=True)
class Address:
    """A module to import (or a script to run under another name than ``__main__``) and a name in it."""

    module: str
    qualname: str
    script: str = ""
    """Path of the script that the interpreter was started with, when the function lives there."""

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON members."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Address:
        """Build from JSON members."""
        return cls(data["module"], data["qualname"], data["script"])


def address_of(func: Callable[..., Any]) -> Address:
    """Return where a child process finds a function; raises Misconfigured when it could not."""
    module, qualname = func.__module__, func.__qualname__
    if "<" in qualname or not _reachable(module, qualname):
        code = getattr(inspect.unwrap(func), "__code__", None)
        place = f" ({code.co_filename}:{code.co_firstlineno})" if code is not None else ""
        raise Misconfigured(
            f"{module}.{qualname}{place} has isolation='process' and cannot be imported by name in a child "
            "process: define it at the top level of a module"
        )
    if module != "__main__":
        return Address(module, qualname)
    main = sys.modules["__main__"]
    spec = getattr(main, "__spec__", None)
    if spec is not None:
        return Address(spec.name, qualname)
    script = getattr(main, "__file__", None)
    if script is None:
        raise Misconfigured(f"{qualname} was typed into an interpreter; isolation='process' needs a file")
    return Address("__main__", qualname, script)


def _reachable(module: str, qualname: str) -> bool:
    place: Any = sys.modules.get(module)
    for name in qualname.split("."):
        place = getattr(place, name, None)
    return callable(place)
