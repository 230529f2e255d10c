"""The outer layers: record, resolve, fallback. What comes out is an answer, or an error that says why not."""

from __future__ import annotations

import time as wall
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any, Final

import msgspec

from router_core.errors import RouterError
from router_core.gateway.admission import Admission, Permit, has_to_wait, settle
from router_core.gateway.call import Call
from router_core.gateway.outcome import Outcome
from router_core.gateway.pipeline.attempt import Attempts
from router_core.gateway.pipeline.failure import explained, failed, printed, unserved
from router_core.gateway.pipeline.fallback import ENDS, Fallback
from router_core.gateway.pipeline.resolve import AUTO, Resolved, Resolver, split_by
from router_core.gateway.pipeline.retry import Retry
from router_core.gateway.registry import Registry, Snapshot
from router_core.gateway.reply import Reply
from router_core.gateway.rules.shadow import ShadowCounts
from router_core.gateway.select.candidate import Candidate
from router_core.gateway.trials.trials import Trials
from router_core.http.taskless import own_task

__all__ = ["Explained", "Pipeline", "Served"]

_KEPT: Final = 4096
"""Explanations that are remembered of one snapshot."""
_TYPES: Final = 16
"""Content types for which headers are kept ready."""


class Explained:
    """The headers that explain a decision: the same for most calls that go to a deployment."""

    __slots__ = ("_typed", "decision", "headers", "resolved")

    def __init__(
        self, headers: tuple[tuple[str, str], ...], decision: Any = None, resolved: Resolved | None = None
    ) -> None:
        self.headers = headers
        self.decision = decision
        self.resolved = resolved
        self._typed: dict[str, tuple[tuple[str, str], ...]] = {}

    def typed(self, content_type: str) -> tuple[tuple[str, str], ...]:
        """Return them behind the type of an answer: of one decision and type, the same object each time."""
        found = self._typed.get(content_type)
        if found is None:
            found = (("content-type", content_type), *self.headers)
            if len(self._typed) < _TYPES:
                self._typed[content_type] = found
        return found


class Served(msgspec.Struct, eq=False):
    """A call that was answered by an upstream, if only with an error that is the caller's own."""

    reply: Reply
    body: bytes | AsyncIterator[bytes]
    """Bytes, or a stream that has to be read to its end or closed."""
    explained: Explained

    @property
    def headers(self) -> tuple[tuple[str, str], ...]:
        """What explains the decision."""
        return self.explained.headers


class Pipeline:
    """Serves calls by the snapshot of the moment: a call keeps the one that it began with."""

    __slots__ = ("_attempts", "_explained", "_fallback", "_on_call", "_registry", "_resolver", "_retry",
                 "_snapshot", "_time", "admission")  # fmt: skip

    def __init__(
        self, registry: Registry, retry: Retry, attempts: Attempts, time: Callable[[], float],
        on_call: Callable[[Call, str, Outcome | None], None], on_rule: Callable[[str], None],
        trials: Trials | None = None,
    ) -> None:  # fmt: skip
        """``on_call`` is told of every call that has ended or begun to stream: the call, the id of the
        model, and the outcome (None: it was cancelled); ``on_rule`` of the rule that decided, by name."""
        self._registry = registry
        self._retry = retry
        self._attempts = attempts
        self._fallback = Fallback(retry, time)
        self._time = time
        self._on_call = on_call
        self._resolver = Resolver(on_rule, trials, time)
        self.admission: Admission | None = None
        """What limits calls; None: nothing does."""
        self._snapshot: Snapshot | None = None
        """That of which the following are."""
        self._explained: dict[int, Explained] = {}
        """What calls without a retry are told, by decision."""

    def serve(self, call: Call) -> Coroutine[Any, Any, Served]:
        """Answer a call; raises a RouterError that tells the caller why nobody did."""
        if self.admission is not None:
            try:
                admitted = self.admission.admit(call, self._time())
            except RouterError as error:
                self._refused(call, error)
                raise
            if admitted is not None:
                return self._limited(call, admitted)
        return self._serve(call)

    async def _limited(self, call: Call, admitted: Permit | Awaitable[Permit | None]) -> Served:
        """Answer a call that holds something, or will."""
        try:
            if has_to_wait(admitted):
                await own_task()
                call.permit = await admitted
            else:
                call.permit = admitted
        except RouterError as error:
            self._refused(call, error)
            raise
        try:
            return await self._serve(call)
        finally:
            if not call.in_flight:  # else the stream is settled at its end
                settle(call, self._time())

    def _refused(self, call: Call, error: RouterError) -> None:
        """Count a call that was refused before it was known who may serve it."""
        router = self._registry.snapshot.models.get(call.model_name)
        self._on_call(call, "" if router is None else router.id, unserved(error))

    async def _serve(self, call: Call) -> Served:
        snapshot = self._registry.snapshot
        if snapshot is not self._snapshot:
            self._snapshot = snapshot
            self._resolver.follow(snapshot)
            self._explained.clear()
        resolved = self._resolve(call, snapshot)
        first = resolved.routers[0]
        call.deadline = min(call.deadline, call.started + first.model.total_timeout)
        if first.model.strategy == "sticky":
            _stick(call, first.model.sticky_by)
        outcome: Outcome | None = None
        try:
            candidate = self._retry.first(call, first) if resolved.plain else None
            if candidate is None:
                ended = await self._fallback.serve(call, resolved.routers, snapshot.models)
            else:
                ended = await self._attempts.make(call, candidate, first.model.retry.retry_after_max)
                if ended.outcome.move not in ENDS:
                    ended = await self._fallback.serve(
                        call, resolved.routers, snapshot.models, (candidate, ended)
                    )  # fmt: skip
            outcome = ended.outcome
        except RouterError as error:
            outcome = unserved(error)
            explained(error, call)
            raise
        finally:
            self._on_call(call, first.id, outcome)
        reply = ended.reply
        if reply is None or ended.candidate is None or outcome.move not in ENDS:
            raise explained(failed(call, outcome), call)
        return Served(reply, ended.body, self._explain(call, ended.candidate, resolved))

    def explain(self, call: Call) -> dict[str, Any]:
        """Say who would serve a call, and why, without asking anybody or changing anything."""
        snapshot = self._registry.snapshot
        named = call.model_name != AUTO or AUTO in snapshot.models
        rules = None if named else snapshot.rules.explain(call.attributes, wall.time(), key=split_by(call))
        resolved = self._resolver.resolve(call, snapshot, dry=True)
        agent = None if named or resolved.rule else self._resolver.agent(call, snapshot)
        now = self._time()
        decisions = [router.selector.explain(call, now) for router in resolved.routers]
        chosen = next((one for one in decisions if one.chosen), None)
        return {
            "model": None if chosen is None else chosen.model_id,
            "deployment": None if chosen is None else chosen.chosen,
            "rule": resolved.rule or None,
            "models": [router.id for router in resolved.routers],
            "decisions": [one.explain() for one in decisions],
            "rules": rules,
            "agent": None if agent is None else agent.explain(),
            "trial": call.trial or None,
            "version": snapshot.version,
        }

    def who(self, call: Call) -> tuple[str, ...]:
        """Return the ids of the models that are asked, in their order: of calls of one kind, the same object.
        Raises as ``serve`` does where there is none."""
        return self._resolver.resolve(call, self._registry.snapshot, dry=True).ids

    @property
    def shadows(self) -> ShadowCounts:
        """What shadow rules would have done."""
        return self._resolver.shadows

    def _resolve(self, call: Call, snapshot: Snapshot) -> Resolved:
        """Return who may serve a call, and count one that nobody may."""
        try:
            resolved = self._resolver.resolve(call, snapshot)
        except RouterError as error:
            self._refused(call, error)
            raise
        if resolved.rule:
            call.rule = resolved.rule
        return resolved

    def _explain(self, call: Call, candidate: Candidate, resolved: Resolved) -> Explained:
        decision = call.decision
        usual = decision is candidate.usual and len(call.attempts) == 1
        if usual:
            known = self._explained.get(id(decision))
            if known is not None and known.decision is decision and known.resolved is resolved:
                return known
        explained = Explained(_headers(call, candidate, resolved), decision, resolved)
        if usual:
            if len(self._explained) >= _KEPT:
                self._explained.clear()
            self._explained[id(decision)] = explained
        return explained


def _headers(call: Call, candidate: Candidate, resolved: Resolved) -> tuple[tuple[str, str], ...]:
    deployment = candidate.deployment
    first = resolved.routers[0]
    headers: tuple[tuple[str, str], ...] = (
        ("x-router-model", printed(deployment.model_id)),
        ("x-router-deployment", printed(deployment.id)),
        ("x-router-attempts", str(len(call.attempts))),
        ("x-router-decision", call.decision.header()),
    )
    if deployment.model_id != first.id:
        headers += (("x-router-fallback-from", printed(first.id)),)
    if resolved.rule:
        headers += (("x-router-rule", printed(resolved.rule)),)
    if call.trial:
        headers += (("x-router-trial", call.trial),)
    if first.model.status == "deprecated":
        headers += (("x-router-deprecated", printed(first.id)),)
    return headers


def _stick(call: Call, by: str) -> None:
    """Set what keeps calls together, where the model says that it is not the ``user`` of the body."""
    if by == "principal":
        call.sticky = call.principal.id
    elif by.startswith("header:"):
        call.sticky = call.header(by.removeprefix("header:")) or ""
