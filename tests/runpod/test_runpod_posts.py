"""Posts to the platform: what is tried again, what becomes an error, where it goes."""

from __future__ import annotations

import asyncio
import json
from types import TracebackType
from typing import Any

import pytest

from handlers.runpod import posts as module
from handlers.runpod.outcome import Outcome
from handlers.runpod.posts import Posts, Urls
from router_core.telemetry.events import Events, Note


class Answer:
    """One answer, as aiohttp gives it."""

    def __init__(self, status: int) -> None:
        self.status = status

    async def text(self) -> str:
        """Return the body."""
        return "said"

    async def __aenter__(self) -> Answer:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None


class Session:
    """Answers posts with what it is given, in order; the last one stays."""

    def __init__(self, *answers: int | Exception) -> None:
        self.answers = list(answers)
        self.posts: list[tuple[str, Any, dict[str, str]]] = []

    def post(self, url: str, data: bytes, headers: dict[str, str]) -> Answer:
        """Answer one."""
        self.posts.append((url, json.loads(data), headers))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return Answer(answer)


class Case:
    """Posts over such a session."""

    def __init__(self, *answers: int | Exception, job_id: str = "job-1", left: float = 300.0) -> None:
        self.session = Session(*answers)
        self.notes: list[str] = []
        urls = Urls("http://x/job-done/w/$ID?gpu=A", "http://x/job-stream/w/$ID?gpu=A")
        events = Events(self._note)
        self.posts = Posts(self.session, urls, job_id, events, left=lambda: left, draw=lambda: 0.0)

    def _note(self, event: object) -> None:
        assert isinstance(event, Note)
        self.notes.append(event.name)

    @property
    def bodies(self) -> list[Any]:
        """What was posted."""
        return [body for _, body, _ in self.session.posts]


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_FIRST_PAUSE", 0.001)
    monkeypatch.setattr(module, "_LONGEST_PAUSE", 0.002)


async def test_each_kind_has_its_address_and_the_sdks_headers() -> None:
    """As the SDK writes them; an id that is no address is quoted."""
    case = Case(200, job_id="a/b?c")
    await case.posts.progress(b'{"status":"IN_PROGRESS"}')
    await case.posts.chunk(b'{"output":1}')
    await case.posts.done(Outcome(b"1", stream=True))
    await case.posts.done(Outcome(b"1"), refresh=True)
    assert [url for url, _, _ in case.session.posts] == [
        "http://x/job-done/w/a%2Fb%3Fc?gpu=A&isStream=false",
        "http://x/job-stream/w/a%2Fb%3Fc?gpu=A&isStream=false",
        "http://x/job-done/w/a%2Fb%3Fc?gpu=A&isStream=true",
        "http://x/job-done/w/a%2Fb%3Fc?gpu=A&isStream=false",
    ]
    assert case.bodies[-1] == {"output": 1, "stopPod": True}
    for _, _, headers in case.session.posts:
        assert headers["Content-Type"] == "application/x-www-form-urlencoded"
        assert headers["X-Request-ID"] == "a%2Fb%3Fc"


@pytest.mark.parametrize("fault", [500, 502, 503, 429, 408, OSError("cut"), TimeoutError()])
async def test_a_result_is_tried_again_until_it_is_taken(fault: int | Exception) -> None:
    """More often than the SDK's three times."""
    case = Case(*[fault] * 6, 200)
    assert await case.posts.done(Outcome(b'{"a":1}'))
    assert case.bodies == [{"output": {"a": 1}}] * 7
    assert case.notes == []


@pytest.mark.parametrize("status", [400, 413, 422])
async def test_a_refused_result_becomes_an_error_that_is_taken(status: int) -> None:
    """Else the job would hang until the platform gives it up."""
    case = Case(status, 200)
    assert await case.posts.done(Outcome(b"1", stream=True))
    assert case.bodies[0] == {"output": 1}
    assert json.loads(case.bodies[1]["error"])["code"] == "result_refused"
    assert case.notes == ["result_refused"]


@pytest.mark.parametrize("status", [401, 403, 404, 410])
async def test_what_would_not_help_is_not_tried_again(status: int) -> None:
    """The job is not there any more, or not ours."""
    case = Case(status)
    assert not await case.posts.done(Outcome(b"1"))
    assert (len(case.bodies), case.notes) == (1, ["result_not_posted"])


async def test_a_result_is_not_tried_for_longer_than_the_process_lives() -> None:
    """At the end of a drain one try has to do."""
    case = Case(500, left=0.0)
    assert not await case.posts.done(Outcome(b"1"))
    assert len(case.bodies) == 1


async def test_progress_is_tried_once_and_never_raises() -> None:
    """The next one says more."""
    for fault in (500, 404, OSError("cut")):
        case = Case(fault)
        await case.posts.progress(b"{}")
        assert len(case.bodies) == 1


async def test_a_chunk_is_tried_again_and_given_up_where_that_is_in_vain() -> None:
    """True only if the platform has it."""
    assert await Case(500, OSError("cut"), 200).posts.chunk(b"{}")
    case = Case(400)
    assert not await case.posts.chunk(b"{}")
    assert case.notes == ["chunk_not_posted"]


async def test_a_post_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """And tried again."""
    monkeypatch.setattr(module, "DONE_SECONDS", 0.02)
    case = Case(200)
    answer = Answer(200)

    async def never() -> str:
        await asyncio.Event().wait()
        return ""

    answer.text = never  # type: ignore[method-assign]
    real = case.session.post

    def post(url: str, data: bytes, headers: dict[str, str]) -> Answer:
        first = not case.session.posts
        made = real(url, data, headers)
        return answer if first else made

    case.session.post = post  # type: ignore[method-assign]
    assert await case.posts.done(Outcome(b"1"))
    assert len(case.bodies) == 2
