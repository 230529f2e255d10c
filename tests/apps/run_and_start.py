"""A service as authors write it, with a start at its end; imported by children, which must not start it."""

from __future__ import annotations

from typing import Annotated

from router_core.binding.params import Path
from router_core.routing.router import Router

router = Router()


@router.route("/double/{n}", isolation="process")
def double(n: Annotated[int, Path()]) -> int:
    """Take a parameter that only the path can give."""
    return 2 * n


router.start(provider="nobody")  # fails where it is not kept from starting
