"""Which deployment of a model a call goes to: filters remove, the strategy draws from what is left."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from random import Random
from typing import Final

from router_core.gateway.call import Call
from router_core.gateway.resilience.ejection import panic as is_panic
from router_core.gateway.select.candidate import Candidate
from router_core.gateway.select.decision import Decision
from router_core.gateway.select.filters import (
    SAYS,
    SOFT,
    PriceOf,
    Removal,
    Requirements,
    estimate,
    fits_bounds,
    fits_budget,
    fits_context,
    foremost,
    misfit,
    requirements,
)
from router_core.gateway.select.strategies import strategy
from router_core.gateway.values import MODEL_TYPES, Deployment, Model, Price

__all__ = ["Selector"]

_MAX_SETS: Final = 256
"""Sets of requirements that are remembered. Callers can make up any number of them."""
_NOTHING: Final[frozenset[str]] = frozenset()
_NO_CALL: Final = -1
_Against = list[tuple[Candidate, Removal | None]]
"""Each candidate, and what speaks against it."""


class _Fitting:
    """What is left of the candidates for one set of requirements, worked out once."""

    __slots__ = ("candidates", "endpoint", "kept", "removals", "standings", "window")

    def __init__(self, everybody: Iterable[Candidate], required: Requirements) -> None:
        fitting: list[Candidate] = []
        removals: list[Removal] = []
        for each in everybody:
            removal = misfit(each, required)
            if removal is None:
                fitting.append(each)
            else:
                removals.append(removal)
        self.endpoint = required[0]
        self.candidates = tuple(fitting)
        self.standings = tuple([each.standing for each in fitting])
        self.kept = tuple([each.id for each in fitting])
        self.removals = tuple(removals)
        windows = [each.deployment.max_context_length or 1 << 62 for each in fitting]
        self.window = min(windows, default=_NO_CALL)
        """Tokens that all of them hold; less than any call has where there are none."""


class Selector:
    """The candidates of one model, and the strategy that draws from them.

    All of it happens on one event loop and nothing in it waits, so that turns are exact however many calls
    are under way. Panic: where fewer than a share of those that fit are healthy, ``ejected`` and
    ``unhealthy`` are ignored. An open circuit is not: it has seen its own calls fail, and while anybody else
    is left, to ask it again would only spend retries. For when nobody is left there is ``closest``, whose
    circuit can be asked for an early probe (``Standing.begin(now, early=True)``).
    """

    __slots__ = ("_fitting", "_panic", "_price_of", "_rng", "_strategy", "_usual", "candidates", "model")

    def __init__(
        self, model: Model, candidates: Sequence[Candidate], *, rng: Random | None = None,
        panic: float | None = None, price_of: PriceOf | None = None,
    ) -> None:  # fmt: skip
        self.model = model
        self.candidates = tuple(candidates)
        self._rng = rng or Random()  # noqa: S311 - spreads calls, keeps no secret
        self._panic = model.ejection.panic if panic is None else panic
        self._price_of = price_of or _configured
        self._strategy = strategy(model.strategy, self.candidates, self._price_of, self._rng)
        self._fitting: dict[Requirements, _Fitting] = {}
        endpoint = next(iter(MODEL_TYPES.get(model.type, ())), "")
        self._usual = _Fitting(self.candidates, (endpoint, _NOTHING, _NOTHING, "", _NOTHING, None))
        """For calls that ask for nothing in particular."""

    def pick(self, call: Call, now: float, tried: Collection[str] = ()) -> Candidate | None:
        """Return whom to ask, or None; the reasons are in ``call.decision`` then and always.

        ``tried`` are ids of deployments that this call is not to be sent to again.
        """
        fitting, bounds = self._usual, call.bounds
        if (
            call.endpoint != fitting.endpoint or call.needs or call.tags or call.region or call.compliance
            or bounds is not None
        ):  # fmt: skip
            fitting = self._fit(call)
            if bounds is not None and bounds.measured:
                return self._pick_among(fitting, call, now, tried)
        if tried or call.max_cost is not None or call.input_tokens + (call.max_tokens or 0) > fitting.window:
            return self._pick_among(fitting, call, now, tried)
        for standing in fitting.standings:  # what ``out`` says, for those in which nothing is wrong
            if not standing.clear or standing.inflight >= standing.limit:
                return self._pick_among(fitting, call, now, tried)
        chosen = self._strategy.draw(fitting.candidates, call, now, self._rng)
        if self._strategy.drawn is not None:
            self._strategy.drawn(chosen)
        decision = chosen.usual
        if decision is None or decision.kept is not fitting.kept:
            decision = self._usually(fitting, chosen)
        call.decision = decision
        return chosen

    def explain(self, call: Call, now: float, tried: Collection[str] = ()) -> Decision:
        """Return what ``pick`` would decide, with the figures. Changes nothing: neither turns nor permits nor
        the random numbers to come."""
        pool, removals, reason = self._left(_Fitting(self.candidates, requirements(call)), call, now, tried)
        chosen = ""
        if pool:
            rng = Random()  # noqa: S311 - a copy of the one that spreads calls
            rng.setstate(self._rng.getstate())
            chosen = self._strategy.draw(pool, call, now, rng).id
        figures = {each.id: self._strategy.figures(each, call, now) for each in self.candidates}
        decision = self._decision(chosen, [each.id for each in pool], removals, reason)
        return replace(decision, figures=figures)

    def closest(self, now: float, call: Call | None = None, tried: Collection[str] = ()) -> Candidate | None:
        """Return whom to turn to when nobody is left: the one that is back first, of those that could serve
        the call; those that it was tried with come last. None: waiting helps nobody."""
        able: Iterable[Candidate] = self.candidates
        if call is not None:
            able = [
                each for each in self._fit(call).candidates
                if self._removal(each, call) is None and self._unworthy(each, call, now) is None
            ]  # fmt: skip
        return min(able, key=lambda each: (each.id in tried, each.standing.back_at(now)), default=None)

    def cost(self, deployment: Deployment, call: Call) -> int | None:
        """Return the estimate that filters and ``cheapest`` go by, in micro-dollars; None: unpriced."""
        price = self._price_of(deployment)
        return None if price is None else estimate(price, call)

    def _fit(self, call: Call) -> _Fitting:
        required = requirements(call)
        found = self._fitting.get(required)
        if found is None:
            if len(self._fitting) >= _MAX_SETS:
                self._fitting.clear()
            found = _Fitting(self.candidates, required)
            if found.kept == self._usual.kept and found.endpoint == self._usual.endpoint:
                found = self._usual  # what is asked removes nobody: its decisions are those of any call
            self._fitting[required] = found
        return found

    def _pick_among(
        self, fitting: _Fitting, call: Call, now: float, tried: Collection[str]
    ) -> Candidate | None:
        pool, removals, reason = self._left(fitting, call, now, tried)
        chosen: Candidate | None = None
        if pool:
            chosen = self._strategy.draw(pool, call, now, self._rng)
            if self._strategy.drawn is not None:
                self._strategy.drawn(chosen)
        kept = [each.id for each in pool]
        call.decision = self._decision(chosen.id if chosen else "", kept, removals, reason)
        return chosen

    def _left(
        self, fitting: _Fitting, call: Call, now: float, tried: Collection[str]
    ) -> tuple[Sequence[Candidate], tuple[Removal, ...], str]:
        """Return who is left, why the others are not, and what is to be said about it."""
        against = [(each, self._removal(each, call, now, tried)) for each in fitting.candidates]
        pool = [each for each, removal in against if removal is None]
        doubted = any(removal is not None and removal.reason in SOFT for _, removal in against)
        reason = ""
        if doubted and (not pool or is_panic(fitting.candidates, now, self._panic)):
            reason = "panic" if pool else "last_resort"
            against = [(each, None if removal and removal.reason in SOFT else removal)
                       for each, removal in against]  # fmt: skip
            pool = [each for each, removal in against if removal is None]
        if call.attempts:
            pool, against = _surest(pool, against)
        removals = (*fitting.removals, *(removal for _, removal in against if removal is not None))
        return pool, removals, reason if pool else foremost(removals)

    def _removal(
        self, candidate: Candidate, call: Call, now: float | None = None, tried: Collection[str] = ()
    ) -> Removal | None:
        """Return what speaks against a candidate that fits; without ``now``, whatever its state."""
        if candidate.id in tried:
            return Removal(candidate.id, "tried", SAYS["tried"])
        removal = fits_context(candidate, call)
        if removal is None and call.max_cost is not None:
            removal = fits_budget(candidate, call, self._price_of(candidate.deployment))
        if removal is None and now is not None:
            removal = self._unworthy(candidate, call, now)
        if removal is None and now is not None:
            reason = candidate.standing.out(now)
            if reason:
                removal = Removal(candidate.id, reason, SAYS.get(reason, reason))
        return removal

    def _unworthy(self, candidate: Candidate, call: Call, now: float) -> Removal | None:
        """Return why a candidate does not measure up to what the workspace of the call asks."""
        bounds = call.bounds
        if bounds is None or not bounds.measured:
            return None
        price = self._price_of(candidate.deployment) if bounds.priced else None
        return fits_bounds(candidate, bounds, price, now)

    def _usually(self, fitting: _Fitting, chosen: Candidate) -> Decision:
        """Return the decision where nothing but requirements removed anybody, and note it for the next call
        of the kind. ``kept`` says whose note it is: no two selectors, or sets of requirements, share one."""
        made = self._decision(chosen.id, fitting.kept, fitting.removals, "")
        if fitting is self._usual:
            made = chosen.usual = replace(made, text=made.header())
        return made

    def _decision(
        self, chosen: str, kept: Sequence[str], removals: tuple[Removal, ...], reason: str
    ) -> Decision:
        return Decision(self.model.id, self._strategy.name, chosen, tuple(kept), removals, "", reason)


def _surest(pool: list[Candidate], against: _Against) -> tuple[list[Candidate], _Against]:
    """Leave out, where others are left, whose circuits are half-open: a call that has failed once already is
    not risked on finding out whether they are back."""
    sure = [each for each in pool if each.standing.circuit == "closed"]
    if not sure or len(sure) == len(pool):
        return pool, against
    unsure = {each.id for each in pool if each not in sure}
    return sure, [
        (each, Removal(each.id, "probation", SAYS["probation"]) if each.id in unsure else removal)
        for each, removal in against
    ]


def _configured(deployment: Deployment) -> Price | None:
    return deployment.price
