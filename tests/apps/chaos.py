"""The service that the chaos test kills: short jobs that leave a trace of every attempt."""

from __future__ import annotations

import asyncio
import os
import random
import secrets
from pathlib import Path
from typing import Any

from router_core import JobContext, Router

router = Router()


@router.route("/work", queue_size=1_000_000, concurrency=8, max_attempts=1000, backoff=0.05)
async def work(job: JobContext, n: int, folder: str) -> dict[str, Any]:
    """Have one effect under a key, take a moment, and say which attempt this was."""
    traces = Path(folder)
    nonce = secrets.token_hex(8)

    def effect() -> str:
        # O_EXCL stands for a service that honours idempotency keys: the second call with one key is a replay
        try:
            os.close(os.open(traces / job.idempotency_key("effect"), os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return "replayed"
        return "made"

    await job.once("effect", effect)
    await asyncio.sleep(random.uniform(0.0, 0.1))
    job.progress.update(0.5, "half way")
    await asyncio.sleep(random.uniform(0.0, 0.1))
    return {"n": n, "attempt": job.attempt, "nonce": nonce}
