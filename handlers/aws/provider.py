"""The provider ``lambda``: what ``router.start()`` does with EXECUTION_PROVIDER=lambda."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from router_core.errors import Misconfigured

if TYPE_CHECKING:
    from handlers.aws.function import LambdaApp
    from router_core.settings import Settings

__all__ = ["start"]


def start(router: Any, settings: Settings) -> LambdaApp:
    """Return the handler, inside a function: ``handler = router.start()``. Elsewhere nothing can be served.

    A function that names ``handlers.aws.entry.handler`` loads the router by ROUTER_APP and needs no start.
    """
    if not os.environ.get("AWS_LAMBDA_RUNTIME_API"):
        raise Misconfigured(
            "EXECUTION_PROVIDER=lambda serves inside AWS Lambda only: deploy with `router-core deploy aws`, "
            "or unset it to serve on this machine"
        )
    from handlers.aws.function import build

    return build(os.environ, router)
