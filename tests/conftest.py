"""What holds for every test."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

# Before anything imports them: asserts outside of test modules would check nothing under `python -O`.
pytest.register_assert_rewrite(
    "router_core.testing",
    "tests.jobs.running",
    "tests.jobs.serving",
    "tests.local.shape_parts",
    "tests.local.tiny_app",
)

from tests.parts import AWS_VARIABLES, aws_emulator  # noqa: E402 - it imports some of them

# A shell starts its background jobs with Ctrl-C ignored, and what tests start would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# No timed assertions: a machine that does something else beside the tests makes nothing wrong.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


@pytest.fixture(autouse=True)
def own_logging() -> Iterator[None]:
    """Let a test that gives a process its logs, as a function of Lambda has, not do so for those after it."""
    root, events = logging.getLogger(), logging.getLogger("router_core.events")
    before, levels = root.handlers[:], (root.level, events.level)
    yield
    root.handlers[:] = before
    root.setLevel(levels[0])
    events.setLevel(levels[1])


@pytest.fixture(scope="session")
def aws_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Run one AWS emulator for all tests of this process; each makes tables and queues of its own."""
    with aws_emulator(tmp_path_factory.mktemp("aws")) as url:
        yield url


@pytest.fixture
def aws(aws_url: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Point this test at the AWS emulator and return its address."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in AWS_VARIABLES.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", aws_url)
    return aws_url
