"""Scores of experiments: whose calls a caller may judge, and how many may wait."""

from __future__ import annotations

from router_core.gateway.trials.scores import EACH, TOTAL, Noted, Score, Scorer, Waiting
from router_core.stores.state_memory import MemoryStateStore
from router_core.types import Principal
from tests.gateway.serving import chat, house
from tests.gateway.trial_parts import GOOD, Moved, Place, config, experiment

MODELS = """
models:
  - {id: old, type: text-generation, clients: [{id: o1, type: scripted, model: up}]}
  - {id: new, type: text-generation, clients: [{id: n1, type: scripted, model: up}]}
"""
EXPERIMENT = {
    "id": "e", "model": "old", "metric": "score",
    "variants": [{"name": "a", "modelId": "old"}, {"name": "b", "modelId": "new"}],
}  # fmt: skip
KEYS = {name: f"0123456789abcdef-{name}" for name in ("boss", "ann", "bob", "eve")}
ENTRIES = (
    f"boss:{KEYS['boss']}:admin,ann:{KEYS['ann']}:developer@ws-a,bob:{KEYS['bob']}:developer@ws-a,"
    f"eve:{KEYS['eve']}:developer@ws-b"
)
BEARERS = {name: {"authorization": f"Bearer {key}"} for name, key in KEYS.items()}
ANN = Principal("ann", workspaces=frozenset(("ws-a",)), workspace="ws-a")
EVE = Principal("eve", workspaces=frozenset(("ws-b",)), workspace="ws-b")


async def test_scores_are_for_callers_of_the_workspace() -> None:
    """A call of another workspace is 404, scored or not; those of one's own workspace may be scored."""
    async with house(MODELS, api_keys=ENTRIES) as made:
        await made.ask("/api/experiments", EXPERIMENT, headers=BEARERS["boss"])
        await made.ask("/api/experiments/e", headers=BEARERS["boss"])
        for scorer in ("bob", "boss", "ann"):
            told = chat("old", user=scorer)
            reply = await made.ask("/v1/chat/completions", told, headers=BEARERS["ann"])
            score = {"requestId": reply.headers["x-request-id"], "score": 3}
            for _ in range(2):
                foreign = await made.ask("/api/experiments/e/scores", score, headers=BEARERS["eve"])
                assert foreign.status == 404
            mine = await made.ask("/api/experiments/e/scores", score, headers=BEARERS[scorer])
            assert (mine.status, mine.json()["result"]) == (200, "counted")
            foreign = await made.ask("/api/experiments/e/scores", score, headers=BEARERS["eve"])
            assert foreign.status == 404, "neither does it tell that it was scored"


async def test_an_id_that_another_bears_gives_nothing() -> None:
    """Who chooses the id of another's call gets neither at its score nor in its way."""
    async with house(MODELS, api_keys=ENTRIES) as made:
        await made.ask("/api/experiments", EXPERIMENT, headers=BEARERS["boss"])
        await made.ask("/api/experiments/e", headers=BEARERS["boss"])
        for name in ("ann", "eve"):
            headers = {**BEARERS[name], "x-request-id": "the-same"}
            assert (await made.ask("/v1/chat/completions", chat("old"), headers=headers)).status == 200
        score = {"requestId": "the-same", "score": 3}
        assert (await made.ask("/api/experiments/e/scores", score, headers=BEARERS["eve"])).status == 404
        assert (await made.ask("/api/experiments/e/scores", score, headers=BEARERS["ann"])).status == 200


async def test_what_waits_for_another_process_counts_for_its_caller_alone() -> None:
    """A foreign score that was left is neither counted nor in the way of the right one."""
    store, made = MemoryStateStore(Moved()), config(GOOD, experiment(metric="score"))
    one, two = Place(made, store), Place(made, store)
    for each in (one, two):
        await each.trials.tick()
    here, there = (each.trials.get("e", "experiment") for each in (one, two))
    await one.call("user 1")
    request, arm = one.last.request_id, one.last.trial.partition("/")[2]
    here.noted[request] = Noted(arm, "ann", "ws-a")
    assert await two.trials.score(there, request, 1.0, EVE) == "left"
    await one.trials.tick()
    assert here.seen[arm].sums["score"].n == 0
    assert await two.trials.score(there, request, 1.0, EVE) == "left"
    assert await two.trials.score(there, request, 4.0, ANN) == "left"
    await one.trials.tick()
    assert (here.seen[arm].sums["score"].n, here.seen[arm].sums["score"].mean) == (1, 4.0)


async def test_a_caller_leaves_so_many_scores_and_no_more() -> None:
    """Made-up ids are refused before the store is full of them; others go on, until all have left enough."""
    store, made = MemoryStateStore(Moved()), config(GOOD, experiment(metric="score"))
    place, fresh = Place(made, store), Place(made, store)
    await place.trials.tick()
    live = place.trials.get("e", "experiment")
    told = [await place.trials.score(live, f"made-up-{n}", 1.0, EVE) for n in range(EACH + 2)]
    assert told == ["left"] * EACH + ["full"] * 2
    assert await place.trials.score(live, "another", 1.0, ANN) == "left"
    await fresh.trials.tick()  # a process that has seen what waits, and none of it come
    other = fresh.trials.get("e", "experiment")
    assert await fresh.trials.score(other, "one-more", 1.0, EVE) == "full"
    assert await fresh.trials.score(other, "one-more", 1.0, ANN) == "left"
    waiting = Waiting()
    waiting.saw(Score(f"{n}:x", Scorer(str(n)), 1.0) for n in range(TOTAL))
    assert waiting.full(Scorer("ann"))


async def test_a_caller_is_told_that_too_many_wait() -> None:
    """429, with when to come back."""
    async with house(MODELS) as made:
        await made.ask("/api/experiments", EXPERIMENT)
        await made.ask("/api/experiments/e")
        waiting = made.gateway.trials.get("e", "experiment").waiting
        for _ in range(EACH):
            waiting.add(Scorer("anonymous"))
        full = await made.ask("/api/experiments/e/scores", {"requestId": "made-up", "score": 1})
        assert (full.status, full.json()["code"]) == (429, "too_many_scores")
        assert full.headers["retry-after"] == "2"


def test_what_cannot_be_read_is_no_score() -> None:
    """Whatever stands in the store, nothing fails by it."""
    for data in (b"", b"4.5", b"{}", b'{"score": "x", "by": "a", "in": []}', b"[]", b'{"score": 1, "by": 2}'):
        assert Score.decode("a:b", data) is None
