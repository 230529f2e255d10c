"""How soon a full queue has room again."""

from __future__ import annotations

import random

__all__ = ["DrainRate"]

_WINDOW = 30.0
_SHORTEST, _LONGEST = 1.0, 60.0


class DrainRate:
    """Counts how fast a route's queue empties, for the ``Retry-After`` of a refused submission.

    Not thread-safe: its store calls it where the store's own state is already guarded.
    """

    __slots__ = ("_taken",)

    def __init__(self) -> None:
        self._taken: dict[str, tuple[float, float, float]] = {}
        """Route -> time of the last look, jobs taken (fading), seconds watched (fading)."""

    def taken(self, route: str, count: int, now: float) -> None:
        """Note that workers took ``count`` jobs of the route."""
        seen, jobs, watched = self._faded(route, now)
        self._taken[route] = (seen, jobs + count, watched)

    def retry_after(self, route: str, depth: int, now: float) -> float:
        """Return the seconds in which the waiting jobs should be gone, within 1..60, with jitter so that
        refused callers do not come back all at once."""
        _, jobs, watched = self._faded(route, now)
        if jobs <= 0.0 or watched <= 0.0:
            wait = _SHORTEST if depth == 0 else 5.0
        else:
            wait = depth * watched / jobs
        jittered = min(_LONGEST, max(_SHORTEST, wait)) * random.uniform(0.8, 1.2)  # noqa: S311 - jitter
        return min(_LONGEST, max(_SHORTEST, jittered))

    def _faded(self, route: str, now: float) -> tuple[float, float, float]:
        seen, jobs, watched = self._taken.get(route, (now, 0.0, 0.1))
        gap = max(0.0, now - seen)
        if gap < 0.01:
            return seen, jobs, watched
        keep = max(0.0, 1.0 - gap / _WINDOW)
        return now, jobs * keep, watched * keep + min(gap, _WINDOW)
