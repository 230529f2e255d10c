"""Parameters of the template that depend on each other, or on this being a deployment."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Final

from handlers.deploy.errors import NotPrepared

__all__ = ["check_concurrency", "draw_snapshot"]

_USUAL: Final = "10"
"""Jobs at the same time, as the template has it."""


def check_concurrency(there: Mapping[str, str]) -> None:
    """Raise NotPrepared where fewer jobs have room than are taken: each that is turned away was received."""
    reserved = there.get("JobReservedConcurrency", "")
    taken = there.get("JobMaximumConcurrency") or _USUAL
    if reserved.isdecimal() and taken.isdecimal() and int(reserved) < int(taken):
        raise NotPrepared(
            f"JobReservedConcurrency is {reserved}, and {taken} jobs are taken at the same time: "
            f"set JobMaximumConcurrency={reserved}, or reserve more"
        )


def draw_snapshot(given: dict[str, str], before: Mapping[str, str]) -> None:
    """Let SnapStart, where it is on, publish what is deployed now: else the old version would go on.

    ``on`` and ``off`` are for people; the template takes digits, which have to be others each time.
    """
    wanted = given.get("SnapStart", "on" if before.get("SnapStart") else None)
    if wanted == "on":
        given["SnapStart"] = secrets.token_hex(8)
    elif wanted == "off":
        given["SnapStart"] = ""
