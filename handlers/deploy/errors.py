"""What goes wrong with a deployment: each error is one line that says what to do, and knows its exit code."""

from __future__ import annotations

from typing import ClassVar

__all__ = ["DeployError", "NotPrepared", "Refused", "TooSlow", "Unclear", "Unreachable"]


class DeployError(Exception):
    """A step failed: the test request, the build, the platform. Exit code 1."""

    exit_code: ClassVar[int] = 1


class NotPrepared(DeployError):
    """Something is missing before anything was begun: a key, a tool, an option, a file."""

    exit_code: ClassVar[int] = 2


class Unreachable(DeployError):
    """Nobody answers."""

    exit_code: ClassVar[int] = 3


class Unclear(Unreachable):
    """The connection broke after the request was sent: it may have been done."""


class Refused(DeployError):
    """The platform answered with an error."""

    exit_code: ClassVar[int] = 4

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class TooSlow(DeployError):
    """It did not happen in the time that it was given."""

    exit_code: ClassVar[int] = 5
