"""Limits as a part of the gateway: everything that they need, put together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from router_core.clock import Clock
from router_core.gateway.budgets.admission import Budgets
from router_core.gateway.budgets.alerts import Alerts
from router_core.gateway.budgets.plan import PriceOf, Rates
from router_core.gateway.call import Call
from router_core.gateway.values import GatewayConfig
from router_core.quota.quota import Quota
from router_core.security.fetch import GuardedHttp
from router_core.security.url_guard import UrlGuard
from router_core.settings import Settings
from router_core.state import StateStore
from router_core.stores.state_guard import GuardedStateStore
from router_core.telemetry.events import Events

__all__ = ["Limits"]


class Limits:
    """The accounts of one gateway, its admission, and whoever tells of alerts."""

    def __init__(
        self, config_of: Callable[[], GatewayConfig], state_of: Callable[[], StateStore], price_of: PriceOf,
        who: Callable[[Call], tuple[str, ...]], clock: Clock, events: Events,
    ) -> None:  # fmt: skip
        """``who`` tells the models of a call that leaves them to the rules, in their order."""
        self.alerts = Alerts(state_of, config_of, events, clock)
        self._clock, self._events = clock, events
        self.quota = Quota(clock=clock, on_mark=self.alerts.passed)
        self.share(state_of())
        self.admission = Budgets(self.quota, config_of, Rates(price_of), who=who)

    def share(self, state: StateStore) -> None:
        """Keep accounts where other processes see them; before the first call."""
        if getattr(state, "multi_process", True) and not isinstance(state, GuardedStateStore):
            state = GuardedStateStore(state, self._clock, self._events)  # it may hang, and no call is to
        self.quota.join(state)

    def bind(self, settings: Settings) -> Sequence[Any]:
        """Send webhooks as the settings say; return the loops to run."""
        http = GuardedHttp(UrlGuard(allow_private=settings.allow_private_urls))
        self.alerts.send_by(http, settings.webhook_secret.replace(",", " ").split())
        return (self.quota, self.alerts)

    def tend_with_calls(self) -> None:
        """Tell of alerts when calls come, where no loop does: the process is frozen between them."""
        self.alerts.tell_with_calls()

    def called(self) -> None:
        """Take note that a call has ended or begun to stream."""
        self.alerts.called()

    async def aclose(self) -> None:
        """Write what was used, and give back what is held."""
        await self.quota.aclose()
