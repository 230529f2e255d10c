"""Parts that live with the app: lent what it has, and tended with it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from router_core import Router
from router_core.app import Host, Upkeep
from router_core.errors import Misconfigured
from router_core.settings import Settings
from router_core.wiring import build_app


class Ticker:
    """An extension with one loop, its own."""

    name = "ticker"

    def __init__(self) -> None:
        self.hosts: list[Host] = []
        self.ticks = 0
        self.runs = 0

    def bind(self, host: Host) -> Sequence[Upkeep]:
        """Keep what is lent."""
        self.hosts.append(host)
        return (self,)

    async def run(self) -> None:
        """Work until cancelled."""
        self.runs += 1
        await asyncio.Event().wait()

    async def tick(self) -> None:
        """Count."""
        self.ticks += 1

    async def idle(self) -> None:
        """Have nothing to wait for."""

    def ready(self, now: float) -> bool:
        """Be well."""
        return True


def settings() -> Settings:
    """Keep everything in memory."""
    return Settings(jobs="memory://", blobs="memory://")


async def test_an_extension_of_an_included_router_lives_with_the_app() -> None:
    """It is bound once, its loop runs, readiness and tend know it."""
    inner, outer, part = Router(), Router(), Ticker()
    inner.extend(part)
    outer.include_router(inner, prefix="/inner")
    app = build_app(outer, settings())
    assert [host.events for host in part.hosts] == [app.events]
    assert part.hosts[0].metrics is app.metrics
    await app.start()
    await asyncio.sleep(0)
    assert part.runs == 1
    assert (await app.ready())["checks"]["ticker"] == {"ok": True}
    assert (await app.tend())["ticker"] is True
    assert part.ticks == 1
    await app.stop(0)


async def test_a_frozen_process_only_ticks_it() -> None:
    """Without background work the loop does not run."""
    router, part = Router(), Ticker()
    router.extend(part)
    app = build_app(router, settings())
    await app.start(background=False)
    await asyncio.sleep(0)
    assert part.runs == 0
    await app.tend()
    assert part.ticks == 1
    await app.stop(0)


def test_what_cannot_be_bound_is_refused() -> None:
    """The mistake is said where it is made."""
    with pytest.raises(Misconfigured, match="bind"):
        Router().extend(object())
