"""What SnapStart must not copy: one snapshot is thawed into many processes.

Connections are dropped before the snapshot; what has to be unlike in every process is drawn again after it.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from handlers.aws.function import LambdaApp

__all__ = ["register"]


def register(app: LambdaApp, environ: Mapping[str, str]) -> bool:
    """Ask the runtime to call us around a snapshot; False where it makes none."""
    if environ.get("AWS_LAMBDA_INITIALIZATION_TYPE") != "snap-start":
        return False
    try:
        from snapshot_restore_py import register_after_restore, register_before_snapshot
    except ImportError:
        return False
    register_before_snapshot(before_snapshot)
    register_after_restore(after_restore, app)
    return True


def before_snapshot() -> None:
    """Drop what would be shared: connections, and the credentials that clients hold."""
    _forget_clients()


def after_restore(app: LambdaApp) -> None:
    """Become a process of its own."""
    _forget_clients()
    random.seed()
    app.restored()


def _forget_clients() -> None:
    clients = sys.modules.get("router_core.vendors.boto3")  # not loaded: nothing to drop
    forget: Callable[[], None] | None = getattr(clients, "forget", None)
    if forget is not None:
        forget()
