"""The gateway and LiteLLM's proxy while upstreams behind them die, hang and come back.

64 callers, whole answers and streams in turn; four upstreams, each a process. Half of them are killed with
``kill -9`` and started again, then one is stopped with SIGSTOP and goes on. Both gateways spread calls at
random, make two retries, and wait two seconds for the first byte; everything else is as they come. A call has
failed that was not answered with 200; a stream that breaks off after its content had begun is counted by
itself.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.gateways.failover import Callers, Upstreams, share_back_at
from benchmarks.gateways.programs import KEY
from benchmarks.load import ROOT, free_port, serve
from benchmarks.report import Row, Skip

_COUNT: Final = 4
_PAUSE: Final = 0.5
"""Seconds between two calls of one caller: what a proxy of some hundred calls a second can do well."""
_WARM: Final = 3.0
_DOWN: Final = 6.0
_BACK: Final = 45.0
"""Seconds that are waited for upstreams to get their share again."""


@dataclass(slots=True)
class _Phase:
    """What came of one fault."""

    calls: int
    failed: int
    cut: int
    noticed: float
    """Seconds from the fault to the end of the last call that failed or broke off."""
    back: float
    """Seconds from the end of the fault until everybody has a fair share again."""


@dataclass(slots=True)
class _Found:
    """What came of a gateway."""

    killed: _Phase | None = None
    hung: _Phase | None = None


def run() -> list[Row | Skip]:
    """Return failed calls and seconds until recovery."""
    ours = asyncio.run(_measured(_ours, "m", KEY))
    if not (ROOT / ".venv-gateways" / "bin" / "litellm").exists():
        return [*_rows(ours, None), Skip("against LiteLLM", "not installed; `make bench` installs it")]
    return [*_rows(ours, asyncio.run(_measured(_litellm, "m", f"sk-{KEY}")))]


def _rows(ours: _Found, other: _Found | None) -> Iterator[Row]:
    names = {"killed": "half killed", "hung": "one of four hangs"}
    for phase, name in names.items():
        mine: _Phase = getattr(ours, phase)
        theirs: _Phase | None = None if other is None else getattr(other, phase)
        yield Row(f"failed calls, {name}", _failed(mine), _failed(theirs), float(mine.failed), 0.0, False)
        yield Row(
            f"seconds in which calls failed or were cut, {name}",
            f"{mine.noticed:.2f}", "" if theirs is None else f"LiteLLM {theirs.noticed:.2f}",
            mine.noticed, 1.0 if phase == "killed" else 4.0, False,
        )  # fmt: skip
        yield Row(
            f"seconds until they have their share again, {name}",
            f"{mine.back:.1f}", "" if theirs is None else f"LiteLLM {theirs.back:.1f}",
            mine.back, 30.0, False,
        )  # fmt: skip


def _failed(phase: _Phase | None) -> str:
    if phase is None:
        return ""
    return f"{phase.failed} of {phase.calls} (+{phase.cut} cut)"


async def _measured(
    start: Callable[[Sequence[int], int], AbstractContextManager[object]], model: str, key: str
) -> _Found:
    port = free_port()
    found = _Found()
    async with Upstreams(_COUNT, core=1) as upstreams:
        with start(upstreams.ports, port):
            callers = Callers(port, model, {"authorization": f"Bearer {key}"}, pause=_PAUSE)
            async with callers.calling():
                everybody = set(upstreams.numbers)
                await callers.until(lambda: callers.served_since(0.0) == everybody, timeout=60)
                await asyncio.sleep(_WARM)
                began = asyncio.get_running_loop().time()
                upstreams.kill(1, 2)
                await asyncio.sleep(_DOWN)
                await upstreams.start(1, 2)
                found.killed = await _phase(callers, (1, 2), began)
                await asyncio.sleep(_WARM)
                began = asyncio.get_running_loop().time()
                upstreams.pause(3)
                await asyncio.sleep(_DOWN)
                upstreams.resume(3)
                found.hung = await _phase(callers, (3,), began)
    return found


async def _phase(callers: Callers, numbers: Sequence[int], began: float) -> _Phase:
    loop = asyncio.get_running_loop()
    ended = loop.time()
    back: float | None = None
    while back is None and loop.time() < ended + _BACK:
        await asyncio.sleep(0.25)
        back = share_back_at(callers.made, numbers, _COUNT, ended)
    calls = [each for each in callers.made if each.ended >= began]
    bad = [each for each in calls if each.verdict != "ok"]
    failed = sum(each.verdict == "failed" for each in bad)
    noticed = max((each.ended - began for each in bad), default=0.0)
    return _Phase(len(calls), failed, len(bad) - failed, noticed, (back or loop.time()) - ended)


@contextmanager
def _ours(ports: Sequence[int], port: int) -> Iterator[None]:
    """Serve the gateway as ``router-core serve`` does."""
    clients = "".join(
        f"      - {{model: up, type: vllm, args: {{base_url: 'http://127.0.0.1:{each}/v1', api_key: key}},"
        " timeouts: {first_byte: 2, idle: 2}}\n"
        for each in ports
    )
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "gateway.yaml"
        config.write_text(f"models:\n  - id: m\n    type: text-generation\n    clients:\n{clients}")
        env = {
            "ROUTER_GATEWAY": str(config), "ROUTER_API_KEYS": f"bench:{KEY}", "ROUTER_JOBS": "memory://",
            "ROUTER_BLOBS": "memory://", "ROUTER_LOG_LEVEL": "error",
        }  # fmt: skip
        command = [sys.executable, "-m", "handlers.cli", "serve", "router_core.gateway.app:create_app",
                   "--port", str(port)]  # fmt: skip
        with serve(command, port, env=env):
            yield


@contextmanager
def _litellm(ports: Sequence[int], port: int) -> Iterator[None]:
    """Serve LiteLLM's proxy: one worker, retries and cooldowns of its router."""
    models = "".join(
        "  - model_name: m\n    litellm_params: {model: openai/up, "
        f'api_base: "http://127.0.0.1:{each}/v1", api_key: key, timeout: 2, stream_timeout: 2}}\n'
        for each in ports
    )
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "litellm.yaml"
        config.write_text(
            f"model_list:\n{models}router_settings: {{routing_strategy: simple-shuffle, num_retries: 2}}\n"
            f"litellm_settings: {{callbacks: []}}\ngeneral_settings: {{master_key: sk-{KEY}}}\n"
        )
        env = {"LITELLM_MODE": "PRODUCTION", "LITELLM_LOG": "ERROR", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
        program = ROOT / ".venv-gateways" / "bin" / "litellm"
        command = [str(program), "--config", str(config), "--host", "127.0.0.1", "--port", str(port),
                   "--num_workers", "1"]  # fmt: skip
        with serve(command, port, env=env):
            yield
