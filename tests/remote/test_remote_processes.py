"""Coordinator and workers as real processes that are killed, stopped, cut off and started again."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from router_core.client import Client, connect
from router_core.http.media import File
from tests.remote.remote_network import Network
from tests.remote.remote_site import coordinator, worker, workers
from tests.served import Served

pytestmark = pytest.mark.process
APP = "tests.remote.remote_app:router"
QUICK = {"ROUTER_LEASE": "3", "ROUTER_HEARTBEAT": "1"}
STEADY = {"ROUTER_LEASE": "40", "ROUTER_HEARTBEAT": "1"}
"""For tests in which nobody vanishes: a busy machine must not look as if one had."""


def until(condition: Callable[[], Any], told: Callable[[], str] = str, seconds: float = 60.0) -> Any:
    """Wait until something holds; returns it."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, told()
        time.sleep(0.02)
    return value


def ran(folder: Path) -> list[str]:
    """Return what the functions wrote down."""
    log = folder / "ran.log"
    return log.read_text(encoding="utf-8").splitlines() if log.exists() else []


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


@pytest.fixture
def service(folder: Path) -> Iterator[Served]:
    with coordinator(APP, folder, NAME="coordinator", **QUICK) as running:
        yield running


@pytest.fixture
def client(service: Served) -> Iterator[Client]:
    with connect(service.url) as made:
        yield made


def status(client: Client, job_id: str) -> str:
    """Return the status of a job."""
    return client.job(job_id).status


def test_two_hundred_jobs_and_a_worker_that_is_killed(folder: Path, service: Served, client: Client) -> None:
    """Three workers share them; what the killed one had is done again, and every result is right."""
    with workers(3, APP, folder, service.url, "--route", "/work") as fleet:
        jobs = [client.endpoint("/work").submit(number=number, seconds=0.03) for number in range(200)]
        until(lambda: len(ran(folder)) > 50)
        fleet[0].process.kill()
        results = [job.result(60.0) for job in jobs]
        assert results == [{"number": number, "square": number * number} for number in range(200)]
        times = Counter(line.split()[1] for line in ran(folder))
        assert len(times) == 200
        assert sum(times.values()) <= 200 + 12, "little more than what the killed worker had ran twice"
        assert [one.stop() for one in fleet[1:]] == [0, 0]


def test_a_worker_that_was_stopped_too_long_changes_nothing(
    folder: Path, service: Served, client: Client
) -> None:
    """Its lease ends, another takes the job; when it goes on, its outcome is refused."""
    with worker(APP, folder, service.url, "--route", "/long", NAME="first") as first:
        job = client.endpoint("/long").submit(until="go")
        until(lambda: "long go first 1" in ran(folder))
        first.send(signal.SIGSTOP)
        with worker(APP, folder, service.url, "--route", "/long", NAME="second"):
            until(lambda: "long go second 2" in ran(folder), lambda: service.log)
            (folder / "go").touch()
            assert job.result(60) == {"by": "second", "attempt": 2}
            before = client.job(job.id).refresh().progress
            first.send(signal.SIGCONT)
            first.until("fenced")
            assert (status(client, job.id), client.job(job.id).progress) == ("succeeded", before)
            assert client.job(job.id).result() == {"by": "second", "attempt": 2}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_coordinator_that_comes_back_gets_the_result(folder: Path, number: int) -> None:
    """The worker runs on while it is away, and settles afterwards: no attempt is lost."""
    slow = {"ROUTER_LEASE": "12", "ROUTER_HEARTBEAT": "2"}
    with coordinator(APP, folder, **slow) as before:
        network = Network(before.port)
        with worker(APP, folder, network.url, "--route", "/long", NAME="w") as running:
            with connect(before.url) as client:
                job_id = client.endpoint("/long").submit(until="go").id
                until(lambda: "long go w 1" in ran(folder))
            before.stop(number)
            (folder / "go").touch()
            running.until("coordinator_lost")
            with coordinator(APP, folder, **slow) as after, connect(after.url) as client:
                network.port = after.port
                assert client.job(job_id).result(30.0) == {"by": "w", "attempt": 1}
                again = client.endpoint("/long").submit(until="go")
                assert again.result(30.0) == {"by": "w", "attempt": 1}
        network.close()
    assert ran(folder) == ["long go w 1"] * 2


def test_a_worker_that_is_asked_to_end_gives_its_job_back(
    folder: Path, service: Served, client: Client
) -> None:
    """The attempt is not counted, and another worker has the job at once."""
    with worker(APP, folder, service.url, "--route", "/long", NAME="a", ROUTER_DRAIN_GRACE="0.1") as one:
        job = client.endpoint("/long").submit(until="go")
        until(lambda: "long go a 1" in ran(folder))
        with worker(APP, folder, service.url, "--route", "/long", NAME="b"):
            assert one.stop() == 0
            until(lambda: "long go b 1" in ran(folder), lambda: one.log)
            (folder / "go").touch()
            assert job.result(60) == {"by": "b", "attempt": 1}


def test_a_second_signal_ends_a_worker_at_once(folder: Path, service: Served, client: Client) -> None:
    """With all that it has started."""
    with worker(APP, folder, service.url, "--route", "/deaf") as running:
        client.endpoint("/deaf").submit()
        line = until(lambda: ran(folder))[0]
        running.send(signal.SIGINT)
        running.until("draining")
        assert running.stop(signal.SIGINT) == 128 + signal.SIGINT
        until(lambda: not alive(int(line.split()[1])))


def alive(pid: int) -> bool:
    """Whether there is such a process (one that nobody has waited for does not count)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").split(") ")[1][0] != "Z"
    except OSError:
        return False


def test_a_deaf_function_is_cancelled_by_killing_it(folder: Path, service: Served, client: Client) -> None:
    """The cancel arrives with a heartbeat; the child ends and the job is cancelled."""
    with worker(APP, folder, service.url, "--route", "/deaf"):
        job = client.endpoint("/deaf").submit()
        pid = int(until(lambda: ran(folder))[0].split()[1])
        assert alive(pid)
        job.cancel()
        job.wait(60)
        assert job.status == "cancelled"
        until(lambda: not alive(pid))


def test_a_function_that_kills_its_process_is_tried_three_times(
    folder: Path, service: Served, client: Client
) -> None:
    """The coordinator counts the crashes; the worker lives on."""
    with worker(APP, folder, service.url, "--route", "/crash", "--route", "/work"):
        job = client.endpoint("/crash").submit().wait(40.0)
        assert (job.status, job.reason) == ("failed", "lost")
        assert ran(folder) == ["crash"] * 3
        assert client.endpoint("/work").submit(number=3).result(60) == {"number": 3, "square": 9}


def test_files_streams_steps_and_plain_calls(folder: Path, service: Served, client: Client) -> None:
    """All that jobs can do goes through a coordinator; plain calls stay there."""
    with worker(APP, folder, service.url, NAME="worker"):
        data = os.urandom(5_000_000)
        swapped = client.endpoint("/swap").submit(file=File.from_bytes(data, filename="a"), times=2)
        spelt = client.endpoint("/spell").submit(word="queue", pause=0.05)
        assert list(spelt.outputs()) == list("queue")
        assert spelt.result() == list("queue")
        twice = client.endpoint("/twice").submit()
        assert twice.result(60) == ["in attempt 1", "attempt 2"]
        assert ran(folder).count("paid") == 1
        result = swapped.result(30.0)
        assert isinstance(result, File)
        assert (result.read(), result.content_type) == (data[::-1] * 2, "application/x-swap")
        assert client.endpoint("/here", method="GET")() == {"by": "coordinator"}


def test_answers_that_are_lost_lose_nothing_and_double_nothing(folder: Path) -> None:
    """Claims, beats, moves, events and pieces are all repeated, and each counts once."""
    with coordinator(APP, folder, **STEADY) as service, connect(service.url) as client:
        lose_answers(folder, service, client)


def lose_answers(folder: Path, service: Served, client: Client) -> None:
    """Have a worker do all kinds of jobs over a bad network."""
    network = Network(service.port)
    network.lose = {b"/worker/claim": 3, b"/move": 3, b"/events": 2, b"/heartbeat": 4, b"PUT ": 2}
    with worker(APP, folder, network.url) as running:
        jobs = [client.endpoint("/work").submit(number=number) for number in range(60)]
        spelt = [client.endpoint("/spell").submit(word="abcdefghij", pause=0.06) for _ in range(4)]
        swapped = client.endpoint("/swap").submit(file=File.from_bytes(b"ab" * 150_000, filename="a"))
        squares = [job.result(60.0)["square"] for job in jobs]
        assert squares == [number * number for number in range(60)], running.log
        for job in spelt:
            assert job.result(60.0) == list("abcdefghij")
            assert list(client.job(job.id).outputs()) == list("abcdefghij")
        assert swapped.result(60.0).read() == b"ba" * 150_000
        assert network.lost > 20
        assert sorted(ran(folder)) == sorted(f"work {number} 1" for number in range(60))
    network.close()


def test_local_and_remote_workers_share_a_queue(folder: Path) -> None:
    """With a queue of its own the coordinator works, too."""
    told = {"EXECUTION_ENVIRONMENT": "local", "NAME": "coordinator", **QUICK}
    with coordinator(APP, folder, **told) as service, connect(service.url) as client:
        first = client.endpoint("/long").submit(until="a")
        until(lambda: ran(folder) == ["long a coordinator 1"])
        assert first.status in ("queued", "running")
        with worker(APP, folder, service.url, "--route", "/long", NAME="remote"):
            others = [client.endpoint("/long").submit(until="a") for _ in range(30)]
            until(lambda: any("remote" in line for line in ran(folder)))
            (folder / "a").touch()
            done = Counter(job.result(30.0)["by"] for job in [first, *others])
            assert set(done) == {"coordinator", "remote"}
