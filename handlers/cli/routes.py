"""``router-core routes``."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING

from handlers.cli.output import table, to_text

if TYPE_CHECKING:
    from router_core.routing.route import Route

__all__ = ["DESCRIPTION", "EXAMPLES", "add_arguments", "run"]

DESCRIPTION = "List the routes of an app, without serving it."
EXAMPLES = """\
examples:
  router-core routes service:router
  router-core routes service:router --json | jq '.[].path'"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what routes takes."""
    parser.add_argument("app", nargs="?", default="", help="module:attribute (default: ROUTER_APP)")
    parser.add_argument("--all", action="store_true", help="also those of the product: jobs, health, docs")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """List."""
    from handlers.cli.apps import loaded

    routes = [route for route in loaded(args.app, os.environ).routes if args.all or not route.internal]
    if args.json:
        listed = [
            {"methods": list(route.methods), "path": route.path, "kind": route.kind, "name": route.name,
             "parameters": [param.name for param in route.plan.params], "summary": route.summary,
             "public": route.public, "scopes": list(route.scopes)}
            for route in routes
        ]  # fmt: skip
        print(to_text(listed))
        return 0
    rows = []
    for route in routes:
        parameters = ", ".join(
            param.name if param.required else f"{param.name}=" for param in route.plan.params
        )
        queue = f"{route.job.queue_size}" if route.kind == "job" else ""
        rows.append(
            (" ".join(route.methods), route.path, route.kind, queue, _asks(route), parameters, route.summary)
        )
    print(table(("METHOD", "PATH", "KIND", "QUEUE", "ASKS FOR", "PARAMETERS", "SUMMARY"), rows))
    return 0


def _asks(route: Route) -> str:
    """Return what a caller has to hold where callers have to say who they are."""
    if route.realm:
        return f"a {route.realm} key"
    if route.scopes:
        return " + ".join(scope.replace("|", " or ") for scope in route.scopes)
    return "nothing" if route.public else "a key" if route.any_caller else "*"
