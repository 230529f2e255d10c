"""What is sent to change an endpoint, and to take the change back."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from handlers.deploy.errors import DeployError, NotPrepared
from handlers.deploy.progress import Progress
from handlers.deploy.runpod_config import EndpointConfig, checked
from handlers.deploy.runpod_plan import MARK, differences, plan_for, settable
from handlers.deploy.undo import Undo
from router_core.testing.runpod_schema import read_create, read_update

NAMES = st.sampled_from(["A", "B", "C"])
GPU = st.fixed_dictionaries(
    {"pools": st.lists(NAMES, min_size=1, max_size=3, unique=True)},
    optional={
        "count": st.integers(1, 8), "excludedTypes": st.lists(NAMES, max_size=2, unique=True),
        "minCudaVersion": st.sampled_from(["12.1", "12.8"]),
    },
)  # fmt: skip
SETS = st.fixed_dictionaries(
    {"allowedCudaVersions": st.lists(st.sampled_from(["12.1", "12.8"]), max_size=2, unique=True)}
)
SCALING = st.one_of(
    st.builds(lambda n: {"type": "QUEUE_DELAY", "queueDelay": float(n)}, st.integers(1, 9)),
    st.builds(lambda n: {"type": "REQUEST_COUNT", "requestCount": n}, st.integers(1, 9)),
)
WORKERS = st.fixed_dictionaries(
    {}, optional={"min": st.integers(0, 2), "max": st.integers(3, 9), "idleTimeout": st.integers(1, 3600)}
)
OTHER: dict[str, st.SearchStrategy[Any]] = {
    "args": st.sampled_from(["", "-v"]), "disk": st.integers(1, 99),
    "env": st.dictionaries(NAMES, st.text(max_size=5), max_size=3),
    "ports": st.lists(st.sampled_from(["80/http", "22/tcp"]), max_size=2, unique=True),
    "registry": st.sampled_from(["r1", "r2"]), "workers": WORKERS, "scaling": SCALING,
    "dataCenterIds": st.lists(NAMES, max_size=2, unique=True),
    "networkVolumes": st.lists(NAMES, max_size=2, unique=True), "timeout": st.integers(1_000, 10**7),
    "flashboot": st.sampled_from(["OFF", "FLASHBOOT", "PRIORITY_FLASHBOOT"]),
}  # fmt: skip
IMAGE = st.sampled_from(["a/b:1", "a/b:2"])
NEW = st.fixed_dictionaries({"image": IMAGE, "gpu": GPU}, optional=OTHER)
CHANGED = st.fixed_dictionaries({}, optional={**OTHER, "image": IMAGE, "gpu": st.one_of(GPU, SETS)})


def created(fields: dict[str, Any]) -> dict[str, Any]:
    """Return the endpoint that the API makes of a configuration."""
    body = plan_for("x", None, checked(fields, "new")).create_body("x", "mark-0")
    return {"id": "e1", **read_create(body)}


@settings(max_examples=200, deadline=None)
@given(NEW, CHANGED)
def test_an_update_can_be_repeated_and_taken_back(new: dict[str, Any], changed: dict[str, Any]) -> None:
    """For any two configurations: the second time nothing differs, and back is exactly what was before."""
    before = created(new)
    config = checked(changed, "changed")
    plan = plan_for("x", before, config)
    body = plan.update_body("mark-1")
    after = read_update(body, before) if body else before
    assert plan_for("x", after, config).changes == ()
    restored = read_update(plan.restore_body(body), after) if body else after
    assert differences(before, restored) == []
    assert settable(restored) == settable(before)
    assert plan.foreign(before, body) == plan.foreign(after, body) == []


def test_what_somebody_else_has_set_is_foreign() -> None:
    """Only in the fields that the update changes."""
    before = created({"image": "a/b:1", "gpu": {"pools": ["A"]}, "disk": 10})
    plan = plan_for("x", before, EndpointConfig(image="a/b:2", env={"A": "1"}))
    body = plan.update_body("mark-1")
    assert plan.foreign({**before, "image": "z"}, body) == ["image"]
    assert plan.foreign({**before, "env": {"A": "2", MARK: "other"}}, body) == ["env"]
    assert plan.foreign({**before, "disk": 99}, body) == []


def test_pools_keep_their_order_and_data_centers_have_none() -> None:
    """Pools are a preference."""
    before = created({"image": "x:1", "gpu": {"pools": ["A", "B"]}, "dataCenterIds": ["A", "B"]})
    turned = {"gpu": {"pools": ["B", "A"]}, "dataCenterIds": ["B", "A"]}
    changes = plan_for("x", before, checked(turned, "c")).changes
    assert [change.field for change in changes] == ["gpu"]


def test_a_floor_and_a_set_of_cuda_versions_replace_each_other() -> None:
    """The API takes one of them."""
    before = created({"image": "x:1", "gpu": {"pools": ["A"], "allowedCudaVersions": ["12.8"]}})
    plan = plan_for("x", before, checked({"gpu": {"minCudaVersion": "12.1"}}, "c"))
    after = read_update(plan.update_body("m"), before)
    assert after["gpu"]["minCudaVersion"] == "12.1"
    assert after["gpu"]["allowedCudaVersions"] == []


@pytest.mark.parametrize(
    ("current", "wanted", "said"),
    [
        ({"type": "LOAD_BALANCER"}, {"image": "x:2"}, "load-balancing endpoint"),
        ({}, {"cpu": [{"id": "cpu5c", "vcpuCount": 2}]}, "cannot change between GPU and CPU"),
        ({}, {"workers": {"max": 0, "min": 1}}, "above workers.max"),
    ],
)
def test_what_the_api_cannot_do_is_refused_before(
    current: dict[str, Any], wanted: dict[str, Any], said: str
) -> None:
    """With what to do instead."""
    before = {**created({"image": "x:1", "gpu": {"pools": ["A"]}}), **current}
    with pytest.raises(NotPrepared, match=said):
        plan_for("x", before, checked(wanted, "c"))


def test_undo_goes_on_after_a_step_that_fails(capsys: pytest.CaptureFixture[str]) -> None:
    """The last first; what remains is returned with the reason."""
    done: list[int] = []
    undo = Undo(Progress())

    def fail() -> None:
        raise DeployError("no network")

    undo.add("one", "one is left", lambda: done.append(1))
    undo.add("two", "two is left", fail)
    undo.add("three", "three is left", lambda: done.append(3))
    assert undo.run() == ["two is left (no network)"]
    assert done == [3, 1]
    assert not undo
    assert "failed" in capsys.readouterr().err


def test_a_second_interrupt_ends_undo_and_says_what_is_left() -> None:
    """Everything from there on."""
    undo = Undo(Progress())

    def interrupted() -> None:
        raise KeyboardInterrupt

    undo.add("one", "one is left", lambda: None)
    undo.add("two", "two is left", interrupted)
    assert undo.run() == ["two is left", "one is left"]
