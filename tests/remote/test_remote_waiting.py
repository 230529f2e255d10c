"""Waiting for work at the coordinator, and who is woken."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import Any

import pytest

from router_core.errors import Misconfigured
from router_core.jobs.remote_wait import Wakeups
from router_core.queues.pull import PullDispatcher
from router_core.settings import Settings
from router_core.telemetry.events import Note
from router_core.wiring import build_app
from tests.jobs.running import bench_of, route_of
from tests.remote.remote_bench import BOX, CALLER, bench, router_of, value_of


async def waiting(
    wakeups: Wakeups, *names: str, routes: tuple[str, ...] = ("/a",)
) -> list[asyncio.Task[bool]]:
    """Start waiters, in order."""
    seen = wakeups.seen
    tasks = [asyncio.create_task(wakeups.wait(name, routes, seen, 20.0)) for name in names]
    await asyncio.sleep(0)
    return tasks


async def test_one_job_wakes_two_of_those_who_want_it() -> None:
    """The others look by themselves."""
    wakeups = Wakeups()
    others = await waiting(wakeups, "x", routes=("/b",))
    tasks = await waiting(wakeups, "one", "two", "three")
    wakeups.ring("/a")
    assert await asyncio.gather(*tasks[:2]) == [True, True]
    assert not tasks[2].done()
    assert not others[0].done()
    for task in (tasks[2], others[0]):
        task.cancel()
    await asyncio.gather(tasks[2], others[0], return_exceptions=True)


async def test_who_found_work_does_not_wait_any_more() -> None:
    """It would be woken in the place of somebody who is free."""
    wakeups = Wakeups()
    (task,) = await waiting(wakeups, "busy")
    wakeups.leave("busy")
    assert await task is False


async def test_what_came_before_the_question_is_not_missed() -> None:
    """A count that is behind, or of another process, is answered at once."""
    wakeups = Wakeups()
    seen = wakeups.seen
    wakeups.ring("/a")
    assert await wakeups.wait("w", ["/a"], seen, 20.0)
    assert await wakeups.wait("w", ["/a"], "another.7", 20.0)
    assert await wakeups.wait("w", ["/a"], "", 20.0)
    assert not await wakeups.wait("w", ["/b"], seen, 0.0)
    assert not await wakeups.wait("w", ["/a"], wakeups.seen, 0.0)


async def test_a_bell_in_another_thread() -> None:
    """Jobs may be queued in any thread."""
    wakeups = Wakeups()
    (task,) = await waiting(wakeups, "w")
    await asyncio.to_thread(wakeups.ring, "/a")
    assert await task


async def test_a_job_for_later_rings_later() -> None:
    """A retry is told when it is due."""
    dispatcher = PullDispatcher()
    route = route_of(lambda: None, key="/a")
    job = bench_of(route).job("/a")
    (task,) = await waiting(dispatcher.wakeups, "w")
    await dispatcher.dispatch(replace(job, not_before=time.time() + 0.05))
    assert not task.done()
    assert await task
    (task,) = await waiting(dispatcher.wakeups, "w")
    await dispatcher.dispatch(job)
    assert await task


async def test_a_held_request_ends_with_a_job_or_with_the_process() -> None:
    """A submission answers it; so does a drain."""
    async with bench() as site:
        seen = (await site.ask("/worker/wait", {"worker_id": "worker-1", "routes": ["/double"]}))["seen"]
        said = {"worker_id": "worker-1", "routes": ["/double"], "seen": seen, "wait": 20.0}
        held = asyncio.create_task(site.ask("/worker/wait", said))
        await asyncio.sleep(0.05)
        assert not held.done()
        await site.submit(x=1)
        answer = await held
        assert answer["ready"] is True
        held = asyncio.create_task(site.ask("/worker/wait", {**said, "seen": answer["seen"]}))
        await asyncio.sleep(0.05)
        await site.app.drain(0.0)
        assert (await held)["ready"] is False
        refused = await site.send("POST", "/worker/claim", site.claim_body())
        assert (refused.status, value_of(refused)["code"]) == (503, "draining")


async def test_nobody_is_held_where_nothing_goes_on() -> None:
    """Without a background the answer comes at once."""
    async with bench() as site:
        site.app._background = False
        said = {"worker_id": "worker-1", "routes": ["/double"], "wait": 20.0}
        assert (await site.ask("/worker/wait", said))["ready"] is False
        hello = {"protocol": 1, "worker_id": "worker-1", "routes": site.signatures}
        seen: list[object] = []
        site.app.events.subscribe(seen.append)
        terms = await site.ask("/worker/hello", hello)
        assert (terms["wait"], terms["poll"]) == (0, 2.0)
        (joined,) = [note for note in seen if isinstance(note, Note) and note.name == "worker_joined"]
        assert joined.fields["worker_id"] == "box/worker-1"


async def test_a_claim_is_replayed_to_its_worker_only() -> None:
    """And until the next one."""
    async with bench() as site:
        job_id = await site.submit(x=1)
        first = await site.ask("/worker/claim", site.claim_body("claim-0001"))
        again = await site.ask("/worker/claim", site.claim_body("claim-0001"))
        assert [job["id"] for job in again["jobs"]] == [job_id]
        assert again == first
        other = {**site.claim_body("claim-0001"), "worker_id": "worker-0002"}
        assert (await site.ask("/worker/claim", other))["jobs"] == []
        await site.submit(x=2)
        assert len((await site.ask("/worker/claim", site.claim_body("claim-0002")))["jobs"]) == 1
        assert (await site.ask("/worker/claim", site.claim_body("claim-0001")))["jobs"] == []


async def test_many_slots_are_filled_batch_by_batch() -> None:
    """An answer has ten jobs at most, and says that there are more."""
    async with bench() as site:
        for number in range(12):
            await site.submit(x=number)
        answer = await site.ask("/worker/claim", site.claim_body("claim-0001", double=50, words=50))
        assert (len(answer["jobs"]), answer["more"]) == (10, True)
        answer = await site.ask("/worker/claim", site.claim_body("claim-0002", double=40, words=50))
        assert (len(answer["jobs"]), answer["more"]) == (2, False)


def built(**values: Any) -> None:
    """Build a coordinator."""
    build_app(router_of(), Settings(jobs="memory://", blobs="memory://", **values).checked())


def test_settings_that_cannot_be() -> None:
    """Each is told with what to change."""
    built(queue="pull", worker_keys=f"box:{BOX}")
    built(queue="inprocess", worker_keys=f"box:{BOX}:/words|/double")
    for values, words in (
        ({"worker_keys": f"box:{BOX}:/wrods"}, "'/wrods', which is no route"),
        ({"worker_keys": "box:short"}, "ROUTER_WORKER_KEYS: a key has 16 to"),
        ({"worker_keys": f"box:{BOX}:"}, "list of routes is empty"),
        ({"worker_keys": f"box:{CALLER}", "api_keys": f"ann:{CALLER}"}, "stands in ROUTER_API_KEYS"),
        ({"queue": "pull"}, "ROUTER_WORKER_KEYS"),
    ):
        with pytest.raises(Misconfigured, match=words):
            built(**values)


def test_decentralised_means_pull() -> None:
    """Unless a queue is named."""
    environ = {"EXECUTION_ENVIRONMENT": "Decentralized"}
    assert Settings.from_env(environ).queue == "pull"
    assert Settings.from_env({**environ, "ROUTER_QUEUE": "inprocess"}).queue == "inprocess"
    assert Settings.from_env({}).queue == "inprocess"
