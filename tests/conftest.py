"""What holds for every test."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

# No timed assertions: a machine that does something else beside the tests makes nothing wrong.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")
