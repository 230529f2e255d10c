"""A file that changes is applied whole, a bad one is told once and changes nothing."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from router_core.errors import Misconfigured
from router_core.gateway.config import load_config
from router_core.gateway.config.watch import ConfigWatcher
from router_core.gateway.values import GatewayConfig
from router_core.telemetry.events import Events, Note
from router_core.testing.clock import FakeClock
from tests.gateway.config_parts import SEED, with_model


class Watched:
    """A file, who watches it, and what came of it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.applied: list[GatewayConfig] = []
        self.notes: list[Note] = []
        self.drained: list[float] = []
        self.drains: asyncio.Queue[None] = asyncio.Queue()
        self.clock = FakeClock()
        self.before_read: Callable[[], object] = lambda: None
        events = Events(lambda event: self.notes.append(event) if isinstance(event, Note) else None)
        self.watcher = ConfigWatcher(
            path, self.read, self.applied.append, events, drain=self.drain, clock=self.clock
        )

    def read(self) -> GatewayConfig:
        self.before_read()
        return load_config(self.path, {})

    async def drain(self, now: float) -> None:
        self.drained.append(now)
        self.drains.put_nowait(None)

    def write(self, text: str) -> None:
        """Put a new file into the place of the old one, as deployments do."""
        new = self.path.with_suffix(".new")
        new.write_text(text)
        new.replace(self.path)

    async def look(self, times: int = 2) -> None:
        """Let some seconds pass."""
        for _ in range(times):
            await self.watcher.tick()

    @property
    def models(self) -> list[list[str]]:
        """The ids of the models of each configuration that was applied."""
        return [[model.id for model in config.models] for config in self.applied]

    @property
    def told(self) -> list[str]:
        """Names of the notes."""
        return [note.name for note in self.notes]


@pytest.fixture
def watched(tmp_path: Path) -> Watched:
    """A file with the example in it."""
    made = Watched(tmp_path / "gateway.yaml")
    made.write(SEED)
    return made


async def test_a_new_version_is_applied_once(watched: Watched) -> None:
    """At the second look that finds it the same; the first version is applied without a word."""
    await watched.look(1)
    assert watched.models == []
    await watched.look(3)
    assert watched.models == [["turbo"]]
    assert watched.told == []
    watched.write(with_model(""))
    await watched.look(3)
    assert watched.models == [["turbo"], ["m", "n"]]
    assert watched.told == ["gateway_config_applied"]
    assert watched.notes[0].fields == {"version": watched.watcher.version, "models": 2}
    assert len(watched.drained) == 7


async def test_the_same_text_is_no_new_version(watched: Watched) -> None:
    """Touching a file, or writing it again, changes nothing."""
    await watched.look()
    os.utime(watched.path, (1, 1))
    await watched.look(3)
    watched.write(SEED)
    await watched.look(3)
    assert len(watched.models) == 1


async def test_a_change_that_hides_its_time_is_seen(watched: Watched) -> None:
    """Of the same size, with the time set back."""
    await watched.look()
    found = watched.path.stat()
    watched.path.write_text(SEED.replace("turbo", "tuuba"))
    os.utime(watched.path, ns=(found.st_atime_ns, found.st_mtime_ns))
    await watched.look()
    assert watched.models == [["turbo"], ["tuuba"]]


async def test_a_bad_version_is_told_once_and_changes_nothing(watched: Watched) -> None:
    """With what is wrong and where; the next good one is taken."""
    await watched.look()
    watched.write(SEED.replace("text-generation", "sk-nothing"))
    await watched.look(5)
    assert len(watched.models) == 1
    assert watched.told == ["gateway_config_refused"]
    assert f"{watched.path}:3: type of model 'turbo'" in watched.notes[0].message
    assert watched.notes[0].level == "error"
    watched.write("models: [")
    await watched.look(3)
    assert watched.told == ["gateway_config_refused"] * 2
    watched.write(with_model(""))
    await watched.look()
    assert watched.models[1:] == [["m", "n"]]


async def test_back_to_what_it_was_is_no_change(watched: Watched) -> None:
    """A bad version that is taken back leaves everything as it is, and may be told again."""
    await watched.look()
    for _ in range(2):
        watched.write("models: [")
        await watched.look()
        watched.write(SEED)
        await watched.look()
    assert watched.told == ["gateway_config_refused"] * 2
    assert len(watched.models) == 1


async def test_a_file_that_goes_away(watched: Watched) -> None:
    """Is told once; when it comes back it is read again."""
    await watched.look()
    watched.path.unlink()
    await watched.look(4)
    assert watched.told == ["gateway_config_refused"]
    assert "there is no such file" in watched.notes[0].message
    watched.write(with_model(""))
    await watched.look()
    assert len(watched.models) == 2


async def test_half_a_file_is_not_taken(watched: Watched) -> None:
    """While it is being written it is another at every look."""
    await watched.look()
    with watched.path.open("w") as file:
        for line in with_model("").splitlines(keepends=True)[:-1]:
            file.write(line)
            file.flush()
            await watched.look(1)
    assert len(watched.models) == 1
    assert watched.told == []


async def test_a_file_that_changes_while_it_is_read(watched: Watched) -> None:
    """Is read again; one that changes all the time is refused."""
    texts = ["models: [", with_model("")]
    watched.before_read = lambda: watched.write(texts.pop(0)) if texts else None
    assert len((await watched.watcher.reload()).models) == 2
    number = iter(range(100))
    watched.before_read = lambda: watched.write(f"# {next(number)}\n")
    with pytest.raises(Misconfigured, match="changes all the time"):
        await watched.watcher.reload()


async def test_reloading_by_hand(watched: Watched) -> None:
    """Applies at once, and raises what is wrong."""
    assert [model.id for model in (await watched.watcher.reload()).models] == ["turbo"]
    watched.write("models: [")
    with pytest.raises(Misconfigured, match="is not YAML"):
        await watched.watcher.reload()
    assert watched.models == [["turbo"]]


async def test_an_apply_that_fails_is_no_new_version(watched: Watched) -> None:
    """Whatever it raises: it is told, and not tried again before the file changes."""
    failures: list[Exception] = [Misconfigured("endpoint big is too big"), ZeroDivisionError("a secret")]
    failing = ConfigWatcher(
        watched.path, watched.read, lambda config: (_ for _ in ()).throw(failures[0]),
        Events(lambda event: watched.notes.append(event) if isinstance(event, Note) else None),
        clock=watched.clock,
    )  # fmt: skip
    for _ in range(2):
        for _ in range(4):
            await failing.tick()
        failures.pop(0)
        watched.write(SEED + "#\n")
    assert watched.told == ["gateway_config_refused"] * 2
    assert "endpoint big is too big" in watched.notes[0].message
    assert "secret" not in watched.notes[1].message
    assert isinstance(watched.notes[1].error, ZeroDivisionError)
    assert failing.version == ""


async def test_without_a_path_only_drains(watched: Watched) -> None:
    """A gateway that was given values has no file to follow."""
    watcher = ConfigWatcher("", watched.read, watched.applied.append, Events(), drain=watched.drain)
    await watcher.tick()
    assert (watched.applied, len(watched.drained)) == ([], 1)


async def test_it_is_a_part_of_the_upkeep(watched: Watched) -> None:
    """It runs until it is cancelled, says whether it is alive, and can be waited for."""
    running = asyncio.ensure_future(watched.watcher.run())
    for _ in range(2):
        await watched.drains.get()
        await watched.clock.pass_time(1.0)
    assert watched.watcher.ready(0.0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await watched.watcher.idle()
    watched.clock.advance(10.0)
    assert not watched.watcher.ready(0.0)
