"""Take the code blocks out of a Markdown page, with the notes that stand before them.

A note is an HTML comment on the line above a block, so that readers do not see it:

    <!-- file: hello.py -->     the block is a file; it is written and not run
    <!-- not run: why -->       the block is left alone
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

__all__ = ["ROOT", "Block", "blocks", "pages"]

ROOT = Path(__file__).parent.parent
_FENCE = re.compile(r"^(```+)(\w*)[^\n]*\n(.*?)^\1\s*$", re.MULTILINE | re.DOTALL)
_NOTE = re.compile(r"<!-- *(file|not run): *(.+?) *-->\s*\Z")


@dataclass(frozen=True, slots=True)
class Block:
    """One code block."""

    page: Path
    line: int
    language: str
    code: str
    file: str = ""
    """Name under which it is saved."""
    not_run: str = ""
    """Why it is not run."""

    @property
    def where(self) -> str:
        """Name the place for messages."""
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def pages() -> list[Path]:
    """Return the README and every page of docs."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page: Path, *languages: str) -> list[Block]:
    """Return the blocks of a page in these languages, in order."""
    text = page.read_text(encoding="utf-8")
    found = []
    for match in _FENCE.finditer(text):
        if match[2] not in languages:
            continue
        note = _NOTE.search(text[: match.start()])
        told = {note[1]: note[2]} if note is not None else {}
        line = text.count("\n", 0, match.start()) + 2
        found.append(Block(page, line, match[2], match[3], told.get("file", ""), told.get("not run", "")))
    return found
