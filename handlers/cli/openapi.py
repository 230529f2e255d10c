"""``router-core openapi``."""

from __future__ import annotations

import argparse
import asyncio
import os
from pathlib import Path

from handlers.cli.output import say

__all__ = ["DESCRIPTION", "EXAMPLES", "add_arguments", "run"]

DESCRIPTION = "Write the OpenAPI document of an app, without serving it."
EXAMPLES = """\
examples:
  router-core openapi service:router
  router-core openapi service:router -o openapi.json"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what openapi takes."""
    parser.add_argument("app", nargs="?", default="", help="module:attribute (default: ROUTER_APP)")
    parser.add_argument("-o", "--output", default="", metavar="FILE", help="write here instead of the screen")


def run(args: argparse.Namespace) -> int:
    """Write."""
    text = asyncio.run(_document(args.app))
    if args.output:
        Path(args.output).write_text(text + "\n", encoding="utf-8")
        say(f"wrote {args.output}")
    else:
        print(text)
    return 0


async def _document(name: str) -> str:
    import json

    from handlers.cli.apps import loaded
    from router_core.http.message import Request

    response = await loaded(name, os.environ).handle(Request("GET", "/openapi.json"))
    if response.status != 200 or not isinstance(response.body, bytes):
        from router_core.errors import Misconfigured

        raise Misconfigured(f"the app answers {response.status} to /openapi.json")
    return json.dumps(json.loads(response.body), indent=2, ensure_ascii=False)
