"""Show what a deployment does: a line a step, with its outcome and seconds, and never a secret."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Final, TextIO

from router_core.telemetry.masking import MASK, mask_fields, mask_text

__all__ = ["Progress", "Step"]

_SHORTEST_SECRET: Final = 4
_LONG: Final = 8
"""Characters: to mask every ``1`` or ``true`` would make the output unreadable and hide nothing."""
_PUBLIC: Final = frozenset({"ROUTER_APP", "ROUTER_DEPLOYMENT"})
_MAX_LINE: Final = 2_000


class Step:
    """What is being done."""

    def __init__(self, title: str, show: Callable[[str], None]) -> None:
        self.title = title
        self.told = ""
        self._show = show
        self._status = ""

    def note(self, text: str) -> None:
        """Say something beside the outcome."""
        self.told = text

    def status(self, text: str) -> None:
        """Show how it stands; nothing new is not repeated."""
        if text != self._status:
            self._status = text
            self._show(text)


class Progress:
    """Writes to standard error: standard output belongs to the result."""

    def __init__(self, stream: TextIO | None = None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._clock = clock
        self._secrets: tuple[str, ...] = ()

    def hide(self, values: Iterable[str]) -> None:
        """Mask these values from now on, wherever they come up."""
        # an answer may quote a value as JSON
        forms = {form for value in values for form in (value, json.dumps(value)[1:-1], *value.splitlines())}
        fresh = {form for form in forms if len(form) >= _SHORTEST_SECRET}
        # the longest first: one may contain another
        self._secrets = tuple(sorted({*self._secrets, *fresh}, key=len, reverse=True))

    def hide_env(self, env: Mapping[str, str]) -> None:
        """Mask the values of environment variables, but those that cannot be secrets."""
        for name, value in env.items():
            named_secret = mask_fields({name: value})[name] == MASK
            if named_secret or (len(value) >= _LONG and name not in _PUBLIC):
                self.hide([value])

    def masked(self, text: str) -> str:
        """Return the text without secrets, in one line."""
        for secret in self._secrets:
            text = text.replace(secret, MASK)
        text = mask_text("".join(c if c.isprintable() else " " for c in text))
        return text if len(text) <= _MAX_LINE else f"{text[: _MAX_LINE - 1]}…"

    def say(self, text: str) -> None:
        """Print a line."""
        print(self.masked(text), file=self._stream or sys.stderr, flush=True)

    @contextmanager
    def step(self, title: str) -> Iterator[Step]:
        """Time a step and print how it ended; what it raises passes on."""
        step = Step(title, lambda text: self.say(f"                 {text}"))
        began = self._clock()
        try:
            yield step
        except BaseException as error:
            self._ended("failed" if isinstance(error, Exception) else "stopped", began, title, "")
            raise
        self._ended("ok", began, title, step.told)

    def _ended(self, outcome: str, began: float, title: str, told: str) -> None:
        detail = f": {told}" if told else ""
        self.say(f"  {outcome:<7}{self._clock() - began:6.1f} s {title}{detail}")
