"""How busy inference servers say that they are."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router_core.gateway.health.metrics_text import MAX_TEXT, Busy, read_busy

VLLM = b"""# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="Qwen/Qwen3"} 12.0
vllm:num_requests_running{engine="1",model_name="Qwen/Qwen3"} 3.0
# HELP vllm:num_requests_waiting Number of requests waiting to be processed.
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{engine="0",model_name="Qwen/Qwen3"} 4.0
vllm:num_requests_waiting{engine="1",model_name="Qwen/Qwen3"} 1.0
vllm:num_requests_waiting_by_reason{engine="0"} 400.0
"""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (VLLM, Busy(5, 15)),
        (VLLM.replace(b"\n", b"\r\n"), Busy(5, 15)),
        (b"# TYPE tgi_queue_size gauge\ntgi_queue_size 3\ntgi_batch_current_size 8\n", Busy(3, 8)),
        (b"te_queue_size 2\nte_request_count 9\n", Busy(2, 0)),
        (b'sglang:num_running_reqs{tp_rank="0"} 4\nsglang:num_queue_reqs{tp_rank="0"} 7\n', Busy(7, 4)),
        (b"llamacpp:requests_processing 1\nllamacpp:requests_deferred 6\n", Busy(6, 1)),
        (b"tgi_queue_size 3", Busy(3, 0)),
        (b"tgi_queue_size 3 1760000000000\n", Busy(3, 0)),
        (b"tgi_queue_size\t3\n", Busy(3, 0)),
        (b'vllm:num_requests_waiting{model_name="a} 9 \\"{"} 2\n', Busy(2, 0)),
        (b"tgi_queue_size 1e3\n", Busy(1000, 0)),
        (b"tgi_queue_size 9e99\n", Busy(1_000_000, 0)),
        (b"tgi_queue_size 0\n", Busy(0, 0)),
        (b"vllm:num_requests_waiting NaN\nvllm:num_requests_waiting 4\n", Busy(4, 0)),
    ],
)
def test_what_servers_say(text: bytes, expected: Busy) -> None:
    """Each in its own words, over all its engines."""
    assert read_busy(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        b"", b"{}", b"<html>", b"tgi_queue_size", b"tgi_queue_size many\n", b"tgi_queue_size -1\n",
        b"tgi_queue_size NaN\n", b"tgi_queue_size +Inf\n", b"tgi_queue_size{\n", b"my_tgi_queue_size 4\n",
        b"# HELP tgi_queue_size 4\n", b"tgi_queue_size_max 4\n", b"vllm:num_requests_running 4\n",
        b"tgi_queue_size{x=\"" + b"y" * 10_000 + b"\"} 4\n", VLLM + b"x" * MAX_TEXT,
    ],
    ids=lambda text: f"{len(text)} {text[:24]!r}",
)  # fmt: skip
def test_what_says_nothing(text: bytes) -> None:
    """Nonsense, other metrics, and what is too long."""
    assert read_busy(text) is None


def test_repetition_is_bounded() -> None:
    """A server with more samples than anybody has does not keep us."""
    assert read_busy(b"tgi_queue_size 1\n" * 100_000) == Busy(256, 0)


@given(st.binary(max_size=60).map(lambda tail: b"tgi_queue_size" + tail))
def test_any_bytes(text: bytes) -> None:
    """Nothing is raised, and no number is out of bounds."""
    busy = read_busy(text)
    assert busy is None or (0 <= busy.waiting <= 1_000_000 and busy.running == 0)
