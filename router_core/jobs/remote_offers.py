"""Which routes a remote worker may take jobs of."""

from __future__ import annotations

from collections.abc import Mapping

from router_core.errors import Conflict, Forbidden, RouterError
from router_core.jobs.remote_wire import signature_of
from router_core.routing.route import Route
from router_core.types import Principal

__all__ = ["Offers"]

_NOT_FOR_KEY = "this worker key is not for this route"


class Offers:
    """Compares what a worker has with what the service has."""

    def __init__(self, routes: Mapping[str, Route]) -> None:
        self._routes = routes
        self._signatures: dict[str, str] = {}

    def served(self, principal: Principal, signatures: Mapping[str, str]) -> tuple[list[str], dict[str, str]]:
        """Return the keys of the routes that the worker may serve, and for each other why not.

        Raises Forbidden or Conflict when there would be none.
        """
        refused = {}
        for key, signature in signatures.items():
            if key not in self._routes:
                refused[key] = "this service has no such route"
            elif not principal.may(key):
                refused[key] = _NOT_FOR_KEY
            elif signature != self._signature(key):
                refused[key] = "its parameters differ from the coordinator's: run one version on both"
        if len(refused) == len(signatures):
            raise _all_refused(refused)
        return [key for key in signatures if key not in refused], refused

    def _signature(self, key: str) -> str:
        if key not in self._signatures:
            self._signatures[key] = signature_of(self._routes[key])
        return self._signatures[key]


def _all_refused(refused: Mapping[str, str]) -> RouterError:
    listed = "; ".join(f"{key}: {why}" for key, why in list(refused.items())[:10])
    if set(refused.values()) == {_NOT_FOR_KEY}:
        return Forbidden(listed, code="route_not_allowed", extra={"refused": dict(refused)})
    return Conflict(listed, code="routes_refused", extra={"refused": dict(refused)})
