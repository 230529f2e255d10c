"""Answers to claims, kept for as long as the worker may ask again because it has not seen them."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from router_core.clock import Clock

__all__ = ["Replays"]

_MOST: Final = 200
_MOST_BYTES: Final = 64 * 1024 * 1024


class Replays:
    """The last claim of each worker that brought jobs, in this process.

    An answer that is lost on its way would leave jobs leased to a worker that does not know of them, until
    the lease ends and it counts as a crash. After a restart, or in another process, that is what happens.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._kept: OrderedDict[str, tuple[str, bytes, float]] = OrderedDict()
        self._bytes = 0

    def find(self, worker: str, claim_id: str) -> bytes | None:
        """Return the answer that this claim had, while its leases last."""
        claimed, answer, until = self._kept.get(worker, ("", b"", 0.0))
        return answer if claimed == claim_id and self._clock.monotonic() < until else None

    def keep(self, worker: str, claim_id: str, answer: bytes, lease: float) -> None:
        """Remember an answer in the place of the worker's last."""
        self._drop(worker)
        self._kept[worker] = (claim_id, answer, self._clock.monotonic() + lease)
        self._bytes += len(answer)
        while self._kept and (len(self._kept) > _MOST or self._bytes > _MOST_BYTES):
            self._drop(next(iter(self._kept)))

    def _drop(self, worker: str) -> None:
        dropped = self._kept.pop(worker, None)
        if dropped is not None:
            self._bytes -= len(dropped[1])
