"""``router-core serve``."""

from __future__ import annotations

import argparse
import os
import sys
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


def _address(settings: Settings, tls: bool) -> str:
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return f"{'https' if tls else 'http'}://{host}:{settings.port}"


def run(args: argparse.Namespace) -> int:
    """Serve."""
    from handlers.cli.exits import UsageError
    from handlers.cli.output import say
    from handlers.loader import load
    from handlers.local.provider import serve
    from handlers.local.server import ServeOptions, run_app
    from router_core.app import App

    if args.workers < 1:
        raise UsageError("--workers must be at least 1")
    settings = settings_from(args)
    if not settings.app:
        raise UsageError("name the app as module:attribute, or set ROUTER_APP")
    options = ServeOptions(
        workers=args.workers, certfile=args.tls_cert, keyfile=args.tls_key, client_ca=args.client_ca,
        allow_unauthenticated=args.allow_unauthenticated,
    )  # fmt: skip
    served = load(settings.app)
    if sys.stderr.isatty():
        say(f"{settings.app} on {_address(settings, bool(args.tls_cert))}, docs at /docs; Ctrl-C ends")
    # an App brings its own settings; a Router takes those of the command line
    return run_app(served, options) if isinstance(served, App) else serve(served, settings, options)
