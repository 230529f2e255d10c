"""Files in both forms of Albert, and with what we have beside them, become the values of the gateway."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from router_core.gateway import clients
from router_core.gateway.clients.anthropic_models import ModelTraits
from router_core.gateway.config import load_config, parse_config
from router_core.gateway.config.arguments import ARGUMENTS
from router_core.gateway.values import (
    CLIENT_TYPES,
    BreakerPolicy,
    EjectionPolicy,
    EndpointSpec,
    HealthPolicy,
    HedgePolicy,
    Price,
    RetryPolicy,
    Secret,
    Timeouts,
)
from tests.gateway.config_parts import SEED, model_of, one, parsed, with_deployment, with_model

EARLY = """\
general: {log_level: DEBUG, disabled_routers: ["ocr"]}
auth: {master_key: changeme}
databases:
  - type: redis
    args: {host: "${REDIS_HOST}", password: "${REDIS_PASSWORD}"}
web_search: [{type: brave, model: small, args: {api_key: "${BRAVE_API_KEY}"}}]
models:
  - id: small
    type: text-generation
    default_internet: True
    owned_by: test
    clients:
      - model: albert-small
        type: albert
        costs: {prompt_tokens: 1, completion_tokens: 3}
        carbon: {total_params: 8, active_params: 8, model_zone: FRA}
        args:
          api_url: https://albert.api.staging.etalab.gouv.fr
          api_key: ${ALBERT_API_KEY}
          timeout: 120
  - id: embeddings
    type: text-embeddings-inference
    clients:
      - model: bge-m3
        type: tei
        args: {api_url: "http://localhost:8001", api_key: sf...Df}
"""

NEWER = """\
dependencies:
  postgres: {url: "postgresql+asyncpg://postgres:${POSTGRES_PASSWORD}@localhost:${POSTGRES_PORT:-5432}/postgres"}
settings:
  playground_opengatellm_url: ${OPENGATELLM_URL}
models:
  - name: mistralai/Ministral-3-8B
    type: text-generation
    load_balancing_strategy: least_busy
    aliases: ["openweight-small"]
    cost_prompt_tokens: 0.10
    cost_completion_tokens: 0.3
    providers:
      - type: albert
        key: ${ALBERT_API_KEY}
        timeout: 20
        model_name: mistralai/Ministral-3-8B
        model_total_params: 8
        model_active_params: 8
        model_hosting_zone: FRA
        qos_metric: inflight
        qos_limit: 5
      - type: vllm
        url: http://vllm.example.org:8000/
        basic_auth: {username: me, password: "${ALBERT_API_KEY}"}
        model_name: "gemma3:1b"
        model_cost_prompt_tokens: 2
        model_hosting_zone: WOR
        max_parallel_requests: 7
      - type: mistral
        key: abc
        model_name: mistral-small
"""


def test_the_example_of_the_early_form_loads_as_it_is() -> None:
    """Its address without a host's name, and its shortened keys, included."""
    config = parsed(SEED)
    (turbo,) = config.models
    assert (turbo.id, turbo.type, turbo.aliases, turbo.strategy) == (
        "turbo", "text-generation", ("turbo-alias",), "round_robin",
    )  # fmt: skip
    first, second = turbo.deployments
    assert (first.type, first.model, first.base_url) == (
        "openai",
        "gpt-3.5-turbo",
        "https://api.openai.com/v1",
    )
    assert (second.type, second.model, second.base_url) == (
        "vllm",
        "meta-llama/Llama-3.1-8B-Instruct",
        "http://.../v1",
    )
    assert first.key == Secret("sk-...sA")
    assert first.timeouts.first_byte == second.timeouts.first_byte == 60.0
    assert config.source == "gw.yaml"


def test_the_early_form_with_everything_that_was_in_it() -> None:
    """Sections about other things are not looked at: their variables need not be there."""
    small, embeddings = parsed(EARLY, {"ALBERT_API_KEY": "sk-a"}).models
    (albert,) = small.deployments
    assert albert.price == Price(1_000_000, 3_000_000)
    assert albert.base_url == "https://albert.api.staging.etalab.gouv.fr"
    assert albert.key == Secret("sk-a")
    assert albert.timeouts == Timeouts(5.0, 120.0, 30.0, 600.0)
    assert small.owned_by == "test"
    assert embeddings.deployments[0].model == "bge-m3"


def test_the_newer_form() -> None:
    """Names, costs, hosting zones and load control in its words."""
    (model,) = parsed(NEWER, {"ALBERT_API_KEY": "sk-a"}).models
    assert (model.id, model.strategy) == ("mistralai/Ministral-3-8B", "least_busy")
    albert, vllm, mistral = model.deployments
    assert albert.price == Price(100_000, 300_000)
    assert (albert.region, albert.max_concurrency, albert.timeouts.first_byte) == ("FRA", 5, 20.0)
    assert albert.timeouts.idle == 20.0
    assert vllm.price == Price(2_000_000, 0)
    assert (vllm.region, vllm.max_concurrency, vllm.base_url) == ("", 7, "http://vllm.example.org:8000")
    assert vllm.headers == (("authorization", "Basic bWU6c2stYQ=="),)
    assert (mistral.type, mistral.base_url) == ("generic", "https://api.mistral.ai/v1")


def test_both_forms_say_the_same() -> None:
    """Each thing may be written in any of its words in either form."""
    early = """
models:
- {id: m, type: text-generation, routing_strategy: round_robin, clients: [
    {model: x, type: vllm, args: {api_url: "http://h/v1", api_key: k, timeout: 9}}]}
"""
    newer = """
models:
- {name: m, type: text-generation, load_balancing_strategy: round-robin, providers: [
    {model_name: x, type: vllm, url: "http://h/v1/", key: k, timeout: 9}]}
"""
    assert parsed(early).models == parsed(newer).models


def test_everything_that_a_deployment_has() -> None:
    """Our own keys."""
    made = one(
        ", model: up, weight: 2.5, priority: -1, tags: [fast, eu], region: NO, compliance: [GDPR],"
        " capabilities: [tools, json], max_context_length: 8192, max_concurrency: 4,"
        " timeouts: {connect: 1, first_byte: 2, idle: 3, total: 4}, price: {input: 0.15, output: '0.6',"
        " cached_input: 0.075, request: 0.001}, health: {interval: 0, timeout: 1, billed: yes, path: /up},"
        " headers: {X-Team: a b}, key: k, args: {reply: hi, tokens_per_second: 5}"
    )
    assert (made.id, made.model_id, made.model, made.weight, made.priority) == ("d", "m", "up", 2.5, -1)
    assert (made.tags, made.region, made.compliance) == (frozenset({"fast", "eu"}), "NO", frozenset({"gdpr"}))
    assert made.capabilities == frozenset({"tools", "json"})
    assert (made.max_context_length, made.max_concurrency) == (8192, 4)
    assert made.timeouts == Timeouts(1.0, 2.0, 3.0, 4.0)
    assert made.price == Price(150_000, 600_000, 75_000, 1_000)
    assert made.health == HealthPolicy(0.0, 1.0, True, "/up")
    assert made.headers == (("x-team", "a b"),)
    assert made.args == {"reply": "hi", "tokens_per_second": 5}


def test_everything_that_a_model_has() -> None:
    """Policies keep their defaults where nothing is said."""
    made = model_of(
        "fallbacks: [n]\ncontext_fallbacks: n\npolicy_fallbacks: [n]\nwake_fallback: n\n"
        "sticky_by: header:X-Session\nretry: {max_attempts: 5, unclear: false}\nbreaker: {in_a_row: 9}\n"
        "ejection: {panic: 0.5}\nhedge: {after: 2}\ntotal_timeout: 90\ncreated: 1700000000\nowned_by: us\n"
        "strategy: sticky\n"
    )
    assert made.fallbacks == made.context_fallbacks == made.policy_fallbacks == ("n",)
    assert (made.wake_fallback, made.sticky_by, made.strategy) == ("n", "header:x-session", "sticky")
    assert made.retry == RetryPolicy(max_attempts=5, unclear=False)
    assert made.breaker == BreakerPolicy(in_a_row=9)
    assert made.ejection == EjectionPolicy(panic=0.5)
    assert made.hedge == HedgePolicy(2.0)
    assert (made.total_timeout, made.created, made.owned_by) == (90.0, 1700000000, "us")


def test_fallbacks_may_name_aliases() -> None:
    """They become ids, so that nobody has to look them up at every call."""
    text = with_model("fallbacks: [other]\nwake_fallback: other").replace(
        "- id: n", "- id: n\n  aliases: [other]"
    )
    assert parsed(text).models[0].fallbacks == ("n",)
    assert parsed(text).models[0].wake_fallback == "n"


def test_false_switches_off() -> None:
    """What is on, or could be."""
    made = model_of("retry: false\nejection: off\nhedge: no\nhealth: false")
    assert (made.retry.max_attempts, made.ejection.enabled, made.hedge) == (1, False, None)
    assert made.deployments[0].health.interval == 0.0


def test_a_model_says_what_holds_for_its_deployments() -> None:
    """And a deployment may say otherwise."""
    text = with_model(
        "max_context_length: 100\nprice: {input: 1}\ntimeout: 7\ncapabilities: [vision]\n"
        "health: {interval: 5}"
    )
    own_words = "{type: scripted, id: own, max_context_length: 50, timeouts: {idle: 1}, health: {timeout: 2}}"
    text = text.replace("[{type: scripted}]", f"[{{type: scripted}}, {own_words}]", 1)
    model = parsed(text).models[0]
    first, own = model.deployments
    assert (first.max_context_length, own.max_context_length, model.max_context_length) == (100, 50, 50)
    assert first.price == own.price == Price(1_000_000)
    assert (first.timeouts.first_byte, own.timeouts) == (7.0, Timeouts(5.0, 7.0, 1.0, 600.0))
    assert own.health == HealthPolicy(5.0, 2.0)
    assert first.capabilities == frozenset({"vision"})


def test_long_timeouts_lengthen_the_whole() -> None:
    """A call is not cut off at ten minutes where an attempt may take twenty."""
    model = model_of("timeout: 1200")
    assert model.deployments[0].timeouts.total == 1200.0
    assert model.total_timeout == 1200.0


def test_ids_hang_on_what_a_deployment_is_not_where_it_stands() -> None:
    """So its statistics stay with it when a neighbour goes; equal ones are numbered; hosts do not show."""
    urls = ["http://one.internal", "http://two.internal", "http://two.internal"]
    rows = [f"{{type: vllm, url: '{url}'}}" for url in urls]
    text = "models: [{{id: m, type: text-generation, clients: [{}]}}]"
    first, second, third = parsed(text.format(", ".join(rows))).models[0].deployments
    assert third.id == f"{second.id}-2"
    (alone,) = parsed(text.format(rows[1])).models[0].deployments
    assert alone.id == second.id != first.id
    assert "internal" not in first.id
    assert first.id.startswith("m/vllm-")


def test_endpoints() -> None:
    """Names of Hugging Face are read out of the page's address; variables give the times."""
    text = """
endpoints:
  - {name: big, url: "https://endpoints.huggingface.co/me/endpoints/gpt-oss-120b", token: "${HF}"}
  - {name: pod, driver: runpod, remote: abc, token: rp, wake_timeout: 10, auto_sleep: 0}
  - {name: here, driver: none, url: "http://10.0.0.1:8000/v1/"}
models:
  - {id: m, type: text-generation, clients: [{type: vllm, endpoint: big}]}
"""
    config = parsed(text, {"HF": "hf_x", "ENDPOINT_WAKE_TIMEOUT": "200", "ENDPOINT_AUTO_SLEEP": " 60 "})
    big, pod, here = config.endpoints
    page = "https://endpoints.huggingface.co/me/endpoints/gpt-oss-120b"
    assert big == EndpointSpec(
        "big", "huggingface", page, "me", "gpt-oss-120b", Secret("hf_x"), "", 200.0, 60.0
    )
    assert (pod.remote, pod.wake_timeout, pod.auto_sleep) == ("abc", 10.0, 0.0)
    assert here.url == "http://10.0.0.1:8000/v1"
    assert config.models[0].deployments[0].endpoint == "big"
    assert config.models[0].deployments[0].base_url == ""


def test_rules_and_the_default_model() -> None:
    """Rules are read as the control plane writes them; the default may be an alias."""
    text = with_model("aliases: [usual]") + (
        "default_model: usual\nrouting_rules:\n- name: creative\n  condition: {agentType: [creative]}\n"
        "  targetModels: [{modelId: n, weight: 0.7}, {modelId: usual, weight: 0.3}]\n  priority: 100\n"
    )
    config = parsed(text)
    assert config.default_model == "m"
    assert [rule.name for rule in config.rules] == ["creative"]
    assert [target.model_id for target in config.rules[0].targets] == ["n", "usual"]


def test_references_to_the_environment() -> None:
    """In any text, with defaults, beside other text; ${ is written $${."""
    environ = {"HOST": "up.example.org", "EMPTY": "", "N": "3"}
    made = one(
        ", url: 'http://${HOST}:${PORT:-8000}/v1', weight: '${N}', model: 'a${EMPTY:-b}c$${X}',"
        " key: '${EMPTY}'",
        environ,
    )
    assert made.base_url == "http://up.example.org:8000/v1"
    assert (made.weight, made.model, made.key) == (3.0, "abc${X}", Secret(""))


def test_references_in_arguments_are_what_they_stand_for() -> None:
    """A number where it is written without quotes, text where it is in quotes."""
    text = (
        "models:\n- id: m\n  type: text-generation\n  clients:\n  - type: scripted\n    args:\n     {}: {}\n"
    )
    for name, value, wanted in (("seed", "${N}", 7), ("reply", '"${N}"', "7"), ("echo", "${B:-true}", True)):
        args = parsed(text.format(name, value), {"N": "7"}).models[0].deployments[0].args
        assert args == {name: wanted}


def test_secrets_do_not_show_themselves() -> None:
    """Keys, headers, logins and arguments that are credentials, in whatever is printed."""
    text = with_deployment(
        ", key: sk-secret1, headers: {X-Token: sk-secret2}, args: {script: [{reply: '${PHRASE}'}]}"
    )
    config = parsed(text, {"PHRASE": "sk-secret3"})
    made = config.models[0].deployments[0]
    assert "sk-secret" not in f"{config!r}{made!s}{made.args!r}{made.headers}"
    assert made.headers[0][1] == "sk-secret2"
    assert made.args["script"][0]["reply"] == "sk-secret3"


def test_arguments_of_the_clients_are_known() -> None:
    """Whatever a client reads out of ``args`` can be written there."""
    source = "".join(path.read_text() for path in Path(clients.__file__).parent.glob("*.py"))
    read = set(re.findall(r'(?:argument|_words|_seconds)\([^()"]*, "(\w+)"|args\.get\("(\w+)"', source))
    names = {one or other for one, other in read} | set(ModelTraits.__slots__)
    assert len(names) > 10
    assert names <= {name for known in ARGUMENTS.values() for name in known or ()}
    assert set(ARGUMENTS) == {*CLIENT_TYPES, "mistral"}


def test_bedrock_has_credentials_of_its_own() -> None:
    """They are arguments, and do not show either."""
    text = """
models:
- id: m
  type: text-generation
  clients:
  - type: bedrock
    model: eu.anthropic.claude-sonnet-4-5-20250929-v1:0
    args:
      region: eu-central-1
      access_key_id: AKIA
      session_token: 12345
      secret_access_key: ${AWS}
      guardrail: {guardrailIdentifier: g, guardrailVersion: "1"}
"""
    made = parsed(text, {"AWS": "aws-secret"}).models[0].deployments[0]
    assert made.args["secret_access_key"] == "aws-secret"
    assert made.args["guardrail"] == {"guardrailIdentifier": "g", "guardrailVersion": "1"}
    assert made.args["session_token"] == "12345"
    assert "aws-secret" not in repr(made)
    assert "12345" not in repr(made)


def test_versions() -> None:
    """Equal text, equal version; another text, another one."""
    assert parsed(SEED).version == parsed(SEED).version != ""
    assert parsed(SEED).version != parsed(SEED + "#").version


@pytest.mark.parametrize("text", ["", "models:\n", "models: []\n", "x-shared: &a {b: c}\n"], ids=range(4))
def test_a_file_without_models_is_fine(text: str) -> None:
    """There is nothing to serve, and nothing wrong."""
    assert parsed(text).models == ()


def test_json_files_load() -> None:
    """JSON is YAML."""
    text = '{"models": [{"id": "m", "type": "text-generation", "clients": [{"type": "scripted"}]}]}'
    assert parsed(text).models[0].id == "m"


def test_files_are_read(tmp_path: Path) -> None:
    """With what the environment says beside them, and their path in messages."""
    path = tmp_path / "gateway.yaml"
    path.write_text(SEED)
    listed = '{"1": {"endpoint_url": "https://c/x", "endpoint_token": "t"}}'
    config = load_config(path, {"ENDPOINT_LIST": listed})
    assert config.source == str(path)
    assert [each.id for each in config.models] == ["turbo"]
    assert [each.id for each in config.selector] == ["selector/1"]


def test_text_may_be_bytes() -> None:
    """As it comes from a file."""
    assert parse_config(SEED.encode(), "gw.yaml", {}) == parsed(SEED)
