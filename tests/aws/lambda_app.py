"""The service that the Lambda tests start in processes of their own."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from pydantic import BaseModel

from router_core import HTTPError, Response, Router

router = Router()
calls = 0


class Order(BaseModel):
    """Something to validate."""

    name: str
    count: int


@router.on_startup
def load() -> None:
    """Leave a word in the log."""
    print("loaded")


@router.get("/count")
def count() -> dict[str, int]:
    """Say how often this process was called, and which it is."""
    global calls
    calls += 1
    return {"calls": calls, "pid": os.getpid()}


@router.post("/order")
async def order(order: Order) -> dict[str, object]:
    """Give back what was validated."""
    return {"name": order.name, "count": order.count}


@router.get("/large")
def large(size: int) -> str:
    """Answer with a text of that size."""
    return "x" * size


@router.get("/sleep")
async def sleep(seconds: float) -> str:
    """Take a while."""
    await asyncio.sleep(seconds)
    return "slept"


@router.get("/busy")
def busy(seconds: float) -> str:
    """Take a while without letting go of the loop."""
    time.sleep(seconds)
    return "done"


@router.get("/crash")
def crash() -> None:
    """End the process at once."""
    os._exit(7)


@router.get("/broken")
def broken() -> None:
    """Fail."""
    raise RuntimeError("secret")


@router.get("/refused")
def refused() -> None:
    """Refuse."""
    raise HTTPError(418, "no tea")


@router.get("/steps")
async def steps(gate: str, to: int) -> AsyncIterator[dict[str, int]]:
    """Yield a number once the file of that number is there."""
    folder = Path(gate)
    try:
        for number in range(to):
            while not (folder / str(number)).exists():  # noqa: ASYNC110 - another process makes it
                await asyncio.sleep(0.005)
            yield {"n": number}
    finally:
        (folder / "ended").touch()


@router.get("/threaded")
def threaded(gate: str, to: int) -> Iterator[int]:
    """Do the same in a sync function."""
    for number in range(to):
        while not (Path(gate) / str(number)).exists():
            time.sleep(0.005)
        yield number


@router.get("/raw")
async def raw() -> Response:
    """Stream bytes that break off."""

    async def pieces() -> AsyncIterator[bytes]:
        yield b"one"
        raise ValueError("the second piece is broken")

    return Response(
        200, (("content-type", "text/plain"), ("set-cookie", "a=1"), ("set-cookie", "b=2")), pieces()
    )
