"""Options that name a running service, and the client of it."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from router_core.client import Client

__all__ = ["add_service_options", "base_url", "connected"]


def add_service_options(parser: argparse.ArgumentParser) -> None:
    """Declare --url, --api-key and --cacert."""
    group = parser.add_argument_group("the service")
    group.add_argument("--url", help="address (default: ROUTER_URL, else http://127.0.0.1:$PORT or :8000)")
    group.add_argument("--api-key", metavar="KEY", help="default: ROUTER_API_KEY")
    group.add_argument(
        "--cacert", metavar="FILE",
        help="certificates (PEM) to trust (default: SSL_CERT_FILE, else the public ones)",
    )  # fmt: skip


def base_url(args: argparse.Namespace) -> str:
    """Return the address to call."""
    if args.url:
        return str(args.url)
    return os.environ.get("ROUTER_URL") or f"http://127.0.0.1:{os.environ.get('PORT') or 8000}"


def connected(args: argparse.Namespace, url: str = "") -> Client:
    """Return a client; to be closed by the caller."""
    from router_core.client import Retry, connect

    # somebody sits in front of the screen: give up sooner than a program would
    retry = Retry(attempts=4, total=20.0)
    return connect(
        url or base_url(args), api_key=args.api_key or os.environ.get("ROUTER_API_KEY"), retry=retry,
        verify=args.cacert or True,
    )  # fmt: skip
