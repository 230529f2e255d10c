"""What a running function may know and say: progress, cancellation, events, steps that run once."""

from __future__ import annotations

import asyncio
import inspect
import math
import threading
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, ClassVar, Final, Protocol, TypeVar

import pydantic_core

if TYPE_CHECKING:
    from router_core.jobs.store import NewEvent

__all__ = [
    "MAX_MESSAGE",
    "JobCancelled",
    "JobContext",
    "JobProgress",
    "Port",
    "decode_steps",
]

T = TypeVar("T")

MAX_MESSAGE: Final = 1_000
"""Characters of a progress message; the rest is cut off."""
MAX_STEPS_BYTES: Final = 256 * 1024
"""All outcomes of ``once`` together; they stand in the record."""
MAX_EVENT_BYTES: Final = 1024 * 1024
"""One event; the store keeps no more than that of a whole job."""
_MAX_NAME: Final = 200
_RESERVED: Final = frozenset({"attempt", "job", "truncated"})
"""What readers are told by the machinery, in the same stream."""


class JobCancelled(BaseException):
    """Somebody asked this job to stop, or it is no longer this worker's.

    Not an ``Exception``: a handler's ``except Exception`` around its work must not swallow it.
    """


class Port(Protocol):
    """Where a context hands over what has to leave the function."""

    def emit(self, event: NewEvent) -> None:
        """Take an event from any thread, without waiting."""

    async def step(self, name: str, outcome: bytes) -> None:
        """Make the outcome of a step durable before returning."""

    def wait(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the worker's loop, from a thread that has none, and wait for it."""


class JobProgress:
    """How far the function is. Set ``progress`` (0..1) and ``message``, or call ``update``.

    Values are clamped to 0..1 and never fall within an attempt; NaN changes nothing. Setting them is
    cheap and safe from any thread: they reach the record at most once a second, the last one always does
    unless the job ends first. Without a worker behind it (a direct call in a test) it simply keeps them.
    """

    __router_inject__: ClassVar[str] = "job_progress"
    __slots__ = ("_changed", "_fraction", "_lock", "_text")

    def __init__(self, changed: Callable[[], None] | None = None) -> None:
        self._fraction = 0.0
        self._text = ""
        self._changed = changed
        self._lock = threading.Lock()

    @property
    def progress(self) -> float:
        """Fraction of the work that is done."""
        return self._fraction

    @progress.setter
    def progress(self, value: float) -> None:
        self.update(value)

    @property
    def message(self) -> str:
        """What the function is doing, in words for its caller."""
        return self._text

    @message.setter
    def message(self, value: str) -> None:
        self.update(message=value)

    # the spelling of the first published readme
    _progress = progress
    _message = message

    def update(self, fraction: float | None = None, message: str | None = None) -> None:
        """Set one or both. Raises TypeError for something that is no number or no text."""
        if message is not None and not isinstance(message, str):
            raise TypeError(f"a progress message must be str, not {type(message).__name__}")
        number = None if fraction is None else _fraction(fraction)
        with self._lock:
            before = (self._fraction, self._text)
            if number is not None and number > self._fraction:
                self._fraction = number
            if message is not None:
                self._text = message[:MAX_MESSAGE]
            changed = before != (self._fraction, self._text)
        if changed and self._changed is not None:
            self._changed()

    def latest(self) -> tuple[float, str]:
        """Return both values as they belong together, the text fit for a record."""
        with self._lock:
            return self._fraction, self._text.encode("utf-8", "replace").decode()

    def __repr__(self) -> str:
        return f"JobProgress({self._fraction:.3f}, {self._text!r})"


def _fraction(value: Any) -> float | None:
    """Return the number clamped to 0..1; None for NaN, which says nothing."""
    if isinstance(value, (bool, str, bytes)) or not hasattr(value, "__float__"):
        raise TypeError(f"progress must be a number between 0 and 1, not {type(value).__name__}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf if value > 0 else 0.0
    return None if math.isnan(number) else min(1.0, max(0.0, number))


class _Offline:
    """The port of a context without a worker: a function called directly, in a test or a script."""

    def emit(self, event: NewEvent) -> None:
        """Drop it: nobody listens."""

    async def step(self, name: str, outcome: bytes) -> None:
        """Keep nothing: the context remembers."""

    def wait(self, work: Coroutine[Any, Any, T]) -> T:
        """Run it here."""
        return asyncio.run(work)


class JobContext:
    """The job as its function sees it. Annotate a parameter with this class to receive it."""

    __router_inject__: ClassVar[str] = "job"
    __slots__ = ("_cancelled", "_lock", "_port", "_steps", "attempt", "deadline", "job_id", "progress")

    def __init__(
        self, job_id: str = "", attempt: int = 1, *, deadline: float | None = None,
        progress: JobProgress | None = None, steps: Mapping[str, bytes] | None = None,
        port: Port | None = None,
    ) -> None:  # fmt: skip
        self.job_id = job_id
        self.attempt = attempt
        """Counts from 1."""
        self.deadline = deadline
        """Wall-clock time at which this attempt is stopped; None means no limit."""
        self.progress = JobProgress() if progress is None else progress
        self._port: Port = _Offline() if port is None else port
        self._cancelled = False
        self._steps: dict[str, bytes | Future[bytes]] = dict(steps or {})
        self._lock = threading.Lock()

    @property
    def cancelled(self) -> bool:
        """Whether the function should stop; look at it now and then in long loops."""
        return self._cancelled

    def check(self) -> None:
        """Raise JobCancelled if the function should stop."""
        if self._cancelled:
            raise JobCancelled(self.job_id)

    def mark_cancelled(self) -> None:
        """Make ``cancelled`` true (called by the worker, from any thread)."""
        self._cancelled = True

    def emit(self, type: str, data: Any = None) -> None:
        """Append an event to the job's replayable history; ``data`` is encoded as JSON now.

        Raises TypeError or ValueError when it cannot be encoded, or is larger than 1 MB; ValueError for a
        type that the service itself uses: ``attempt``, ``job``, ``truncated``.
        """
        if type in _RESERVED:
            raise ValueError(f"events of the type {type!r} are the service's own")
        if not 0 < len(type) <= _MAX_NAME or not type.isprintable():
            raise ValueError("an event's type must be a short printable text")
        encoded = _encode(data)
        if len(encoded) > MAX_EVENT_BYTES:
            raise ValueError(f"an event may have {MAX_EVENT_BYTES} bytes, not {len(encoded)}")
        from router_core.jobs.store import NewEvent  # authors import this file; most never emit

        self._port.emit(NewEvent(type, encoded))

    def log(self, message: str, **fields: Any) -> None:
        """Append a ``log`` event, which the caller can read."""
        self.emit("log", {"message": str(message), **fields})

    def idempotency_key(self, step: str) -> str:
        """Return a key for a call to another service: the same in every attempt of this job."""
        import hashlib  # brings OpenSSL along

        return f"{self.job_id}-{hashlib.sha256(step.encode('utf-8', 'replace')).hexdigest()[:16]}"

    def once(self, step: str, fn: Callable[[], Any]) -> Any:
        """Run ``fn`` and record its outcome; a later attempt gets the recorded outcome instead.

        Returns the value, or (where an event loop runs: in an async function) an awaitable of it. The
        outcome travels through JSON, so that the first attempt sees exactly what later ones will see. A
        crash between the effect of ``fn`` and the record repeats it: give its service ``idempotency_key``.
        """
        if not 0 < len(step) <= _MAX_NAME:
            raise ValueError(f"the name of a step must have 1 to {_MAX_NAME} characters")
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return self._once_blocking(step, fn)
        return self._once_async(step, fn)

    def _once_blocking(self, step: str, fn: Callable[[], Any]) -> Any:
        known, mine = self._reserve(step)
        if known is not None:
            return pydantic_core.from_json(known if isinstance(known, bytes) else known.result())
        try:
            value = fn()
            if inspect.isawaitable(value):
                value = self._port.wait(_await(value))
            outcome = self._outcome(step, value)
            self._port.wait(self._port.step(step, outcome))
        except BaseException as error:
            self._give_up(step, mine, error)
            raise
        return self._done(step, mine, outcome)

    async def _once_async(self, step: str, fn: Callable[[], Any]) -> Any:
        known, mine = self._reserve(step)
        if known is not None:
            outcome = known if isinstance(known, bytes) else await asyncio.wrap_future(known)
            return pydantic_core.from_json(outcome)
        try:
            value = fn()
            if inspect.isawaitable(value):
                value = await value
            outcome = self._outcome(step, value)
            await self._port.step(step, outcome)
        except BaseException as error:
            self._give_up(step, mine, error)
            raise
        return self._done(step, mine, outcome)

    def _reserve(self, step: str) -> tuple[bytes | Future[bytes] | None, Future[bytes]]:
        mine: Future[bytes] = Future()
        with self._lock:
            known = self._steps.get(step)
            if known is None:
                self._steps[step] = mine
        return known, mine

    def _outcome(self, step: str, value: Any) -> bytes:
        outcome = _encode(value)
        with self._lock:
            kept = sum(len(item) for item in self._steps.values() if isinstance(item, bytes))
        if kept + len(outcome) > MAX_STEPS_BYTES:
            raise ValueError(
                f"the outcome of step {step!r} has {len(outcome)} bytes; all steps of a job together may "
                f"have {MAX_STEPS_BYTES}: keep large data elsewhere and return a reference"
            )
        return outcome

    def _give_up(self, step: str, mine: Future[bytes], error: BaseException) -> None:
        with self._lock:
            self._steps.pop(step, None)
        mine.set_exception(error)

    def _done(self, step: str, mine: Future[bytes], outcome: bytes) -> Any:
        with self._lock:
            self._steps[step] = outcome
        mine.set_result(outcome)
        return pydantic_core.from_json(outcome)


async def _await(value: Any) -> Any:
    return await value


def _encode(value: Any) -> bytes:
    try:
        return pydantic_core.to_json(value, inf_nan_mode="null")
    except pydantic_core.PydanticSerializationError as error:
        raise TypeError(f"the value cannot be written as JSON: {error}") from None


def decode_steps(raw: bytes) -> dict[str, bytes]:
    """Return the outcomes of steps by name, each as JSON."""
    steps: dict[str, Any] = pydantic_core.from_json(raw)
    return {name: pydantic_core.to_json(value) for name, value in steps.items()}
