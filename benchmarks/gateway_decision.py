"""The gateway's decision for one call: resolve a name, match the rules, pick a deployment.

Everything that has to be decided before a byte is sent, with health, filters and strategy, for 10 models and
10 rules and for 10,000 of each. Traffic is what traffic is like: the n-th model gets one n-th of the calls of
the first. With all equally popular, which is the worst case, next to nothing that a decision reads is in the
processor's cache; with ten that get all the calls everything is, so that what is left is the work itself.
"""

from __future__ import annotations

import os
import random
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import ClassVar, NamedTuple

from benchmarks.load import ROOT
from benchmarks.report import Row, Skip
from router_core.gateway.call import Attributes, Call
from router_core.gateway.registry import ModelRouter, ModelTable
from router_core.gateway.reply import Reply
from router_core.gateway.resilience.standing import Standing
from router_core.gateway.rules.engine import RuleTable
from router_core.gateway.rules.rule import Condition, ContentLength, Rule, Target, TrafficSplit
from router_core.gateway.select.candidate import Candidate
from router_core.gateway.select.selector import Selector
from router_core.gateway.values import Deployment, Model, StrategyName

_PEER = os.environ.get("LITELLM_PYTHON", str(ROOT / ".venv-gateways" / "bin" / "python"))
_CALLS = 20_000
_ROUNDS = 5
_GOAL_MICROSECONDS = 10.0
_STRATEGIES: tuple[StrategyName, ...] = ("shuffle", "round_robin", "latency", "least_busy", "weighted")
_AGENTS = ("creative", "support", "legal", "code", "research")
_NOW = 1_700_000_000.0


class _Client:
    """Is asked for nothing but what it can be called through."""

    ENDPOINT_TABLE: ClassVar[Mapping[str, str]] = {"chat/completions": "/chat/completions"}

    def __init__(self, deployment: Deployment) -> None:
        self.deployment = deployment

    async def send(self, call: Call, deadline: float) -> Reply:
        """Never happens here."""
        raise NotImplementedError

    async def aclose(self) -> None:
        """Hold nothing."""


_Asked = tuple[str, Attributes]
"""A name, and what rules look at. There is one call, which is given these: a real one was made a moment ago,
and twenty thousand of them would take the place in the cache of what is measured."""


class _World(NamedTuple):
    """One configuration, and calls for it."""

    models: ModelTable
    rules: RuleTable
    calls: list[_Asked]
    """Popular models are asked for more often."""
    even: list[_Asked]
    """All models are asked for as often."""
    few: list[_Asked]
    """Ten models get all the calls."""


def run() -> list[Row | Skip]:
    """Return microseconds of CPU for one decision, best of five rounds."""
    small, large = _world(10), _world(10_000)
    few, many = _measure(decide, small, small.calls), _measure(decide, large, large.calls)
    cold, hot = _measure(decide, large, large.even), _measure(decide, large, large.few)
    pick_few, pick_many = _measure(pick, small, small.calls), _measure(pick, large, large.calls)
    match_few, match_many = _measure(match, small, small.calls), _measure(match, large, large.calls)
    match_hot = _measure(match, large, large.few)
    started = time.process_time()
    RuleTable(large.rules.rules)
    indexed = time.process_time() - started
    apart, alike = _unindexed(10), _unindexed(10_000)
    return [
        Row("resolve + rules + pick, 10 models, 10 rules, us of CPU", f"{few:.2f} us", "goal 10 us",
            few / _GOAL_MICROSECONDS, 1.0, at_least=False),
        Row("10,000 models, 10,000 rules, some popular", f"{many:.2f} us", "goal 20 us, twice that",
            many / _GOAL_MICROSECONDS / 2, 1.0, at_least=False),
        Row("the same, all equally popular", f"{cold:.2f} us", "goal 20 us, twice that",
            cold / _GOAL_MICROSECONDS / 2, 1.0, at_least=False),
        Row("growth of the work from 10 to 10,000 (ten get all calls)", f"{hot:.2f} us",
            f"10 of each {few:.2f} us", hot / few, 2.0, at_least=False),
        Row("growth with the cache misses (some popular)", f"{many:.2f} us", f"10 of each {few:.2f} us",
            many / few, 2.0, at_least=False),
        Row("the same for resolve + pick alone", f"{pick_many:.2f} us", f"10 models {pick_few:.2f} us",
            pick_many / pick_few, 2.0, at_least=False),
        Row("growth of the rules alone (ten get all calls)", f"{match_hot:.2f} us",
            f"10 rules {match_few:.2f} us", match_hot / match_few, 2.0, at_least=False),
        Row("the same with the cache misses (some popular)", f"{match_many:.2f} us",
            f"10 rules {match_few:.2f} us", match_many / match_few, 2.0, at_least=False),
        Row("index of 10,000 rules, once at load", f"{indexed * 1e3:.0f} ms", "goal 500 ms",
            indexed / 0.5, 1.0, at_least=False),
        Row("worst case: 10,000 rules of nothing but lengths, none holds", f"{alike / 1e3:.1f} ms",
            f"1,000 x 10 such rules {apart:.1f} ms", alike / (apart * 1_000), 10.0, at_least=False),
        _litellm(few),
    ]  # fmt: skip


def decide(world: _World, call: Call) -> None:
    """Make one decision, as the pipeline makes it for a call that leaves the model to the rules."""
    named = world.models.get(call.model_name)
    match = world.rules.match(call.attributes, _NOW, call.model_name)
    router = named if match is None else world.models.get(match.targets[0])
    assert router is not None
    assert router.selector.pick(call, 1.0) is not None


def pick(world: _World, call: Call) -> None:
    """Make the decision for a call that names its model."""
    router = world.models.get(call.model_name)
    assert router is not None
    assert router.selector.pick(call, 1.0) is not None


def match(world: _World, call: Call) -> None:
    """Evaluate the rules, and nothing else."""
    world.rules.match(call.attributes, _NOW, call.model_name)


def _measure(decision: Callable[[_World, Call], None], world: _World, asked: list[_Asked]) -> float:
    call = Call("chat/completions", "")
    call.input_tokens, call.max_tokens = 800, 500
    rounds = []
    for _ in range(_ROUNDS):
        started = time.process_time()
        for call.model_name, call.attributes in asked:
            decision(world, call)
        rounds.append((time.process_time() - started) / len(asked) * 1e6)
    return min(rounds)


def _unindexed(count: int) -> float:
    """Return microseconds of a match with rules that cannot be told apart, and of which none holds."""
    table = RuleTable(
        Rule(f"r{each}", (Target("model-0"),), Condition(content_length=ContentLength(each + 1, each + 1)))
        for each in range(count)
    )
    call = Attributes(content_length=1 << 30)
    times = max(5, 20_000 // count)
    assert table.match(call, _NOW) is None
    started = time.process_time()
    for _ in range(times):
        table.match(call, _NOW)
    return (time.process_time() - started) / times * 1e6


def _world(size: int) -> _World:
    """Make as many models (of three deployments) as rules; ten rules for each workspace."""
    rng = random.Random(size)
    models = ModelTable({f"model-{n}": _router(n, rng) for n in range(size)})
    rules = RuleTable(_rule(number, size) for number in range(size))
    ranking = rng.sample(range(size), size)
    popular = rng.choices(ranking, [1 / place for place in range(1, size + 1)], k=_CALLS)
    even = rng.choices(ranking, k=_CALLS)
    few = rng.choices(ranking[:10], k=_CALLS)
    return _World(models, rules, *(_asked(numbers, rng) for numbers in (popular, even, few)))


def _router(number: int, rng: random.Random) -> ModelRouter:
    name = f"model-{number}"
    deployments = tuple(
        Deployment(f"{name}/{place}", name, "openai", name, max_context_length=32_000) for place in range(3)
    )
    strategy = _STRATEGIES[number % len(_STRATEGIES)]
    model = Model(name, "text-generation", deployments, (f"alias-{number}",), strategy)
    candidates = [
        Candidate(each, Standing(each, model.breaker, lambda *_: None), _Client(each)) for each in deployments
    ]
    return ModelRouter(model, Selector(model, candidates, rng=rng), 0)


def _rule(number: int, size: int) -> Rule:
    """Make a rule as seed data has them: of one workspace and agent, for texts of a length, with a canary."""
    condition = Condition(
        agent_type=(_AGENTS[number % len(_AGENTS)],),
        request_type=("completion", "chat"),
        workspace_id=(f"ws-{number // 10}",),
        content_length=ContentLength(0, 2_000) if number % 2 else None,
    )
    targets = (Target(f"model-{number}", 0.7, 1), Target(f"model-{(number + 1) % size}", 0.3, 2))
    split = TrafficSplit(80.0, 20.0) if number % 3 == 0 else None
    return Rule(f"rule-{number}", targets, condition, split, priority=number % 100)


def _asked(numbers: list[int], rng: random.Random) -> list[_Asked]:
    """Make calls of these models, by alias as often as by id; three of four find a rule."""
    known: dict[tuple[str, int], Attributes] = {}
    found = []
    for number in numbers:
        agent = rng.choice(_AGENTS) if rng.random() < 0.75 else "nobody"
        kind = (agent, number // 10)
        if kind not in known:
            known[kind] = Attributes(agent, "chat", f"ws-{number // 10}", "user-1", content_length=900)
        found.append((f"{rng.choice(('model', 'alias'))}-{number}", known[kind]))
    return found


def _litellm(ours: float) -> Row | Skip:
    label = "decision, 10 models, vs selection in LiteLLM's Router"
    if not Path(_PEER).exists():
        return Skip(label, f"no {_PEER}; set LITELLM_PYTHON to an interpreter that has litellm")
    script = str(ROOT / "benchmarks" / "peers" / "litellm_select.py")
    offline = os.environ | {"LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    done = subprocess.run(
        [_PEER, script], capture_output=True, text=True, timeout=300, check=False, env=offline
    )
    if done.returncode:
        return Skip(label, (done.stderr.strip().splitlines() or ["failed"])[-1][:200])
    theirs = float(done.stdout.split()[-1])
    return Row(label, f"{ours:.2f} us", f"LiteLLM {theirs:,.0f} us", theirs / ours, 10.0)
