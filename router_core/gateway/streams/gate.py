"""Hold a stream back until there is something in it worth passing on, then see to it that it ends honestly.

Before the first content nothing was told to the caller, so whatever goes wrong is a failed attempt, and
another deployment may serve the call. From then on bytes pass as they came, cut at the ends of events. A
stream that breaks off ends with an error event: never in silence, and never with a ``[DONE]`` of ours.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from math import inf
from typing import Final, cast

from router_core.gateway.call import Usage
from router_core.gateway.clients.errors import error_reply, without
from router_core.gateway.outcome import Outcome
from router_core.gateway.reply import Reply, UpstreamFailure
from router_core.gateway.resilience.classify import MAX_COOLDOWN, classify_error, classify_failure
from router_core.gateway.streams.interrupted import TOO_LATE, TOO_LONG, error_event, masked
from router_core.gateway.streams.judge import Seen, Verdict, judge, text_size
from router_core.gateway.streams.scan import MAX_EVENT, EventTooLongError, Splitter, parse_event, split_events
from router_core.gateway.streams.usage import merged, usage_in
from router_core.gateway.streams.watch import Watch

__all__ = ["MAX_BYTES", "MAX_EVENTS", "Held", "hold"]

MAX_EVENTS: Final = 64
MAX_BYTES: Final = 256 * 1024
_LINGER: Final = 0.25
"""Seconds that an upstream has after its ``[DONE]`` to end the answer, so that its connection can be used
again."""
_LINGER_BYTES: Final = 64 * 1024

_MEANT: Final = (Verdict.CONTENT, Verdict.ERROR, Verdict.DONE)

_BROKEN: Final = Outcome("unclear", "stop", True, False, message="the stream broke off before its end")
_EMPTY: Final = Outcome("malformed", "retry", True, message="the stream ended before any content")
_GARBAGE: Final = Outcome("malformed", "retry", True, message="the answer is no stream of events")
_LONG: Final = Outcome("malformed", "retry", True, message=TOO_LONG)
_LATE: Final = Outcome("timeout", "retry", True, message=TOO_LATE)
_OVER: Final = Outcome("timeout", "retry", False, message="the time for the call is over")
"""Says nothing about the deployment: how much time a call has is for the caller to say."""


async def hold(
    reply: Reply, *, deadline: float, max_events: int = MAX_EVENTS, max_bytes: int = MAX_BYTES,
    strip_usage: bool = False, idle: float = inf, total: float = inf, max_cooldown: float = MAX_COOLDOWN,
) -> Held:  # fmt: skip
    """Read a stream up to its first content and return it; ``first_failure`` says why there was none.

    ``deadline`` (``loop.time()``) is the deployment's for its first content, ``total`` that of the call: that
    it has run out does not speak against the deployment. More than ``max_events`` or ``max_bytes`` of events
    without content are not waited out: the stream begins with them. After the first content the transport
    watches the time; with ``idle`` (seconds between two pieces) it is watched here too.
    """
    held = Held(reply, strip_usage, idle, total, max_cooldown)
    try:
        await held.open(deadline, max_events, max_bytes)
    except BaseException:
        await held.aclose()
        raise
    return held


class Held:
    """A stream whose first content has come. Iterate over it (``chunks``), and close it."""

    __slots__ = (
        "_before", "_bytes", "_closed", "_events", "_finished", "_frame", "_idle", "_kept", "_last",
        "_max_cooldown", "_named", "_next", "_over", "_reply", "_splitter", "_strip", "_total", "_two",
        "_usage", "_watch", "complete", "failure", "first_failure", "refusal",
        "tapped",
    )  # fmt: skip

    def __init__(
        self, reply: Reply, strip_usage: bool, idle: float, total: float, max_cooldown: float
    ) -> None:
        if reply.chunks is None:
            raise TypeError("the answer is whole, there is no stream in it")
        self.first_failure: Outcome | None = None
        """Why the stream is of no use; nothing of it was passed on, and the upstream is closed."""
        self.refusal: Reply | None = None
        """The answer that the upstream should have given, where its first event was an error: with the status
        that this stands for. For a caller whose mistake it was."""
        self.failure: Outcome | None = None
        """What went wrong after the first content; known when the stream has ended."""
        self.complete = False
        """Whether the model finished: ``[DONE]`` was seen, or a reason for the end of every answer."""
        self._reply = reply
        self._next = reply.chunks.__aiter__().__anext__
        self._strip = strip_usage
        self._idle = idle
        self._total = total
        self._max_cooldown = max_cooldown
        self._watch: Watch | None = None
        self._splitter = Splitter()
        self._kept = b""
        self._last = self._before = b""
        self._over = False
        """Whether nothing more is passed on."""
        self._closed = False
        self._finished = False
        self._named = False
        self._usage: Usage | None = None
        self._bytes = self._events = self._frame = 0
        self.tapped = 0
        """Bytes that went to the sink of ``tap``."""
        self._two = 0
        """Bytes that two events have at least: what is smaller need not be counted."""

    @property
    def chunks(self) -> AsyncIterator[bytes]:
        """Everything that was held, then the rest."""
        return self

    @property
    def text_bytes(self) -> int:
        """About how many bytes the model has written so far: all that came, less what the first event with
        content had around its text, for each event."""
        return max(self._bytes - self._events * self._frame, 0)

    def usage(self) -> Usage | None:
        """Return what the upstream says that it used; None as long as it has said nothing."""
        return self._usage

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if self._kept:
            kept, self._kept = self._kept, b""
            return kept
        while not self._over:
            try:
                chunk = await self._next() if self._watch is None else await self._watched()
            except (StopAsyncIteration, UpstreamFailure, TimeoutError) as end:
                piece = await self._end(self._why(end))
            except BaseException:
                await self.aclose()
                raise
            else:
                if self._is_plain(chunk):
                    self._count(chunk)
                    return chunk
                piece = await self._sift(chunk)
            if piece:
                return piece
        if not self._closed:
            await self._linger()
        raise StopAsyncIteration

    def tap(self, sink: Callable[[bytes], bool]) -> None:
        """Offer each plain piece to ``sink`` as soon as it comes, without a turn of whoever iterates over
        this; what it does not take (False), and all that has to be looked into, goes there as ever."""
        tap = getattr(self._reply.chunks, "tap", None)
        if tap is not None and self._idle == inf:

            def take(chunk: bytes) -> bool:
                if self._is_plain(chunk) and sink(chunk):
                    self._count(chunk)
                    self.tapped += len(chunk)
                    return True
                return False

            tap(take)

    def _is_plain(self, chunk: bytes) -> bool:
        """Return whether a piece is whole events with nothing in them to take note of, and is due now."""
        # rfind takes less than half the time of ``in`` here
        return (
            chunk[-2:] == b"\n\n" and not (self._splitter.pending or self._over or self._kept)
            and chunk.rfind(b"[DONE]") < 0 and chunk.rfind(b'_tokens":') < 0 and chunk.rfind(b"error") < 0
            and len(chunk) <= MAX_EVENT
        )  # fmt: skip

    def _count(self, chunk: bytes) -> None:
        size = len(chunk)
        self._bytes += size
        self._events += 1 if size < self._two else chunk.count(b"\n\n")
        self._before = self._last
        self._last = chunk

    async def aclose(self) -> None:
        """End the call at the upstream, unless it has ended."""
        self._kept = b""
        await self._drop()

    async def _drop(self) -> None:
        """Let go of the upstream; what was kept may still be passed on."""
        if self._closed:
            return
        self._closed = self._over = True
        self._splitter.rest()
        if self._watch is not None:
            self._watch.close()
        with suppress(Exception):  # whoever closes is done with it, however the upstream takes it
            await self._reply.aclose()

    # --- before the first content ----------------------------------------------------------------

    async def open(self, deadline: float, max_events: int, max_bytes: int) -> None:
        """Read up to the first content, or to what speaks against there being any."""
        self._watch = watch = Watch()
        silent: list[bytes] = []
        size = 0
        try:
            while self.first_failure is None and not self._kept:
                with watch.until(min(deadline, self._total)):
                    chunk = await self._next()
                whole = self._splitter.feed(chunk)
                size += len(whole)
                decided = self._try(whole, silent)
                if not decided and (len(silent) > max_events or size > max_bytes):
                    self._begin(silent)
        except (StopAsyncIteration, UpstreamFailure, TimeoutError) as end:
            failure = self._why(end)
            if failure is None:
                self._close_empty(silent)
            else:
                self.first_failure = replace(failure, safe=True)
        except EventTooLongError:
            self.first_failure = _LONG
        if self.first_failure is not None or self.failure is not None:
            await self._drop()
        elif self._idle == inf:
            watch.close()
            self._watch = None

    def _try(self, whole: bytes, silent: list[bytes]) -> bool:
        """Look at whole events one by one; returns whether one had content or spoke against the stream."""
        events = split_events(whole)
        for raw in events:
            event = parse_event(raw)
            seen = judge(event)
            if seen.verdict is Verdict.CONTENT:
                self._named = bool(event.name)
                self._frame = len(raw) - text_size(seen.document)
                self._two = 2 * self._frame
                self._begin([*silent, raw, *events])
                self._bytes -= sum(map(len, silent))
                self._events -= len(silent)
                return True
            if seen.verdict is not Verdict.SILENT:
                self._refuse(seen.verdict, event.data)
                return True
            silent.append(raw)
        if not silent and self._splitter.pending[:64].lstrip()[:1] == b"<":
            self.first_failure = _GARBAGE  # a page of HTML, which may be long
            return True
        return False

    def _refuse(self, verdict: Verdict, data: bytes) -> None:
        """Give the stream up because of an event. Nothing was made yet, so nothing is lost by trying
        elsewhere, whatever the error says about that."""
        if verdict is not Verdict.ERROR:
            self.first_failure = _EMPTY if verdict is Verdict.DONE else _GARBAGE
            return
        headers, secrets = self._reply.headers, self._reply.secrets
        data = without(data, secrets)
        outcome = classify_error(data, headers, max_cooldown=self._max_cooldown)
        self.first_failure = replace(outcome, safe=True)
        self.refusal = error_reply(Reply(outcome.status, headers, data), secrets)

    def _close_empty(self, silent: Sequence[bytes]) -> None:
        """Judge a stream that ended without content; it may be an error that came as plain JSON."""
        rest = self._splitter.rest()
        seen = judge(parse_event(rest))
        if seen.verdict is Verdict.CONTENT:
            self._begin([*silent, rest + b"\n\n"])
        elif seen.verdict is Verdict.ERROR:
            self._refuse(seen.verdict, parse_event(rest).data)
        elif silent or not rest.strip():
            self.first_failure = _EMPTY
        elif rest.lstrip()[:1] == b"{" and b'"error"' in rest:
            self._refuse(Verdict.ERROR, rest)
        else:
            self.first_failure = _GARBAGE

    def _begin(self, events: Sequence[bytes]) -> None:
        """Let the stream begin with these events."""
        self._kept = self._pass(b"".join(events))

    # --- after it --------------------------------------------------------------------------------

    async def _watched(self) -> bytes:
        watch = cast(Watch, self._watch)
        now = asyncio.get_running_loop().time()
        with watch.until(min(now + self._idle, self._total)):
            return await self._next()

    async def _sift(self, chunk: bytes) -> bytes:
        """Return what of a piece may be passed on: whole events, with those looked into that matter."""
        try:
            whole = self._splitter.feed(chunk)
        except EventTooLongError:
            return await self._end(_LONG)
        piece = self._pass(whole)
        if self.failure is not None:
            await self._drop()
        return piece

    def _pass(self, whole: bytes) -> bytes:
        """Take note of usage, errors and the end in whole events, and return those that are passed on."""
        if whole.rfind(b"[DONE]") < 0 and whole.rfind(b'_tokens":') < 0 and whole.rfind(b"error") < 0:
            out = whole
            self._events += whole.count(b"\n\n") + whole.count(b"\r\n\r\n")
        else:
            out = b"".join(self._look(whole))
        self._bytes += len(out)
        if out:
            self._before, self._last = self._last, out
        return out

    def _look(self, whole: bytes) -> list[bytes]:
        out: list[bytes] = []
        for raw in split_events(whole):
            seen = judge(parse_event(raw))
            self._note(seen, raw)
            if seen.usage_only and self._strip:
                continue
            if seen.verdict is Verdict.ERROR:
                raw = masked(raw, self._reply.secrets)
                self._bytes -= len(raw)  # nothing that the model has written
            else:
                self._events += 1
            out.append(raw)
            if self._over:
                break
        return out

    def _note(self, seen: Seen, raw: bytes) -> None:
        """Take note of what one event says."""
        self._finished = self._finished or seen.finished or seen.usage_only
        if seen.document is not None:
            usage = usage_in(seen.document)
            if usage is not None:
                self._usage = merged(self._usage, usage)
        if seen.verdict is Verdict.ERROR:
            data = without(parse_event(raw).data, self._reply.secrets)
            outcome = classify_error(data, self._reply.headers, max_cooldown=self._max_cooldown)
            self.failure = replace(outcome, move="stop", safe=False)
            self._over = True
        elif seen.verdict is Verdict.DONE:
            self.complete = self._over = True

    async def _end(self, failure: Outcome | None) -> bytes:
        """End the stream, with an error event unless the model had finished. ``failure`` is None when the
        upstream ended it in good order."""
        rest = self._splitter.rest()
        piece = b""
        if failure is None and judge(parse_event(rest)).verdict in _MEANT:
            piece = self._pass(rest + b"\n\n")  # only the empty line after the last event is missing
        if not self._over:
            self._over = True
            self.complete = self._has_finished()
            if not self.complete:
                self.failure = replace(failure or _BROKEN, move="stop", safe=False)
                piece += error_event(self.failure, self._named)
        await self._drop()
        return piece

    def _has_finished(self) -> bool:
        """Return whether the model has. Not everybody sends ``[DONE]``: the last two pieces may tell."""
        if self._finished:
            return True
        last = self._before + self._last
        return any(judge(parse_event(raw)).finished for raw in split_events(last))

    async def _linger(self) -> None:
        """Read to the end of an answer that is complete, for a moment."""
        if self._watch is None:
            self._watch = Watch()
        until = asyncio.get_running_loop().time() + _LINGER
        size = 0
        with suppress(StopAsyncIteration, UpstreamFailure, TimeoutError):
            while size <= _LINGER_BYTES:
                with self._watch.until(until):
                    size += len(await self._next()) + 1
        await self._drop()

    def _why(self, end: BaseException) -> Outcome | None:
        """Judge what ended a stream; None for an end in good order."""
        if isinstance(end, UpstreamFailure):
            return classify_failure(end)
        if not isinstance(end, TimeoutError):
            return None
        return _OVER if asyncio.get_running_loop().time() >= self._total else _LATE
