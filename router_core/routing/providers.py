"""Find who serves a router: entry points of the group ``router_core.providers``."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from router_core.errors import Misconfigured

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

    from router_core.routing.router import Router
    from router_core.settings import Settings

__all__ = ["GROUP", "Provider", "find_provider"]

GROUP: Final = "router_core.providers"

Provider = Callable[["Router", "Settings"], Any]
"""Serves the router until it is told to stop."""


def find_provider(name: str) -> Provider:
    """Return the provider of that name; raises Misconfigured, naming those there are."""
    from importlib.metadata import entry_points  # reads every installed package's metadata

    found: dict[str, EntryPoint] = {point.name: point for point in entry_points(group=GROUP)}
    point = found.get(name)
    if point is None:
        known = ", ".join(sorted(found)) or "none"
        raise Misconfigured(
            f"EXECUTION_PROVIDER is {name!r}, which no installed package offers; there are: {known}"
        )
    try:
        provider = point.load()
    except ImportError as exc:
        missing = exc.name or str(exc)
        raise Misconfigured(
            f"the provider {name!r} ({point.value}) cannot be imported: {missing} is missing; "
            f"install the extra that brings it, for example: pip install 'router-core[{_extra(name)}]'"
        ) from exc
    except AttributeError as exc:
        raise Misconfigured(f"the provider {name!r} names {point.value}, which is not there") from exc
    if not callable(provider):
        raise Misconfigured(f"the provider {name!r} ({point.value}) is not a function of (router, settings)")
    return provider  # type: ignore[no-any-return]  # what an entry point loads has no type


def _extra(name: str) -> str:
    return {"fastapi": "local", "local": "local", "lambda": "aws"}.get(name, name)
