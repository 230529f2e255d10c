"""Exit codes, and the one line that is said about an error."""

from __future__ import annotations

import sys
from enum import IntEnum
from typing import Final

_EXTRAS: Final = frozenset({"httpx", "httptools", "rich", "uvicorn", "uvloop", "watchfiles"})
"""What the extra ``local`` brings."""

__all__ = ["Exit", "UsageError", "exit_for", "printable"]


class Exit(IntEnum):
    """What the exit code tells a script."""

    OK = 0
    JOB_FAILED = 1
    """The job failed, was cancelled or expired."""
    USAGE = 2
    """The command line, the app or a setting is wrong."""
    UNREACHABLE = 3
    """Nobody answers, or the connection broke."""
    REFUSED = 4
    """The service answered with an error."""
    TIMEOUT = 5
    """The job had not ended in time; it goes on."""
    INTERRUPTED = 130


class UsageError(Exception):
    """The command line is wrong in a way that argparse does not see."""


def printable(text: str) -> str:
    """Take control characters out of a text: a terminal would obey them."""
    return "".join(char if char.isprintable() or char == "\n" else " " for char in text)


def exit_for(error: BaseException) -> tuple[Exit, str]:
    """Return the exit code of an error, and what to say about it."""
    if isinstance(error, KeyboardInterrupt):
        return Exit.INTERRUPTED, ""
    if "handlers.deploy.errors" in sys.modules and (told := _deploy_code(error)) is not None:
        return told, " ".join(printable(str(error)).split())
    code = Exit.USAGE
    if "router_core.client.errors" in sys.modules:
        # an error of the client can only come up where the client was imported
        code = _client_code(error)
    return code, _line(error, code)


def _deploy_code(error: BaseException) -> Exit | None:
    from handlers.deploy.errors import DeployError

    return Exit(error.exit_code) if isinstance(error, DeployError) else None


def _client_code(error: BaseException) -> Exit:
    from router_core.client.errors import CannotConnect, ConnectionCut, JobEnded
    from router_core.errors import Misconfigured, RouterError

    if isinstance(error, JobEnded):
        return Exit.JOB_FAILED
    if isinstance(error, (CannotConnect, ConnectionCut)):
        return Exit.UNREACHABLE
    if isinstance(error, TimeoutError):
        return Exit.TIMEOUT
    if isinstance(error, RouterError) and not isinstance(error, Misconfigured):
        return Exit.REFUSED
    return Exit.USAGE


def _line(error: BaseException, code: Exit) -> str:
    text = _text(error)
    if code is Exit.UNREACHABLE and type(error).__name__ == "CannotConnect":
        return (
            f"{text}; is it running? Start it with `router-core serve module:router`, or name it with --url"
        )
    status = getattr(error, "status", 0)
    if code is Exit.REFUSED and status == 401:
        return f"{text}; pass --api-key or set ROUTER_API_KEY"
    if code is Exit.REFUSED:
        return f"the service refused: {text} ({status} {getattr(error, 'code', '')})"
    if isinstance(error, ModuleNotFoundError) and error.name in _EXTRAS:
        return f'{text}: pip install "router-core[local]"'
    if code is Exit.USAGE and not _expected(error):
        return f"{type(error).__name__}: {text} (--debug shows where)"
    return text


def _text(error: BaseException) -> str:
    """Return what an error says on one line; what is wrong with a file has a line for each thing."""
    from router_core.errors import Misconfigured

    lines = [" ".join(line.split()) for line in printable(str(error)).splitlines()]
    between = "\n  " if isinstance(error, Misconfigured) else " "
    return between.join(line for line in lines if line)


def _expected(error: BaseException) -> bool:
    from router_core.errors import RouterError

    return isinstance(error, (RouterError, UsageError, TypeError, OSError))
