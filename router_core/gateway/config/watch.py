"""Follow the file of the configuration: a new version is taken whole, a bad one is reported."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

from router_core.clock import Clock, SystemClock
from router_core.errors import Misconfigured
from router_core.gateway.values import GatewayConfig
from router_core.jobs.upkeep import Loop, Pulse
from router_core.telemetry.events import Events, Note

__all__ = ["ConfigWatcher"]

INTERVAL: Final = 1.0
"""Seconds between looks. A change is taken at the second look that finds it the same: it may still be being
written at the first."""
_TRIES: Final = 3

Stamp = tuple[int, int, int, int] | None


class ConfigWatcher:
    """Looks at the file every second, and has what is new in it read and applied.

    A file that is missing, cannot be read or says something wrong changes nothing: the gateway goes on with
    what it has, and one note says why, once for each bad version. ``read`` runs in a thread, ``apply`` on the
    event loop; both raise Misconfigured. ``drain`` is called at every look (``Registry.drain``). Without a
    path that is all that is done. ``stale`` says that something else than the file may have changed, which
    is read again then: secrets that it names.
    """

    name = "gateway_config"

    def __init__(
        self, path: str | Path, read: Callable[[], GatewayConfig], apply: Callable[[GatewayConfig], object],
        events: Events, *, drain: Callable[[float], Awaitable[None]] | None = None,
        stale: Callable[[], bool] = lambda: False, clock: Clock | None = None, interval: float = INTERVAL,
    ) -> None:  # fmt: skip
        self._path = path
        self._read = read
        self._apply = apply
        self._events = events
        self._drain = drain
        self._stale = stale
        self._current: GatewayConfig | None = None
        clock = clock or SystemClock()
        self._pulse = Pulse(clock, interval)
        self._loop = Loop(self.name, self.tick, clock=clock, events=events, interval=interval)
        self._one_at_a_time = asyncio.Lock()
        self._settled: Stamp = None
        """Stamp of the version that was applied or refused."""
        self._seen: Stamp = None
        self._refused = ""
        self.version = ""
        """Of the configuration that this watcher applied last; empty before the first."""

    def ready(self, now: float) -> bool:
        """Whether it looked within the last three ticks."""
        return self._pulse.alive

    async def run(self) -> None:
        """Work until cancelled; never raises."""
        await self._loop.run()

    async def idle(self) -> None:
        """Wait until a reload that is under way is over."""
        async with self._one_at_a_time:
            return

    async def tick(self) -> None:
        """Look at the file, and take what is new in it."""
        if self._path:
            await self._look()
        if self._drain is not None:
            await self._drain(asyncio.get_running_loop().time())
        self._pulse.beat()

    async def reload(self) -> GatewayConfig:
        """Read the file and apply it now. Raises Misconfigured, and then nothing has changed."""
        async with self._one_at_a_time:
            stamp, config = await self._whole()
            if config.version != self.version or config != self._current:
                self._apply(config)
                self._tell(config)
            self._current = config
            self._settled, self._refused, self.version = stamp, "", config.version
            return config

    async def _look(self) -> None:
        stamp = await asyncio.to_thread(_stamp, self._path)
        if stamp is None:
            self._refuse(f"{self._path}: there is no such file")
        elif stamp == self._seen and (stamp != self._settled or self._stale()):
            await self._take(stamp)
        self._seen = stamp

    async def _take(self, stamp: Stamp) -> None:
        try:
            await self.reload()
        except Misconfigured as error:
            self._settled = stamp
            self._refuse(error.detail)
        except Exception as error:
            self._settled = stamp
            self._refuse(f"{self._path}: {type(error).__name__}", error)

    async def _whole(self) -> tuple[Stamp, GatewayConfig]:
        """Return a configuration that did not change while it was read, and the stamp of its file."""
        for _ in range(_TRIES):
            stamp = await asyncio.to_thread(_stamp, self._path)
            try:
                config = await asyncio.to_thread(self._read)
            except Misconfigured:
                if stamp == await asyncio.to_thread(_stamp, self._path):
                    raise
                continue
            if stamp == await asyncio.to_thread(_stamp, self._path):
                return stamp, config
        raise Misconfigured(f"{self._path}: changes all the time; write it once, or rename it into its place")

    def _tell(self, config: GatewayConfig) -> None:
        if not self.version:
            return  # what the gateway was started with, read again to have missed nothing in between
        models = len(config.models)
        text = f"{self._path}: version {config.version} with {models} models applies from now on"
        fields = {"version": config.version, "models": models}
        self._events.emit(Note("gateway_config_applied", "info", text, fields))

    def _refuse(self, message: str, error: Exception | None = None) -> None:
        if message == self._refused:
            return
        self._refused = message
        text = f"the configuration is refused, the one before stays:\n{message}"
        self._events.emit(Note("gateway_config_refused", "error", text, {"version": self.version}, error))


def _stamp(path: str | Path) -> Stamp:
    """Return what tells one version of a file from another without reading it; None without a file.

    The time of the last change of the inode is in it: it cannot be set back, as that of the contents can.
    """
    try:
        found = os.stat(path)
    except OSError:
        return None
    return (found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino)
