"""Bundles of Lambda code for tests, built the way that a deployment builds them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import pytest

from handlers.deploy.aws_bundle import Bundle, build_bundle
from handlers.deploy.aws_packages import Target
from handlers.deploy.errors import DeployError

__all__ = ["build"]

_NO_INDEX: Final = re.compile(
    r"Could not find a version|No matching distribution|ConnectionError|Max retries|timed out|resolution"
)


def build(folder: Path, out: Path, target: Target, app: str = "") -> Bundle:
    """Build a bundle; a package index that cannot be reached is a skip that says so."""
    said: list[str] = []
    try:
        return build_bundle(folder, out, target, app=app, say=said.append)
    except DeployError as error:
        if _NO_INDEX.search(str(error)):
            pytest.skip(f"no packages for a bundle: {error}")
        raise
