"""Who is drawn of those that may serve.

No strategy sends every call to whoever looks best at the moment: figures are always a little old, so that all
callers (and all replicas of the gateway, which do not see each other's calls) would run to the same one until
it is the worst. Either the draw is random, or the figure moves with each draw (calls in flight, turns), or
ties, which are the usual case, are broken at random. ``cheapest`` alone keeps to the best: that is its point.

A weight of 0 takes a deployment out of ``weighted``, ``least_busy`` and ``sticky`` for as long as anybody
else is left; the other strategies do not look at weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import inf
from random import Random
from typing import Any, Final, Protocol, get_args

from router_core.gateway.call import Call
from router_core.gateway.select.candidate import Candidate
from router_core.gateway.select.filters import PriceOf, estimate
from router_core.gateway.select.stable import digest, draw, race
from router_core.gateway.values import StrategyName

__all__ = ["EXPLORE", "Strategy", "strategy"]

EXPLORE: Final = 0.02
"""Share of the draws of ``latency`` that do not look at latency, so that nobody is forgotten for having been
slow once."""


class Strategy(Protocol):
    """Draws one candidate. Only ``drawn`` may change anything, apart from the random numbers."""

    name: str
    drawn: Callable[[Candidate], None] | None
    """Takes note that a call goes there; None where there is nothing to note."""

    def draw(self, pool: Sequence[Candidate], call: Call, now: float, rng: Random) -> Candidate:
        """Return one of a pool that is not empty."""

    def figures(self, candidate: Candidate, call: Call, now: float) -> dict[str, Any]:
        """Return what it goes by, for the explanation."""


class Shuffle:
    """Each with the same chance."""

    name = "shuffle"
    drawn: Callable[[Candidate], None] | None = None

    def draw(self, pool: Sequence[Candidate], call: Call, now: float, rng: Random) -> Candidate:
        """Return any."""
        return pool[int(rng.random() * len(pool))]

    def figures(self, candidate: Candidate, call: Call, now: float) -> dict[str, Any]:
        """Return nothing: there is nothing to go by."""
        return {}


class RoundRobin(Shuffle):
    """Whose last turn is longest ago.

    With a steady pool this alternates exactly; one that comes back gets its next turn at once, and nobody
    gets the turns of one that is out in addition to its own. The first turn of all falls at random, for many
    short-lived processes (serverless) would else all begin with the same deployment.
    """

    name = "round_robin"

    def __init__(self, candidates: Sequence[Candidate], rng: Random) -> None:
        self.drawn = self._drawn
        count = len(candidates)
        start = int(rng.random() * count)
        self._turns = {each.id: (place - start) % count for place, each in enumerate(candidates)}
        self._next = count

    def draw(self, pool: Sequence[Candidate], call: Call, now: float, rng: Random) -> Candidate:
        """Return the one whose turn it is."""
        turns = self._turns
        found, earliest = pool[0], turns[pool[0].id]
        for each in pool:
            turn = turns[each.id]
            if turn < earliest:
                found, earliest = each, turn
        return found

    def _drawn(self, candidate: Candidate) -> None:
        """Put it behind all others."""
        self._turns[candidate.id] = self._next
        self._next += 1

    def figures(self, candidate: Candidate, call: Call, now: float) -> dict[str, Any]:
        """Return its place among the turns."""
        mine = self._turns[candidate.id]
        return {"turn": sum(turn < mine for turn in self._turns.values())}


class Weighted(Shuffle):
    """Each with a chance as large as its share of the weights."""

    name = "weighted"

    def draw(self, pool: Sequence[Candidate], call: Call, now: float, rng: Random) -> Candidate:
        """Return any, by weight."""
        return by_weight(pool, rng)

    def figures(self, candidate: Candidate, call: Call, now: float) -> dict[str, Any]:
        """Return the weight."""
        return {"weight": candidate.weight}


class LeastBusy(Shuffle):
    """Fewest calls in flight, and waiting at the upstream, for its weight; of equals any, by weight."""

    name = "least_busy"

    def draw(self, pool: Sequence[Candidate], call: Call, now: float, rng: Random) -> Candidate:
        """Return the least busy."""
        return by_weight(least(pool, busyness), rng)

    def figures(self, candidate: Candidate, call: Call, now: float) -> dict[str, Any]:
        """Return what it has to do."""
        standing = candidate.standing
        return {"inflight": standing.inflight, "queue": standing.queue, "weight": candidate.weight}


class Latency(Shuffle):
    """The better of two at random, by recent latency times the calls that wait for it.

    Two, not all: the best of all is found by everybody at once. What counts for one that has no latency yet
    is the standing's to say (``Standing.load``).
    """

    name = "latency"

    def draw(self, pool: Sequence[Candidate], call: Call, now: float, rng: Random) -> Candidate:
        """Return the better of two."""
        count = len(pool)
        at = rng.random() * count
        one = int(at)
        if count == 1 or at - one < EXPLORE:
            return pool[one]
        other = int(rng.random() * (count - 1))
        if other >= one:
            other += 1
        first, second = pool[one], pool[other]
        return first if first.standing.load(now) <= second.standing.load(now) else second

    def figures(self, candidate: Candidate, call: Call, now: float) -> dict[str, Any]:
        """Return the load and what it is made of."""
        standing = candidate.standing
        return {"load": round(standing.load(now), 6), "inflight": standing.inflight}


class Cheapest(Shuffle):
    """Least expected cost of this call; of equals any; those whose price nobody knows last."""

    name = "cheapest"

    def __init__(self, price_of: PriceOf) -> None:
        self._price_of = price_of

    def draw(self, pool: Sequence[Candidate], call: Call, now: float, rng: Random) -> Candidate:
        """Return the cheapest."""
        found = least(pool, lambda each: self._cost(each, call))
        return found[int(rng.random() * len(found))]

    def figures(self, candidate: Candidate, call: Call, now: float) -> dict[str, Any]:
        """Return the expected cost; null where it is not known."""
        cost = self._cost(candidate, call)
        return {"cost_microdollars": None if cost == inf else cost}

    def _cost(self, candidate: Candidate, call: Call) -> float:
        price = self._price_of(candidate.deployment)
        return inf if price is None else estimate(price, call)


class Priority(Shuffle):
    """Any of the lowest level that has anybody left, by weight."""

    name = "priority"

    def draw(self, pool: Sequence[Candidate], call: Call, now: float, rng: Random) -> Candidate:
        """Return one of the level."""
        return by_weight(least(pool, lambda each: each.deployment.priority), rng)

    def figures(self, candidate: Candidate, call: Call, now: float) -> dict[str, Any]:
        """Return the level."""
        return {"priority": candidate.deployment.priority}


class Sticky(Shuffle):
    """The same one for the same key, in every process; any for calls without a key.

    When one goes away its keys alone move, each to the one that comes next for it, and when it is back they
    come back (``stable``).
    """

    name = "sticky"

    def draw(self, pool: Sequence[Candidate], call: Call, now: float, rng: Random) -> Candidate:
        """Return the key's own."""
        if not call.sticky:
            return by_weight(pool, rng)
        return pool[draw(digest(call.sticky), [(each.seed, each.weight) for each in pool])]

    def figures(self, candidate: Candidate, call: Call, now: float) -> dict[str, Any]:
        """Return how far behind it is for this key: the least is drawn."""
        if not call.sticky:
            return {"weight": candidate.weight}
        late = race(digest(call.sticky), candidate.seed, candidate.weight)
        return {"rank": None if late == inf else round(late, 6)}


_PLAIN: Final[Mapping[str, Strategy]] = {
    each.name: each for each in (Shuffle(), Weighted(), LeastBusy(), Latency(), Priority(), Sticky())
}
"""Those that remember nothing serve all models."""


def strategy(name: str, candidates: Sequence[Candidate], price_of: PriceOf, rng: Random) -> Strategy:
    """Return the strategy of a model."""
    if name == "round_robin":
        return RoundRobin(candidates, rng)
    if name == "cheapest":
        return Cheapest(price_of)
    if name not in _PLAIN:
        raise ValueError(f"there is no strategy {name!a}; there are {', '.join(get_args(StrategyName))}")
    return _PLAIN[name]


def busyness(candidate: Candidate) -> float:
    """Return calls in flight or waiting for each unit of weight."""
    standing = candidate.standing
    return (standing.inflight + standing.queue) / candidate.weight if candidate.weight > 0 else inf


def least(pool: Sequence[Candidate], figure: Callable[[Candidate], float]) -> list[Candidate]:
    """Return all those that share the least figure."""
    best, found = inf, []
    for each in pool:
        value = figure(each)
        if value < best:
            best, found = value, [each]
        elif value == best:
            found.append(each)
    return found


def by_weight(pool: Sequence[Candidate], rng: Random) -> Candidate:
    """Return any by weight; where all weights are 0, any."""
    if len(pool) == 1:
        return pool[0]
    point = rng.random() * sum([each.weight for each in pool])
    for each in pool:
        point -= each.weight
        if point < 0.0:
            return each
    return _last_with_weight(pool, rng)


def _last_with_weight(pool: Sequence[Candidate], rng: Random) -> Candidate:
    """Return the last one that has a weight: rounding left nothing for it; or any where none has."""
    able = [each for each in pool if each.weight > 0]
    return able[-1] if able else pool[int(rng.random() * len(pool))]
