"""``router-core``: serve a service, look at it, call it.

Only the module of the command that was asked for is imported, so that ``--help`` and ``call`` are quick.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol, cast

from handlers.cli.exits import Exit, exit_for

__all__ = ["main"]


class _Module(Protocol):
    """What the module of a command offers."""

    DESCRIPTION: str
    EXAMPLES: str

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare the command's arguments."""

    def run(self, args: argparse.Namespace) -> int:
        """Do it; returns the exit code."""


@dataclass(frozen=True, slots=True)
class _Command:
    module: str
    summary: str


_COMMANDS: Final = {
    "serve": _Command("handlers.cli.serve", "serve an app on this machine"),
    "dev": _Command("handlers.cli.dev", "serve it and start again whenever a file changes"),
    "worker": _Command("handlers.cli.worker", "run jobs of a service that is deployed elsewhere"),
    "routes": _Command("handlers.cli.routes", "list the routes of an app"),
    "openapi": _Command("handlers.cli.openapi", "write the OpenAPI document of an app"),
    "call": _Command("handlers.cli.call", "call a route of a running service"),
    "jobs": _Command("handlers.cli.jobs", "list, show, watch, cancel or retry jobs"),
    "keys": _Command("handlers.cli.keys", "make API keys, worker keys and webhook secrets"),
    "gateway": _Command("handlers.cli.gateway", "models, rules, budgets and trials of a running gateway"),
    "deploy": _Command("handlers.cli.deploy", "deploy a service to RunPod or AWS"),
}
_EXAMPLES: Final = """\
examples:
  router-core dev service:router                      serve ./service.py, reload on change
  router-core call predict text="a cat" steps:=4 --wait
  router-core call upscale image=@photo.png --wait --output big.png
  router-core jobs list --status running

The service that call and jobs speak to: --url, else ROUTER_URL, else http://127.0.0.1:$PORT (8000).
Its API key: --api-key, else ROUTER_API_KEY."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in words
    if debug:
        words.remove("--debug")
    try:
        return _run(words)
    except BrokenPipeError:
        # the reader of our output has gone (``| head``): nobody is left to tell
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.OK
    except (Exception, KeyboardInterrupt) as error:
        if debug:
            raise
        code, text = exit_for(error)
        if text:
            print(f"router-core: {text}", file=sys.stderr)
        return code


def _run(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        return _help(words[1:])
    if words[0] in ("-V", "--version"):
        return _version()
    command = _COMMANDS.get(words[0])
    if command is None:
        return _unknown(words[0])
    module = cast(_Module, importlib.import_module(command.module))
    parser = argparse.ArgumentParser(
        prog=f"router-core {words[0]}",
        description=module.DESCRIPTION,
        epilog=module.EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    module.add_arguments(parser)
    return module.run(_parsed(parser, words[1:]))


def _parsed(parser: argparse.ArgumentParser, words: list[str]) -> argparse.Namespace:
    """Let options stand between positional arguments, where there are no subcommands."""
    has_subcommands = any(isinstance(action, argparse._SubParsersAction) for action in parser._actions)
    return parser.parse_args(words) if has_subcommands else parser.parse_intermixed_args(words)


def _help(words: list[str]) -> int:
    if words and words[0] in _COMMANDS:
        return _run([words[0], "--help"])
    width = max(map(len, _COMMANDS)) + 2
    lines = [f"  {name:<{width}}{command.summary}" for name, command in _COMMANDS.items()]
    print("usage: router-core COMMAND ...    (router-core COMMAND --help tells more)\n")
    print("Serve Python functions, with durable jobs for long work, and call them.\n")
    print("commands:\n" + "\n".join(lines) + "\n")
    print("options:\n  --version  print the version\n  --debug    print tracebacks of errors\n")
    print(_EXAMPLES)
    return Exit.OK


def _version() -> int:
    from importlib.metadata import PackageNotFoundError, version

    try:
        print(f"router-core {version('router-core')}")
    except PackageNotFoundError:
        print("router-core (not installed)")
    return Exit.OK


def _unknown(word: str) -> int:
    import difflib

    close = difflib.get_close_matches(word, _COMMANDS, 1, 0.5)
    hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(_COMMANDS)}"
    print(f"router-core: there is no command {word!r}; {hint}", file=sys.stderr)
    return Exit.USAGE


if __name__ == "__main__":
    raise SystemExit(main())
