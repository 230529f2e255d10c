"""Take back what a deployment has done when it cannot be finished, and tell what could not be taken back."""

from __future__ import annotations

from collections.abc import Callable

from handlers.deploy.errors import DeployError
from handlers.deploy.progress import Progress

__all__ = ["Undo"]


class Undo:
    """Steps back, the last first."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._steps: list[tuple[str, str, Callable[[], None]]] = []

    def __bool__(self) -> bool:
        return bool(self._steps)

    def add(self, title: str, otherwise: str, step: Callable[[], None]) -> None:
        """Remember a step; ``otherwise`` tells what remains and what to do when it cannot be taken."""
        self._steps.append((title, otherwise, step))

    def forget(self) -> None:
        """Keep what was done."""
        self._steps.clear()

    def run(self) -> list[str]:
        """Take all steps; returns what remains to be done by hand. A second interrupt ends it early."""
        left: list[str] = []
        while self._steps:
            title, otherwise, step = self._steps.pop()
            try:
                with self._progress.step(title):
                    step()
            except DeployError as error:
                left.append(f"{otherwise} ({error})")
            except KeyboardInterrupt:
                left += [otherwise, *(rest for _, rest, _ in reversed(self._steps))]
                self._steps.clear()
        return left
