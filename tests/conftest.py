"""What holds for every test."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings

# Before anything imports them: asserts outside of test modules would check nothing under `python -O`.
pytest.register_assert_rewrite(
    "router_core.testing", "tests.jobs.running", "tests.jobs.serving", "tests.local.tiny_app"
)

# No timed assertions: a machine that does something else beside the tests makes nothing wrong.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")
