"""What a terminal move writes into the outbox."""

from __future__ import annotations

import json
from typing import Any

__all__ = ["webhook_url"]


def webhook_url(webhook: str) -> str:
    """Return the address in a record's ``webhook``, or an empty text."""
    try:
        url: Any = json.loads(webhook).get("url", "")
    except (ValueError, AttributeError):
        return ""
    return url if isinstance(url, str) else ""
