"""The head of an origin's last plain answer: the next one often has the same, but for its content-length.

What the parser made of it then need not be made again. Only an answer that came whole in one piece, where one
is due, is compared: these bytes have been parsed as one complete head before, so that nothing is left to
interpret. What differs by as much as a byte takes the usual way.
"""

from __future__ import annotations

from typing import Final

__all__ = ["LastHead"]

_LONGEST: Final = 2048
"""A longer head is not remembered."""
_DIGITS: Final = 9
"""Places in which the content-length has to end."""
_STRANGE: Final = 8
"""Answers in a row that had another head: here no two are alike, and from then on only some are noted."""
_SOME: Final = 64
_LENGTH: Final = b"\r\ncontent-length:"


class LastHead:
    """A head of status 200 with what is known about it; shared by the connections to one origin."""

    __slots__ = ("_after", "_before", "_digits", "_strange", "headers", "is_json")

    def __init__(self) -> None:
        self._before = self._after = self._digits = b""
        """What surrounds the digits of its content-length, and these."""
        self._strange = 0
        self.headers: dict[str, str] = {}
        """Its fields; those of the answer that ``body`` was last asked for. Nobody may change them."""
        self.is_json = False

    def body(self, data: bytes, most: int) -> bytes | None:
        """Return the body of the answer that these bytes are; None: not one with this head, or not exactly
        one, or one of more than ``most`` bytes."""
        before, after = self._before, self._after
        if not before or not data.startswith(before):
            return None
        start = len(before)
        end = data.find(b"\r", start, start + _DIGITS)
        digits, size = data[start:end], end + len(after)
        if not digits.isdigit() or not data.startswith(after, end):
            return None
        length = int(digits)
        if size + length != len(data) or length > most:
            return None
        if digits != self._digits:
            self._digits = digits
            self.headers = {**self.headers, "content-length": digits.decode("ascii")}
        self._strange = 0
        return data[size:]

    def note(self, data: bytes, headers: dict[str, str], is_json: bool) -> None:
        """Take the head of an answer of status 200 that was parsed, and is all that there is in ``data``."""
        self._strange += 1
        if self._strange > _STRANGE and self._strange % _SOME:
            return
        size = data.find(b"\r\n\r\n") + 4
        digits = headers.get("content-length", "").encode("ascii", "replace")
        at = data[:size].lower().find(_LENGTH)
        if size > _LONGEST or at < 0 or not digits.isdigit() or size + int(digits) != len(data):
            return
        start = data.index(digits, at + len(_LENGTH))
        self._before, self._digits = data[:start], digits
        self._after = data[start + len(digits) : size]
        self.headers, self.is_json = headers, is_json
