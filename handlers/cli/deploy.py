"""``router-core deploy``."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from handlers.cli.exits import UsageError
from handlers.cli.output import say

__all__ = ["DESCRIPTION", "EXAMPLES", "add_arguments", "run"]

DESCRIPTION = "Deploy a service: test it, replace what runs, test again, and go back if that fails."
EXAMPLES = """\
examples:
  router-core deploy runpod service:router --image ann/service:1.2 --dry-run
  router-core deploy runpod service:router --image ann/service:1.2 --env-file .env --test '{"path": "/hello"}'
  router-core deploy runpod --destroy service
  router-core deploy aws --help

exit codes: 0 done, 1 a test or a build failed (all is as it was), 2 wrong usage or something is missing,
            3 cannot connect, 4 the platform refused, 5 not ready in time, 130 interrupted"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what deploy takes."""
    platforms = parser.add_subparsers(dest="platform", required=True, metavar="runpod|aws")
    for name, summary in (("runpod", "to a RunPod serverless endpoint"), ("aws", "to AWS Lambda")):
        module = import_module(f"handlers.cli.deploy_{name}")
        command = platforms.add_parser(
            name, help=summary, description=module.DESCRIPTION, epilog=module.EXAMPLES,
            formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False,
        )  # fmt: skip
        module.add_arguments(command)


def run(args: argparse.Namespace) -> int:
    """Deploy, or destroy."""
    module: Any = import_module(f"handlers.cli.deploy_{args.platform}")
    with terminated_like_interrupted():
        code: int = module.run(args)
    return code


def confirm(yes: bool) -> Callable[[str], bool]:
    """Return what asks the person, unless they have said yes already."""

    def ask(question: str) -> bool:
        if yes:
            return True
        if not sys.stdin.isatty():
            raise UsageError(f"{question} Nobody can answer here: add --yes")
        say(f"{question} [y/N]")
        return sys.stdin.readline().strip().lower() in ("y", "yes")

    return ask


@contextmanager
def terminated_like_interrupted() -> Iterator[None]:
    """Let SIGTERM (a CI job that is cancelled) take the way of Ctrl-C: nothing stays half done."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGTERM, interrupt)
    except ValueError:
        # not in the main thread: whoever called us has the signals
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
