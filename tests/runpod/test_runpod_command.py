"""``python -m handlers.runpod`` and the provider: what is refused, checked, tried and imported."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import cast

import pytest

from handlers.runpod import sdk
from handlers.runpod.command import main
from handlers.runpod.pacing import PacedStore
from handlers.runpod.provider import adapted, build, check_platform
from handlers.runpod.sdk import check_version, set_knobs
from router_core import Router
from router_core.clock import SystemClock
from router_core.errors import Misconfigured
from router_core.jobs.store import Store
from router_core.jobs.sweeper import KnowsBlobs
from router_core.queues.runpod import RunpodDispatcher
from router_core.settings import Settings
from router_core.stores.memory import MemoryJobStore

SERVICE = """
from router_core import JobProgress, Router

router = Router()

@router.on_startup
def load() -> None:
    open("loaded", "w").close()

@router.route("/double")
def double(job_progress: JobProgress, n: int) -> int:
    job_progress.update(0.5, "half way")
    return 2 * n

@router.route("/letters", job=True)
def letters(word: str):
    yield from word
"""


@pytest.fixture
def name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the app of a service in the working directory."""
    module = f"runpod_service_{tmp_path.name}".replace("-", "_").replace("[", "_").replace("]", "_")
    (tmp_path / f"{module}.py").write_text(SERVICE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("RUNPOD_LOG_LEVEL", "WARN")
    for variable in ("ROUTER_APP", "RUNPOD_WEBHOOK_GET_JOB"):
        monkeypatch.delenv(variable, raising=False)
    return f"{module}:router"


def needs_sdk() -> None:
    """Skip where the SDK is not installed; importing it here would cost a second."""
    if find_spec("runpod") is None:
        pytest.skip("the runpod SDK is not installed")


# --- the command


def test_a_job_can_be_tried(name: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Its end to stdout, what it says on its way to stderr; from the command line or from a file."""
    assert main([name, "--test-input", '{"input": {"path": "/double", "n": "21"}}']) == 0
    assert json.loads(capsys.readouterr().out) == {"output": 42}
    assert Path("loaded").exists()
    (tmp_path / "test_input.json").write_text('{"input": {"path": "letters", "word": "ab"}}')
    assert main([name, "--test-input", "@test_input.json"]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out) == {"output": ["a", "b"]}
    assert 'chunk: {"output":"a"}' in said.err


def test_a_job_that_fails_when_tried_is_an_exit_code(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """1, and the error as RunPod would get it."""
    assert main([name, "--test-input", '{"input": {"path": "/double", "n": "x"}}']) == 1
    assert json.loads(json.loads(capsys.readouterr().out)["error"])["code"] == "validation_failed"


@pytest.mark.parametrize("given", ["{", "[]", '{"n": 1}', "@nowhere.json", '{"input": {}, "input": {}}'])
def test_a_test_input_that_is_none_is_refused(
    name: str, given: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """In one line."""
    assert main([name, "--test-input", given]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert said.startswith("error: --test-input ") or "nowhere.json" in said


def test_an_image_can_be_checked(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Without its start-up hooks, which may load a model for minutes."""
    needs_sdk()
    assert main([name, "--check"]) == 0
    assert capsys.readouterr().out.startswith("ok: 2 routes, 2 jobs at once, runpod 1.")
    assert not Path("loaded").exists()


@pytest.mark.parametrize("broken", ["nowhere:router", "json:dumps"])
def test_an_image_that_cannot_work_fails_its_check(
    name: str, broken: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """1, and one line that says why."""
    assert main([broken, "--check"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert said.count("\n") == 1


def test_where_runpod_is_not_it_says_what_to_do(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """One line that names both ways."""
    assert main([name]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "router-core serve" in said
    assert "--test-input" in said
    assert main([]) == 2
    assert "ROUTER_APP" in capsys.readouterr().err


def test_half_a_platform_is_none() -> None:
    """The SDK would post to an address that it makes up."""
    url = "http://x/job-take/$ID?gpu=A"
    check_platform({}, ["--rp_serve_api"])
    check_platform({"RUNPOD_REALTIME_PORT": "8000"}, [])
    everything = {
        "RUNPOD_WEBHOOK_GET_JOB": url, "RUNPOD_WEBHOOK_POST_OUTPUT": url, "RUNPOD_WEBHOOK_POST_STREAM": url,
    }  # fmt: skip
    check_platform(everything, [])
    for variable in everything:
        for bad in ("", "http://x/job-take/$ID"):
            with pytest.raises(Misconfigured, match="RUNPOD_WEBHOOK"):
                check_platform({**everything, variable: bad}, [])


# --- settings


def test_records_are_kept_in_memory_unless_said_otherwise() -> None:
    """Nothing on the disk of a worker outlives it; a store of the operator's does."""
    meant = adapted(Settings())
    assert (meant.jobs, meant.queue, meant.retention) == ("memory://", "runpod", 1800)
    assert meant.blobs.startswith("file:///")
    chosen = adapted(Settings(jobs="dynamodb://table", blobs="s3://bucket/x"))
    assert (chosen.jobs, chosen.blobs, chosen.retention) == ("dynamodb://table", "s3://bucket/x", 86400)
    assert adapted(Settings(retention=60.0)).retention == 60
    with pytest.raises(Misconfigured, match="ROUTER_QUEUE"):
        adapted(Settings(queue="sqs://queue"))


async def test_its_queue_attends_and_hands_out_nothing() -> None:
    """The heartbeat lives from start to stop; there is no claiming."""
    app = build(Router(), Settings())
    assert isinstance(app.parts.dispatcher, RunpodDispatcher)
    await app.start()
    assert app.parts.pool.heartbeat.alive
    assert not app.parts.pool.readiness()["claiming"]
    assert (await app.ready())["ready"]
    await app.stop(0)
    assert not app.parts.pool.heartbeat.alive


def test_what_a_store_can_do_it_can_do_when_paced() -> None:
    """Also what only some can: the sweeper asks before it looks for orphans."""
    store = MemoryJobStore(SystemClock())
    paced = PacedStore(cast("Store", store))
    names = {name for name in dir(store) if not name.startswith("_")}
    assert names <= set(dir(paced))
    for name in names:
        assert inspect.getattr_static(paced, name, None) is not None
    assert isinstance(paced, KnowsBlobs) == isinstance(store, KnowsBlobs)


def test_an_app_that_is_ready_is_taken_as_it_is() -> None:
    """With its own settings."""
    app = build(Router(), Settings())
    assert build(app, Settings(runpod_concurrency=9)) is app


# --- the SDK


@pytest.mark.parametrize("found", ["1.11.9", "1.13.0", "2.0", "0.9.0rc1", "unknown"])
def test_an_sdk_that_was_not_tried_is_refused(found: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Naming the versions that are."""
    monkeypatch.setattr(sdk, "version", lambda _name: found)
    with pytest.raises(Misconfigured, match=r"1\.12 up to, but not including, 1\.13"):
        check_version()
    for good in ("1.12.0", "1.12.7", "1.12.0.post1"):
        monkeypatch.setattr(sdk, "version", lambda _name, good=good: good)
        assert check_version() == good


def test_its_log_level_is_ours_unless_the_operator_has_set_it() -> None:
    """Its own default writes every output to the log."""
    environ: dict[str, str] = {}
    set_knobs(Settings(log_level="warning"), environ)
    assert environ == {"RUNPOD_LOG_LEVEL": "WARN"}
    for variable in ("RUNPOD_LOG_LEVEL", "RUNPOD_DEBUG_LEVEL"):
        environ = {variable: "DEBUG"}
        set_knobs(Settings(), environ)
        assert environ == {variable: "DEBUG"}


_IMPORTS = """
import importlib, pkgutil, sys
import handlers.runpod
for module in pkgutil.walk_packages(handlers.runpod.__path__, "handlers.runpod."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
for name in ("runpod", "aiohttp", "boto3", "uvicorn", "cpuinfo"):
    assert name not in sys.modules, name
if sys.argv[1:]:
    import cpuinfo
    real = cpuinfo.get_cpu_info
    from handlers.runpod.sdk import load_sdk
    from router_core.settings import Settings
    serverless = load_sdk(Settings())
    assert serverless.start
    assert cpuinfo.get_cpu_info is real
    from runpod.serverless.utils import rp_debugger
    assert isinstance(rp_debugger.PROCESSOR, str) and rp_debugger.PROCESSOR
    from runpod.serverless.modules.rp_logger import RunPodLogger
    assert RunPodLogger.level == "INFO"
print("fine")
"""


@pytest.mark.process
@pytest.mark.parametrize("loads", [False, True])
def test_the_sdk_is_imported_when_it_is_needed(loads: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not with the package; and when it is, without its probe of the processor, which stays what it was."""
    if loads:
        needs_sdk()
    monkeypatch.delenv("RUNPOD_LOG_LEVEL", raising=False)
    monkeypatch.delenv("RUNPOD_DEBUG_LEVEL", raising=False)
    command = [sys.executable, "-c", _IMPORTS, *(["load"] if loads else [])]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "fine"
