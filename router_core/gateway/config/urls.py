"""Addresses: what a good one is."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import SplitResult, urlsplit

__all__ = ["cleaned"]

_HOST: Final = re.compile(r"[A-Za-z0-9._-]{1,253}\Z|[0-9A-Fa-f:.]{2,45}\Z")
_PATH: Final = re.compile(r"[A-Za-z0-9._~!$&'()*+,;=:@%/-]*\Z")
_LONGEST: Final = 2048


def cleaned(url: str) -> tuple[str, str]:
    """Return an address without a slash at its end, and what is wrong with it (empty: nothing).

    What is wrong does not quote the address: it may hold credentials.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return "", "is no address; write https://host/path"
    wrong = _wrong(url, parts) or ("has a port 0" if port == 0 else "")
    if wrong:
        return "", wrong
    return f"{parts.scheme.lower()}://{parts.netloc}{parts.path}".rstrip("/"), ""


def _wrong(url: str, parts: SplitResult) -> str:
    if parts.scheme.lower() not in ("http", "https"):
        return "must begin with https:// or http://"
    if "@" in parts.netloc:
        return "holds credentials; take them out and write a key"
    if not parts.hostname or not _HOST.match(parts.hostname):
        return "names no host; write https://host/path"
    if parts.query or parts.fragment or url.endswith(("?", "#")):
        return "has a ? or a #; take away what follows it"
    if not _PATH.match(parts.path) or "/../" in f"{parts.path}/":
        return "has a path that cannot be sent as it is"
    return "is too long" if len(url) > _LONGEST else ""
