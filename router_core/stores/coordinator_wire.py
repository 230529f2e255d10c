"""Moves as a remote worker tells them, and what it is told of records."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import pydantic_core

from router_core.errors import Misconfigured, StoreError
from router_core.jobs.job import Fence, Job, State
from router_core.jobs.moves import Move

__all__ = ["PIECES", "record_of", "said_of"]

PIECES: Final = "|"
"""Between the keys of pieces in the key of a blob that was sent in pieces."""
_TEXTS: Final = {"type": 200, "message": 2_000, "code": 200}
_ENDED: Final = frozenset({"fail", "retry", "crash", "release", "cancelled"})


def said_of(move: Move, now: float) -> dict[str, Any]:
    """Return what is said to the coordinator for a move; times become waits, as its clock is another."""
    sets = move.sets
    if move.name == "progress":
        return {"move": "progress", "progress": sets["progress"], "message": sets["message"]}
    if move.name == "step":
        return {"move": "step", "steps": sets["steps"].decode()}
    if move.name == "succeed":
        return {"move": "succeed", **_result(sets), **_given(sets, "message")}
    if move.name not in _ENDED:
        raise Misconfigured(f"a remote worker cannot make the move {move.name}")
    said = {"move": move.name, **_given(sets, "message")}
    if move.progress_floor:
        said["progress"] = sets["progress"]
    if sets.get("error"):
        said["error"] = _error(pydantic_core.from_json(sets["error"]))
    if "not_before" in sets:
        said["delay"] = max(0.0, sets["not_before"] - now)
    if move.to is State.FAILED and move.name == "fail":
        said["reason"] = sets["reason"]
    return said


def _error(error: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the coordinator takes of an error; the attempt it knows itself."""
    told = {name: error[name] for name in ("retryable", "status") if name in error}
    texts = {name: str(error[name])[:most] for name, most in _TEXTS.items() if name in error}
    return told | texts


def _given(sets: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {name: sets[name]} if name in sets else {}


def _result(sets: Mapping[str, Any]) -> dict[str, Any]:
    if not sets["result_ref"]:
        return {"result": sets["result"].decode()}
    ref = pydantic_core.from_json(sets["result_ref"])
    return {"upload": {"pieces": ref.pop("key").split(PIECES), **ref}}


def record_of(fence: Fence, said: Mapping[str, Any]) -> Job:
    """Return the record as far as the coordinator tells it to the holder of a lease."""
    try:
        return Job(
            id=fence.job_id, owner="", route="", created_at=0.0, state=State(said["state"]),
            reason=str(said["reason"]), epoch=fence.epoch, event_seq=int(said["event_seq"]),
            token=fence.token if said["held"] else "",
        )  # fmt: skip
    except (KeyError, TypeError, ValueError):
        raise StoreError("the coordinator's answer cannot be read") from None
