"""One attempt at one deployment: permit, exchange, judgement, account."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Final

import msgspec

from router_core.gateway.accounting.ledger import Ledger
from router_core.gateway.accounting.tokens import estimate_answer
from router_core.gateway.accounting.usage import usage_of
from router_core.gateway.admission import settle
from router_core.gateway.call import Attempt, Call, Usage
from router_core.gateway.outcome import CANCELLED, OK, Outcome
from router_core.gateway.pipeline.relay import Relay
from router_core.gateway.reply import Reply, UpstreamFailure
from router_core.gateway.resilience.breaker import Permit
from router_core.gateway.resilience.classify import classify, classify_failure
from router_core.gateway.select.candidate import Candidate
from router_core.gateway.streams.gate import hold
from router_core.gateway.transport.connection import StaleConnection

__all__ = ["ASLEEP", "NOT_ADMITTED", "Attempts", "Ended"]


class Ended(msgspec.Struct, eq=False):
    """How an attempt ended, as far as the layers above need to know."""

    outcome: Outcome
    candidate: Candidate | None
    reply: Reply | None = None
    body: bytes | AsyncIterator[bytes] = b""
    """Of an answer that goes to the caller; a stream is in flight until it is read or closed."""


NOT_ADMITTED: Final = Ended(Outcome("overloaded", "retry", message="no permit was left"), None)
"""Another call took the last permit meanwhile. Nothing was sent."""
ASLEEP: Final = Outcome("overloaded", "retry", status=503, message="the endpoint was asleep", reached=False)
"""What an endpoint that sleeps answered: no failure of the deployment, which is asked again when awake."""


class Attempts:
    """Makes attempts."""

    __slots__ = ("_found_asleep", "_ledger", "_time", "_touch")

    def __init__(
        self, ledger: Ledger, time: Callable[[], float], *,
        touch: Callable[[str], None], found_asleep: Callable[[str, int, bytes], bool],
    ) -> None:  # fmt: skip
        """``touch`` is told the names of endpoints that are called, ``found_asleep`` of those that answered
        with an error: it returns whether that means that they are asleep."""
        self._ledger = ledger
        self._time = time
        self._touch = touch
        self._found_asleep = found_asleep

    async def make(
        self, call: Call, candidate: Candidate, max_cooldown: float, *, hedge: bool = False,
        early: bool = False,
    ) -> Ended:  # fmt: skip
        """Make one attempt. Never raises but for a cancellation, which ends it at the upstream too.

        ``max_cooldown`` is the longest Retry-After that is believed, in seconds. ``early`` asks for a probe
        of an open circuit before its time.
        """
        deployment = candidate.deployment
        now = self._time()
        permit = candidate.standing.begin(now, early=early)
        if permit is None:
            return NOT_ADMITTED
        attempt = Attempt(len(call.attempts) + 1, deployment.model_id, deployment.id, now, hedge=hedge)
        call.attempts.append(attempt)
        deadline = min(now + deployment.timeouts.total, call.deadline)
        if deployment.endpoint:
            self._touch(deployment.endpoint)
        prompt, coming = candidate.prompt, None
        ended: Ended | None = None
        try:
            if prompt is not None:
                coming = prompt.ask(call, deadline)
            if prompt is None or coming is None:
                reply = await candidate.client.send(call, deadline)
            else:
                try:
                    reply = prompt.received(call, await coming)
                except StaleConnection:  # nobody has read it
                    reply = await candidate.client.send(call, deadline)
            attempt.status = reply.status
            if reply.chunks is None:
                ended = self._judge(call, candidate, attempt, reply, max_cooldown)
            else:
                ended = await self._open(call, candidate, attempt, permit, reply, max_cooldown)
        except UpstreamFailure as failure:
            ended = Ended(classify_failure(failure, own_limit=deadline < call.deadline), candidate)
        finally:
            if ended is None and coming is not None:
                coming.forsake()
            if ended is None or type(ended.body) is not Relay:
                outcome = CANCELLED if ended is None else ended.outcome
                self._finish(call, candidate, attempt, permit, outcome, attempt.usage)
        return ended

    def _judge(
        self, call: Call, candidate: Candidate, attempt: Attempt, reply: Reply, max_cooldown: float
    ) -> Ended:
        """Judge a whole answer, and note what it has used."""
        outcome = classify(reply, max_cooldown=max_cooldown)
        body = reply.body or b""
        if outcome.move == "done":
            attempt.first_byte = self._time() - attempt.started
            attempt.usage = usage_of(call.endpoint, body) or estimate_answer(call, body)
        else:
            endpoint = candidate.deployment.endpoint
            if endpoint and self._found_asleep(endpoint, reply.status, body):
                outcome = ASLEEP
        return Ended(outcome, candidate, reply, body)

    async def _open(
        self, call: Call, candidate: Candidate, attempt: Attempt, permit: Permit, reply: Reply,
        max_cooldown: float,
    ) -> Ended:  # fmt: skip
        """Hold a stream until its first content; what fails before it has failed as a whole."""
        limit = attempt.started + candidate.deployment.timeouts.first_byte
        try:
            held = await hold(
                reply, deadline=limit, total=call.deadline, strip_usage=not call.wants_usage,
                max_cooldown=max_cooldown,
            )  # fmt: skip
        except asyncio.CancelledError:
            await reply.aclose()
            raise
        failure = held.first_failure
        if failure is not None:
            await reply.aclose()
            refusal = held.refusal  # the answer that should have come instead of an event
            return Ended(failure, candidate, refusal, b"" if refusal is None else refusal.body or b"")
        now = self._time()
        attempt.first_byte = now - attempt.started
        candidate.standing.answered(permit, now)
        relay = Relay(call, candidate, attempt, reply, held)
        relay.carry(permit, self._finish_stream)
        return Ended(OK, candidate, reply, relay)

    def _finish_stream(
        self, call: Call, candidate: Candidate, attempt: Attempt, permit: Permit, outcome: Outcome,
        usage: Usage | None,
    ) -> None:  # fmt: skip
        """Do so for a stream, with which its call has ended."""
        self._finish(call, candidate, attempt, permit, outcome, usage)
        if call.permit is not None:
            settle(call, self._time())

    def _finish(
        self, call: Call, candidate: Candidate, attempt: Attempt, permit: Permit, outcome: Outcome,
        usage: Usage | None,
    ) -> None:  # fmt: skip
        """Give everything back and write the account. Runs exactly once, cancelled or not."""
        now = self._time()
        seconds = now - attempt.started
        attempt.outcome, attempt.seconds = outcome.kind, seconds
        # how long a stream is says nothing about how quick its upstream is
        candidate.standing.end(permit, outcome, now, attempt.first_byte or seconds)
        self._ledger.settle(call, attempt, candidate.deployment, usage, undone=outcome.safe)
