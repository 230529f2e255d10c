"""When a deployment cannot be finished, everything is as it was, and what is not is said."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from router_core.testing.runpod_rest import RunpodRest
from tests.deploy.deploying import Deploy, process, service

CHANGING = ("create", "update", "delete")


class Answers:
    """Jobs of some images fail, and of some only on the real endpoint."""

    def __init__(self) -> None:
        self.bad: set[str] = set()
        self.bad_in_place: set[str] = set()

    def __call__(self, fields: Mapping[str, Any], given: Any) -> Mapping[str, Any]:
        in_place = not str(fields["name"]).endswith("-candidate")
        if fields["image"] in self.bad or (in_place and fields["image"] in self.bad_in_place):
            return {"error": f"ValueError: no model; TOKEN={fields['env'].get('TOKEN', '')}"}
        return {"output": given}


@pytest.fixture
def answers(runpod: RunpodRest) -> Answers:
    """What the workers answer."""
    found = Answers()
    runpod.habits.answer = found
    return found


@pytest.fixture
def before(runpod: RunpodRest, answers: Answers) -> dict[str, Any]:
    """An endpoint that was deployed before, with something in every field."""
    runpod.add(
        "sdxl", image="ann/sdxl:1", env={"A": "1", "TOKEN": "hunter2hunter2", "ROUTER_DEPLOYMENT": "before"},
        networkVolumes=["vol_1"], dataCenterIds=["US-KS-2"], registry="reg_1", disk=30,
        gpu={"pools": ["ADA_24"], "excludedTypes": ["NVIDIA L4"], "minCudaVersion": "12.1"},
        args="-v", ports=["80/http"],
        workers={"min": 0, "max": 3, "idleTimeout": 77}, timeout=55_000, flashboot="OFF",
    )  # fmt: skip
    return runpod.endpoint("sdxl")


UPDATE = (
    "--name", "sdxl", "--image", "ann/sdxl:2", "--env", "B=2", "--remove-env", "A", "--gpu", "AMPERE_80",
    "--workers-max", "9", "--flashboot", "--disk", "60", "--execution-timeout", "99", "--idle-timeout", "5",
)  # fmt: skip


def test_a_bad_version_never_reaches_the_endpoint(
    runpod: RunpodRest, deploy: Deploy, answers: Answers, before: dict[str, Any]
) -> None:
    """The candidate fails, is removed, and the error of the function is told without the secret."""
    answers.bad.add("ann/sdxl:2")
    ran = deploy(*UPDATE)
    assert ran.code == 1
    assert runpod.endpoint("sdxl") == before
    assert runpod.names() == ["sdxl"]
    assert [each.action for each in runpod.seen(*CHANGING)] == ["create", "delete"]
    assert ran.last.startswith("router-core: the test request FAILED: ValueError: no model")
    assert ran.last.endswith("; everything is as it was before")
    assert "hunter2" not in ran.err


def test_a_version_that_fails_on_the_endpoint_is_taken_back_exactly(
    runpod: RunpodRest, deploy: Deploy, answers: Answers, before: dict[str, Any]
) -> None:
    """Every field, removed variables included."""
    answers.bad_in_place.add("ann/sdxl:2")
    ran = deploy(*UPDATE)
    assert ran.code == 1
    assert runpod.endpoint("sdxl") == before
    assert [each.action for each in runpod.seen(*CHANGING)] == ["create", "delete", "update", "update"]
    assert "restore sdxl" in ran.err
    assert ran.last.endswith("; everything is as it was before")


def test_a_bad_new_endpoint_is_removed(runpod: RunpodRest, deploy: Deploy, answers: Answers) -> None:
    """Nothing of that name was ever there."""
    answers.bad.add("ann/sdxl:1")
    ran = deploy("--name", "sdxl", "--image", "ann/sdxl:1")
    assert (ran.code, runpod.names()) == (1, [])
    assert "ok " in next(line for line in ran.err.splitlines() if "remove sdxl-candidate" in line)


def test_workers_that_never_get_well(runpod: RunpodRest, deploy: Deploy, before: dict[str, Any]) -> None:
    """A container that does not start is noticed long before the time is up; the test job is cancelled."""
    runpod.habits.ready = lambda fields: "UNHEALTHY"
    runpod.habits.log = lambda fields: (
        [f"line {n}" for n in range(90)] + ["no such module; hunter2hunter2\x1b"]
    )
    ran = deploy(*UPDATE, "--in-place")
    assert ran.code == 1
    assert "the workers are unhealthy" in ran.last
    shown = [line for line in ran.err.splitlines() if line.startswith("    | ")]
    assert len(shown) == 15
    assert shown[-1] == "    | no such module; *** "
    assert runpod.endpoint("sdxl") == before


def test_a_test_that_does_not_end_in_time(runpod: RunpodRest, deploy: Deploy, before: dict[str, Any]) -> None:
    """Without capacity the job waits for ever: exit code 5, the job cancelled, all taken back."""
    runpod.habits.ready = lambda fields: "THROTTLED"
    ran = deploy(*UPDATE, "--timeout", "0.2")
    assert ran.code == 5
    assert "1 throttled; no capacity: name more GPU pools" in ran.last
    assert runpod.endpoint("sdxl") == before
    assert runpod.names() == ["sdxl"]
    assert runpod.seen("cancel")


@pytest.mark.parametrize("action", ["create", "update", "run", "workers", "status", "delete"])
@pytest.mark.parametrize("kind", ["drop", "lose", "garbage"])
def test_lost_requests_and_answers_are_survived(
    runpod: RunpodRest, deploy: Deploy, before: dict[str, Any], action: str, kind: Any
) -> None:
    """One of each kind at each call: either it is done all the same, or everything is as before."""
    runpod.fault(action, kind)
    ran = deploy(*UPDATE)
    assert runpod.names() == ["sdxl"]
    if kind == "garbage":
        assert ran.code == 4
        assert runpod.endpoint("sdxl") == before
    else:
        assert ran.code == 0, ran.err
        assert runpod.endpoint("sdxl")["image"] == "ann/sdxl:2"


@pytest.mark.parametrize("action", ["list", "create", "update", "run", "workers", "status", "delete"])
def test_the_platform_asks_to_wait(
    runpod: RunpodRest, deploy: Deploy, before: dict[str, Any], action: str
) -> None:
    """429 is obeyed, for a create as well: nothing was done."""
    runpod.fault(action, status=429, times=2, retry_after="0")
    assert deploy(*UPDATE).code == 0
    assert runpod.names() == ["sdxl"]


@pytest.mark.parametrize("status", [503])
@pytest.mark.parametrize("action", ["list", "create", "update", "workers", "status", "delete"])
def test_server_errors_are_retried(
    runpod: RunpodRest, deploy: Deploy, before: dict[str, Any], action: str, status: int
) -> None:
    """A create only after a look whether it happened."""
    runpod.fault(action, status=status, times=2)
    assert deploy(*UPDATE).code == 0
    assert runpod.names() == ["sdxl"]
    if action == "create":
        actions = [each.action for each in runpod.requests]
        assert actions[actions.index("create") + 1] == "list"


@pytest.mark.parametrize("status", [500, 403, 422])
@pytest.mark.parametrize("action", ["create", "update", "run"])
def test_lasting_errors_change_nothing(
    runpod: RunpodRest, deploy: Deploy, before: dict[str, Any], action: str, status: int
) -> None:
    """Refused or broken for good: as before, and the exit code of a refusal or of nobody there."""
    runpod.fault(action, status=status, times=100 if action != "update" else 5)
    ran = deploy(*UPDATE)
    assert ran.code in (3, 4)
    assert runpod.endpoint("sdxl") == before
    assert runpod.names() == ["sdxl"]
    assert ran.last.endswith(("nothing was changed", "everything is as it was before"))


def test_what_cannot_be_taken_back_is_said(
    runpod: RunpodRest, deploy: Deploy, answers: Answers, before: dict[str, Any]
) -> None:
    """With the id, so that a person can do it."""
    answers.bad.add("ann/sdxl:2")
    runpod.fault("delete", status=500, times=100)
    ran = deploy(*UPDATE)
    assert ran.code == 1
    (left,) = [name for name in runpod.names() if name != "sdxl"]
    assert left == "sdxl-candidate"
    assert "NOT taken back: sdxl-candidate" in ran.last
    assert runpod.endpoint(left)["id"] in ran.last


def test_somebody_elses_change_is_not_overwritten(
    runpod: RunpodRest, deploy: Deploy, answers: Answers, before: dict[str, Any]
) -> None:
    """Neither before the update nor by taking it back."""

    def meddle(fields: Mapping[str, Any], given: Any) -> Mapping[str, Any]:
        if fields["name"] == "sdxl":
            return {"error": "bad"}
        runpod.change(before["id"], image="bob/other:9")
        return {"output": 1}

    runpod.habits.answer = meddle
    ran = deploy(*UPDATE)
    assert ran.code == 4
    assert "was changed by somebody else meanwhile: image" in ran.last
    assert runpod.endpoint("sdxl")["image"] == "bob/other:9"
    assert runpod.names() == ["sdxl"]


def test_two_first_deployments_at_once_leave_one(runpod: RunpodRest, deploy: Deploy) -> None:
    """Who comes second finds the candidate of the first."""
    other = runpod.add("sdxl-candidate", env={"ROUTER_DEPLOYMENT": "other"})
    ran = deploy("--name", "sdxl", "--image", "ann/sdxl:1")
    assert ran.code == 2
    assert f"router-core deploy runpod --destroy {other}" in ran.last
    assert runpod.endpoint("sdxl-candidate")["id"] == other


def test_the_name_is_taken_while_the_candidate_is_tested(runpod: RunpodRest, deploy: Deploy) -> None:
    """No second endpoint of one name is made."""

    def answer(fields: Mapping[str, Any], given: Any) -> Mapping[str, Any]:
        runpod.add("sdxl")
        return {"output": 1}

    runpod.habits.answer = answer
    ran = deploy("--name", "sdxl", "--image", "ann/sdxl:1")
    assert ran.code == 4
    assert "another deployment has created sdxl meanwhile" in ran.last
    assert runpod.names() == ["sdxl"]


def test_two_endpoints_of_one_name_need_an_id(runpod: RunpodRest, deploy: Deploy) -> None:
    """RunPod allows it; which one is meant is not guessed."""
    ids = [runpod.add("sdxl", env={"ROUTER_DEPLOYMENT": "x"}) for _ in range(2)]
    ran = deploy("--name", "sdxl", "--image", "ann/sdxl:2")
    assert ran.code == 2
    assert all(each in ran.last for each in ids)
    assert deploy("--name", ids[1], "--image", "ann/sdxl:2").code == 0
    assert [runpod.endpoint(each)["image"] for each in ids] == ["ann/service:0", "ann/sdxl:2"]


@pytest.mark.process
@pytest.mark.parametrize("sig", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("action", ["create", "status", "update"])
def test_an_interrupted_deployment_takes_everything_back(
    runpod: RunpodRest,
    deploy: Deploy,
    before: dict[str, Any],
    tmp_path: Path,
    sig: signal.Signals,
    action: str,
) -> None:
    """While a create, a test or an update is on its way; a real process gets a real signal."""
    fault = runpod.fault(action, "hold")
    child = process(["runpod", *UPDATE, "--poll", "0.01"], tmp_path, runpod.environ())
    try:
        runpod.held(fault)
        child.send_signal(sig)
        runpod.release(fault)
        _, err = child.communicate(timeout=60)
    finally:
        child.kill()
    assert child.returncode == 130, err
    assert runpod.endpoint("sdxl") == before
    assert runpod.names() == ["sdxl"]
    assert "interrupted: taking back what was done" in err
    assert "everything is as it was before" in err


@pytest.mark.process
def test_a_killed_first_deployment_leaves_no_endpoint_of_that_name(
    runpod: RunpodRest, deploy: Deploy, tmp_path: Path
) -> None:
    """Only the candidate, and the next deployment says how to remove it."""
    fault = runpod.fault("status", "hold")
    child = process(["runpod", "--name", "sdxl", "--image", "a/b:1"], tmp_path, runpod.environ())
    runpod.held(fault)
    os.killpg(child.pid, signal.SIGKILL)
    child.communicate()
    assert runpod.names() == ["sdxl-candidate"]
    runpod.release(fault)
    ran = deploy("--name", "sdxl", "--image", "a/b:1")
    assert ran.code == 2
    left = runpod.endpoint("sdxl-candidate")["id"]
    assert f"--destroy {left}" in ran.last
    assert deploy("--destroy", left, "--yes").code == 0
    assert deploy("--name", "sdxl", "--image", "a/b:1").code == 0


@pytest.mark.process
def test_the_whole_way_as_a_process(runpod: RunpodRest, tmp_path: Path) -> None:
    """Create, update, destroy; with what a user sees on each stream."""
    service(tmp_path)
    for words, code in (
        (["service:router", "--image", "ann/s:1"], 0),
        (["service:router", "--image", "ann/s:2"], 0),
        (["--destroy", "service"], 2),
        (["--destroy", "service", "--yes"], 0),
    ):
        child = process(["runpod", *words, "--poll", "0.01"], tmp_path, runpod.environ())
        _, err = child.communicate(timeout=60)
        assert child.returncode == code, err
        assert runpod.key not in err
    assert runpod.names() == []


@pytest.mark.process
def test_a_second_interrupt_leaves_things_and_says_which(runpod: RunpodRest, tmp_path: Path) -> None:
    """The person is in a hurry; the last line has the command for later."""
    waiting, removing = runpod.fault("status", "hold"), runpod.fault("delete", "hold")
    child = process(["runpod", "--name", "sdxl", "--image", "a/b:1"], tmp_path, runpod.environ())
    try:
        runpod.held(waiting)
        child.send_signal(signal.SIGINT)
        runpod.held(removing)
        left = runpod.endpoint("sdxl-candidate")["id"]
        child.send_signal(signal.SIGINT)
        _, err = child.communicate(timeout=60)
    finally:
        child.kill()
    assert child.returncode == 130, err
    last = f"NOT taken back: sdxl-candidate is left: router-core deploy runpod --destroy {left}"
    assert err.strip().splitlines()[-1] == last


@pytest.mark.parametrize(("kind", "actions"), [("lose", "create list"), ("drop", "create list create")])
def test_a_create_is_not_repeated_blindly(
    runpod: RunpodRest, deploy: Deploy, kind: Any, actions: str
) -> None:
    """After a lost answer it looks whether the endpoint is there."""
    runpod.fault("create", kind)
    assert deploy("--name", "sdxl", "--image", "a/b:1").code == 0
    asked = [each.action for each in runpod.seen("list", "create")]
    assert " ".join(asked[asked.index("create") :]).startswith(actions)
    assert asked.count("create") == actions.count("create")
    assert runpod.names() == ["sdxl"]
