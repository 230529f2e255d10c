"""Tells owners that so much of a budget is spent: once in each window, by whoever has seen it first."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from hashlib import sha256
from typing import Any, Final

import msgspec

from router_core.clock import Clock, rfc3339
from router_core.errors import Conflict, StoreError
from router_core.gateway.values import GatewayConfig
from router_core.quota.cap import Cap, slot_at
from router_core.security.fetch import GuardedHttp
from router_core.security.signing import signed_headers
from router_core.state import StateStore
from router_core.telemetry.events import Events, Note

__all__ = ["PLAN", "Alerts"]

PLAN: Final = (0.0, 5.0, 30.0, 120.0, 600.0, 1800.0)
"""Seconds before each try, counted from the one before; then the receiver is given up."""
_INTERVAL: Final = 1.0
_WAITING: Final = 1000
"""Alerts and messages that wait at most; the oldest are lost beyond that."""
_AT_ONCE: Final = 8
_PATIENCE: Final = 60.0
"""Seconds after which an alert is told without the store, so that it may be told by other processes too."""
_TIMEOUT: Final = 10.0
_DAY: Final = 86_400.0
_encode: Final = msgspec.json.Encoder().encode


class _Alert:
    """One mark that was passed."""

    __slots__ = ("at", "cap", "mark", "slot", "spent", "subject")

    def __init__(self, subject: str, cap: Cap, mark: int, spent: int, slot: int, at: float) -> None:
        self.subject, self.cap, self.mark, self.spent, self.slot = subject, cap, mark, spent, slot
        self.at = at
        """Monotonic seconds: when it was seen."""

    @property
    def id(self) -> str:
        """Return what is the same in every process."""
        told = f"{self.subject}/{self.cap.name}/{self.slot}/{self.mark * 100 // max(1, self.cap.amount)}"
        return sha256(told.encode()).hexdigest()[:32]


class _Message:
    """One webhook on its way."""

    __slots__ = ("attempt", "body", "due", "id", "url")

    def __init__(self, url: str, id: str, body: bytes, due: float) -> None:
        self.url, self.id, self.body, self.due = url, id, body, due
        self.attempt = 0


class Alerts:
    """An Upkeep; ``passed`` may be called at any time and never waits."""

    name = "budget_alerts"

    def __init__(
        self, state_of: Callable[[], StateStore], config_of: Callable[[], GatewayConfig], events: Events,
        clock: Clock,
    ) -> None:  # fmt: skip
        self._state_of = state_of
        self._config_of = config_of
        self._events = events
        self._clock = clock
        self._seen: deque[_Alert] = deque(maxlen=_WAITING)
        self._messages: deque[_Message] = deque(maxlen=_WAITING)
        self._sending: set[asyncio.Task[None]] = set()
        self._with_calls = False
        """Whether there is no other time than that of calls: the process is frozen between them."""
        self._telling: asyncio.Task[None] | None = None
        self._http: GuardedHttp | None = None
        self._secrets: tuple[str, ...] = ()

    def send_by(self, http: GuardedHttp, secrets: Sequence[str]) -> None:
        """Send webhooks this way, signed by these; without a secret none are sent."""
        self._http, self._secrets = http, tuple(secrets)

    def passed(self, subject: str, cap: Cap, mark: int, spent: int, slot: int) -> None:
        """Note that so much of a budget is spent."""
        self._seen.append(_Alert(subject, cap, mark, spent, slot, self._clock.monotonic()))
        self.called()

    def tell_with_calls(self) -> None:
        """Tell when calls come, until ``run`` does it beside them."""
        self._with_calls = True

    def called(self) -> None:
        """Begin to tell what waits, if nobody else does."""
        if self._with_calls and self._telling is None and (self._seen or self._messages):
            with suppress(RuntimeError):  # the loop is over, and with it the process
                self._telling = asyncio.get_running_loop().create_task(self._tell_beside(), name="alerts")

    async def _tell_beside(self) -> None:
        try:
            await self.tick()
            await self.idle()
        finally:
            self._telling = None

    # -- upkeep --------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Work until cancelled."""
        self._with_calls = False
        try:
            while True:
                await self.tick()
                await self._clock.sleep(_INTERVAL)
        finally:
            for task in self._sending:
                task.cancel()
            await asyncio.gather(*self._sending, return_exceptions=True)

    async def tick(self) -> None:
        """Tell of what was seen, and begin to send what is due."""
        for _ in range(len(self._seen)):
            alert = self._seen.popleft()
            mine = await self._claim(alert)
            if mine is None:
                self._seen.append(alert)
            elif mine:
                self._tell(alert)
        now = self._clock.monotonic()
        for _ in range(len(self._messages)):
            message = self._messages.popleft()
            if message.due > now or len(self._sending) >= _AT_ONCE:
                self._messages.append(message)
                continue
            task = asyncio.create_task(self._send(message), name="budget-alert")
            self._sending.add(task)
            task.add_done_callback(self._sending.discard)

    async def idle(self) -> None:
        """Wait until what a tick has begun is over."""
        if self._sending:
            await asyncio.wait(list(self._sending))

    def ready(self, now: float) -> bool:
        """Always: nothing else depends on it."""
        return True

    async def _claim(self, alert: _Alert) -> bool | None:
        """Return whether it is for us to tell; None: that is not known yet."""
        now = self._clock.now()
        ttl = max(_DAY, slot_at(alert.cap, alert.slot)[1] / 1000 - now + _DAY)
        try:
            await self._state_of().put(f"gwb/alert-{alert.id}", b"", if_absent=True, ttl=ttl)
        except Conflict:
            return False
        except StoreError:
            return True if self._clock.monotonic() - alert.at > _PATIENCE else None
        return True

    def _tell(self, alert: _Alert) -> None:
        cap = alert.cap
        kind, _, name = alert.subject.partition(":")
        percent = alert.mark * 100 // max(1, cap.amount)
        fields: dict[str, Any] = {
            kind: name, "limit": cap.name, "percent": percent, "spent": alert.spent / 1e6,
            "amount": cap.amount / 1e6, "resetsAt": rfc3339(slot_at(cap, alert.slot)[1] / 1000),
        }  # fmt: skip
        text = f"{kind} {name}: {percent} % of its {cap.name} budget is spent"
        self._events.emit(Note("budget_alert", "warning", text, fields))
        url = self._webhook(kind, name)
        if not url:
            return
        if self._http is None or not self._secrets:
            text = (
                "there is no ROUTER_WEBHOOK_SECRET to sign alerts of budgets with, so that they are not sent"
            )
            self._events.emit(Note("budget_alert_unsigned", "warning", text, {kind: name}))
            return
        body = {"type": "budget.threshold", "timestamp": rfc3339(self._clock.now()), "data": fields}
        self._messages.append(_Message(url, f"msg_{alert.id}", _encode(body), self._clock.monotonic()))

    def _webhook(self, kind: str, name: str) -> str:
        if kind != "workspace":
            return ""
        return next((each.webhook for each in self._config_of().workspaces if each.id == name), "")

    async def _send(self, message: _Message) -> None:
        headers = {
            "Content-Type": "application/json",
            **signed_headers(self._secrets, message.id, int(self._clock.now()), message.body),
        }
        problem = ""
        try:
            if self._http is not None:
                answer = await self._http.post(message.url, headers, message.body, _TIMEOUT)
                problem = "" if answer.status < 300 else f"it answered {answer.status}"
        except asyncio.CancelledError:
            if self._with_calls:  # it took longer than this call's moment; another one has one, too
                self._messages.append(message)
            raise
        except Exception as error:
            problem = type(error).__name__
        if not problem:
            return
        message.attempt += 1
        if message.attempt < len(PLAN):
            message.due = self._clock.monotonic() + PLAN[message.attempt]
            self._messages.append(message)
            return
        text = f"the receiver of an alert of a budget is given up after {message.attempt} tries: {problem}"
        self._events.emit(Note("budget_alert_lost", "error", text, {"id": message.id}))
