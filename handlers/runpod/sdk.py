"""Get RunPod's SDK into memory: the right version, with its knobs set before it reads them.

It reads its variables when it is imported, and asks ``cpuinfo`` for the name of the processor, which takes a
second and is only shown by its debugger. That one question is answered from ``/proc/cpuinfo`` meanwhile, and
``cpuinfo`` is as it was afterwards.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, MutableMapping
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

from router_core.errors import Misconfigured
from router_core.settings import Settings

__all__ = ["SUPPORTED", "check_version", "load_sdk", "set_knobs"]

SUPPORTED: Final = ((1, 12), (1, 13))
"""From the first up to, but not including, the second."""
_LEVELS: Final = {"debug": "DEBUG", "info": "INFO", "warning": "WARN", "error": "ERROR"}
_SEAMS: Final = (
    "start", "run", "get_jobs", "run_jobs", "monitor_stop_signals", "handle_job", "handle_shutdown",
    "kill_worker", "stop_job",
)  # fmt: skip


def check_version() -> str:
    """Return the version of the SDK without importing it; raises Misconfigured for one that is not ours."""
    try:
        found = version("runpod")
    except PackageNotFoundError:
        raise Misconfigured(
            "the package runpod is missing; install the extra: pip install 'router-core[runpod]'"
        ) from None
    low, high = SUPPORTED
    if not low <= _numbers(found) < high:
        raise Misconfigured(
            f"runpod {found} is installed and this worker is made for {_text(low)} up to, but not including, "
            f"{_text(high)}: pip install 'router-core[runpod]'"
        )
    return found


def set_knobs(settings: Settings, environ: MutableMapping[str, str]) -> None:
    """Set what the SDK reads at its import, unless the operator has: its default level logs every output."""
    if "RUNPOD_LOG_LEVEL" not in environ and "RUNPOD_DEBUG_LEVEL" not in environ:
        environ["RUNPOD_LOG_LEVEL"] = _LEVELS.get(settings.log_level, "INFO")


def load_sdk(settings: Settings) -> Any:
    """Import the SDK and return its ``serverless`` package; raises Misconfigured."""
    check_version()
    set_knobs(settings, os.environ)
    with _quick_cpuinfo():
        import_module("runpod")
    scaler = import_module("runpod.serverless.modules.rp_scale").JobScaler
    missing = [name for name in _SEAMS if not callable(getattr(scaler, name, None))]
    if missing:
        raise Misconfigured(f"this runpod package has no JobScaler.{missing[0]}: its worker cannot be driven")
    return import_module("runpod.serverless")


@contextlib.contextmanager
def _quick_cpuinfo() -> Iterator[None]:
    """Answer ``cpuinfo.get_cpu_info`` quickly while the SDK is imported, unless its debugger is wanted."""
    if "runpod" in sys.modules or "--rp_debugger" in sys.argv:
        yield
        return
    try:
        cpuinfo: Any = import_module("cpuinfo")
    except ImportError:
        yield
        return
    real = cpuinfo.get_cpu_info
    cpuinfo.get_cpu_info = lambda: {"brand_raw": _processor()}
    try:
        yield
    finally:
        cpuinfo.get_cpu_info = real


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as lines:
            for line in lines:
                name, _, value = line.partition(":")
                if name.strip() == "model name":
                    return value.strip()
    except OSError:
        return "unknown"
    return "unknown"


def _numbers(text: str) -> tuple[int, ...]:
    numbers = []
    for part in text.split(".")[:2]:
        digits = "".join(char for char in part if char.isdigit())
        numbers.append(int(digits or 0))
    return tuple(numbers)


def _text(numbers: tuple[int, ...]) -> str:
    return ".".join(str(number) for number in numbers)
