"""``router-core keys``."""

from __future__ import annotations

import argparse

from handlers.cli.output import say

__all__ = ["DESCRIPTION", "EXAMPLES", "add_arguments", "run"]

DESCRIPTION = "Make API keys. A key is shown once; the server can keep only its hash."
EXAMPLES = """\
examples:
  router-core keys new                          a key, and what to put into ROUTER_API_KEYS
  router-core keys new --name ann --hashed >> keys.txt"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what keys takes."""
    commands = parser.add_subparsers(dest="action", required=True, metavar="new")
    new = commands.add_parser("new", help="make a key", allow_abbrev=False)
    new.add_argument("--name", default="", help="who it is for (default: the key's own id)")
    new.add_argument(
        "--hashed", action="store_true",
        help="print the entry for ROUTER_API_KEYS on standard output, and the key on standard error",
    )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Make one."""
    from router_core.security.api_keys import generate_key

    made = generate_key()
    entry = f"{args.name or made.id}:{made.hashed()}"
    if args.hashed:
        print(entry)
        say(f"the key, shown only now: {made.key}")
    else:
        print(made.key)
        say(f"for ROUTER_API_KEYS, or a line of its @file: {entry}")
    return 0
