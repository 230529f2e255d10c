"""How long upstreams ask to be left alone, in all their spellings."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router_core.gateway.resilience.retry_after import LONGEST, cooldown_of, retry_after

_NOW = 784_111_777.0
"""Sun, 06 Nov 1994 08:49:37 GMT, the moment of all examples of HTTP."""


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("5", 5.0), (" 5 ", 5.0), ("0", 0.0), ("1.5", 1.5), (".5", 0.5), ("+2", 2.0), ("1e2", 100.0),
        ("1e9", LONGEST), ("9" * 30, LONGEST), ("1e999", LONGEST),
        ("-1", None), ("-0.5", None), ("", None), ("  ", None), ("soon", None), ("5s", None), ("5, 6", None),
        ("nan", None), ("inf", None), ("0x10", None), ("1_000", None), ("٣", None), ("1" * 500, None),
        ("Sun, 06 Nov 1994 08:49:47 GMT", 10.0),
        ("Sunday, 06-Nov-94 08:49:47 GMT", 10.0),
        ("Sun Nov  6 08:49:47 1994", 10.0),
        ("1994-11-06T08:49:47Z", 10.0), ("1994-11-06T08:49:47", 10.0),
        ("Sun, 06 Nov 1994 09:49:47 +0100", 10.0),
        ("Sun, 06 Nov 1994 08:49:27 GMT", 0.0),
        ("Mon, 01 Jan 1990 00:00:00 GMT", 0.0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", LONGEST),
        ("Sun, 06 Foo 1994 08:49:47 GMT", None), ("Sun,", None), ("1994", 1994.0),
        ("9999-99-99T99:99:99Z", None),
    ],
    ids=repr,
)  # fmt: skip
def test_retry_after(value: str, seconds: float | None) -> None:
    """Seconds, decimals, three formats of dates; garbage is none, past is 0, huge is a day."""
    assert retry_after(value, _NOW) == seconds


@given(st.text(max_size=80), st.floats(min_value=0, max_value=4e9))
def test_any_text_is_none_or_bounded(value: str, now: float) -> None:
    """Whatever an upstream writes, the wait is finite and not negative."""
    seconds = retry_after(value, now)
    assert seconds is None or (math.isfinite(seconds) and 0 <= seconds <= LONGEST)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "5"}, 5.0),
        ({"retry-after-ms": "250", "retry-after": "5"}, 0.25),
        ({"retry-after-ms": "soon", "retry-after": "5"}, 5.0),
        ({"retry-after-ms": "-5"}, None),
        ({"retry-after": "soon", "x-ratelimit-reset-requests": "3s"}, 3.0),
        ({"retry-after": "Sun, 06 Nov 1994 10:00:05 GMT", "date": "Sun, 06 Nov 1994 10:00:00 GMT"}, 5.0),
        ({"retry-after": "Sun, 06 Nov 1994 08:49:42 GMT", "date": "rubbish"}, 5.0),
        ({"x-ratelimit-reset-requests": "1s", "x-ratelimit-reset-tokens": "6m0s"}, 1.0),
        ({"x-ratelimit-reset-requests": "1s", "x-ratelimit-remaining-requests": "10",
          "x-ratelimit-reset-tokens": "6m0s", "x-ratelimit-remaining-tokens": "0"}, 360.0),
        ({"x-ratelimit-reset-tokens": "120ms"}, 0.12),
        ({"x-ratelimit-reset-tokens": "1h2m3.5s"}, 3723.5),
        ({"x-ratelimit-reset-tokens": "1h of waiting"}, None),
        ({"x-ratelimit-reset": "30"}, 30.0),
        ({"x-ratelimit-reset": "784111787"}, LONGEST),
        ({"anthropic-ratelimit-requests-reset": "1994-11-06T08:49:47Z",
          "anthropic-ratelimit-requests-remaining": "0"}, 10.0),
        ({"ratelimit-reset": ""}, None),
        ({"ratelimit-reset": "x" * 500}, None),
        ({"ratelimit-reset": "-4"}, None),
    ],
)  # fmt: skip
def test_cooldown_of_headers(headers: dict[str, str], seconds: float | None) -> None:
    """The most explicit header counts; of rate limits, the one that is used up."""
    assert cooldown_of(headers, _NOW) == seconds


def test_resets_in_unix_time() -> None:
    """Some give the moment in seconds, some in milliseconds."""
    now = 1_800_000_000.0
    assert cooldown_of({"x-ratelimit-reset": "1800000012"}, now) == 12.0
    assert cooldown_of({"x-ratelimit-reset": "1800000012000"}, now) == 12.0
    assert cooldown_of({"x-ratelimit-reset": "1700000000"}, now) == 0.0
