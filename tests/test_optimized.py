"""Under `python -O` the contract suites must still check something."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BROKEN = """
import pytest
from router_core.blobs.memory import MemoryBlobStore
from router_core.testing.blob_store_contract import BlobStoreContract
from tests.jobs.serving import data
from router_core.http.message import Response


class Forgetful(MemoryBlobStore):
    async def get(self, key):
        return b"something else"


class TestForgetful(BlobStoreContract):
    @pytest.fixture
    def blobs(self, clock):
        return Forgetful(clock)


def test_shared():
    with pytest.raises(AssertionError):
        data(Response(200, (), None))
"""


def test_the_contract_fails_a_broken_store_under_optimization(tmp_path: Path) -> None:
    """As does what tests share."""
    (tmp_path / "conftest.py").write_text((ROOT / "tests" / "conftest.py").read_text())
    (tmp_path / "test_broken.py").write_text(BROKEN)
    quiet = "ignore:assertions not in test modules:pytest.PytestConfigWarning"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", "-W", quiet,
         "-c", str(ROOT / "pyproject.toml"), "--rootdir", str(tmp_path), str(tmp_path)],
        cwd=ROOT, env={**os.environ, "PYTHONOPTIMIZE": "1", "PYTHONPATH": str(ROOT)}, capture_output=True,
        text=True, timeout=90, check=False,
    )  # fmt: skip
    assert "AssertionError" in done.stdout, done.stdout + done.stderr
    assert "test_shared" not in done.stdout.partition("short test summary")[2], done.stdout
    assert " failed, " in done.stdout, done.stdout
