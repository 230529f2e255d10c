"""A trial in this process: who takes part in which arm, and what is known of the arms."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from router_core.gateway.call import Call
from router_core.gateway.json import text_of
from router_core.gateway.rules.conditions import Check, Compiler
from router_core.gateway.select.stable import digest, draw
from router_core.gateway.trials.experiment import Experiment
from router_core.gateway.trials.judge import Breach, breaches
from router_core.gateway.trials.rollout import BASELINE, CANARY, Rollout
from router_core.gateway.trials.scores import Noted, Scorer, Waiting
from router_core.gateway.trials.staging import share_of
from router_core.gateway.trials.state import Trial, TrialState, definition
from router_core.gateway.trials.tally import Tally

__all__ = ["NOBODY", "Live"]

NOBODY: Final = -1
"""No arm: the call takes no part."""
_ALL: Final = 1 << 64
_LOOK_EVERY: Final = 4
"""Calls of a canary after which it is judged; one that failed is looked at at once."""
_MAX_NOTED: Final = 50_000


class Live:
    """One trial. ``arm_of`` is on the way of calls, as is ``count``; the rest happens beside them."""

    __slots__ = (
        "_checks", "_draws", "_fresh", "_limit", "_others", "_own", "_past", "_salt", "_winner", "arms",
        "definition", "dirty", "guilty", "labels", "met", "names", "noted", "scored", "seen", "state",
        "trial", "waiting",
    )  # fmt: skip

    def __init__(self, trial: Trial, models: tuple[str, ...] = ()) -> None:
        """``models`` are those of the arms, where a rule names them."""
        self.state: TrialState | None = None
        """None: not known yet, so that nobody takes part."""
        self.met = False
        """Whether the state was seen or made since this trial was configured."""
        self.guilty: tuple[Breach, ...] = ()
        """What was found here, and is not written down yet: meanwhile nobody takes part."""
        self.noted: dict[str, Noted] = {}
        """By request: calls that may still be scored."""
        self.scored: dict[str, Noted] = {}
        self.waiting = Waiting()
        """Scores of calls that others have served."""
        self.dirty = False
        """Whether something was counted that the others do not know."""
        self._fresh = 0
        self.use(trial, models)
        self._forget()

    def use(self, trial: Trial, models: tuple[str, ...] = ()) -> None:
        """Go by a configuration: the first one, or one with other criteria."""
        self.trial = trial
        if isinstance(trial, Rollout):
            self.names: tuple[str, ...] = (BASELINE, CANARY)
            self.arms: tuple[str, ...] = models or (trial.model, trial.canary)
            self._draws: tuple[tuple[int, float], ...] = ()
        else:
            self.names = tuple(each.name for each in trial.variants)
            self.arms = tuple(each.model_id for each in trial.variants)
            self._draws = tuple((digest(each.name), each.weight) for each in trial.variants)
        self.definition = definition(trial, self.arms)
        self.labels = tuple(f"{trial.id}/{name}" for name in self.names)
        self._salt = f"{trial.id}\0"
        condition = trial.condition if isinstance(trial, Experiment) else None
        self._checks: tuple[Check, ...] = () if condition is None else Compiler().checks(condition)
        self._set()

    # -- on the way of calls -------------------------------------------------------------------------

    def arm_of(self, call: Call) -> int:
        """Return the place of the arm that a call falls to, or NOBODY. The same caller gets the same arm for
        as long as weights stay, and a canary whose share grows gives nobody back."""
        if self._winner >= 0:
            return self._winner
        limit = self._limit
        if not limit:
            return NOBODY
        point = digest(self._salt + _key(call, self.trial.sticky_by))
        return draw(point, self._draws) if self._draws else int(point < limit)

    def holds(self, call: Call, now: float) -> bool:
        """Return whether the condition holds; ``now`` is in seconds since 1970."""
        return all(check(call.attributes, now) for check in self._checks)

    def count(self, place: int, add: Any, *what: Any) -> bool:
        """Let ``add`` put a call into the tallies of an arm; returns whether something was found guilty."""
        name = self.names[place]
        if self.state is None or self.state.status not in ("running", "paused"):
            return False
        add(self._own[name], *what)
        seen = self.seen[name]
        errors = seen.errors
        add(seen, *what)
        self.dirty = True
        if not place or self.guilty:
            return False
        self._fresh += 1
        if self._fresh < _LOOK_EVERY and seen.errors == errors:
            return False
        self._fresh = 0
        return self.judge()

    def judge(self) -> bool:
        """Look for evidence that an arm exceeds what it may; with that, nobody takes part any more."""
        trial = self.trial
        criteria = trial.rollback if isinstance(trial, Rollout) else trial.guardrails
        if not criteria:
            return False
        alpha = trial.alpha / (len(self.names) - 1)
        baseline = self.seen[self.names[0]]
        for name in self.names[1:]:
            self.guilty += breaches(criteria, baseline, self.seen[name], alpha)
        if self.guilty:
            self._set()
        return bool(self.guilty)

    def note(self, request_id: str, noted: Noted) -> None:
        """Remember whose a call was, for the score that may come; one whose id another bears has none."""
        if request_id in self.noted or request_id in self.scored:
            return  # callers may choose ids: nobody gets at the score of another by that
        if len(self.noted) >= _MAX_NOTED:
            self.noted.pop(next(iter(self.noted)))
        self.noted[request_id] = noted

    def score(self, request_id: str, value: float, scorer: Scorer) -> str:
        """Take the score of a call: ``counted``, ``tainted``, ``given`` where it has one, ``foreign`` where
        it is not his to score, and ``unknown`` where the call is not known here."""
        noted = self.scored.get(request_id) or self.noted.get(request_id)
        if noted is None:
            return "unknown"
        if not scorer.may_score(noted):
            return "foreign"
        if self.noted.pop(request_id, None) is None:
            return "given"
        if len(self.scored) >= _MAX_NOTED:
            self.scored.pop(next(iter(self.scored)))
        self.scored[request_id] = noted
        if not noted.arm:
            return "tainted"
        self.count(self.names.index(noted.arm), _add_score, value)
        return "counted"

    # -- beside them ---------------------------------------------------------------------------------

    def take(self, state: TrialState | None) -> None:
        """Go by a state from now on; another run counts from nothing, another stage begins its figures."""
        before, self.state = self.state, state
        if state is None or before is None or before.run != state.run:
            self._forget()
            self.guilty = ()
        elif before.stage != state.stage:
            for name in self.names:
                self._past[name].add(self._own[name])
                self._own[name] = Tally()
                self._others[name] = Tally()
            self.dirty = True
        if state is not None and state.status not in ("running", "paused"):
            self.guilty = ()
        self._set()

    def told(self) -> dict[str, Any]:
        """Return what this process has counted, for the others."""
        state = self.state
        return {
            "run": "" if state is None else state.run,
            "stage": 0 if state is None else state.stage,
            "all": {name: Tally.total((self._past[name], self._own[name])).to_json() for name in self.names},
            "now": {name: self._own[name].to_json() for name in self.names},
        }

    def hear(self, others: Iterable[Mapping[str, Any]]) -> None:
        """Take what the other processes have counted, in place of what they said before."""
        run = {name: Tally() for name in self.names}
        stage = {name: Tally() for name in self.names}
        for told in others:
            if self.state is None or told.get("run") != self.state.run:
                continue
            _join(run, told.get("all"))
            if told.get("stage") == self.state.stage:
                _join(stage, told.get("now"))
        self._others = stage
        self.seen = {name: Tally.total((run[name], self._past[name], self._own[name])) for name in self.names}

    def stage(self) -> dict[str, Tally]:
        """Return what all processes have counted since the stage began."""
        return {name: Tally.total((self._others[name], self._own[name])) for name in self.names}

    def _forget(self) -> None:
        self._own = {name: Tally() for name in self.names}
        self._past = {name: Tally() for name in self.names}
        self._others = {name: Tally() for name in self.names}
        self.seen = {name: Tally() for name in self.names}
        """All that is known since the run began: the others' as they last said, and our own."""
        self._fresh = 0
        self.dirty = False

    def _set(self) -> None:
        """Work out who takes part."""
        self._limit, self._winner = 0, NOBODY
        trial, state = self.trial, self.state
        if state is None or self.guilty or not trial.enabled:
            return
        if state.status == "promoted":
            self._winner = self.names.index(state.winner) if state.winner in self.names else NOBODY
        elif isinstance(trial, Rollout):
            if state.status != "rolled_back":
                self._limit = int(share_of(trial, state) / 100.0 * _ALL)
        elif state.status == "running":
            self._limit = _ALL


def _add_score(tally: Tally, value: float) -> None:
    tally.sums["score"].add(value)


def _key(call: Call, by: str) -> str:
    """Return what keeps calls in one arm; a call that says nothing of the kind is drawn by itself.

    A session is what the call names (or its user). Whose key it is says nothing about that: a service that
    calls with one key would be in one arm as a whole.
    """
    if by == "session":
        return call.sticky or call.request_id
    caller = "" if call.principal.kind == "anonymous" else call.principal.id
    if by == "principal":
        return caller or call.request_id
    fields = call.fields
    said = text_of(fields, "user") if fields is not None and "user" in fields else ""
    return said or call.attributes.user_id or caller or call.request_id


def _join(into: dict[str, Tally], told: object) -> None:
    if isinstance(told, Mapping):
        for name, data in told.items():
            if name in into:
                into[name].add(Tally.read(data))
