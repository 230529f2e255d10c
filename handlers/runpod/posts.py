"""Post to the platform over the SDK's own session, in the form that the SDK posts in.

Other than the SDK: the body is bytes that are known to be JSON, the result of a job is tried for minutes and
not three times, and one that the platform refuses becomes an error that it takes, so that no job hangs.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any, Final
from urllib.parse import quote

from handlers.runpod.outcome import Outcome, error_text
from router_core.errors import RouterError
from router_core.http.problem import problem_body
from router_core.telemetry.events import Events, Note

__all__ = ["Posts", "Urls"]

PROGRESS_SECONDS: Final = 5.0
"""For one post of progress, without another try: the next one says more."""
CHUNK_SECONDS: Final = 30.0
CHUNK_PATIENCE: Final = 30.0
DONE_SECONDS: Final = 120.0
DONE_PATIENCE: Final = 300.0
"""For all tries to post a result."""
_FIRST_PAUSE: Final = 0.5
_LONGEST_PAUSE: Final = 15.0
_AGAIN: Final = frozenset({408, 425, 429})
_UNSENT: Final = 0
"""The status of a post that was not answered."""


class Urls:
    """Where to post; made from the templates that the platform gave the SDK."""

    def __init__(self, done: str, stream: str) -> None:
        self._done = done
        self._stream = stream

    def done(self, job_id: str, stream: bool = False) -> str:
        """Return where the end of a job, and its progress, is posted."""
        return f"{self._of(self._done, job_id)}&isStream={'true' if stream else 'false'}"

    def chunk(self, job_id: str) -> str:
        """Return where a chunk is posted."""
        return f"{self._of(self._stream, job_id)}&isStream=false"

    def _of(self, template: str, job_id: str) -> str:
        return template.replace("$ID", quote(job_id, safe="~:@"))


class Posts:
    """The line of one job."""

    def __init__(
        self, session: Any, urls: Urls, job_id: str, events: Events, *,
        left: Callable[[], float] = lambda: DONE_PATIENCE, draw: Callable[[], float] = random.random,
    ) -> None:  # fmt: skip
        """``left`` says how many seconds this process has before it has to end."""
        self._session = session
        self._urls = urls
        self._job_id = job_id
        self._events = events
        self._left = left
        self._draw = draw

    async def progress(self, body: bytes) -> None:
        """Post progress once."""
        status, why = await self._post(self._urls.done(self._job_id), body, PROGRESS_SECONDS)
        if not 200 <= status < 300:
            self._note("progress_not_posted", "debug", "RunPod did not take a progress update", status, why)

    async def chunk(self, body: bytes) -> bool:
        """Post a chunk, again where that may help."""
        url = self._urls.chunk(self._job_id)
        status, why = await self._insist(url, body, CHUNK_SECONDS, CHUNK_PATIENCE)
        if 200 <= status < 300:
            return True
        self._note("chunk_not_posted", "warning", "RunPod did not take a chunk; its stream ends", status, why)
        return False

    async def done(self, outcome: Outcome, refresh: bool = False) -> bool:
        """Post the end of the job; what the platform refuses to take becomes an error that it takes."""
        url = self._urls.done(self._job_id, outcome.stream)
        body = outcome.body(refresh)
        status, why = await self._insist(url, body, DONE_SECONDS, DONE_PATIENCE)
        if status in (400, 413, 422):
            self._note("result_refused", "error", "RunPod refused a result; the job fails", status, why)
            refused = RouterError(
                f"RunPod did not take the result of {len(body)} bytes (status {status})",
                code="result_refused",
            )
            text = error_text(problem_body(refused, request_id=self._job_id))
            body = Outcome(error=text, stream=outcome.stream).body(refresh)
            status, why = await self._insist(url, body, DONE_SECONDS, DONE_PATIENCE)
        if 200 <= status < 300:
            return True
        text = "the end of a job could not be posted; RunPod calls it running until its time is over"
        self._note("result_not_posted", "error", text, status, why)
        return False

    async def _insist(self, url: str, body: bytes, seconds: float, patience: float) -> tuple[int, str]:
        """Post until there is an answer that another try would not change; returns the last one."""
        loop = asyncio.get_running_loop()
        began, pause = loop.time(), _FIRST_PAUSE
        while True:
            status, why = await self._post(url, body, seconds)
            if not (status == _UNSENT or status in _AGAIN or status >= 500):
                return status, why
            rest = pause * (0.5 + self._draw() / 2)
            if loop.time() + rest - began > min(patience, self._left() + loop.time() - began):
                return status, why
            await asyncio.sleep(rest)
            pause = min(_LONGEST_PAUSE, pause * 2)

    async def _post(self, url: str, body: bytes, seconds: float) -> tuple[int, str]:
        headers = {
            "charset": "utf-8",
            "Content-Type": "application/x-www-form-urlencoded",
            "X-Request-ID": quote(self._job_id, safe="~:@"),
        }
        try:
            async with (
                asyncio.timeout(seconds),
                self._session.post(url, data=body, headers=headers) as answer,
            ):
                text = await answer.text()
                return int(answer.status), str(text)[:300]
        except Exception as error:  # whatever the SDK's client calls a broken connection
            return _UNSENT, f"{type(error).__name__}: {error}"[:300]

    def _note(self, name: str, level: str, text: str, status: int, why: str) -> None:
        fields = {"request_id": self._job_id, "status": status, "why": why}
        self._events.emit(Note(name, level, text, fields))
