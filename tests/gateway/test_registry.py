"""Snapshots: what they answer, and that a new one replaces the old one whole or not at all."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import FrozenInstanceError, replace
from typing import Any, ClassVar

import pytest

from router_core.errors import HTTPError, Misconfigured, Unavailable
from router_core.gateway.call import Call
from router_core.gateway.clients.scripted import ScriptedClient
from router_core.gateway.environment import from_environment
from router_core.gateway.outcome import OK
from router_core.gateway.registry import Registry, Snapshot
from router_core.gateway.reply import Reply
from router_core.gateway.resilience.standing import Standings
from router_core.gateway.transport.protocol import Origin, Transport
from router_core.gateway.values import BreakerPolicy, Deployment, GatewayConfig, Price, Timeouts
from router_core.telemetry.events import Events, Note
from tests.gateway.config_parts import SEED, parsed, with_model


class NoTransport:
    """Sends nothing: nothing is asked of any upstream when it is registered."""

    async def send(
        self, origin: Origin, head: bytes, body: bytes, *, timeouts: Timeouts, deadline: float,
        stream: bool = False,
    ) -> Reply:  # fmt: skip
        raise AssertionError("nothing may be sent")

    async def aclose(self) -> None:
        """Nothing is open."""


class Closing:
    """A client that counts how often it was closed."""

    ENDPOINT_TABLE: ClassVar[Mapping[str, str]] = {"chat/completions": "/v1/chat/completions"}

    def __init__(self, deployment: Deployment) -> None:
        self.deployment = deployment
        self.closed = 0
        self.locate: Any = None

    async def send(self, call: Call, deadline: float) -> Reply:
        raise AssertionError("nothing may be sent")

    async def aclose(self) -> None:
        self.closed += 1
        if self.deployment.model == "broken":
            raise OSError("cannot be closed")


class Place:
    """A registry with its parts, and clocks that stand."""

    def __init__(self, **options: Any) -> None:
        self.notes: list[Note] = []
        events = Events(lambda event: self.notes.append(event) if isinstance(event, Note) else None)
        self.standings = Standings(events, random.Random(1))
        self.wall = 1_700_000_000.0
        self.registry = Registry(
            NoTransport(), self.standings, events, monotonic=lambda: 100.0, wall=lambda: self.wall, **options
        )

    def apply(self, text: str) -> Snapshot:
        """Apply a file."""
        return self.registry.apply(parsed(text))


def closing(deployment: Deployment, transport: Transport) -> Closing:
    """Make a client that counts."""
    return Closing(deployment)


def error_of(snapshot: Snapshot, name: Any) -> HTTPError:
    """Return what is raised for a name."""
    with pytest.raises(HTTPError) as caught:
        snapshot.models[name]
    return caught.value


def rows(**models: str) -> str:
    """Return a file with a model for each name, whose one deployment has these fields."""
    row = "- {{id: {0}, type: text-generation, clients: [{{type: vllm, id: {0}-1, {1}}}]}}\n"
    return "models:\n" + "".join(row.format(name, fields) for name, fields in models.items())


# --- what a snapshot answers ----------------------------------------------------------------------


def test_models_are_found_by_id_and_by_alias() -> None:
    """Both give the same object, which says what callers may know."""
    snapshot = Place().apply(SEED)
    turbo = snapshot.models["turbo"]
    assert snapshot.models["turbo-alias"] is turbo
    assert (turbo.id, turbo.type, turbo.aliases, turbo.owned_by) == (
        "turbo", "text-generation", ("turbo-alias",), "router-core",
    )  # fmt: skip
    assert turbo.info() == {
        "id": "turbo", "object": "model", "created": 1_700_000_000, "owned_by": "router-core",
        "type": "text-generation", "aliases": ["turbo-alias"], "max_context_length": None,
    }  # fmt: skip


@pytest.mark.parametrize("name", ["guillaumetell-7b", "", None, 5, ["turbo"]], ids=str)
def test_an_unknown_model_is_a_404(name: object) -> None:
    """Rather than a KeyError, whatever callers send as a name."""
    error = error_of(Place().apply(SEED), name)
    assert (error.status, error.detail, error.code) == (404, "Model not found", "model_not_found")


def test_the_table_is_a_mapping_that_nobody_can_write() -> None:
    """Its keys are the ids; looking aliases up works everywhere."""
    models = Place().apply(SEED).models
    assert list(models) == ["turbo"]
    assert len(models) == 1
    assert "turbo-alias" in models
    assert object() not in models
    assert models.get("turbo-alias") is models["turbo"]
    assert models.get("nobody") is None
    assert models.get("nobody", "x") == "x"
    assert [each.id for each in models.values()] == ["turbo"]
    with pytest.raises(TypeError):
        models["x"] = models["turbo"]  # type: ignore[index]


def test_clients_come_in_turns() -> None:
    """Round robin, as the file says; each has its table of endpoints and its deployment."""
    turbo = Place().apply(SEED).models["turbo"]
    clients = [turbo.get_client(endpoint="chat/completions") for _ in range(4)]
    assert Counter(client.deployment.type for client in clients) == {"openai": 2, "vllm": 2}
    assert clients[0].ENDPOINT_TABLE["chat/completions"] == "/v1/chat/completions"
    assert {client.deployment.key.reveal() for client in clients} == {"sk-...sA", "sf...Df"}
    assert turbo.get_client() in (clients[0], clients[1])
    assert turbo.get_client("/v1/completions") in (clients[0], clients[1])


@pytest.mark.parametrize("endpoint", ["embeddings", "audio/transcriptions", "rerank", "nonsense", ""])
def test_a_wrong_endpoint_is_a_422(endpoint: str) -> None:
    """A model that writes cannot embed."""
    with pytest.raises(HTTPError) as caught:
        Place().apply(SEED).models["turbo"].get_client(endpoint)
    assert (caught.value.status, caught.value.detail) == (422, "Wrong model type")


def test_no_deployment_for_an_endpoint_is_a_503() -> None:
    """The type of the model fits, the type of its only client does not."""
    text = "models: [{id: m, type: text-generation, clients: [{type: albert, key: k}]}]"
    model = Place().apply(text).models["m"]
    assert model.get_client("completions").deployment.type == "albert"
    with pytest.raises(Unavailable, match="no deployment of m can serve responses"):
        model.get_client("responses")


def test_the_context_of_a_model_is_the_least_of_its_deployments() -> None:
    """What fits into one of them only does not fit."""
    text = with_model("").replace(
        "[{type: scripted}]",
        "[{type: scripted, id: a, max_context_length: 9}, {type: scripted, id: b, max_context_length: 8}]", 1,
    )  # fmt: skip
    assert Place().apply(text).models["m"].max_context_length == 8


def test_what_else_is_in_a_snapshot() -> None:
    """Rules, the default model, endpoints, the selector's candidates, every deployment by its id."""
    text = with_model("") + (
        "default_model: n\nendpoints: [{name: e, driver: none, url: 'http://h'}]\n"
        "routing_rules: [{name: r, targetModels: [{modelId: m}]}]\n"
    )
    config = parsed(text)
    given = from_environment({"ENDPOINT_LIST": '{"1": {"endpoint_url": "http://h", "endpoint_token": "t"}}'})
    snapshot = Place().registry.apply(replace(config, selector=given.selector))
    assert (snapshot.default_model, snapshot.version) == ("n", config.version)
    assert [rule.name for rule in snapshot.rules.rules] == ["r"]
    assert list(snapshot.endpoints) == ["e"]
    assert [each.client.deployment.type for each in snapshot.selector] == ["craftai"]
    assert "selector/1" in snapshot.candidates
    assert len(snapshot.candidates) == 3


def test_an_empty_registry_answers() -> None:
    """Before anything is applied there is nothing, and nothing fails otherwise than it should."""
    registry = Place().registry
    assert (len(registry.snapshot.models), registry.snapshot.version) == (0, "")
    assert error_of(registry.snapshot, "turbo").status == 404
    assert not registry.apply(GatewayConfig()).models


def test_snapshots_do_not_change() -> None:
    """Neither do the mappings in them."""
    snapshot = Place().apply(SEED)
    with pytest.raises(FrozenInstanceError):
        snapshot.rules = snapshot.rules  # type: ignore[misc]
    with pytest.raises(TypeError):
        snapshot.candidates["x"] = snapshot.models["turbo"].candidates[0]  # type: ignore[index]


def test_prices_decide_where_they_are_known() -> None:
    """The registry hands the prices to strategies."""
    two = "strategy: cheapest, clients: [{type: scripted, id: s}, "
    text = rows(a="url: 'http://a'").replace("clients: [", two)
    place = Place(price_of=lambda deployment: Price(output=9**9 if deployment.id == "s" else 9**8))
    assert place.apply(text).models["a"].get_client().deployment.id == "a-1"


def test_addresses_of_endpoints_are_asked_for() -> None:
    """Only by clients whose deployment has no address of its own."""
    text = """
endpoints: [{name: big, driver: none, url: "http://h"}]
models:
- {id: m, type: text-generation, clients: [{type: vllm, id: a, endpoint: big},
   {type: vllm, id: b, endpoint: big, url: "http://own"}, {type: vllm, id: c, url: "http://own"}]}
"""
    place = Place(locate=lambda name: f"http://{name}.example.org", make=closing)
    found = {key: each.client for key, each in place.apply(text).candidates.items()}
    assert isinstance(found["a"], Closing)
    assert found["a"].locate() == "http://big.example.org"
    assert [getattr(found[key], "locate", 0) for key in "bc"] == [None, None]


# --- replacing it ---------------------------------------------------------------------------------


def test_what_has_not_changed_stays() -> None:
    """Clients, standings, turns and the time of creation; what has changed gets a new client."""
    place = Place()
    before = place.apply(rows(a="url: 'http://a'", b="url: 'http://b'", c="url: 'http://c'"))
    place.wall += 500
    after = place.apply(rows(a="url: 'http://a'", b="url: 'http://b', weight: 2", d="url: 'http://d'"))
    assert place.registry.snapshot is after is not before
    assert after.models["a"] is before.models["a"]
    assert after.candidates["a-1"] is before.candidates["a-1"]
    assert after.candidates["b-1"].client is not before.candidates["b-1"].client
    assert after.candidates["b-1"].standing is before.candidates["b-1"].standing
    assert [after.models[name].created for name in "abd"] == [1_700_000_000, 1_700_000_000, 1_700_000_500]
    assert "c" not in after.models
    assert "c" in before.models
    assert {each.id for each in place.standings} == {"a-1", "b-1", "d-1"}


def test_a_model_that_changed_keeps_the_clients_that_did_not() -> None:
    """Another strategy is no reason to forget anything about its deployments."""
    place = Place()
    before = place.apply(SEED)
    after = place.apply(SEED.replace("round_robin", "weighted"))
    assert after.models["turbo"] is not before.models["turbo"]
    assert after.models["turbo"].candidates == before.models["turbo"].candidates


def test_standings_follow_a_new_breaker() -> None:
    """The candidate is the same, the policy is new."""
    place = Place()
    first = place.apply(with_model("")).models["m"]
    second = place.apply(with_model("breaker: {in_a_row: 1}")).models["m"]
    assert first.candidates[0] is second.candidates[0]
    standing = second.candidates[0].standing
    permit = standing.begin(1.0)
    assert permit is not None
    standing.end(permit, replace(OK, kind="server_error", failure=True, move="retry"), 1.1, 0.1)
    assert standing.out(1.2) == "open_circuit"


def bad(config: GatewayConfig, kind: str) -> GatewayConfig:
    """Make something wrong that no file could say."""
    (model, *rest) = config.models
    (deployment,) = model.deployments
    wrong = {
        "type": replace(model, type="poetry"),
        "name": replace(model, aliases=("b",)),
        "client": replace(model, deployments=(replace(deployment, base_url=""),)),
        "unfit": replace(model, deployments=(replace(deployment, type="tei", base_url="http://h"),)),
        "twice": replace(model, deployments=(deployment, deployment)),
        "strategy": replace(model, strategy="poetry", breaker=BreakerPolicy(in_a_row=1)),  # type: ignore[arg-type]
    }
    return replace(config, models=(wrong[kind], *rest))


@pytest.mark.parametrize("kind", ["type", "name", "client", "unfit", "twice", "strategy"])
def test_all_or_nothing(kind: str) -> None:
    """A configuration that cannot be used changes nothing, not even what the standings go by."""
    place = Place()
    text = rows(a="url: 'http://a'", b="url: 'http://b'")
    before = place.apply(text)
    other = rows(a="url: 'http://new'", b="url: 'http://b', max_concurrency: 1", z="url: 'http://z'")
    wrong = bad(parsed(other), kind)
    error: type[Exception] = Misconfigured if kind != "strategy" else Exception
    with pytest.raises(error):
        place.registry.apply(wrong)
    assert place.registry.snapshot is before
    assert {each.id for each in place.standings} == {"a-1", "b-1"}
    standing = before.candidates["b-1"].standing
    assert standing.begin(1.0)
    assert standing.begin(1.0), "the limit of a configuration that was refused holds"
    if kind != "strategy":
        with pytest.raises(Misconfigured):
            place.registry.check(wrong)
    assert place.apply(text).candidates["a-1"] is before.candidates["a-1"]


def test_checking_changes_nothing() -> None:
    """And says nothing about what is right."""
    place = Place()
    before = place.apply(SEED)
    place.registry.check(parsed(with_model("")))
    assert place.registry.snapshot is before
    assert len(place.standings) == 2


async def test_removed_deployments_drain() -> None:
    """Their client is closed when their last call has ended, and what was known about them goes."""
    place = Place(make=closing)
    before = place.apply(rows(a="url: 'http://a'", b="url: 'http://b'"))
    gone = before.candidates["b-1"]
    permit = gone.standing.begin(100.0)
    assert permit is not None
    place.apply(rows(a="url: 'http://a'"))
    await place.registry.drain(101.0)
    assert isinstance(gone.client, Closing)
    assert (gone.client.closed, len(place.standings)) == (0, 2)
    gone.standing.end(permit, OK, 102.0, 2.0)
    await place.registry.drain(102.0)
    assert (gone.client.closed, len(place.standings)) == (1, 1)
    await place.registry.drain(103.0)
    assert gone.client.closed == 1


async def test_a_replaced_client_is_closed_at_last() -> None:
    """Its deployment goes on having calls: after the longest that one may take, none can be its own."""
    place = Place(make=closing)
    old = place.apply(rows(a="url: 'http://a'")).candidates["a-1"]
    assert old.standing.begin(100.0)
    new = place.apply(rows(a="url: 'http://b'")).candidates["a-1"]
    assert isinstance(old.client, Closing)
    assert isinstance(new.client, Closing)
    await place.registry.drain(700.0)
    assert old.client.closed == 0
    await place.registry.drain(705.1)
    assert (old.client.closed, new.client.closed) == (1, 0)
    await place.registry.aclose()
    assert (old.client.closed, new.client.closed) == (1, 1)


async def test_a_client_that_cannot_be_closed_stops_nobody() -> None:
    """It is reported."""
    place = Place(make=closing)
    place.apply(rows(a="url: 'http://a', model: broken", b="url: 'http://b'"))
    await place.registry.aclose()
    assert [note.name for note in place.notes] == ["gateway_client_close_failed"]
    other = place.registry.snapshot.candidates["b-1"].client
    assert isinstance(other, Closing)
    assert other.closed == 1


async def test_a_call_ends_with_the_snapshot_that_it_began_with() -> None:
    """A model that was taken away meanwhile still answers it."""
    place = Place()
    turbo = place.apply(with_model("")).models["m"]
    place.apply("")
    client = turbo.get_client("chat/completions")
    assert isinstance(client, ScriptedClient)
    reply = await client.send(Call("chat/completions", "m", body=b"{}", fields={}), float("inf"))
    assert reply.status in (200, 400)
