"""The handler of every function: ``handlers.aws.entry.handler``.

``ROUTER_APP=module:attribute`` names the service. The handler is made when it is first asked for, which the
runtime does while it starts the function; importing this module does nothing.
"""

from __future__ import annotations

import gc
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from handlers.aws.function import LambdaApp

    handler: LambdaApp

__all__ = ["handler"]


def __getattr__(name: str) -> Any:
    if name != "handler":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    collects = gc.isenabled()
    gc.disable()  # what a start makes, it keeps: looking through all of it for garbage is wasted time
    try:
        from handlers.aws.function import build

        made = build(os.environ)
    finally:
        if collects:
            gc.enable()
    globals()["handler"] = made
    return made
