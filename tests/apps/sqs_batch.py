"""One invocation of a function on a queue, as a process of its own that tests kill.

Started by ``python -m tests.apps.sqs_batch``: settings and ROUTER_FAILPOINT from the environment, the event
from stdin, what it answers to stdout.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys

from handlers.aws.sqs import run_batch
from router_core import Router, Settings, build_app
from router_core.jobs.failpoints import arm

__all__ = ["router"]

router = Router()


@router.route("/double", max_attempts=3, backoff=0.1)
async def double(n: int) -> int:
    """Double."""
    return 2 * n


class Context:
    """An invocation that has a minute."""

    aws_request_id = "the-first-invocation"

    def get_remaining_time_in_millis(self) -> int:
        """Return a minute."""
        return 60_000


async def main() -> None:
    """Answer one event."""
    app = build_app(router, Settings.from_env(os.environ))
    await app.start(background=False)
    arm(os.environ)
    answer = await run_batch(app, json.load(sys.stdin), Context())
    print(json.dumps(answer))
    await app.stop(0)


if __name__ == "__main__":
    asyncio.run(main())
