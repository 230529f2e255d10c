"""Settings out of the environment: what is refused, and what is probably misspelt."""

from __future__ import annotations

import pytest

from router_core.errors import Misconfigured
from router_core.settings import Settings, unknown_variables


@pytest.mark.parametrize(
    ("variable", "value", "text"),
    [
        (
            "ROUTER_LOG_LEVEL",
            "loud",
            "ROUTER_LOG_LEVEL is 'loud'; it must be one of debug, info, warning, error",
        ),
        ("ROUTER_LOG_FORMAT", "x", "ROUTER_LOG_FORMAT is 'x'; it must be one of auto, json, text"),
        ("PORT", "abc", "PORT is 'abc'; it must be a number"),
        ("ROUTER_ALLOW_PRIVATE_URLS", "maybe", "must be true or false"),
        ("EXECUTION_ENVIRONMENT", "moon", "EXECUTION_ENVIRONMENT is 'moon'"),
    ],
)
def test_a_value_that_cannot_work_is_refused_by_the_name_of_its_variable(
    variable: str, value: str, text: str
) -> None:
    """Rather than replaced by another one in silence."""
    with pytest.raises(Misconfigured) as caught:
        Settings.from_env({variable: value})
    assert text in str(caught.value)


def test_redis_url_does_where_no_state_is_set() -> None:
    """As it is called on many platforms; ours wins, and what may hold a password is not shown."""
    other = {"REDIS_URL": "redis://:hunter2@cache:6379/0"}
    assert Settings.from_env({}).state == "memory://"
    assert Settings.from_env(other).state == other["REDIS_URL"]
    assert Settings.from_env({**other, "ROUTER_STATE": "memory://"}).state == "memory://"
    assert Settings.from_env({"REDIS_URL": "unix:///run/redis.sock"}).state == "memory://"
    assert "hunter2" not in repr(Settings.from_env(other))


def test_words_are_read_in_any_case() -> None:
    """As the level and the format are spelt elsewhere."""
    settings = Settings.from_env({"ROUTER_LOG_LEVEL": "WARNING", "ROUTER_LOG_FORMAT": "JSON"})
    assert (settings.log_level, settings.log_format) == ("warning", "json")


def test_variables_that_are_no_settings_are_told_with_the_one_that_is_near() -> None:
    """Those of others are none of our business, and those of the command line are known."""
    environ = {
        "ROUTER_LEESE": "5", "ROUTER_ZZZZZZZZ": "1", "ROUTER_JOBS": "memory://", "ROUTER_URL": "http://x",
        "ROUTER_API_KEY": "k", "PATH": "/bin", "EXECUTION_COUNT": "3",
    }  # fmt: skip
    assert unknown_variables(environ) == [
        "ROUTER_LEESE is no setting and has no effect; did you mean ROUTER_LEASE?",
        "ROUTER_ZZZZZZZZ is no setting and has no effect",
    ]
