"""An app by name, wired up so that looking at it leaves nothing on disk."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from handlers.cli.exits import UsageError

if TYPE_CHECKING:
    from router_core.app import App

__all__ = ["loaded"]


def loaded(name: str, environ: Mapping[str, str]) -> App:
    """Return the app; raises UsageError when none is named."""
    from handlers.loader import load_app
    from router_core.settings import Settings

    settings = Settings.from_env(environ, app=name or None, jobs="memory://", blobs="memory://")
    if not settings.app:
        raise UsageError("name the app as module:attribute, or set ROUTER_APP")
    return load_app(settings.app, settings)
