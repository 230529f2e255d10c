"""The model gateway: one OpenAI-compatible address in front of many model endpoints."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from router_core.gateway.gateway import Gateway as Gateway

__all__ = ["Gateway"]


def __getattr__(name: str) -> Any:
    """Import the gateway when somebody asks for it, and not for its values alone."""
    if name == "Gateway":
        from router_core.gateway.gateway import Gateway

        return Gateway
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
