"""Which driver speaks for an endpoint."""

from __future__ import annotations

from router_core.clock import Clock
from router_core.gateway.lifecycle.awake import AlwaysAwake
from router_core.gateway.lifecycle.driver import EndpointDriver
from router_core.gateway.lifecycle.huggingface import HuggingFaceDriver
from router_core.gateway.lifecycle.runpod import RunpodDriver
from router_core.gateway.transport.protocol import Transport
from router_core.gateway.values import EndpointSpec

__all__ = ["Drivers"]


class Drivers:
    """Makes drivers over one transport."""

    def __init__(self, transport: Transport, clock: Clock) -> None:
        self._transport = transport
        self._clock = clock

    def __call__(self, spec: EndpointSpec) -> EndpointDriver:
        """Return the driver of an endpoint; raises Misconfigured when the spec does not say enough."""
        if spec.driver == "huggingface":
            return HuggingFaceDriver(spec, self._transport, self._clock)
        if spec.driver == "runpod":
            return RunpodDriver(spec, self._transport, self._clock)
        return AlwaysAwake(spec.url)
