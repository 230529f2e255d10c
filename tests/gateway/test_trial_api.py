"""Rollouts and experiments over REST: configured, ordered, looked at; and what is refused."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from router_core.gateway.accounting.journal import ModelCall
from tests.gateway.serving import House, Reply, chat, house

MODELS = """
models:
  - {id: old, type: text-generation, clients: [{id: o1, type: scripted, model: up}]}
  - {id: new, type: text-generation, clients: [{id: n1, type: scripted, model: up}]}
"""
ROLLOUT = {
    "id": "r",
    "model": "old",
    "canary": "new",
    "stages": [20, 50],
    "intervalSeconds": 0,
    "minRequests": 5,
    "rollback": {"maxErrorRateIncrease": 0.05},
}
EXPERIMENT = {
    "id": "e", "model": "old", "metric": "score",
    "variants": [{"name": "a", "modelId": "old"}, {"name": "b", "modelId": "new"}],
}  # fmt: skip


@pytest.fixture
async def made() -> AsyncIterator[House]:
    """Yield a gateway of two models."""
    async with house(MODELS) as one:
        yield one


async def call(made: House, user: str) -> Reply:
    """Make a call of a user."""
    return await made.ask("/v1/chat/completions", chat("old", user=user))


async def test_a_rollout_is_added_and_begins(made: House) -> None:
    """It is answered as it was said, with how it stands; its calls say which arm they were in."""
    answer = await made.ask("/api/rollouts", ROLLOUT)
    assert answer.status == 201, answer.body
    assert answer.headers["location"] == "/api/rollouts/r"
    assert answer.headers["etag"]
    assert answer.json()["canary"] == "new"
    told = (await made.ask("/api/rollouts/r")).json()
    state = told["state"]
    assert (state["status"], state["share"], state["stages"]) == ("running", 20, [20, 50])
    assert [each["name"] for each in state["arms"]] == ["baseline", "canary"]
    assert state["decisions"][0]["action"] == "started"
    arms = {(await call(made, f"user {number}")).headers["x-router-trial"] for number in range(60)}
    assert arms == {"r/baseline", "r/canary"}
    listed = (await made.ask("/api/rollouts?modelId=new")).json()
    assert [each["id"] for each in listed["rollouts"]] == ["r"]
    assert (await made.ask("/api/rollouts?modelId=other")).json()["rollouts"] == []
    assert (await made.ask("/api/rollouts", ROLLOUT)).status == 409


async def test_orders_to_a_rollout(made: House) -> None:
    """Advance, pause, resume, roll back, promote: each answers how it stands; what does not fit is 409."""
    await made.ask("/api/rollouts", ROLLOUT)
    for action, status, share in (
        ("advance", "running", 50), ("pause", "paused", 50), ("resume", "running", 50),
        ("rollback", "rolled_back", 0), ("resume", "running", 20), ("promote", "promoted", 100),
    ):  # fmt: skip
        answer = await made.ask(f"/api/rollouts/r/{action}", method="POST")
        assert answer.status == 200, answer.body
        assert (answer.json()["state"]["status"], answer.json()["state"]["share"]) == (status, share)
    assert (await made.ask("/api/rollouts/r/advance", method="POST")).status == 409
    assert (await made.ask("/api/rollouts/none/advance", method="POST")).status == 404
    assert (await made.ask("/api/rollouts/r/explode", method="POST")).status == 404
    decisions = (await made.ask("/api/rollouts/r")).json()["state"]["decisions"]
    assert [each["action"] for each in decisions][:3] == ["promoted", "started", "rolled_back"]
    assert (await call(made, "ann")).headers["x-router-model"] == "new"


async def test_a_rollout_is_changed_and_taken_away(made: House) -> None:
    """A patch changes its criteria while it goes on; one taken away leaves its calls where they went."""
    etag = (await made.ask("/api/rollouts", ROLLOUT)).headers["etag"]
    await made.ask("/api/rollouts/r/advance", method="POST")
    shown = (await made.ask("/api/rollouts/r")).json()
    assert (await made.ask("/api/rollouts/r", shown, method="PUT")).status == 200, "as it was read"
    patch = {"minRequests": 50}
    stale = await made.ask("/api/rollouts/r", patch, method="PATCH", headers={"if-match": '"other"'})
    assert stale.status == 412
    patched = await made.ask("/api/rollouts/r", patch, method="PATCH", headers={"if-match": etag})
    assert patched.status == 200, patched.body
    assert patched.json()["minRequests"] == 50
    state = (await made.ask("/api/rollouts/r")).json()["state"]
    assert (state["stage"], state["status"]) == (1, "running")
    off = await made.ask("/api/rollouts/r", {"enabled": False}, method="PATCH")
    assert off.json()["state"]["status"] == "disabled"
    assert (await made.ask("/api/rollouts/r/advance", method="POST")).status == 409
    assert (await made.ask("/api/rollouts/r", method="DELETE")).status == 204
    assert (await made.ask("/api/rollouts/r")).status == 404
    assert "x-router-trial" not in (await call(made, "ann")).headers
    await made.ask("/api/rollouts", ROLLOUT)
    state = (await made.ask("/api/rollouts/r")).json()["state"]
    assert (state["stage"], state["status"]) == (0, "running"), "it has begun anew"
    assert [each["action"] for each in state["decisions"]][:2] == ["started", "removed"]


BAD: list[tuple[str, Any, str]] = [
    ("/api/rollouts", {**ROLLOUT, "canary": "old"}, "canary"),
    ("/api/rollouts", {**ROLLOUT, "canaryModel": "new"}, "canaryModel"),
    ("/api/rollouts", {**ROLLOUT, "id": "a b"}, "id"),
    ("/api/rollouts", {**ROLLOUT, "success": {"maxErrorRate": "x"}}, "success.maxErrorRate"),
    ("/api/rollouts", [], "body"),
    ("/api/experiments", {**EXPERIMENT, "metric": "joy"}, "metric"),
    ("/api/experiments", {**EXPERIMENT, "variants": [{}, {}]}, "variants[0].name"),
    ("/api/experiments", {**EXPERIMENT, "id": None}, "id"),
]


async def test_what_is_wrong_is_named(made: House) -> None:
    """400 with the field; nothing is begun."""
    for path, body, field in BAD:
        answer = await made.ask(path, body)
        assert answer.status == 400, answer.body
        assert answer.json()["errors"][0]["field"] == field
        assert (await made.ask(path)).json()["total"] == 0


async def test_trials_that_do_not_fit_together_are_refused(made: House) -> None:
    """A model that there is not, and a second trial of one model, are refused as a whole."""
    answer = await made.ask("/api/rollouts", {**ROLLOUT, "canary": "gone"})
    assert answer.status in (400, 409)
    assert b"gone" in answer.body
    assert (await made.ask("/api/rollouts", ROLLOUT)).status == 201
    answer = await made.ask("/api/experiments", EXPERIMENT)
    assert answer.status in (400, 409)
    assert b"is in trial r already" in answer.body.replace(b"\\", b"")


async def test_an_experiment_by_scores_of_callers(made: House) -> None:
    """Scores find their arm by the id of the request; results say what they come to."""
    assert (await made.ask("/api/experiments", EXPERIMENT)).status == 201
    assert (await made.ask("/api/experiments/e")).json()["state"]["status"] == "running"
    score: dict[str, Any] = {}
    for number in range(40):
        reply = await call(made, f"user {number}")
        arm = reply.headers["x-router-trial"].partition("/")[2]
        score = {"requestId": reply.headers["x-request-id"], "score": 5 if arm == "b" else 1}
        answer = await made.ask("/api/experiments/e/scores", score)
        assert (answer.status, answer.json()["result"]) == (200, "counted")
    assert (await made.ask("/api/experiments/e/scores", score)).status == 409
    unknown = await made.ask("/api/experiments/e/scores", {"requestId": "elsewhere", "score": 1})
    assert (unknown.status, unknown.json()["result"]) == (202, "left")
    told = (await made.ask("/api/experiments/e/results")).json()
    means = {each["name"]: each["mean"] for each in told["arms"]}
    assert means == {"a": 1, "b": 5}
    compared = told["arms"][1]["comparison"]
    assert compared["effect"] == 4
    assert compared["interval"][0] < 4 < compared["interval"][1]
    assert compared["verdict"] == "undecided", "below the least number of samples"
    assert compared["neededSamples"] >= 100
    assert told["verdict"] == {"decided": False, "winner": None, "text": "not decided yet"}


SCORES: list[Any] = [
    {}, {"requestId": "x"}, {"score": 1}, {"requestId": "a b", "score": 1}, {"requestId": "x", "score": "1"},
    {"requestId": "x", "score": True}, {"requestId": "x", "score": 1e300}, {"requestId": 5, "score": 1},
    {"requestId": "x" * 129, "score": 1}, {"requestId": "x", "score": 10**400}, [], b"nonsense",
    b'{"requestId": "x", "score": NaN}',
]  # fmt: skip


async def test_scores_that_are_none_are_refused(made: House) -> None:
    """400, whatever it is."""
    await made.ask("/api/experiments", EXPERIMENT)
    for body in SCORES:
        answer = await made.ask("/api/experiments/e/scores", body, "POST")
        assert answer.status == 400, answer.body


async def test_scores_are_for_experiments_that_ask_for_them(made: House) -> None:
    """Another metric, one that was stopped, and one that there is not."""
    score = {"requestId": "x", "score": 1}
    await made.ask("/api/experiments", {**EXPERIMENT, "metric": "cost"})
    assert (await made.ask("/api/experiments/e/scores", score)).status == 409
    await made.ask("/api/experiments/e", EXPERIMENT, method="PUT")
    await made.ask("/api/experiments/e")
    stopped = await made.ask("/api/experiments/e/stop", method="POST")
    assert stopped.json()["state"]["status"] == "stopped"
    assert (await made.ask("/api/experiments/e/scores", score)).status == 409
    assert (await made.ask("/api/experiments/e/stop", method="POST")).status == 409
    started = await made.ask("/api/experiments/e/start", method="POST")
    assert started.json()["state"]["status"] == "running"
    assert (await made.ask("/api/experiments/none/scores", score)).status == 404
    assert (await made.ask("/api/experiments/none/results")).status == 404


async def test_shadow_rules_are_told(made: House) -> None:
    """The route answers with what was counted."""
    rule = {"name": "try", "targetModels": [{"modelId": "new"}], "shadow": True}
    await made.ask("/api/routing/rules", rule)
    await made.ask("/api/routing/rules", {"name": "live", "targetModels": [{"modelId": "old"}]})
    await made.ask("/v1/chat/completions", chat("auto"))
    told = (await made.ask("/api/routing/shadow")).json()["rules"]
    assert [(each["name"], each["matches"], each["agreements"]) for each in told] == [("try", 1, 0)]


async def test_the_explanation_names_the_trial(made: House) -> None:
    """A dry run says which arm a call would be in, and counts nothing."""
    await made.ask("/api/rollouts", {**ROLLOUT, "stages": [100]})
    await made.ask("/api/rollouts/r")
    told = (await made.ask("/api/routing/test", {"modelId": "old", "userId": "ann"})).json()
    assert (told["trial"], told["model"]) == ("r/canary", "new")
    state = (await made.ask("/api/rollouts/r")).json()["state"]
    assert [each["requests"] for each in state["arms"]] == [0, 0]


FILE = """
models:
  - {id: old, type: text-generation, clients: [{id: o1, type: scripted, model: up}]}
  - id: new
    type: text-generation
    clients: [{id: n1, type: scripted, model: up, args: {fail_status: 500}}]
rollouts:
  - {id: r, model: old, canary: new, startShare: 50, rollback: {maxErrorRateIncrease: 0.05}}
experiments:
  tone:
    condition: {agentType: [creative]}
    metric: latency
    variants: [{name: a, modelId: old}, {name: b, modelId: new}]
"""


async def test_a_rollout_of_the_file_looks_after_itself() -> None:
    """With its loops running a service rolls back by itself, and says so in the log; the file's trials are
    shown like others, and are not the API's to change."""
    async with house(FILE, background=True) as made:
        back = asyncio.Event()

        def heard(event: object) -> None:
            if getattr(event, "name", "") == "rollout_rolled_back":
                back.set()

        made.app.events.subscribe(heard, lambda level: True)
        for number in range(200):
            assert (await call(made, f"user {number}")).status == 200
            if back.is_set():
                break
        await asyncio.wait_for(back.wait(), 60)
        told = (await made.ask("/api/rollouts/r")).json()
        lines = [each.told() for each in made.seen if isinstance(each, ModelCall)]
        assert {line.get("trial") for line in lines} >= {"r/baseline", "r/canary"}
        assert told["managedBy"] == "file"
        assert told["state"]["decisions"][0]["action"] == "rolled_back"
        assert told["state"]["decisions"][0]["by"] == "gateway"
        assert "x-router-trial" not in (await call(made, "ann")).headers
        assert (await made.ask("/api/rollouts/r", {"enabled": False}, method="PATCH")).status == 409
        listed = (await made.ask("/api/experiments")).json()["experiments"]
        assert [each["id"] for each in listed] == ["tone"]


async def test_trials_are_for_those_who_may_enter_every_workspace() -> None:
    """A trial counts the calls of all tenants, so that one of them sees none, whether it exists or not; his
    scores are taken."""
    keys = {name: f"0123456789abcdef-{name}" for name in ("boss", "tenant")}
    entries = f"boss:{keys['boss']}:admin,tenant:{keys['tenant']}:operator|config:manage@one"
    bearers = {name: {"authorization": f"Bearer {key}"} for name, key in keys.items()}
    async with house(MODELS, api_keys=entries) as made:
        await made.ask("/api/experiments", EXPERIMENT, headers=bearers["boss"])
        await made.ask("/api/experiments/e", headers=bearers["boss"])
        said = chat("old", user="ann")
        reply = await made.ask("/v1/chat/completions", said, headers=bearers["tenant"])
        assert reply.headers["x-router-trial"]
        for method, path in (
            ("GET", "/api/rollouts"), ("GET", "/api/experiments/e"), ("GET", "/api/experiments/none"),
            ("GET", "/api/experiments/e/results"), ("POST", "/api/experiments/e/stop"),
            ("DELETE", "/api/experiments/e"), ("GET", "/api/routing/shadow"),
        ):  # fmt: skip
            answer = await made.ask(path, method=method, headers=bearers["tenant"])
            assert (answer.status, answer.json()["code"]) == (403, "every_workspace"), path
        score = {"requestId": reply.headers["x-request-id"], "score": 3}
        scored = await made.ask("/api/experiments/e/scores", score, headers=bearers["tenant"])
        assert scored.json()["result"] == "counted"
