"""``router-core keys``."""

from __future__ import annotations

import argparse

from handlers.cli.output import say

__all__ = ["DESCRIPTION", "EXAMPLES", "add_arguments", "run"]

DESCRIPTION = (
    "Make API keys, keys of remote workers and webhook secrets. Each is shown once; of a key the server can "
    "keep only its hash. `new` makes a key for a setting; `create` and the others speak of those that are "
    "kept in the shared state (ROUTER_STATE, with ROUTER_KEYS=state)."
)
EXAMPLES = """\
examples:
  router-core keys new ann                      a key, and what to put into ROUTER_API_KEYS
  router-core keys new ann --hashed >> keys.txt
  router-core keys worker gpu-box --route /predict   a key for ROUTER_WORKER_KEYS
  export ROUTER_WEBHOOK_SECRET=$(router-core keys webhook)
  router-core keys create --role admin               the first key of a service
  router-core keys create ci --role developer --workspace ws-1 --limit daily=5 --expires 90d
  router-core keys list --url https://ai.example.com
  router-core keys rotate 3k9x... --overlap 7d"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what keys takes."""
    from handlers.cli.kept_keys import add_commands

    commands = parser.add_subparsers(
        dest="action", required=True, metavar="new|worker|webhook|create|list|show|rotate|revoke|expire"
    )
    new = commands.add_parser("new", help="make a key", allow_abbrev=False)
    worker = commands.add_parser("worker", help="make a key for remote workers", allow_abbrev=False)
    worker.add_argument(
        "--route", action="append", default=[], metavar="KEY",
        help="a route that it may take jobs of (repeatable; default: all)",
    )  # fmt: skip
    for each, variable in ((new, "ROUTER_API_KEYS"), (worker, "ROUTER_WORKER_KEYS")):
        each.add_argument("name", nargs="?", default="", help="who it is for (default: the key's own id)")
        each.add_argument("--name", dest="option", default="", metavar="NAME", help="the same")
        each.add_argument(
            "--hashed",
            action="store_true",
            help=f"print the entry for {variable} on standard output, and the key on standard error",
        )
    add_commands(commands)
    commands.add_parser("webhook", help="make a secret that signs webhooks", allow_abbrev=False)


def run(args: argparse.Namespace) -> int:
    """Make one, or see to those that are kept."""
    from handlers.cli.kept_keys import ACTIONS
    from handlers.cli.kept_keys import run as run_kept

    if args.action in ACTIONS:
        return run_kept(args)
    return _webhook() if args.action == "webhook" else _new(args)


def _new(args: argparse.Namespace) -> int:
    from handlers.cli.exits import UsageError
    from router_core.errors import Misconfigured
    from router_core.security.api_keys import CALLERS, WORKERS, ApiKeys, generate_key

    worker = args.action == "worker"
    words, held = (WORKERS, args.route) if worker else (CALLERS, [])
    tail = ":" + "|".join(held) if held else ""

    if args.name and args.option and args.name != args.option:
        raise UsageError(f"the key is for {args.name} or for {args.option}, not for both")
    made = generate_key("rw" if worker else "rk")
    name = args.name or args.option or made.id
    entry = f"{name}:{made.hashed()}{tail}"
    try:
        ApiKeys.from_setting(entry, words)
    except Misconfigured:
        raise UsageError(
            f"{name!r} cannot name a key: a name has letters, digits and . _ @ - only, at most 64"
        ) from None
    if args.hashed:
        print(entry)
        say(f"the key, shown only now: {made.key}")
    else:
        print(made.key)
        say(f"for {words.variable}, or a line of its @file: {name}:{made.key}{tail}")
        say(f"or, without the key itself: {entry}")
    return 0


def _webhook() -> int:
    from router_core.security.signing import generate_secret

    print(generate_secret())
    say("for ROUTER_WEBHOOK_SECRET, here and at the receiver; several, newest first, are separated by commas")
    return 0
