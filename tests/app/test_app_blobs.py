"""Services that share a folder of blobs leave each other's alone."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from router_core import Principal, Router, Settings, build_app
from router_core.binding.inputs import Inputs
from router_core.http.media import File
from router_core.jobs.submission import SubmitOptions
from router_core.jobs.sweeper import Sweeper

router = Router()


@router.route("/keep")
def keep(file: File) -> int:
    """Have a file as input."""
    return file.size


def _settings(folder: Path, jobs: str) -> Settings:
    return Settings(jobs=jobs, blobs=f"file://{folder}/blobs")


@pytest.mark.parametrize("other", ["memory://", "sqlite:///{folder}/other.db"])
async def test_the_search_for_orphans_spares_the_blobs_of_other_stores(tmp_path: Path, other: str) -> None:
    """A file of a delayed job survives that another service with the same folder looks for orphans."""
    mine = build_app(router, _settings(tmp_path, f"sqlite:///{tmp_path}/mine.db"))
    await mine.start()
    route = mine.table.match("POST", "/keep").route
    inputs = Inputs({"file": File(b"x" * 50_000, filename="x.bin")})
    me = Principal("ann")
    await mine.service.submit(route, inputs, principal=me, options=SubmitOptions(delay=3600.0))
    blobs = [path for path in (tmp_path / "blobs").rglob("*") if path.is_file()]
    assert blobs
    for path in blobs:
        os.utime(path, (1, 1))  # as old as an orphan has to be
    stranger = build_app(router, _settings(tmp_path, other.format(folder=tmp_path)))
    await stranger.start()
    for app in (stranger, mine):
        (sweeper,) = [part for part in app.parts.upkeep if isinstance(part, Sweeper)]
        await sweeper.orphans()
        assert all(path.exists() for path in blobs)
    await stranger.stop(1)
    await mine.stop(1)


async def test_orphans_of_ones_own_are_found(tmp_path: Path) -> None:
    """After a new start with the same record store, as before it."""
    settings = _settings(tmp_path, f"sqlite:///{tmp_path}/mine.db")
    first = build_app(router, settings)
    orphan = await first.parts.blobs.put(b"nobody names it")
    (path,) = (tmp_path / "blobs").rglob(orphan.key)
    os.utime(path, (1, 1))
    second = build_app(router, settings)
    await second.start()
    (sweeper,) = [part for part in second.parts.upkeep if isinstance(part, Sweeper)]
    await sweeper.orphans()
    assert not path.exists()
    await second.stop(1)
