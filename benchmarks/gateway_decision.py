"""(i) The gateway's decision for one call: resolve a name, match the rules, pick a deployment.

Everything that has to be decided before a byte is sent, with health, filters and strategy, for 10 models and
10 rules and for 10,000 of each. The calls come in random order, so that with 10,000 models their state is not
in the processor's cache, as it would not be in a real gateway.
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
from router_core.gateway.reply import Reply
from router_core.gateway.resilience.standing import Standing
from router_core.gateway.rules.engine import RuleTable
from router_core.gateway.rules.rule import Condition, ContentLength, Rule, Target, TrafficSplit
from router_core.gateway.select.candidate import Candidate
from router_core.gateway.select.selector import Selector
from router_core.gateway.values import Deployment, Model, StrategyName

_PEER = os.environ.get("LITELLM_PYTHON", str(ROOT / ".venv-litellm" / "bin" / "python"))
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


class _World(NamedTuple):
    """One configuration, and calls for it."""

    resolve: Callable[[str], Selector]
    rules: RuleTable
    calls: list[Call]


def run() -> list[Row | Skip]:
    """Return microseconds of CPU for one decision, best of five rounds."""
    started = time.process_time()
    large = _world(10_000)
    built = time.process_time() - started
    small = _world(10)
    few, many = _measure(small, decide), _measure(large, decide)
    pick_few, pick_many = _measure(small, resolve_and_pick), _measure(large, resolve_and_pick)
    started = time.process_time()
    RuleTable(large.rules.rules)
    indexed = time.process_time() - started
    apart, alike = _unindexed(10), _unindexed(10_000)
    return [
        Row("resolve + rules + pick, 10 models, 10 rules, us of CPU", f"{few:.2f} us", "goal 10 us",
            few / _GOAL_MICROSECONDS, 1.0, at_least=False),
        Row("the same with 10,000 models, 10,000 rules", f"{many:.2f} us", f"10 of each {few:.2f} us",
            many / few, 2.0, at_least=False),
        Row("resolve + pick alone, 10,000 models", f"{pick_many:.2f} us", f"10 models {pick_few:.2f} us",
            pick_many / pick_few, 2.0, at_least=False),
        Row("index of 10,000 rules, seconds, once at load", f"{indexed:.2f} s", f"models too {built:.2f} s",
            indexed, 1.0, at_least=False),
        Row("worst case: 10,000 rules of nothing but lengths, none holds", f"{alike:,.0f} us",
            f"10 such rules {apart:.2f} us", alike / 10_000, 1.0, at_least=False),
        _litellm(few),
    ]  # fmt: skip


def decide(world: _World, call: Call) -> None:
    """Make one decision, as the pipeline makes it."""
    world.resolve(call.model_name)
    match = world.rules.match(call.attributes, _NOW, call.request_id)
    name = call.model_name if match is None else match.targets[0]
    assert world.resolve(name).pick(call, 1.0) is not None


def resolve_and_pick(world: _World, call: Call) -> None:
    """Make the decision of a gateway that has no rules."""
    assert world.resolve(call.model_name).pick(call, 1.0) is not None


def _measure(world: _World, decision: Callable[[_World, Call], None]) -> float:
    rounds = []
    for _ in range(_ROUNDS):
        started = time.process_time()
        for call in world.calls:
            decision(world, call)
        rounds.append((time.process_time() - started) / len(world.calls) * 1e6)
    return min(rounds)


def _unindexed(count: int) -> float:
    """Return microseconds of a match with rules that cannot be told apart, and of which none holds."""
    table = RuleTable(
        Rule(f"r{each}", (Target("model-0"),), Condition(content_length=ContentLength(each + 1, each + 1)))
        for each in range(count)
    )
    call = Attributes(content_length=1 << 30)
    times = max(1, 20_000 // count)
    started = time.process_time()
    for _ in range(times):
        table.match(call, _NOW)
    return (time.process_time() - started) / times * 1e6


def _world(size: int) -> _World:
    """Make as many models (of three deployments) as rules; ten rules for each workspace."""
    rng = random.Random(size)
    selectors = {}
    for number in range(size):
        selector = _selector(f"model-{number}", _STRATEGIES[number % len(_STRATEGIES)], rng)
        selectors[f"model-{number}"] = selectors[f"alias-{number}"] = selector
    rules = [_rule(number, size) for number in range(size)]
    return _World(selectors.__getitem__, RuleTable(rules), [_call(size, rng) for _ in range(_CALLS)])


def _selector(name: str, strategy: StrategyName, rng: random.Random) -> Selector:
    deployments = tuple(
        Deployment(f"{name}-{place}", name, "openai", name, max_context_length=32_000) for place in range(3)
    )
    model = Model(name, "text-generation", deployments, strategy=strategy)
    candidates = [
        Candidate(each, Standing(each, model.breaker, lambda *_: None), _Client(each)) for each in deployments
    ]
    return Selector(model, candidates, rng=rng)


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


def _call(size: int, rng: random.Random) -> Call:
    """Make a call: three of four find a rule, through an alias as often as through an id."""
    name = f"{rng.choice(('model', 'alias'))}-{rng.randrange(size)}"
    call = Call("chat/completions", name, request_id=f"{rng.getrandbits(128):032x}")
    call.input_tokens, call.max_tokens = rng.randrange(2_000), 500
    agent = rng.choice(_AGENTS) if rng.random() < 0.75 else "nobody"
    call.attributes = Attributes(agent, "chat", f"ws-{rng.randrange(max(1, size // 10))}", "user-1",
                                 content_length=rng.randrange(2_000))  # fmt: skip
    return call


def _litellm(ours: float) -> Row | Skip:
    label = "decision, 10 models, vs selection in LiteLLM's Router"
    if not Path(_PEER).exists():
        return Skip(label, f"no {_PEER}; set LITELLM_PYTHON to an interpreter that has litellm")
    script = str(ROOT / "benchmarks" / "peers" / "litellm_select.py")
    done = subprocess.run([_PEER, script], capture_output=True, text=True, timeout=300, check=False)
    if done.returncode:
        return Skip(label, (done.stderr.strip().splitlines() or ["failed"])[-1][:200])
    theirs = float(done.stdout.split()[-1])
    return Row(label, f"{ours:.2f} us", f"LiteLLM {theirs:,.0f} us", theirs / ours, 10.0)
