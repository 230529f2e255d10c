"""``router-core serve``."""

from __future__ import annotations

import argparse
import os
from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from router_core.settings import Settings

__all__ = ["DESCRIPTION", "EXAMPLES", "add_arguments", "run"]

DESCRIPTION = "Serve an app on this machine until SIGTERM or Ctrl-C; running jobs get time to end."
EXAMPLES = """\
examples:
  router-core serve service:router
  router-core serve service:create_app --port 9000 --workers 4
  ROUTER_API_KEYS=@keys.txt router-core serve service:router --host 0.0.0.0 --tls-cert c.pem --tls-key k.pem

Further settings are environment variables: ROUTER_JOBS, ROUTER_BLOBS, ROUTER_API_KEYS ..."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what serve takes."""
    add_serve_arguments(parser)
    parser.add_argument("--workers", type=int, default=1, help="processes (default: 1)")
    parser.add_argument("--tls-cert", default="", metavar="FILE", help="certificate chain (PEM)")
    parser.add_argument("--tls-key", default="", metavar="FILE", help="its private key (PEM)")
    parser.add_argument(
        "--client-ca", default="", metavar="FILE", help="require client certificates of this authority"
    )
    parser.add_argument(
        "--allow-unauthenticated", action="store_true",
        help="bind a public address without API keys (something in front authenticates)",
    )  # fmt: skip


def add_serve_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what serve and dev share."""
    parser.add_argument("app", nargs="?", default="", help="module:attribute (default: ROUTER_APP)")
    parser.add_argument("--host", help="address to bind (default: ROUTER_HOST, else 127.0.0.1)")
    parser.add_argument("--port", type=int, help="port to bind (default: PORT, else 8000)")
    parser.add_argument("--log-level", choices=("debug", "info", "warning", "error"), help="default: info")


def settings_from(args: argparse.Namespace) -> Settings:
    """Return the settings of the environment under those of the command line."""
    from router_core.settings import Settings

    return Settings.from_env(
        os.environ, app=args.app or None, host=args.host, port=args.port, log_level=args.log_level
    )


def run(args: argparse.Namespace) -> int:
    """Serve."""
    from handlers.cli.exits import UsageError
    from handlers.loader import load
    from handlers.local.provider import LOCAL, serve
    from handlers.local.server import ServeOptions
    from router_core.app import App
    from router_core.routing.providers import find_provider

    if args.workers < 1:
        raise UsageError("--workers must be at least 1")
    settings = settings_from(args)
    if not settings.app:
        raise UsageError("name the app as module:attribute, or set ROUTER_APP")
    options = ServeOptions(
        workers=args.workers, certfile=args.tls_cert, keyfile=args.tls_key, client_ca=args.client_ca,
        allow_unauthenticated=args.allow_unauthenticated,
    )  # fmt: skip
    if settings.provider not in LOCAL:
        find_provider(settings.provider)  # a name that nobody offers is a mistake, even if not needed here
    served = load(settings.app)
    if isinstance(served, App):
        _check_own_settings(args)
        settings = replace(served.settings, app=settings.app)
    return serve(served, settings, options)


def _check_own_settings(args: argparse.Namespace) -> None:
    """Refuse options that would not reach an App: it was built with settings of its own."""
    from handlers.cli.exits import UsageError

    for option in ("host", "port", "log_level"):
        if getattr(args, option) is not None:
            raise UsageError(
                f"{args.app or 'ROUTER_APP'} is an App with settings of its own, which "
                f"--{option.replace('_', '-')} does not reach: give them to build_app, or serve its Router"
            )
