"""The shared plumbing of AWS clients: when they are made, what they wait for, what errors mean."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from router_core.errors import Misconfigured, StoreError, Unavailable
from router_core.stores.dynamodb import DynamoJobStore
from router_core.vendors import boto3


@pytest.fixture(autouse=True)
def _forgotten() -> Iterator[None]:
    """Each test begins and ends without clients."""
    boto3.forget()
    yield
    boto3.forget()


def refused(code: str, status: int = 400) -> Exception:
    """Return the error of botocore for an answer of a service."""
    from botocore.exceptions import ClientError

    answer = {"Error": {"Code": code, "Message": ""}, "ResponseMetadata": {"HTTPStatusCode": status}}
    error: Exception = ClientError(answer, "Op")
    return error


async def test_a_client_is_made_once_and_again_after_forget(aws: str) -> None:
    """Eight threads get one client; a restored snapshot gets another."""
    made = await asyncio.gather(*(boto3.call(boto3.client, service="sqs") for _ in range(8)))
    assert len(set(map(id, made))) == 1
    assert boto3.client("sqs") is made[0]
    boto3.forget()
    assert boto3.client("sqs") is not made[0]


async def test_a_client_is_impatient(aws: str) -> None:
    """Explicit timeouts, a pool as large as the threads, and no hidden retries where we repeat ourselves."""
    config = boto3.client("dynamodb").meta.config
    assert (config.connect_timeout, config.read_timeout) == (2.0, 5.0)
    assert config.retries["total_max_attempts"] == 1
    assert config.max_pool_connections == 32
    assert boto3.client("s3").meta.config.retries["total_max_attempts"] == 3


async def test_no_region_says_so(monkeypatch: pytest.MonkeyPatch, aws: str) -> None:
    """With the name of the variable."""
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name)
    with pytest.raises(Misconfigured, match="AWS_REGION"):
        await boto3.request("sqs", "list_queues")


def test_without_boto3_the_extra_is_named(aws: str) -> None:
    """The package imports, and the first call says what to install."""
    script = (
        "import sys; sys.modules['boto3'] = None\n"
        "import asyncio\n"
        "from router_core.stores.dynamodb import DynamoJobStore\n"
        "asyncio.run(DynamoJobStore('t').open())\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert "Misconfigured" in done.stderr
    assert "router-core[aws]" in done.stderr


def test_the_store_costs_a_cold_start_no_boto3() -> None:
    """Importing and making a store loads nothing of it."""
    script = (
        "import sys; from router_core.stores.dynamodb import DynamoJobStore; DynamoJobStore('t'); "
        "print([name for name in ('boto3', 'botocore') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


async def test_calls_run_beside_the_loop_and_outlive_their_caller() -> None:
    """The loop goes on meanwhile; a caller that is cancelled leaves the call to its end."""
    begun, go, done = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        go.wait()
        done.set()

    task = asyncio.ensure_future(boto3.call(work))
    await asyncio.to_thread(begun.wait)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    go.set()
    await asyncio.to_thread(done.wait)


async def test_too_many_calls_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rather than answered long after anybody cares; room comes back, for a store as its own error."""
    monkeypatch.setattr("router_core.vendors.boto3._PENDING", 2)
    go = threading.Event()
    waiting = [asyncio.ensure_future(boto3.call(go.wait)) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(Unavailable):
        await boto3.call(time.time)
    with pytest.raises(StoreError):
        await DynamoJobStore("t").ping()
    go.set()
    await asyncio.gather(*waiting)
    await boto3.call(time.time)


async def test_a_call_that_waited_too_long_is_not_begun(aws: str) -> None:
    """Its caller has been promised an answer in bounded time."""
    with pytest.raises(StoreError, match="in time"):
        await DynamoJobStore("t", patience=-1.0).ping()


def test_a_forked_child_has_threads_of_its_own() -> None:
    """Those of its parent do not exist there."""
    script = (
        "import asyncio, os, time\n"
        "from router_core.vendors import boto3\n"
        "asyncio.run(boto3.call(time.time))\n"
        "child = os.fork()\n"
        "if not child:\n"
        "    asyncio.run(asyncio.wait_for(boto3.call(time.time), 20))\n"
        "    os._exit(7)\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout.strip() == "7", done.stderr


def test_what_errors_mean() -> None:
    """Unclear ones may have happened; throttled ones have not; some need a person."""
    from botocore.exceptions import EndpointConnectionError, NoCredentialsError, ReadTimeoutError

    timeout = ReadTimeoutError(endpoint_url="http://x")
    away = EndpointConnectionError(endpoint_url="http://x")
    table: list[tuple[Exception, str, bool, bool, bool, bool]] = [
        # error, code, unclear, throttled, transient, misconfigured
        (refused("ConditionalCheck"), "ConditionalCheck", False, False, False, False),
        (refused("ThrottlingException"), "ThrottlingException", False, True, True, False),
        (refused("SlowDown", 503), "SlowDown", False, True, True, False),
        (refused("InternalServerError", 500), "InternalServerError", True, False, True, False),
        (refused("AccessDeniedException"), "AccessDeniedException", False, False, False, True),
        (timeout, "", True, False, True, False),
        (away, "", True, False, True, False),
        (boto3.CutAnswer(), "", True, False, True, False),
        (NoCredentialsError(), "", False, False, False, True),
        (ValueError(), "", False, False, False, False),
    ]  # fmt: skip
    for error, code, unclear, throttled, transient, misconfigured in table:
        found: tuple[Any, ...] = (
            boto3.error_code(error), boto3.is_unclear(error), boto3.is_throttled(error),
            boto3.is_transient(error), boto3.is_misconfigured(error),
        )  # fmt: skip
        assert found == (code, unclear, throttled, transient, misconfigured), error


async def test_refused_credentials_are_a_matter_of_configuration(
    aws: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At start they stop the service, with the place named."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    assert os.environ["AWS_EC2_METADATA_DISABLED"] == "true"
    with pytest.raises(Misconfigured, match="credentials"):
        await DynamoJobStore("some-table").open()
