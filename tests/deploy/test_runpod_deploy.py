"""Deploying to RunPod: create, update, leave alone, show, destroy; and what is sent for it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from router_core.testing.runpod_rest import RunpodRest
from tests.deploy.deploying import Deploy, service

CHANGING = ("create", "update", "delete")


def test_a_new_endpoint_gets_its_name_when_it_has_passed_its_test(runpod: RunpodRest, deploy: Deploy) -> None:
    """Until then it is a candidate; its id is the same."""
    ran = deploy("--name", "sdxl", "--image", "ann/sdxl:1")
    assert ran.code == 0
    endpoint = runpod.endpoint("sdxl")
    assert runpod.names() == ["sdxl"]
    assert ran.out == f"{runpod.endpoint_url}/{endpoint['id']}\n"
    assert endpoint["image"] == "ann/sdxl:1"
    assert endpoint["gpu"]["pools"] == ["ADA_24", "AMPERE_24"]
    assert endpoint["workers"] == {"min": 0, "max": 3, "idleTimeout": 10}
    assert runpod.jobs(endpoint["id"]) == [({"path": "openapi.json"}, "COMPLETED")]
    named = [each.action for each in runpod.seen("create", "run", "update")]
    assert named == ["create", "run", "update"]
    assert runpod.seen("create")[0].json["name"] == "sdxl-candidate"
    assert runpod.seen("update")[0].json == {"name": "sdxl"}


def test_the_app_is_tested_here_and_tells_what_it_needs(
    runpod: RunpodRest, deploy: Deploy, tmp_path: Path
) -> None:
    """A test request is derived from its routes, the time limit from its slowest job."""
    service(tmp_path)
    ran = deploy("service:router", "--image", "ann/service:1", "--json")
    assert ran.code == 0, ran.err
    assert "test service:router on this machine: 2 routes; /hello succeeded" in ran.err
    endpoint = runpod.endpoint("service")
    assert endpoint["timeout"] == (1200 + 60) * 1000
    assert endpoint["env"]["ROUTER_APP"] == "service:router"
    assert runpod.jobs(endpoint["id"]) == [({"path": "/hello", "method": "GET"}, "COMPLETED")]
    assert ran.json["action"] == "created"
    assert ran.json["endpoint_id"] == endpoint["id"]


def test_an_update_is_tried_beside_before_it_is_made(runpod: RunpodRest, deploy: Deploy) -> None:
    """The candidate has the new fields, few workers, and is gone before the real one changes."""
    deploy("--name", "sdxl", "--image", "ann/sdxl:1", "--env", "A=1", "--env", "B=2")
    before = runpod.endpoint("sdxl")
    runpod.requests.clear()
    ran = deploy(
        "--name", "sdxl", "--image", "ann/sdxl:2", "--env", "B=3", "--workers-max", "9", "--disk", "50"
    )
    assert ran.code == 0
    after = runpod.endpoint("sdxl")
    assert after["id"] == before["id"]
    assert (after["image"], after["workers"]["max"], after["disk"]) == ("ann/sdxl:2", 9, 50)
    assert (after["env"]["A"], after["env"]["B"]) == ("1", "3")
    assert after["gpu"] == before["gpu"]
    assert [each.action for each in runpod.seen(*CHANGING)] == ["create", "delete", "update"]
    candidate = runpod.seen("create")[0].json
    assert candidate["name"] == "sdxl-candidate"
    assert candidate["workers"] == {"min": 0, "max": 1, "idleTimeout": 10}
    assert candidate["env"]["B"] == "3"
    assert set(runpod.seen("update")[0].json) == {"image", "workers", "disk", "env"}


def test_in_place_leaves_the_candidate_out(runpod: RunpodRest, deploy: Deploy) -> None:
    """For accounts without a worker to spare."""
    deploy("--name", "sdxl", "--image", "ann/sdxl:1")
    runpod.requests.clear()
    assert deploy("--name", "sdxl", "--image", "ann/sdxl:2", "--in-place").code == 0
    assert [each.action for each in runpod.seen(*CHANGING)] == ["update"]


def test_scaling_needs_no_new_workers(runpod: RunpodRest, deploy: Deploy) -> None:
    """So there is no candidate, and no variable that would make a release of it."""
    deploy("--name", "sdxl", "--image", "ann/sdxl:1")
    runpod.requests.clear()
    assert deploy("--name", "sdxl", "--workers-min", "1").code == 0
    assert [each.json for each in runpod.seen(*CHANGING)] == [
        {"workers": {"min": 1, "max": 3, "idleTimeout": 10}}
    ]


def test_what_is_as_it_is_wanted_is_tested_and_left_alone(runpod: RunpodRest, deploy: Deploy) -> None:
    """The same command twice changes nothing the second time."""
    command = ("--name", "sdxl", "--image", "ann/sdxl:1", "--env", "A=1", "--flashboot", "--profile", "cpu")
    deploy(*command)
    before = runpod.endpoint("sdxl")
    runpod.requests.clear()
    ran = deploy(*command, "--json")
    assert (ran.code, ran.json["action"], ran.json["changes"]) == (0, "unchanged", [])
    assert runpod.seen(*CHANGING) == []
    assert len(runpod.seen("run")) == 1
    assert runpod.endpoint("sdxl") == before


def test_force_starts_new_workers_for_the_same_configuration(runpod: RunpodRest, deploy: Deploy) -> None:
    """The image behind the tag may be another one; the candidate tries it, too."""
    deploy("--name", "sdxl", "--image", "ann/sdxl:1")
    mark = runpod.endpoint("sdxl")["env"]["ROUTER_DEPLOYMENT"]
    runpod.requests.clear()
    assert deploy("--name", "sdxl", "--image", "ann/sdxl:1", "--force").code == 0
    assert [each.action for each in runpod.seen(*CHANGING)] == ["create", "delete", "update"]
    assert runpod.endpoint("sdxl")["env"]["ROUTER_DEPLOYMENT"] != mark


def test_an_image_without_version_is_remarked_upon(runpod: RunpodRest, deploy: Deploy) -> None:
    """RunPod caches by name."""
    for image in ("ann/sdxl", "ann/sdxl:latest", "localhost:5000/sdxl"):
        assert "names no version" in deploy("--name", "sdxl", "--image", image, "--dry-run").err
    for image in ("ann/sdxl:1", "ann/sdxl@sha256:" + "0" * 64):
        assert "names no version" not in deploy("--name", "sdxl", "--image", image, "--dry-run").err


def test_a_misspelt_setting_is_remarked_upon(runpod: RunpodRest, deploy: Deploy) -> None:
    """On RunPod it would be a line of a log that nobody reads."""
    ran = deploy("--name", "sdxl", "--image", "a/b:1", "--env", "ROUTER_LEESE=5", "--dry-run")
    assert "note: ROUTER_LEESE is no setting and has no effect; did you mean ROUTER_LEASE?" in ran.err
    deploy("--name", "sdxl", "--image", "a/b:1")
    assert "is no setting" not in deploy("--name", "sdxl", "--image", "a/b:2", "--dry-run").err


def test_a_limit_below_that_of_a_route_is_remarked_upon(
    runpod: RunpodRest, deploy: Deploy, tmp_path: Path
) -> None:
    """RunPod would end the job first."""
    service(tmp_path)
    ran = deploy("service:router", "--image", "a/b:1", "--execution-timeout", "60", "--dry-run")
    assert "note: RunPod ends jobs after 60 s, and a route allows more: --execution-timeout" in ran.err
    assert "note:" not in deploy("service:router", "--image", "a/b:1", "--dry-run").err


@pytest.mark.parametrize("exists", [False, True])
def test_a_dry_run_only_reads(runpod: RunpodRest, deploy: Deploy, exists: bool) -> None:
    """It shows the fields, and of the environment the names."""
    if exists:
        deploy("--name", "sdxl", "--image", "ann/sdxl:1", "--env", "OLD_KEY=aaaaaaaaaa")
    runpod.requests.clear()
    ran = deploy(
        "--name", "sdxl", "--image", "ann/sdxl:2", "--gpu", "AMPERE_80", "--gpu-count", "2", "--dry-run",
        "--env", "NEW_KEY=bbbbbbbbbb", "--remove-env", "OLD_KEY",
    )  # fmt: skip
    assert ran.code == 0
    assert {each.method for each in runpod.requests} == {"GET"}
    assert ("image: ann/sdxl:1 -> ann/sdxl:2" if exists else "image: ann/sdxl:2") in ran.err
    assert ('gpu.pools: ["ADA_24", "AMPERE_24"] -> ["AMPERE_80"]' if exists else '["AMPERE_80"]') in ran.err
    assert ("env: +NEW_KEY -OLD_KEY" if exists else "env: +NEW_KEY") in ran.err
    assert "bbbbbbbbbb" not in ran.err
    assert ran.last == "a dry run: nothing was changed"


def test_workers_that_run_are_replaced_before_the_test(runpod: RunpodRest, deploy: Deploy) -> None:
    """The test speaks to the new version, not to a worker that has not been stopped yet."""
    endpoint_id = runpod.add("sdxl", workers={"min": 2, "max": 3, "idleTimeout": 5})
    ran = deploy("--name", "sdxl", "--image", "ann/sdxl:2", "--in-place", "--yes")
    assert ran.code == 0
    actions = [each.action for each in runpod.requests]
    assert actions.index("run") > actions.index("workers") > actions.index("update")
    assert runpod.jobs(endpoint_id)[-1][1] == "COMPLETED"
    assert "replace the workers of sdxl" in ran.err


def test_a_configuration_file_lies_under_the_options(
    runpod: RunpodRest, deploy: Deploy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And over a profile."""
    (tmp_path / "e.toml").write_text(
        'image = "ann/sdxl:1"\ndisk = 33\ndataCenterIds = ["EU-RO-1"]\n[workers]\nmax = 2\nidleTimeout = 60\n'
        '[scaling]\ntype = "REQUEST_COUNT"\nrequestCount = 2\n[env]\nA = "file"\nB = "file"\n'
    )
    (tmp_path / ".env").write_text("# comment\n\nexport B='from env'\nC=1 # one\nHERE\n")
    monkeypatch.setenv("HERE", "there")
    command = ["--name", "s", "--config", "e.toml", "--profile", "gpu-80gb", "--env-file", ".env"]
    ran = deploy(*command, "--env", "A=option")
    assert ran.code == 0, ran.err
    endpoint = runpod.endpoint("s")
    env = {key: value for key, value in endpoint["env"].items() if key != "ROUTER_DEPLOYMENT"}
    assert env == {"A": "option", "B": "from env", "C": "1", "HERE": "there"}
    assert endpoint["gpu"]["pools"] == ["AMPERE_80", "ADA_80_PRO"]
    assert (endpoint["disk"], endpoint["dataCenterIds"]) == (33, ["EU-RO-1"])
    # the API takes no idle timeout with this scaling
    assert endpoint["workers"] == {"min": 0, "max": 2}
    assert deploy(*command, "--env", "A=option", "--json").code == 0
    assert runpod.endpoint("s") == endpoint


def test_an_endpoint_made_by_other_means_is_changed_only_on_demand(
    runpod: RunpodRest, deploy: Deploy
) -> None:
    """A module called like somebody's endpoint must not overwrite it."""
    endpoint_id = runpod.add("sdxl")
    ran = deploy("--name", "sdxl", "--image", "ann/sdxl:2")
    assert ran.code == 2
    assert ran.last.endswith(f"({endpoint_id}) was not made by router-core; --yes changes it all the same; "
                             "nothing was changed")  # fmt: skip
    assert runpod.seen(*CHANGING) == []
    assert deploy("--name", "sdxl", "--image", "ann/sdxl:2", "--yes").code == 0


def test_the_name_may_bear_flashboot(runpod: RunpodRest, deploy: Deploy) -> None:
    """As RunPod's older interfaces write it."""
    runpod.add("sdxl -fb", env={"ROUTER_DEPLOYMENT": "x"})
    assert deploy("--name", "sdxl", "--image", "ann/sdxl:2").code == 0
    assert runpod.names() == ["sdxl -fb"]


def test_the_test_request_can_be_given(runpod: RunpodRest, deploy: Deploy, tmp_path: Path) -> None:
    """As input, as a whole body, or as a file; here and there it is the same."""
    service(tmp_path)
    wanted = {"path": "/predict", "text": "x"}
    (tmp_path / "t.json").write_text(json.dumps(wanted))
    for text in (json.dumps(wanted), json.dumps({"input": wanted}), "@t.json"):
        ran = deploy("service:router", "--image", "ann/s:1", "--test", text)
        assert ran.code == 0, ran.err
        assert runpod.jobs(runpod.endpoint("service")["id"])[-1] == (wanted, "COMPLETED")


def test_destroy_deletes_by_name_or_id(runpod: RunpodRest, deploy: Deploy) -> None:
    """And says what would be lost."""
    other = runpod.add("other")
    first, second = runpod.add("a"), runpod.add("b")
    runpod.submit(first, {})
    ran = deploy("--destroy", "a", "--yes")
    assert ran.code == 0
    assert "0 running and 1 waiting jobs; this is final" in ran.err
    ran = deploy("--destroy", second, "--yes", "--json")
    assert ran.json == {"action": "destroyed", "endpoint_id": second}
    assert runpod.names() == ["other"]
    assert deploy("--destroy", "other", "--dry-run").last == "a dry run: nothing was changed"
    assert runpod.endpoint("other")["id"] == other
    assert deploy("--destroy", "a", "--yes").code == 2


def test_destroy_asks(runpod: RunpodRest, deploy: Deploy) -> None:
    """Where nobody can answer it is refused."""
    runpod.add("a")
    ran = deploy("--destroy", "a")
    assert (ran.code, ran.last) == (2, "router-core: delete a? Nobody can answer here: add --yes")
    assert runpod.names() == ["a"]


def test_destroy_stops_workers_where_the_platform_asks_for_that(runpod: RunpodRest, deploy: Deploy) -> None:
    """Scaled to none, waited for, deleted."""
    runpod.add("a", workers={"min": 1, "max": 2})
    runpod.fault("delete", status=400)
    assert deploy("--destroy", "a", "--yes").code == 0
    assert [each.action for each in runpod.seen(*CHANGING)] == ["delete", "update", "delete"]
    assert runpod.seen("update")[0].json == {"workers": {"min": 0, "max": 0}}
    assert runpod.names() == []
