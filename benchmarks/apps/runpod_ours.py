"""What the RunPod benchmarks run as our worker: a plain call and a job, both with nothing to do."""

from __future__ import annotations

from router_core import Router

router = Router()


@router.post("/noop")
async def noop(n: int) -> dict[str, int]:
    """Return the number."""
    return {"n": n}


@router.post("/blocking")
def blocking(n: int) -> dict[str, int]:
    """Return the number, from a thread."""
    return {"n": n}


@router.route("/job", concurrency=50)
async def job(n: int) -> dict[str, int]:
    """Return the number, as a job with a record."""
    return {"n": n}
