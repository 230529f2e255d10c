"""The control plane of several processes on one store: nothing lost, nothing half, always served."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import pytest

from router_core.errors import BadRequest, Conflict, Misconfigured, NotFound, StoreError
from router_core.gateway.config.load import parse_config
from router_core.gateway.control.build import Invalid
from router_core.gateway.control.reports import HealthReports
from router_core.gateway.control.resource import Draft
from router_core.gateway.control.upkeep import ControlUpkeep
from router_core.gateway.values import GatewayConfig
from router_core.stores.state_memory import MemoryStateStore
from router_core.telemetry.events import Events
from router_core.testing.clock import FakeClock
from tests.docs_blocks import ROOT
from tests.gateway.control_parts import STORES, Breaking, Plane, opened, rule

FILE = "models: [{id: m, type: text-generation, aliases: [other], clients: [{type: scripted}]}]"


def body(**more: Any) -> dict[str, Any]:
    """Return a model, as it is kept."""
    return {"name": "A model", "provider": "scripted", "modelType": "chat", "capabilities": [],
            "parameters": {}, "status": "active", "tags": [], "endpoints": [], **more}  # fmt: skip


@pytest.mark.parametrize("kind", STORES)
async def test_four_processes_that_write_at_once_lose_nothing(kind: str, tmp_path: Path) -> None:
    """Each of 40 changes is in the last version, and each made one."""
    async with opened(kind, tmp_path) as state:
        planes = [Plane(state, FILE) for _ in range(4)]

        async def write(number: int) -> int:
            return await planes[number % 4].put("routingRules", f"r{number}", rule(f"Rule {number}"))

        numbers = await asyncio.gather(*(write(number) for number in range(40)))
        assert sorted(numbers) == list(range(1, 41))
        for plane in planes:
            await plane.control.tick()
            assert plane.control.version == 40
            assert len(plane.registry.snapshot.config.rules) == 40


@pytest.mark.process
async def test_four_real_processes_on_one_file(tmp_path: Path) -> None:
    """Nothing of 40 changes is lost, nor of the count that all of them add to; one of them is killed."""
    path = str(tmp_path / "state.db")
    command = (sys.executable, "-m", "tests.gateway.control_writer", path)
    writers = [await asyncio.create_subprocess_exec(*command, f"w{one}", "10", cwd=ROOT) for one in range(4)]
    victim = await asyncio.create_subprocess_exec(*command, "victim", "1000000", cwd=ROOT)
    assert [await writer.wait() for writer in writers] == [0] * 4
    victim.kill()
    await victim.wait()
    async with opened("sqlite", tmp_path) as state:
        plane = Plane(state, FILE)
        await plane.control.look()
        document = plane.control.document
        names = {each.id for each in document.of("routingRules")} - {"shared"}
        assert {f"w{one}-{number}" for one in range(4) for number in range(10)} <= names
        shared = document.get("routingRules", "shared")
        assert shared is not None
        assert shared.body["priority"] == plane.control.version


async def test_two_who_count_up_the_same_thing(tmp_path: Path) -> None:
    """An edit that reads what it writes is done again with what the other one wrote."""
    async with opened("memory", tmp_path) as inner:
        state = Breaking(inner)  # lets others run at each write
        planes = [Plane(state, FILE) for _ in range(3)]
        await planes[0].put("routingRules", "r", rule("R", priority=0))

        def count(draft: Draft) -> None:
            held = draft.get("routingRules", "r")
            assert held is not None
            draft.put("routingRules", "r", {**held.body, "priority": held.body["priority"] + 1}, 5.0)

        await asyncio.gather(*(plane.control.change(count, who="x") for plane in planes for _ in range(5)))
        await planes[0].control.look()
        found = planes[0].control.document.get("routingRules", "r")
        assert found is not None
        assert found.body["priority"] == 15


async def test_others_follow_whole_or_not_at_all(tmp_path: Path) -> None:
    """A version that one process cannot serve by leaves it where it is, and it says so once."""
    async with opened("memory", tmp_path) as state:
        writer, reader = Plane(state, FILE), Plane(state, FILE)
        await writer.put("models", "a", body())
        await reader.control.tick()
        assert "a" in reader.registry.snapshot.models
        before = reader.registry.snapshot
        # the same deployment as one of the reader's own file, which only the reader finds out
        reader.control.follow(
            parse_config(
                "models: [{id: m, type: text-generation, clients: [{type: scripted, id: b/scripted}]}]",
                "gateway.yaml", {},
            )
        )  # fmt: skip
        before = reader.registry.snapshot
        await writer.put("models", "b", body())
        await reader.control.tick()
        await reader.control.tick()
        assert reader.registry.snapshot is before
        assert reader.control.version == 1
        assert "version 2 cannot be served by" in reader.control.problem
        assert len(reader.told("control_refused")) == 1
        await writer.control.change(lambda draft: draft.drop("models", "b"), who="ann")
        await reader.control.tick()
        assert (reader.control.version, reader.control.problem) == (3, "")


async def test_without_the_store_the_last_version_serves_on(tmp_path: Path) -> None:
    """Also after a restart: then it is the file alone, and that is said."""
    async with opened("memory", tmp_path) as inner:
        state = Breaking(inner)
        plane = Plane(state, FILE)
        await plane.put("models", "a", body())
        state.away = True
        await plane.control.tick()
        assert "a" in plane.registry.snapshot.models
        assert plane.control.problem == "the state store does not answer"
        with pytest.raises(StoreError):
            await plane.put("models", "b", body())
        again = Plane(state, FILE)
        await again.control.start()
        assert list(again.registry.snapshot.models) == ["m"]
        assert len(again.told("control_store_away")) == 1
        state.away = False
        await again.control.tick()
        assert set(again.registry.snapshot.models) == {"m", "a"}
        assert again.control.problem == ""


async def test_a_start_waits_for_a_store_that_opens_slowly(tmp_path: Path) -> None:
    """No call is served without what is configured only because a store takes longer to open than to ask."""

    class Slow(Breaking):
        async def open(self) -> None:
            for _ in range(50):
                await asyncio.sleep(0)
            self.away = False

    async with opened("memory", tmp_path) as inner:
        await Plane(inner, FILE).put("models", "a", body())
        state = Slow(inner)
        state.away = True
        plane = Plane(state, FILE)
        await plane.control.start()
        assert "a" in plane.registry.snapshot.models
        assert not plane.told("control_store_away")


async def test_nothing_is_published_that_cannot_be_served(tmp_path: Path) -> None:
    """What was refused is in no version, and the data plane never saw it."""
    async with opened("memory", tmp_path) as state:
        plane = Plane(state, FILE)
        await plane.put("models", "a", body())
        applied = len(plane.applied)
        twice = [
            ("models", "m", body(), Conflict),  # the file's
            ("models", "c", body(aliases=["other"]), Conflict),  # a name of the file
            ("models", "c", body(aliases=["a"]), Conflict),  # a name of the API
            ("models", "c", body(provider="openai", modelType="rerank"), Invalid),
            ("models", "c", body(fallbacks=["d"]), Invalid),
            ("routingRules", "r", {"name": "R"}, Invalid),
            ("routingRules", "r", rule("R", condition={"tags": ["x" * 200] * 700}), Invalid),
            ("workspaceConfigs", "w", {"budgetLimits": {"daily": -1}}, Invalid),
        ]  # fmt: skip
        await plane.put("models", "d", body(fallbacks=["c"]))
        for kind, key, wrong, error in twice:
            with pytest.raises(error):
                await plane.put(kind, key, wrong)
        assert plane.control.version == 2
        assert len(plane.applied) == applied + 1


async def test_a_version_that_only_its_writer_cannot_serve_by(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was checked and is published: the writer stays where it is and says so; the caller made no error."""
    async with opened("memory", tmp_path) as state:
        plane, other = Plane(state, FILE), Plane(state, FILE)

        def apply(config: GatewayConfig) -> None:
            raise Misconfigured("no room")

        monkeypatch.setattr(plane.control, "_apply", apply)
        assert await plane.put("models", "a", body()) == 1
        assert (plane.control.version, len(plane.told("control_refused"))) == (0, 1)
        assert plane.control.problem == "version 1 cannot be served by here: no room"
        await plane.control.tick()
        assert len(plane.told("control_refused")) == 1
        await other.control.tick()
        assert "a" in other.registry.snapshot.models


async def test_a_circle_of_fallbacks_is_refused(tmp_path: Path) -> None:
    """Whoever closes it."""
    async with opened("memory", tmp_path) as state:
        plane = Plane(state, FILE)
        await plane.put("models", "a", body(fallbacks=["b"]))
        with pytest.raises(Invalid, match="go round in a circle"):
            await plane.put("models", "b", body(fallbacks=["a"]))


async def test_a_name_that_the_file_takes_is_the_files(tmp_path: Path) -> None:
    """What the API has of that name is left out, said to be, and comes back when the file lets go of it."""
    async with opened("memory", tmp_path) as state:
        plane = Plane(state, FILE)
        await plane.put("models", "a", body(tags=["api"]))
        taken = parse_config(FILE.replace("id: m", "id: a"), "gateway.yaml", {})
        plane.control.follow(taken)
        assert plane.registry.snapshot.models["a"].model.tags == frozenset()
        assert [note.fields["id"] for note in plane.told("control_left_out")] == ["a"]
        assert plane.control.by_file("models", "a")
        plane.control.follow(parse_config(FILE, "gateway.yaml", {}))
        assert plane.registry.snapshot.models["a"].model.tags == {"api"}


async def test_a_key_that_is_not_set_leaves_out_a_deployment_and_no_model(tmp_path: Path) -> None:
    """The model is there and says why it serves nobody; where the key is set, it serves."""
    async with opened("memory", tmp_path) as state:
        there = Plane(state, FILE, {"OPENAI_API_KEY": "not-a-real-one-000"})
        here = Plane(state, FILE)
        await there.put("models", "gpt", body(provider="openai"))
        await here.control.tick()
        assert len(there.registry.snapshot.models["gpt"].candidates) == 1
        assert here.registry.snapshot.models["gpt"].candidates == ()
        assert here.control.remarks("models", "gpt") == (
            "OPENAI_API_KEY is not set, so gpt/openai serves nobody here",
        )


async def test_going_back_to_a_version(tmp_path: Path) -> None:
    """Is a new version, with all that was, tags included."""
    async with opened("memory", tmp_path) as state:
        plane = Plane(state, FILE)
        await plane.put("models", "a", body())
        first = plane.control.document
        await plane.put("models", "a", body(tags=["x"]))
        await plane.put("routingRules", "r", rule("R"))
        old = await plane.control.version_of(1)
        await plane.control.change(lambda draft: draft.become(old), who="ann", why="back")
        assert plane.control.version == 4
        assert plane.control.document.of("models") == first.of("models")
        assert plane.control.document.of("routingRules") == []
        assert [each.number for each in plane.control.history] == [3, 2, 1]
        with pytest.raises(NotFound):
            await plane.control.version_of(99)


async def test_an_edit_that_changes_nothing_makes_no_version(tmp_path: Path) -> None:
    """Nor does one that is only tried."""
    async with opened("memory", tmp_path) as state:
        plane = Plane(state, FILE)
        await plane.put("models", "a", body())
        assert await plane.put("models", "a", body()) == 1
        change = await plane.control.preview(lambda draft: draft.drop("models", "a"))
        assert (change.changed, plane.control.version) == (True, 1)
        assert "a" in plane.registry.snapshot.models


async def test_a_file_that_is_read_again_during_a_change(tmp_path: Path) -> None:
    """The change is made on top of it, not of the file that was before."""
    async with opened("memory", tmp_path) as state:
        plane = Plane(state, FILE)
        other = parse_config(FILE.replace("id: m", "id: n"), "gateway.yaml", {})

        async def edit(draft: Draft) -> None:
            draft.put("models", "a", body(), 5.0)
            if "n" not in plane.registry.snapshot.models:
                plane.control.follow(other)

        await plane.control.change(edit, who="ann")
        assert set(plane.registry.snapshot.models) == {"n", "a"}


async def test_another_version_that_is_taken_during_a_change(tmp_path: Path) -> None:
    """What it wrote is in what the change makes: the change is made again, on top of it."""
    async with opened("memory", tmp_path) as state:
        plane, other = Plane(state, FILE), Plane(state, FILE)
        tries: list[int] = []

        async def edit(draft: Draft) -> None:
            tries.append(1)
            if len(tries) == 1:
                await other.put("models", "theirs", body())
                await plane.control.tick()
            draft.put("models", "ours", body(), 5.0)

        await plane.control.change(edit, who="ann")
        assert set(plane.registry.snapshot.models) == {"m", "theirs", "ours"}
        assert len(tries) == 2


async def test_a_cap_on_what_one_configuration_may_be(tmp_path: Path) -> None:
    """What the data plane refuses is 400, with its words."""
    async with opened("memory", tmp_path) as state:
        text = "models: [{id: m, type: text-generation, clients: [{type: scripted, id: a/scripted}]}]"
        plane = Plane(state, text)
        with pytest.raises(BadRequest, match="two deployments 'a/scripted'") as caught:
            await plane.put("models", "a", body())
        assert caught.value.status == 400


async def test_looking_is_an_upkeep_and_never_fails(tmp_path: Path) -> None:
    """Another version is taken at the next tick; a store that is away is no error of the loop."""
    clock = FakeClock()
    inner = MemoryStateStore(clock)
    state = Breaking(inner)
    writer, reader = Plane(inner, FILE, clock=clock), Plane(state, FILE, clock=clock)
    began: list[int] = []
    reports = HealthReports(lambda: state, lambda: reader.registry.snapshot.models, clock, clock.monotonic)
    upkeep = ControlUpkeep(reader.control, reports, Events(), began=lambda: began.append(1))
    task = asyncio.create_task(upkeep.run())
    await clock.pass_time(0.1)
    await writer.put("models", "a", body())
    await clock.pass_time(1.5, step=0.5, turns=20)
    assert "a" in reader.registry.snapshot.models
    state.away = True
    await clock.pass_time(3.0, turns=20)
    state.away = False
    await writer.put("models", "b", body())
    await clock.pass_time(1.5, step=0.5, turns=20)
    assert "b" in reader.registry.snapshot.models
    assert began == [1]
    assert not reader.told("control_tick_failed")
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
