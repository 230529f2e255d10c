"""The loop that asks for jobs: as many as can run, at once when one can, quietly while nobody answers."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from handlers.runpod.taking import Taking
from router_core.telemetry.events import Events, Note


class Platform:
    """Answers questions for jobs, and runs what it hands out until told."""

    def __init__(self, room: int = 2) -> None:
        self.asked: list[int] = []
        self.answers: asyncio.Queue[Any] = asyncio.Queue()
        self.begun: list[str] = []
        self.gates: dict[str, asyncio.Event] = {}
        self.notes: list[str] = []
        self.changed = asyncio.Condition()
        self.hung_up = False
        events = Events(self._note)
        self.taking = Taking(self.fetch, self.begin, events, room=lambda: room, draw=lambda: 0.0)

    def _note(self, event: object) -> None:
        assert isinstance(event, Note)
        self.notes.append(event.name)

    async def fetch(self, number: int) -> Sequence[Mapping[str, Any]] | None:
        """Hold the question until there is an answer."""
        self.asked.append(number)
        async with self.changed:
            self.changed.notify_all()
        try:
            answer = await self.answers.get()
        except asyncio.CancelledError:
            self.hung_up = True
            raise
        if isinstance(answer, Exception):
            raise answer
        jobs: Sequence[Mapping[str, Any]] | None = answer
        return jobs

    def begin(self, job: Mapping[str, Any]) -> asyncio.Task[Any] | None:
        """Run a job until its gate opens; one that runs already is refused."""
        if job["id"] in self.gates:
            return None
        self.begun.append(job["id"])
        self.gates[job["id"]] = asyncio.Event()
        return asyncio.create_task(self._work(job["id"]))

    async def _work(self, job_id: str) -> None:
        await self.gates[job_id].wait()
        del self.gates[job_id]

    def count_pauses(self) -> list[float]:
        """Have no pause take time; returns how long each would have been."""
        pauses: list[float] = []

        async def sleep(seconds: float) -> None:
            pauses.append(seconds)

        self.taking._sleep = sleep  # type: ignore[method-assign]
        return pauses

    async def end(self, loop: asyncio.Task[None]) -> None:
        """End everything."""
        for gate in list(self.gates.values()):
            gate.set()
        self.taking.leave()
        self.taking.hang_up()
        await loop
        await self.taking.empty()

    async def has_asked(self, times: int) -> None:
        """Wait until so many questions have come."""
        async with asyncio.timeout(60), self.changed:
            await self.changed.wait_for(lambda: len(self.asked) >= times)


async def test_it_asks_for_as_many_as_can_run_and_again_at_once_when_one_has_ended() -> None:
    """No second passes between the end of a job and the next question."""
    platform = Platform(room=2)
    loop = asyncio.create_task(platform.taking.run())
    await platform.has_asked(1)
    platform.answers.put_nowait([{"id": "a"}])
    await platform.has_asked(2)
    platform.answers.put_nowait([{"id": "b"}])
    await asyncio.sleep(0.05)
    assert (platform.begun, platform.asked) == (["a", "b"], [2, 1])
    platform.gates["a"].set()
    await platform.has_asked(3)
    assert platform.asked == [2, 1, 1]
    loop.cancel()
    await asyncio.gather(loop, return_exceptions=True)


async def test_an_open_question_is_listened_to_while_it_leaves() -> None:
    """What comes on it is run; nothing more is asked; the end waits for it."""
    platform = Platform()
    loop = asyncio.create_task(platform.taking.run())
    await platform.has_asked(1)
    platform.taking.leave()
    platform.answers.put_nowait([{"id": "late"}])
    await loop
    assert (platform.begun, len(platform.asked)) == (["late"], 1)
    over = asyncio.create_task(platform.taking.empty())
    done, _ = await asyncio.wait({over}, timeout=0.05)
    assert not done
    platform.gates["late"].set()
    await over


async def test_it_hangs_up_when_told() -> None:
    """The question is given up."""
    platform = Platform()
    loop = asyncio.create_task(platform.taking.run())
    await platform.has_asked(1)
    platform.taking.leave()
    done, _ = await asyncio.wait({loop}, timeout=0.05)
    assert not done
    platform.taking.hang_up()
    await loop
    await platform.taking.empty()
    assert platform.hung_up


async def test_questions_that_fail_come_slower_and_slower_and_are_told_once() -> None:
    """And once more when the platform is back; a 429 is given its time."""
    platform = Platform()
    pauses = platform.count_pauses()
    loop = asyncio.create_task(platform.taking.run())
    for _ in range(9):
        platform.answers.put_nowait(OSError("refused"))
    platform.answers.put_nowait([{"id": "a"}])
    platform.answers.put_nowait(Throttled())
    await platform.has_asked(12)
    assert pauses == [0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 15.0, 5.0]
    assert platform.notes == ["take_failed", "take_recovered"]
    await platform.end(loop)


class Throttled(Exception):
    """What the SDK raises for a 429."""

    status = 429


async def test_questions_that_are_answered_at_once_with_nothing_do_not_spin() -> None:
    """A 204 or a 400 that comes at once: the next question waits, up to a second."""
    platform = Platform()
    pauses = platform.count_pauses()
    loop = asyncio.create_task(platform.taking.run())
    for _ in range(10):
        platform.answers.put_nowait([])
    await platform.has_asked(11)
    assert pauses == sorted(pauses)
    assert (pauses[0], pauses[-1]) == (0.04, 1.0)
    await platform.end(loop)


async def test_what_is_no_job_is_left_out_and_the_others_run() -> None:
    """Without an id nothing can be answered; one that runs here already is not run beside itself."""
    platform = Platform(room=8)
    loop = asyncio.create_task(platform.taking.run())
    platform.answers.put_nowait(
        [{"id": "a"}, None, "text", {}, {"id": 5}, {"id": ""}, {"id": "a"}, {"id": "b"}]
    )
    await platform.has_asked(2)
    assert platform.begun == ["a", "b"]
    assert platform.notes == ["job_unreadable"] * 5 + ["job_repeated"]
    await platform.end(loop)


async def test_a_job_that_ends_in_an_unexpected_way_is_reported() -> None:
    """And makes room like every other."""
    platform = Platform(room=1)

    async def broken() -> None:
        raise RuntimeError("a wheel came off")

    platform.begin = lambda job: asyncio.create_task(broken())  # type: ignore[method-assign]
    platform.taking._begin = platform.begin
    loop = asyncio.create_task(platform.taking.run())
    platform.answers.put_nowait([{"id": "a"}])
    await platform.has_asked(2)
    assert platform.notes == ["job_task_failed"]
    await platform.end(loop)
