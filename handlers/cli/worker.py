"""``router-core worker``."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
from typing import TYPE_CHECKING

from handlers.cli.exits import Exit, UsageError
from handlers.cli.output import say

if TYPE_CHECKING:
    from handlers.remote.worker import RemoteWorker
    from router_core.routing.router import Router
    from router_core.settings import Settings
    from router_core.stores.coordinator_link import CoordinatorLink

__all__ = ["DESCRIPTION", "EXAMPLES", "add_arguments", "run"]

DESCRIPTION = (
    "Run jobs of a service whose coordinator is on another machine, until SIGTERM or Ctrl-C. "
    "Only outgoing connections are made."
)
EXAMPLES = """\
examples:
  ROUTER_WORKER_KEY=rw_... router-core worker --coordinator https://api.example.org service:router
  router-core worker --coordinator https://api.example.org service:router --route /predict --concurrency 2

`router-core keys worker NAME` makes a key; the coordinator has it in ROUTER_WORKER_KEYS.
Ctrl-C lets running jobs end or gives them back; a second one ends everything at once."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what worker takes."""
    parser.add_argument("app", nargs="?", default="", help="module:attribute (default: ROUTER_APP)")
    parser.add_argument(
        "--coordinator",
        default="",
        metavar="URL",
        help="where the service is deployed (or ROUTER_COORDINATOR)",
    )
    parser.add_argument(
        "--key", default="", help="worker key; others can read a command line: prefer ROUTER_WORKER_KEY"
    )
    parser.add_argument(
        "--route", action="append", default=[], metavar="KEY", help="work for this route only (repeatable)"
    )
    parser.add_argument(
        "--concurrency",
        type=int,
        default=0,
        metavar="N",
        help="jobs of each route at once (default: its own)",
    )
    parser.add_argument("--cacert", default="", metavar="FILE", help="certificates to trust (PEM)")
    parser.add_argument(
        "--allow-http", action="store_true",
        help="send key and jobs to another machine without encryption (a network of your own)",
    )  # fmt: skip
    parser.add_argument("--log-level", choices=("debug", "info", "warning", "error"), help="default: info")


def run(args: argparse.Namespace) -> int:
    """Work."""
    from handlers.loader import load
    from router_core.errors import Forbidden, StoreError, Unauthorized
    from router_core.jobs.failpoints import arm
    from router_core.routing.router import Router
    from router_core.settings import Settings
    from router_core.stores.coordinator_link import Refused

    if args.concurrency < 0:
        raise UsageError("--concurrency must be at least 1")
    settings = Settings.from_env(os.environ, app=args.app or None, log_level=args.log_level)
    if not settings.app:
        raise UsageError("name the app as module:attribute, or set ROUTER_APP")
    link = _link(args)
    router = load(settings.app)
    if not isinstance(router, Router):
        raise UsageError(
            f"{settings.app} is an App with parts of its own; name the Router that it is made from"
        )
    arm(os.environ)
    try:
        return _work(args, router, link, settings)
    except (Unauthorized, Forbidden, Refused) as error:
        say(f"router-core: the coordinator refused: {error}")
        return Exit.REFUSED
    except StoreError as error:
        say(f"router-core: {link.url}: {error}")
        return Exit.UNREACHABLE


def _link(args: argparse.Namespace) -> CoordinatorLink:
    from router_core.client.tls import trust
    from router_core.jobs.settle import MAX_RESULT
    from router_core.stores.coordinator_link import CoordinatorLink
    from router_core.vendors.httpx import HttpxSender

    url = args.coordinator or os.environ.get("ROUTER_COORDINATOR", "")
    key = args.key or os.environ.get("ROUTER_WORKER_KEY", "")
    if not url:
        raise UsageError("name the coordinator with --coordinator URL, or set ROUTER_COORDINATOR")
    if not key:
        raise UsageError("set ROUTER_WORKER_KEY (or pass --key); `router-core keys worker` makes one")
    if not key.isascii() or not key.isprintable():
        raise UsageError("the worker key holds characters that no key has")
    verify = trust(args.cacert or True, os.environ)
    link = CoordinatorLink(
        url, key, HttpxSender(verify=None if isinstance(verify, bool) else verify, most=2 * MAX_RESULT)
    )
    if not args.allow_http:
        _check_encrypted(url)
    return link


def _check_encrypted(url: str) -> None:
    from urllib.parse import urlsplit

    from router_core.middleware.gates import is_loopback

    parts = urlsplit(url)
    if parts.scheme == "http" and not is_loopback(parts.hostname or ""):
        raise UsageError(
            f"{parts.hostname} would get the key and the jobs unencrypted: use https://, or, in a network of "
            "your own, pass --allow-http"
        )


def _work(args: argparse.Namespace, router: Router, link: CoordinatorLink, settings: Settings) -> int:
    import logging

    from handlers.remote.worker import RemoteWorker, served_routes
    from router_core.telemetry.events import Events
    from router_core.telemetry.logging import Log

    routes = served_routes(router, args.route, args.concurrency)
    log = Log(settings)
    events = Events(log)
    log.install()
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it would tell of every request
    try:
        worker = RemoteWorker(router, routes, link, settings, events)
        asyncio.run(_until_signal(worker))
    finally:
        log.close()
    return Exit.OK


async def _until_signal(worker: RemoteWorker) -> None:
    stop = asyncio.Event()

    def on_signal(number: int) -> None:
        if stop.is_set():
            _end_at_once(worker, number)
        stop.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)
    await worker.run(stop)


def _end_at_once(worker: RemoteWorker, number: int) -> None:
    from handlers.local.processes import kill_tree

    worker.kill()
    kill_tree(os.getpid(), itself=False)
    os._exit(128 + number)
