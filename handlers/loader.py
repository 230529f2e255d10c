"""From ``module:attribute`` to the router or app of that name."""

from __future__ import annotations

import importlib
import os
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

from router_core.errors import Misconfigured

if TYPE_CHECKING:
    from router_core.app import App
    from router_core.routing.router import Router
    from router_core.settings import Settings
    from router_core.wiring import ExtraRoutes

__all__ = ["load", "load_app"]

_USUAL: Final = ("router", "app", "create_app")
"""Attributes that are tried when only a module is named."""


def load(target: str, folder: str | None = None) -> Router | App:
    """Return the router or app that ``module:attribute`` names.

    ``folder`` (default: the working directory) is searched first. The attribute may be a function without
    parameters that makes one, written with or without ``()``. ``path/to/file.py`` is accepted for the module,
    and without an attribute ``router``, ``app`` and ``create_app`` are tried. A ``router.start()`` at the end
    of the module does nothing meanwhile.
    Raises Misconfigured with one line that says what to change.
    """
    name, _, attribute = target.strip().partition(":")
    if not name:
        raise Misconfigured(f"{target!r} names no app; write module:attribute, such as service:router")
    folder = os.path.abspath(folder or os.getcwd())
    module = _module(_dotted(name), folder)
    found = _attribute(module, attribute.removesuffix("()"), target)
    value = _made(found, target, folder) if _is_factory(found, target) else found
    if not _is_served(value):
        raise Misconfigured(f"{target} is a {type(value).__name__}; it must be a Router or an App")
    served: Router | App = value
    return served


def load_app(
    target: str, settings: Settings, folder: str | None = None, extra_routes: ExtraRoutes | None = None
) -> App:
    """Return the app that ``module:attribute`` names; a router is wired up as the settings say, with the
    routes of its adapter beside its own."""
    from router_core.app import App

    served = load(target, folder)
    if isinstance(served, App):
        return served
    from router_core.wiring import build_app

    return build_app(served, settings, extra_routes=extra_routes)


def _dotted(name: str) -> str:
    if name.endswith(".py"):
        name = name.removesuffix(".py")
    elif not any(mark in name for mark in ("/", os.sep)):
        return name
    return os.path.normpath(name).strip(os.sep).replace(os.sep, ".")


def _module(name: str, folder: str) -> ModuleType:
    from router_core.routing.router import loading

    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        with loading():
            return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            hint = _near(error.name.rpartition(".")[2], _modules(folder))
            raise Misconfigured(
                f"there is no module {error.name!r} in {folder} or installed{hint}"
            ) from error
        raise Misconfigured(f"importing {name} failed: {_where(error, folder)}") from error
    except (Exception, SystemExit) as error:
        raise Misconfigured(f"importing {name} failed: {_where(error, folder)}") from error


def _attribute(module: ModuleType, path: str, target: str) -> Any:
    if not path:
        for usual in _USUAL:
            if hasattr(module, usual):
                return getattr(module, usual)
        raise Misconfigured(f"{module.__name__} has none of {', '.join(_USUAL)}; write {target}:attribute")
    value: Any = module
    for part in path.split("."):
        if not hasattr(value, part):
            hint = _near(part, _candidates(value))
            raise Misconfigured(f"{module.__name__} has no attribute {path!r}{hint}")
        value = getattr(value, part)
    return value


def _is_factory(value: Any, target: str) -> bool:
    if _is_served(value) or not callable(value):
        return False
    import inspect

    try:
        needed = [
            name
            for name, parameter in inspect.signature(value).parameters.items()
            if parameter.default is parameter.empty and parameter.kind not in _VARIADIC
        ]
    except (TypeError, ValueError):
        return False
    if needed:
        raise Misconfigured(
            f"{target} needs arguments ({', '.join(needed)}); only a function that is callable without any "
            "can make the app"
        )
    return True


def _made(factory: Any, target: str, folder: str) -> Any:
    from router_core.routing.router import loading

    try:
        with loading():
            return factory()
    except (Exception, SystemExit) as error:
        where = _where(error, folder)
        gap = "\n" if "\n" in where else " "
        raise Misconfigured(f"calling {target} failed:{gap}{where}") from error


_VARIADIC: Final = (2, 4)  # inspect.Parameter.VAR_POSITIONAL and VAR_KEYWORD


def _is_served(value: Any) -> bool:
    from router_core.routing.router import Router

    if isinstance(value, Router):
        return True
    from router_core.app import App

    return isinstance(value, App)


def _where(error: BaseException, folder: str) -> str:
    """Name the error and the line of the user's own code that led to it."""
    if isinstance(error, Misconfigured):
        return str(error)  # it names the place itself
    import traceback

    text = " ".join(str(error).split())
    said = f"{type(error).__name__}: {text}" if text else type(error).__name__
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}: {said}"
    frames = [
        frame for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith("<frozen") and os.path.abspath(frame.filename) != _HERE
    ]  # fmt: skip
    own = [frame for frame in frames if _is_own(os.path.abspath(frame.filename), folder)]
    last = (own or frames)[-1:]
    return f"{last[0].filename}:{last[0].lineno}: {said}" if last else said


def _is_own(path: str, folder: str) -> bool:
    return path.startswith(folder + os.sep) and f"{os.sep}site-packages{os.sep}" not in path


_HERE: Final = os.path.abspath(__file__)


def _modules(folder: str) -> list[str]:
    try:
        names = os.listdir(folder)
    except OSError:
        return []
    return [name.removesuffix(".py") for name in names if name.endswith(".py") or name.isidentifier()]


def _candidates(value: Any) -> list[str]:
    """Names that hold something to serve first, then whatever else is public."""
    names = [name for name in dir(value) if not name.startswith("_")]
    return sorted(names, key=lambda name: not _is_served(getattr(value, name, None)))


def _near(name: str, known: list[str]) -> str:
    import difflib

    close = difflib.get_close_matches(name, known, 1, 0.6)
    return f"; did you mean {close[0]!r}?" if close else ""
