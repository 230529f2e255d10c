"""Choose what to send by what the caller accepts (RFC 9110 section 12.5.1)."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["best_match"]


def best_match(accept: str, offers: Sequence[str]) -> str | None:
    """Return the offer that the ``Accept`` header likes best, or None when it takes none of them.

    Of equals the earlier offer wins. An empty header accepts anything; an entry that cannot be read is
    ignored, as is a header that holds nothing else.
    """
    ranges = [parsed for part in accept.split(",")[:50] if (parsed := _parse(part)) is not None]
    if not ranges:
        return offers[0] if offers else None
    best, best_quality = None, 0.0
    for offer in offers:
        quality = _quality(offer, ranges)
        if quality > best_quality:
            best, best_quality = offer, quality
    return best


def _parse(part: str) -> tuple[str, float] | None:
    media, *parameters = part.split(";")
    media = media.strip().lower()
    if "/" not in media:
        return ("*/*", 1.0) if media == "*" else None
    for parameter in parameters:
        key, _, value = parameter.partition("=")
        if key.strip().lower() == "q":
            try:
                return media, min(1.0, max(0.0, float(value)))
            except ValueError:
                return None
    return media, 1.0


def _quality(offer: str, ranges: Sequence[tuple[str, float]]) -> float:
    # the most specific range decides, so that "*/*, text/html;q=0" refuses HTML
    kind = offer.partition("/")[0] + "/*"
    for wanted in (offer, kind, "*/*"):
        found = [quality for media, quality in ranges if media == wanted]
        if found:
            return max(found)
    return 0.0
