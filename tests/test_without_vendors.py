"""Without any one of the optional packages the rest imports and works."""

from __future__ import annotations

import subprocess
import sys

import pytest

_VENDORS = (
    "uvicorn", "uvloop", "httptools", "httpx", "rich", "watchfiles", "runpod", "boto3", "PIL", "msgspec",
    "yaml", "genai_prices", "redis", "jwt",
)  # fmt: skip
_GATEWAY = "router_core.gateway.*"
_CONTRACT = "router_core.testing.gateway_*"

# Which modules may need which vendor: the files that are named for it, and the gateway what its extra
# installs.
_NAMED_FOR = {
    "httpx": {"router_core.client.httpx_transport"},
    "uvicorn": {
        "handlers.local.direct*",
        "handlers.local.limits",
        "handlers.local.protocol_h11",
        "handlers.local.protocol_httptools",
        "handlers.local.provider",
        "handlers.local.server",
    },
    "httptools": {"handlers.local.direct*", "handlers.local.protocol_httptools", _GATEWAY, _CONTRACT},
    "msgspec": {_GATEWAY, _CONTRACT},
    "yaml": {_GATEWAY, _CONTRACT},
}

_SCRIPT = """
import fnmatch, importlib, importlib.abc, pkgutil, sys

vendor, named = sys.argv[1], set(sys.argv[2].split(","))

class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == vendor:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return None

sys.meta_path.insert(0, Absent())
import handlers, router_core

count = 0
for package in (router_core, handlers):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if any(fnmatch.fnmatch(module.name, name) for name in named) or module.name.endswith("__main__"):
            continue
        importlib.import_module(module.name)
        count += 1
assert count > 40, count

from router_core import JobProgress, Router
from router_core.testing.client import TestClient

router = Router()

@router.post("/add")
def add(a: int, b: int) -> int:
    return a + b

@router.route("/double")
def double(job_progress: JobProgress, n: int) -> int:
    job_progress.update(0.5, "half way")
    return 2 * n

with TestClient(router) as client:
    assert client.post("/add", json={"a": 1, "b": 2}).body == b"3"
    done = client.post("/double?sync=true", json={"n": 21})
    assert (done.status, done.body) == (200, b"42"), done
print("worked")
"""


@pytest.mark.parametrize("vendor", _VENDORS)
def test_the_rest_works_without(vendor: str) -> None:
    """All other modules import, and a call and a job run, where the vendor's import fails."""
    named = ",".join(_NAMED_FOR.get(vendor, ()))
    command = [sys.executable, "-c", _SCRIPT, vendor, named]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip() == "worked"


def test_the_core_imports_no_vendor() -> None:
    """Importing what authors use loads none of the optional packages."""
    code = (
        "import sys; from router_core import Router, JobProgress, File, Depends, build_app; "
        f"print([name for name in {_VENDORS!r} if name in sys.modules])"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"
