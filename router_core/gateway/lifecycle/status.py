"""How an endpoint stands, as callers are told."""

from __future__ import annotations

from dataclasses import dataclass

from router_core.gateway.lifecycle.endpoint import Endpoint
from router_core.gateway.lifecycle.states import State

__all__ = ["EndpointDetail", "EndpointStatus", "detail_of", "status_of"]


@dataclass(frozen=True, slots=True)
class EndpointStatus:
    """How an endpoint stands. Times are whole seconds since the epoch, null where they do not apply."""

    status: State
    """``unknown``: the provider does not answer; calls are let through all the same."""
    url: str
    """As it was configured."""
    last_activity: int | None
    """The last call."""
    wake_time: int | None
    """When it was last woken; null while it sleeps."""
    sleep_time: int | None
    """When it was last put to sleep; null while it runs."""
    auto_sleep_in: int | None
    """Seconds until it is put to sleep, unless a call comes; null where it is not."""


@dataclass(frozen=True, slots=True)
class EndpointDetail:
    """What else is known of it."""

    provider: str
    """huggingface, runpod, or none."""
    sub_status: str
    """The provider's own word, such as ``paused`` or ``scaledToZero``."""
    last_known: State
    """The status before it became unknown; otherwise the status."""
    message: str
    ready: bool
    """Whether calls are sent to it."""
    inference_url: str
    in_flight: int
    """Calls of this process."""
    auto_sleep_by: str | None
    """Who puts it to sleep when it is idle: ``provider``, ``gateway``, or null for nobody."""


def status_of(endpoint: Endpoint, wall: float, in_flight: int) -> EndpointStatus:
    """Return the status of an endpoint."""
    state = endpoint.last_known if endpoint.state is State.UNKNOWN else endpoint.state
    up = state in (State.RUNNING, State.STARTING)
    down = state in (State.SLEEPING, State.STOPPING)
    left = endpoint.idle_left(wall, in_flight)
    return EndpointStatus(
        endpoint.state,
        endpoint.spec.url or endpoint.url,
        _seconds(endpoint.last_activity),
        None if down else _seconds(endpoint.wake_time),
        None if up else _seconds(endpoint.sleep_time),
        None if left is None else round(left),
    )


def detail_of(endpoint: Endpoint, in_flight: int) -> EndpointDetail:
    """Return the rest."""
    by: str | None = "provider" if endpoint.self_sleeping else "gateway"
    if not endpoint.spec.auto_sleep and not endpoint.timer:
        by = None
    return EndpointDetail(
        endpoint.driver.provider, endpoint.sub, endpoint.last_known, endpoint.message, endpoint.ready,
        endpoint.url, in_flight, None if endpoint.driver.provider == "none" else by,
    )  # fmt: skip


def _seconds(at: float) -> int | None:
    return int(at) if at else None
