"""What a caller sees of jobs, the same on every platform.

Subclass ``JobScenario`` in your tests, with a fixture ``client``: an ``AsyncClient`` that reaches
``router_core.testing.scenario_service:router`` as deployed on your platform, with its workers running. A
platform that cannot do something lists the test in ``skip`` with the reason.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import ClassVar, Final

import pytest

from router_core.client.aio import AsyncClient
from router_core.client.errors import JobCancelled, JobFailed
from router_core.client.job import AsyncJob
from router_core.errors import ValidationFailed
from router_core.http.media import File

__all__ = ["JobScenario"]

_PATIENCE: Final = 60.0


class JobScenario:
    """The suite; see the module."""

    skip: ClassVar[Mapping[str, str]] = {}
    """Name of a test -> why it cannot be on this platform."""
    distinct_errors: ClassVar[bool] = True
    """Whether errors of jobs carry type, message, attempt and retryable."""

    @pytest.fixture
    def client(self) -> AsyncClient:
        """Return a client of the deployed service."""
        raise NotImplementedError("give the suite a fixture `client`")

    @pytest.fixture(autouse=True)
    def _leave_out(self, request: pytest.FixtureRequest) -> None:
        why = self.skip.get(request.node.name)
        if why:
            pytest.skip(why)

    async def test_a_job_shows_its_progress_and_ends_with_its_result(self, client: AsyncClient) -> None:
        """Progress rises, the result is there, and it can be read again."""
        job = await client.endpoint("/count").submit(to=20, pause=0.1)
        seen = [job.progress]
        while not job.done:
            await asyncio.sleep(0.05)
            await job.refresh()
            seen.append(job.progress)
        assert job.status == "succeeded"
        assert seen == sorted(seen)
        assert len(set(seen)) > 2, seen
        assert await job.result() == {"counted": 20}
        again = await client.job(job.id)
        assert await again.result() == {"counted": 20}

    async def test_a_callers_mistake_is_refused_and_named(self, client: AsyncClient) -> None:
        """The value at fault is named in the same words everywhere, and nothing has run."""
        with pytest.raises((ValidationFailed, JobFailed)) as caught:
            await client.endpoint("/count").run(to="many")
        said = str(caught.value)
        assert "to" in said
        assert "integer" in said

    async def test_an_error_that_the_author_raised_fails_the_job(self, client: AsyncClient) -> None:
        """Its text reaches the caller, once: such an error is not tried again."""
        job = await self._ended(client, "/refuse", reason="the pot is empty")
        assert job.status == "failed"
        assert job.error is not None
        assert "the pot is empty" in job.error["message"]

    async def test_a_bug_fails_the_job_without_its_traceback(self, client: AsyncClient) -> None:
        """Type and text, and no line of code."""
        job = await self._ended(client, "/break")
        assert job.status == "failed"
        assert job.error is not None
        assert "a wheel came off" in job.error["message"]
        assert "Traceback" not in str(job.error)
        assert ".py" not in str(job.error)
        if self.distinct_errors:
            assert job.error["type"] == "RuntimeError"

    async def test_an_attempt_that_fails_is_followed_by_another(self, client: AsyncClient) -> None:
        """The second attempt's result is the job's."""
        job = await self._ended(client, "/flaky", succeed_at=2)
        assert (job.status, await job.result()) == ("succeeded", 2)

    async def test_a_running_job_can_be_cancelled(self, client: AsyncClient) -> None:
        """A sync function learns of it, and its result is not published."""
        job = await client.endpoint("/endless").submit()
        async with asyncio.timeout(_PATIENCE):
            while job.status in ("scheduled", "queued"):
                await asyncio.sleep(0.05)
                await job.refresh()
            await job.cancel()
            await job.wait(_PATIENCE)
        assert job.status == "cancelled"
        with pytest.raises(JobCancelled):
            await job.result()

    async def test_a_file_goes_in_and_comes_out(self, client: AsyncClient) -> None:
        """Bytes, name and type arrive as they were sent."""
        data = bytes(range(256)) * 40
        job = await self._ended(client, "/reverse", file=File.from_bytes(data, filename="in.bin"))
        result = await job.result()
        assert isinstance(result, File)
        assert result.read() == data[::-1]
        assert result.content_type == "application/x-thing"

    async def test_what_a_generator_yields_is_the_result_in_order(self, client: AsyncClient) -> None:
        """The list of all that it yielded."""
        job = await self._ended(client, "/letters", word="queue")
        assert await job.result() == ["q", "u", "e", "u", "e"]

    async def test_many_jobs_at_once_all_end(self, client: AsyncClient) -> None:
        """Each with its own result."""
        endpoint = client.endpoint("/count")
        jobs = await asyncio.gather(*(endpoint.submit(to=n, pause=0) for n in range(12)))
        results = await asyncio.gather(*(job.result(_PATIENCE) for job in jobs))
        assert results == [{"counted": n} for n in range(12)]

    async def _ended(self, client: AsyncClient, path: str, **values: object) -> AsyncJob:
        job = await client.endpoint(path).submit(**values)
        return await job.wait(_PATIENCE)
