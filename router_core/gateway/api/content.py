"""What type an answer of an upstream may have when it goes to a caller."""

from __future__ import annotations

import re
from typing import Final

__all__ = ["JSON", "answer_type"]

JSON: Final = "application/json"
_LONGEST: Final = 128
_TYPE: Final = re.compile(
    r"(?:application|audio|image|text)/[a-z0-9][a-z0-9.+-]*"
    r"(?: ?; ?[a-z0-9-]+=(?:[a-z0-9._-]+|\"[a-z0-9._ -]+\"))*",
    re.IGNORECASE,
)
_ACTIVE: Final = re.compile(r"html|xml|svg|script", re.IGNORECASE)
"""What a browser would run or render as a page, were it to open the answer."""


def answer_type(content_type: str) -> str:
    """Return the content type of an upstream, or one that says nothing where that is odd or a page's."""
    if content_type == JSON:
        return JSON
    if not content_type:
        return JSON
    if len(content_type) > _LONGEST or not _TYPE.fullmatch(content_type) or _ACTIVE.search(content_type):
        return JSON if "json" in content_type[:_LONGEST] else "application/octet-stream"
    return content_type
