"""What the processes of one gateway tell each other about trials.

For each trial there is a document that says how it stands, written by compare-and-set, and one key for each
process with all that it has counted: a write that may have happened twice changes nothing.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Awaitable
from typing import Any, Final, TypeVar

from router_core.errors import Conflict, RouterError, StoreError
from router_core.gateway.trials.scores import TOTAL, Score
from router_core.gateway.trials.state import TrialState
from router_core.state import StateStore

__all__ = ["ROOM", "SharedTrials"]

T = TypeVar("T")

ROOM: Final = "gwx"
_PATIENCE: Final = 2.0
_COUNTS_KEPT: Final = 90 * 24 * 3600.0
_SCORES_KEPT: Final = 900.0
_PAGE: Final = 100
_MOST_PAGES: Final = 100


class SharedTrials:
    """Documents, counts and scores in a StateStore. Raises StoreError, soon, where that is away."""

    def __init__(self, store: StateStore) -> None:
        self._store = store
        self.process = secrets.token_hex(8)
        """This one, among the counts."""

    def restored(self) -> None:
        """Be another process than the one that a snapshot was taken of."""
        self.process = secrets.token_hex(8)

    def use(self, store: StateStore) -> None:
        """Take another store, which was not there yet when this was made."""
        self._store = store

    async def read(self, trial: str) -> tuple[TrialState | None, str]:
        """Return the state of a trial and its version; (None, "") where there is none. One that cannot be
        read counts as none, with the version that it takes to write over it."""
        entry = await _soon(self._store.get(f"{ROOM}/state:{trial}"))
        return (None, "") if entry is None else (TrialState.decode(entry.value), entry.version)

    async def write(self, trial: str, state: TrialState, version: str) -> bool:
        """Write a state over a version (empty: where there is none); False when another process was first."""
        key = f"{ROOM}/state:{trial}"
        try:
            await _soon(
                self._store.put(key, state.encode(), if_version=version or None, if_absent=not version)
            )
        except Conflict:
            return False
        return True

    async def tell(self, trial: str, told: dict[str, Any]) -> None:
        """Write what this process has counted."""
        data = json.dumps(told, separators=(",", ":")).encode()
        await _soon(self._store.put(f"{ROOM}/counts:{trial}:{self.process}", data, ttl=_COUNTS_KEPT))

    async def others(self, trial: str) -> list[dict[str, Any]]:
        """Return what the other processes have counted."""
        mine = f"{ROOM}/counts:{trial}:{self.process}"
        found = await self._listed(f"{ROOM}/counts:{trial}:")
        return [data for key, value in found if key != mine and (data := _object(value)) is not None]

    async def leave_score(self, trial: str, score: Score) -> bool:
        """Leave a score for the process that has served the call; False when its giver has left one."""
        key = f"{ROOM}/score:{trial}:{score.key}"
        try:
            await _soon(self._store.put(key, score.encode(), if_absent=True, ttl=_SCORES_KEPT))
        except Conflict:
            return False
        return True

    async def scores(self, trial: str) -> list[Score]:
        """Return the scores that nobody has taken yet."""
        prefix = f"{ROOM}/score:{trial}:"
        found = await self._listed(prefix, 2 * TOTAL // _PAGE)  # processes that do not know of each other
        read = (Score.decode(key.removeprefix(prefix), value) for key, value in found)
        return [each for each in read if each is not None]

    async def take_score(self, trial: str, score: Score) -> bool:
        """Take one away; False when another process has done so."""
        return await _soon(self._store.delete(f"{ROOM}/score:{trial}:{score.key}"))

    async def _listed(self, prefix: str, pages: int = _MOST_PAGES) -> list[tuple[str, bytes]]:
        found: list[tuple[str, bytes]] = []
        cursor = ""
        for _ in range(pages):
            page = await _soon(self._store.entries(prefix, cursor=cursor, limit=_PAGE))
            found += [(each.key, each.value) for each in page.entries]
            cursor = page.cursor
            if not cursor:
                break
        return found


async def _soon(work: Awaitable[T]) -> T:
    try:
        async with asyncio.timeout(_PATIENCE):
            return await work
    except TimeoutError:
        raise StoreError("the state store did not answer in time") from None
    except (Conflict, StoreError):
        raise
    except RouterError as error:
        raise StoreError(f"the state store cannot keep trials: {error.detail}") from error


def _object(data: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(data)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None
