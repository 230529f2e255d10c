"""Who may come in, by the settings: keys, tokens and certificates, put together into one authenticator.

Only what is configured is imported: a process that is started for a call waits for all of it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Final

from router_core.clock import Clock
from router_core.errors import Misconfigured, StoreError
from router_core.security.api_keys import WORKERS, ApiKeys
from router_core.security.roles import parse_roles
from router_core.settings import Settings
from router_core.telemetry.events import Events, Note

if TYPE_CHECKING:
    from router_core.middleware.exchange import Authenticator
    from router_core.routing.route import Route
    from router_core.security.authenticators import Certificates, Tokens
    from router_core.security.jwks import JwksKeys
    from router_core.security.known_keys import KnownKeys
    from router_core.security.stored_keys import KeyRoom
    from router_core.state import StateStore

__all__ = ["Identity", "open_identity", "worker_keys"]

_LOCAL: Final = frozenset({"fastapi", "local"})
Roles = Mapping[str, frozenset[str]]


class Identity:
    """How callers are known in one service."""

    def __init__(
        self, settings: Settings, clock: Clock, events: Events, state: Callable[[], StateStore]
    ) -> None:
        """``state`` is asked for the shared state where it is needed. Raises Misconfigured."""
        self._settings = settings
        self._clock = clock
        self._events = events
        self.roles: Roles = parse_roles(settings.roles)
        self.state: StateStore | None = None
        """The shared state, if keys are kept in it."""
        self.room: KeyRoom | None = None
        """Where keys are kept, if not in the settings alone."""
        self._issuer: JwksKeys | None = None
        self._keys: ApiKeys | None = None
        if settings.api_keys:
            self._keys = ApiKeys.from_setting(settings.api_keys, roles=self.roles)
        self._known = self._open_room(state()) if settings.keys else None
        tokens, certificates = self._tokens(), self._certificates()
        self._others = tokens is not None or certificates is not None
        """Whether there are other ways to come in than with a key."""
        self.authenticator: Authenticator | None = self._keys
        """None: callers need not say who they are."""
        if self._known is not None or self._others:
            from router_core.security.authenticators import Callers

            self.authenticator = Callers(self._keys, self._known, tokens, certificates)

    def _open_room(self, state: StateStore) -> KnownKeys:
        from router_core.security.known_keys import KnownKeys
        from router_core.security.stored_keys import KeyRoom

        self.state, self.room = state, KeyRoom(state, self._clock)
        return KnownKeys(
            self.room, self._clock, belief=self._settings.keys_belief, stale=self._settings.keys_stale,
            roles=self.roles,
        )  # fmt: skip

    def _tokens(self) -> Tokens | None:
        settings = self._settings
        if not (settings.jwt_issuer or settings.jwt_jwks or settings.jwt_secret):
            return None
        from router_core.security.jwt import SignedTokens, claim_rules
        from router_core.vendors.pyjwt import PyJwt, load_key

        rules, verifier = claim_rules(settings, self.roles), PyJwt()
        if not rules.secret:
            from router_core.security.jwks import JwksKeys, jwks_source

            self._issuer = JwksKeys(
                jwks_source(settings.jwt_jwks), load_key, rules.algorithms, self._clock, self._events,
                settings.jwt_stale,
            )  # fmt: skip
        return SignedTokens(rules, verifier, self._issuer, self._clock, self._events)

    def _certificates(self) -> Certificates | None:
        if not self._settings.client_certificates:
            return None
        from router_core.security.certificates import ClientCertificates

        return ClientCertificates.from_setting(self._settings.client_certificates, self._clock, self.roles)

    # --- what a service does with it ------------------------------------------------------------

    def routes(self) -> Iterable[Route]:
        """Return the routes under ``/api/keys``, where keys are kept in the shared state."""
        if self.room is None or self._known is None:
            return ()
        from router_core.security.key_routes import key_routes

        return key_routes(self.room, self._known, self._clock, self.roles)

    async def check(self) -> None:
        """Say when nobody can come in; raises Misconfigured where an address is open that others reach.

        As it does for a store that cannot be used as it is set up; one that does not answer is no error.
        """
        if self.room is None:
            return
        try:
            empty = await self.room.empty()
        except StoreError as error:
            if isinstance(error.__cause__, Misconfigured):
                raise error.__cause__ from None
            return
        if not empty or self._keys is not None or self._others:
            return
        from router_core.middleware.gates import is_loopback

        text = (
            "there is no API key in ROUTER_STATE yet: `router-core keys create --role admin` makes the first"
        )
        if self._settings.provider in _LOCAL and not is_loopback(self._settings.host):
            raise Misconfigured(f"refusing to serve {self._settings.host}, for nobody could call: {text}")
        self._events.emit(Note("no_keys", "warning", text))

    async def close(self) -> None:
        """Let go of what is under way, and of the shared state."""
        if self._known is not None:
            await self._known.close()
        if self._issuer is not None:
            await self._issuer.close()
        if self.state is not None:
            await self.state.close()


def open_identity(
    settings: Settings, clock: Clock, events: Events, state: Callable[[], StateStore]
) -> Identity | None:
    """Return how callers are known; None where they need not say who they are."""
    return Identity(settings, clock, events, state) if settings.authenticates else None


def worker_keys(settings: Settings, routes: Collection[str]) -> Mapping[str, ApiKeys]:
    """Return who may open the routes of remote workers; raises Misconfigured for an impossible key."""
    if not settings.worker_keys:
        if settings.queue == "pull":
            raise Misconfigured(
                "ROUTER_QUEUE=pull leaves all jobs to remote workers, and there is no key that one could "
                "come with: set ROUTER_WORKER_KEYS (`router-core keys worker` makes a key)"
            )
        return {}
    keys = ApiKeys.from_setting(settings.worker_keys, WORKERS)
    if settings.api_keys:
        both = keys.shared_with(ApiKeys.from_setting(settings.api_keys))
        if both:
            raise Misconfigured(f"the worker key of {both!r} stands in ROUTER_API_KEYS, too; make another")
    for principal in keys.principals:
        unknown = sorted(principal.scopes - {"*", *routes})
        if unknown:
            raise Misconfigured(
                f"the worker key of {principal.id!r} is for {unknown[0]!r}, which is no route of this "
                f"service; they are {', '.join(routes)}"
            )
    return {"worker": keys}
