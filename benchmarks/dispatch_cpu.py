"""(a) CPU time of core dispatch: request in, match, validation of five fields, function, response out."""

from __future__ import annotations

import asyncio
import os
import time

from benchmarks.report import Row, Skip

_BODY = b'{"name": "widget", "count": 3, "price": 2.5, "tags": ["a", "b"], "paid": true}'
_CALLS = 20_000
_GOAL_MICROSECONDS = 15.0


def run() -> list[Row | Skip]:
    """Return microseconds of CPU for one call, best of five rounds, without and with the middleware."""
    core, whole = asyncio.run(_measure())
    return [
        Row("core dispatch + validation, five fields, us of CPU", f"{core:.1f} us", "goal 15 us",
            core / _GOAL_MICROSECONDS, 1.0, at_least=False),
        Row("the same through the whole middleware stack", f"{whole:.1f} us", f"core alone {core:.1f} us",
            whole / core, 3.0, at_least=False),
    ]  # fmt: skip


async def _measure() -> tuple[float, float]:
    from benchmarks.apps.ours import router
    from router_core import Request, Settings, build_app
    from router_core.http.message import Headers

    settings = Settings.from_env(os.environ, jobs="memory://", blobs="memory://", log_level="error")
    app = build_app(router, settings)
    headers = Headers([("content-type", "application/json"), ("host", "localhost")])
    dispatch, match = app.dispatch, app.table.match

    async def core() -> None:
        request = Request("POST", "/order", "", headers, _BODY, "id")
        response = await dispatch(request, match("POST", "/order").route)
        assert response.status == 200

    async def whole() -> None:
        response = await app.handle(Request("POST", "/order", "", headers, _BODY, "id"))
        assert response.status == 200

    best = []
    for call in (core, whole):
        rounds = []
        for _ in range(5):
            started = time.process_time()
            for _ in range(_CALLS):
                await call()
            rounds.append((time.process_time() - started) / _CALLS * 1e6)
        best.append(min(rounds))
    return best[0], best[1]
