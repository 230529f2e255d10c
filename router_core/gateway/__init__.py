"""The model gateway: one OpenAI-compatible address in front of many model endpoints."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from router_core.gateway.gateway import Gateway as Gateway

__all__ = ["Gateway"]

_EXTRA = ("httptools", "msgspec")
"""What the gateway cannot begin without; PyYAML is asked for by who has a file."""


def __getattr__(name: str) -> Any:
    """Import the gateway when somebody asks for it, and not for its values alone."""
    if name == "Gateway":
        try:
            from router_core.gateway.gateway import Gateway
        except ModuleNotFoundError as error:
            if error.name not in _EXTRA:
                raise
            from router_core.errors import Misconfigured

            raise Misconfigured(
                f"the model gateway needs {error.name}: pip install 'router-core[gateway]'"
            ) from None
        return Gateway
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
