"""The models that callers ask for, and what speaks to their deployments: one immutable snapshot at a time.

A new configuration becomes a whole new snapshot, which replaces the old one in one assignment, or it becomes
nothing at all. A call works to its end with the snapshot that it began with. Nothing is asked of any upstream
here: one that is down is registered like the others, and the first calls and probes find out.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType
from typing import Any, Final, TypeVar, overload

from router_core.errors import HTTPError, Misconfigured, Unavailable
from router_core.gateway.call import Call
from router_core.gateway.clients.factory import make_client
from router_core.gateway.clients.protocol import ModelClient
from router_core.gateway.config.clients import unfit
from router_core.gateway.config.watch import ConfigWatcher
from router_core.gateway.resilience.standing import Standings
from router_core.gateway.rules.engine import RuleTable
from router_core.gateway.select.candidate import Candidate
from router_core.gateway.select.selector import Selector
from router_core.gateway.transport.protocol import Transport
from router_core.gateway.trials.checks import unfit_trials
from router_core.gateway.values import (
    MODEL_TYPES,
    SERVING,
    BreakerPolicy,
    Deployment,
    EndpointSpec,
    GatewayConfig,
    Model,
    Price,
)
from router_core.telemetry.events import Events, Note

__all__ = ["ConfigWatcher", "ModelRouter", "ModelTable", "Registry", "Snapshot"]

_GRACE: Final = 5.0
"""Seconds beyond the longest call after which a client that was replaced is closed whatever is in flight."""

Default = TypeVar("Default")


class ModelRouter:
    """One model: what it is, and a client for a call by its strategy."""

    __slots__ = ("candidates", "created", "id", "max_context_length", "model", "selector", "sleepers")

    def __init__(self, model: Model, selector: Selector, created: int) -> None:
        self.model = model
        self.id = model.id
        """The name by which callers ask for it."""
        self.selector = selector
        self.candidates: tuple[Candidate, ...] = selector.candidates
        self.created = created
        """Unix seconds; when it was first configured, where the file does not say."""
        self.max_context_length = model.max_context_length
        self.sleepers = tuple(
            [(each.id, each.deployment.endpoint) for each in self.candidates if each.deployment.endpoint]
        )
        """Deployments whose endpoint can be asleep: their ids, and the names of the endpoints."""

    @property
    def type(self) -> str:
        """One of ``MODEL_TYPES``."""
        return self.model.type

    @property
    def aliases(self) -> tuple[str, ...]:
        """Other names by which callers may ask for it."""
        return self.model.aliases

    @property
    def owned_by(self) -> str:
        """Whose it is, for the list of models."""
        return self.model.owned_by

    def get_client(self, endpoint: str | None = None) -> ModelClient:
        """Return a client by the model's strategy.

        ``endpoint`` is like ``chat/completions``; one that does not fit the type of the model is answered
        with 422, a model without any deployment that could serve it with 503.
        """
        fitting = MODEL_TYPES[self.type]
        wanted = fitting[0]
        if endpoint is not None:
            wanted = endpoint.removeprefix("/").removeprefix("v1/")
            if wanted not in fitting:
                raise HTTPError(422, "Wrong model type", code="wrong_model_type")
        now = time.monotonic()
        call = Call(wanted, self.id)
        chosen = self.selector.pick(call, now) or self.selector.closest(now, call)
        if chosen is None:
            raise Unavailable(f"no deployment of {self.id} can serve {wanted}")
        return chosen.client

    def info(self) -> dict[str, Any]:
        """Return what ``GET /v1/models`` says of it."""
        return {
            "id": self.id, "object": "model", "created": self.created, "owned_by": self.owned_by,
            "type": self.type, "aliases": list(self.aliases), "max_context_length": self.max_context_length,
        }  # fmt: skip

    def __repr__(self) -> str:
        return f"ModelRouter({self.id!r})"


class ModelTable(Mapping[str, ModelRouter]):
    """The models by id; looked up by alias as well. Read only."""

    __slots__ = ("_by_id", "_by_name")

    def __init__(self, routers: Mapping[str, ModelRouter]) -> None:
        self._by_id = dict(routers)
        self._by_name = {alias: each for each in routers.values() for alias in each.aliases} | self._by_id

    def __getitem__(self, name: str) -> ModelRouter:
        try:
            return self._by_name[name]
        except (KeyError, TypeError):
            raise HTTPError(404, "Model not found", code="model_not_found") from None

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name in self._by_name

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_id)

    def __len__(self) -> int:
        return len(self._by_id)

    @overload
    def get(self, name: str, /) -> ModelRouter | None: ...
    @overload
    def get(self, name: str, /, default: ModelRouter | Default) -> ModelRouter | Default: ...

    def get(self, name: str, /, default: Any = None) -> Any:
        """Return the model, or ``default`` where there is none of that name."""
        return self._by_name.get(name, default)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything that calls go by, made of one configuration."""

    config: GatewayConfig = field(default_factory=GatewayConfig)
    models: ModelTable = field(default_factory=lambda: ModelTable({}))
    rules: RuleTable = field(default_factory=RuleTable)
    selector: tuple[Candidate, ...] = ()
    """What ``POST /select_endpoint`` tries."""
    candidates: Mapping[str, Candidate] = field(default_factory=dict)
    """Every deployment by its id, those of the selector included."""
    endpoints: Mapping[str, EndpointSpec] = field(default_factory=dict)

    @property
    def version(self) -> str:
        """That of the configuration."""
        return self.config.version

    @property
    def default_model(self) -> str:
        """Id of the model for calls that name none, or empty."""
        return self.config.default_model


@dataclass(slots=True)
class _Retired:
    """A client that no new call gets."""

    candidate: Candidate
    until: float
    """When even the longest of its calls is over."""


class Registry:
    """Makes snapshots of configurations, and holds the one that is current.

    ``locate`` tells the base URL of an endpoint (``Lifecycle.url_of``) for deployments without one of their
    own.
    """

    def __init__(
        self, transport: Transport, standings: Standings, events: Events, *,
        price_of: Callable[[Deployment], Price | None] | None = None,
        locate: Callable[[str], str | None] | None = None,
        make: Callable[[Deployment, Transport], ModelClient] = make_client,
        monotonic: Callable[[], float] = time.monotonic, wall: Callable[[], float] = time.time,
    ) -> None:  # fmt: skip
        self._transport = transport
        self._standings = standings
        self._events = events
        self._price_of = price_of
        self._locate = locate
        self._make = make
        self._monotonic = monotonic
        self._wall = wall
        self._wrap: Callable[[ModelClient], ModelClient] = _as_it_is
        self._retired: list[_Retired] = []
        self._drafted: tuple[tuple[Any, ...], RuleTable] | None = None
        """Rules of a configuration that was prepared or checked, and their table."""
        self.snapshot = Snapshot()
        """What new calls go by."""

    def check(self, config: GatewayConfig) -> None:
        """Raise what ``apply`` would raise, and change nothing."""
        self._clients(config)
        _check_names(config)
        self._rules(config)

    def prepare(self, config: GatewayConfig) -> None:
        """Make what takes long of a configuration that is to be checked or applied next: the table of its
        rules. Changes nothing, and may run in a thread."""
        self._rules(config)

    def apply(self, config: GatewayConfig) -> Snapshot:
        """Make a configuration the current one, or raise Misconfigured and leave everything as it was.

        Deployments that have not changed keep their client and what is known about them; calls under way at
        others end where they began.
        """
        before = self.snapshot
        clients = self._clients(config)
        _check_names(config)
        try:
            after = self._snapshot(config, self._candidates(config, clients))
        except BaseException:
            self._restore(before)
            raise
        self.snapshot, self._drafted = after, None
        self._retire(before, after)
        return after

    def wrap(self, wrap: Callable[[ModelClient], ModelClient]) -> None:
        """Put something around every client, those that are there and those to come."""
        self._wrap = wrap
        for candidate in self.snapshot.candidates.values():
            candidate.follow(wrap(candidate.client))

    async def drain(self, now: float) -> None:
        """Close the clients that were replaced or removed and have no calls any more."""
        waiting = []
        for each in self._retired:
            standing = each.candidate.standing
            if standing.inflight and now < each.until:
                waiting.append(each)
            else:
                await self._close(each.candidate)
        self._retired = waiting
        self._standings.keep(self.snapshot.candidates)

    async def aclose(self) -> None:
        """Close every client. The transport stays: it is not ours."""
        retired, self._retired = self._retired, []
        for candidate in (*(each.candidate for each in retired), *self.snapshot.candidates.values()):
            await self._close(candidate)

    # --- how a snapshot is made ---

    def _clients(self, config: GatewayConfig) -> dict[str, ModelClient]:
        """Return a client for every deployment; those that have not changed keep theirs."""
        held = self.snapshot.candidates
        clients: dict[str, ModelClient] = {}
        wrong: list[str] = []
        for model_type, deployment, _ in _deployments(config):
            if deployment.id in clients:
                wrong.append(f"there are two deployments {deployment.id!r}")
                continue
            old = held.get(deployment.id)
            if old is not None and old.deployment == deployment:
                clients[deployment.id] = old.client
                continue
            try:
                client = self._wrap(self._equipped(self._make(deployment, self._transport)))
            except Misconfigured as error:
                wrong.append(error.detail)
                continue
            told = unfit(model_type, deployment, client.ENDPOINT_TABLE)
            wrong.extend([told] if told else [])
            clients[deployment.id] = client
        if wrong:
            raise Misconfigured("\n".join(wrong))
        return clients

    def _candidates(self, config: GatewayConfig, clients: Mapping[str, ModelClient]) -> dict[str, Candidate]:
        """Return a candidate for every deployment, those that have not changed being the same objects."""
        made = {}
        for _, deployment, breaker in _deployments(config):
            client, standing = clients[deployment.id], self._standings.get(deployment, breaker)
            old = self.snapshot.candidates.get(deployment.id)
            same = old is not None and old.client is client and old.standing is standing
            made[deployment.id] = old if old is not None and same else Candidate(deployment, standing, client)
        return made

    def _equipped(self, client: ModelClient) -> ModelClient:
        """Let a client whose deployment has no address of its own ask for that of its endpoint."""
        own = client.deployment
        if own.endpoint and not own.base_url and self._locate is not None and hasattr(client, "locate"):
            client.locate = partial(self._locate, own.endpoint)
        return client

    def _snapshot(self, config: GatewayConfig, candidates: Mapping[str, Candidate]) -> Snapshot:
        serving = [model for model in config.models if model.status in SERVING]
        routers = {model.id: self._router(model, candidates) for model in serving}
        return Snapshot(
            config=config, models=ModelTable(routers), rules=self._rules(config),
            selector=tuple(candidates[each.id] for each in config.selector),
            candidates=MappingProxyType(dict(candidates)),
            endpoints=MappingProxyType({each.name: each for each in config.endpoints}),
        )  # fmt: skip

    def _rules(self, config: GatewayConfig) -> RuleTable:
        """Return the table of the rules, which is made once however often it is asked for."""
        drafted, current = self._drafted, self.snapshot
        if config.rules == current.config.rules:  # the same objects, mostly: nothing is compared then
            return current.rules
        if drafted is None or drafted[0] != config.rules:
            drafted = self._drafted = (config.rules, RuleTable(config.rules))
        return drafted[1]

    def _router(self, model: Model, candidates: Mapping[str, Candidate]) -> ModelRouter:
        """Return the router of a model; the same one, with its turns, where nothing has changed."""
        own = tuple(candidates[each.id] for each in model.deployments)
        held = self.snapshot.models.get(model.id)
        if held is not None and held.model == model:
            return held
        created = model.created or (held.created if held is not None else int(self._wall()))
        return ModelRouter(model, Selector(model, own, price_of=self._price_of), created)

    def _restore(self, before: Snapshot) -> None:
        """Let the standings go by the old configuration again, and forget those that it does not know."""
        for _, deployment, breaker in _deployments(before.config):
            self._standings.get(deployment, breaker)
        self._standings.keep(before.candidates)

    def _retire(self, before: Snapshot, after: Snapshot) -> None:
        longest = max([each.total_timeout for each in before.config.models], default=0.0)
        until = self._monotonic() + longest + _GRACE
        for key, candidate in before.candidates.items():
            kept = after.candidates.get(key)
            if kept is None or kept.client is not candidate.client:
                self._retired.append(_Retired(candidate, until))
        self._standings.keep(after.candidates)

    async def _close(self, candidate: Candidate) -> None:
        try:
            await candidate.client.aclose()
        except Exception as error:
            text = f"the client of {candidate.id} could not be closed"
            self._events.emit(Note("gateway_client_close_failed", "warning", text, error=error))


def _as_it_is(client: ModelClient) -> ModelClient:
    return client


def _check_names(config: GatewayConfig) -> None:
    """Refuse names that mean two models, and types that nobody knows: not every configuration was a file."""
    names: set[str] = set()
    for model in config.models:
        for name in (model.id, *model.aliases):
            if name in names:
                raise Misconfigured(f"two models are called {name!r}")
            names.add(name)
        if model.type not in MODEL_TYPES:
            raise Misconfigured(f"model {model.id!r} has the type {model.type!r}, which is not known")
    wrong = unfit_trials(config)
    if wrong:
        raise Misconfigured("\n".join(wrong))


def _deployments(config: GatewayConfig) -> Iterator[tuple[str, Deployment, BreakerPolicy]]:
    """Go through all deployments: type of the model (empty for the selector's), deployment, breaker."""
    for model in config.models:
        for deployment in model.deployments:
            yield model.type, deployment, model.breaker
    usual = BreakerPolicy()
    for deployment in config.selector:
        yield "", deployment, usual
