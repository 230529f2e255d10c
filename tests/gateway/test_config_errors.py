"""Whatever is wrong with a configuration is said at once, with its line and what to write, never a secret."""

from __future__ import annotations

from pathlib import Path

import pytest

from router_core.errors import Misconfigured
from router_core.gateway.config import document, load_config, parse_config
from router_core.gateway.values import Deployment, EndpointSpec, GatewayConfig, Model
from tests.gateway.config_parts import SEED, parsed, refused, with_deployment, with_model

DEPLOYMENTS = [
    (", wieght: 2", "takes no key 'wieght'; did you mean 'weight'?"),
    (", qqq: 2", "takes no key 'qqq'; it takes api_key, api_timeout, "),
    (", weight: -1", "weight of deployment 'd' is '-1'; it must be at least 0 and at most 1000000"),
    (", weight: heavy", "weight of deployment 'd' is 'heavy'; write a number"),
    (", weight: nan", "weight of deployment 'd' is 'nan'; write a number"),
    (", weight: 1e999999999", "write a number"),
    (", weight: [1]", "weight of deployment 'd' must be one value, not a list"),
    (", priority: 1.5", "priority of deployment 'd' is '1.5'; write a whole number"),
    (", timeout: 0", "timeout of deployment 'd' is '0'; it must be at least 0.001"),
    (", timeout: 1, args: {timeout: 2}, timeouts: {conect: 1}",
     "takes no key 'conect'; did you mean 'connect'?"),
    (", timeouts: 7", "timeouts of deployment 'd' must be a mapping of keys, not '7'"),
    (", timeouts: {idle: 0}", "idle of timeouts of deployment 'd' is '0'"),
    (", url: ftp://x", "url of deployment 'd' must begin with https:// or http://"),
    (", url: 'http://'", "url of deployment 'd' names no host"),
    (", url: 'http://a b'", "url of deployment 'd' names no host"),
    (", url: 'http://user:sk-secret@h'", "url of deployment 'd' holds credentials"),
    (", url: 'http://h:99999'", "url of deployment 'd' is no address"),
    (", url: 'http://h:0'", "has a port 0"),
    (", url: 'http://h/v1?key=sk-secret'", "has a ? or a #"),
    (", url: 'http://h/é'", "has a path that cannot be sent"),
    (", url: 'http://h/../x'", "has a path that cannot be sent"),
    (", url: 'http://é.fr'", "names no host"),
    (", url: 'https://endpoints.huggingface.co/me/endpoints/x'", "is the page of an endpoint"),
    (", url: 'http://h', args: {base_url: 'http://i'}",
     "url of deployment 'd' says the same as base_url in args"),
    (", url: 'http://h', base_url: 'http://h'", "base_url of deployment 'd' says the same as url"),
    (", key: sk-secret, args: {api_key: sk-secret}",
     "key of deployment 'd' says the same as api_key in args"),
    (", key: 'sk-secret x'", "key of deployment 'd' holds a space or a sign that no credential has"),
    (', key: "sk-secret\\nx"', "key of deployment 'd' holds a line break"),
    (", key: '${NOPE}'", "key of deployment 'd': the environment variable NOPE is not set"),
    (", key: '${NO PE}'", "key of deployment 'd': a reference is written ${NAME} or ${NAME:-default}"),
    (", key: '${A:-${B}}'", "a reference is written"),
    (", headers: {Host: x}", "headers of deployment 'd' may not hold 'Host'"),
    (", headers: {'a b': x}", "headers of deployment 'd' may not hold 'a b'"),
    (', headers: {a: "sk-secret\\r\\nb: c"}', "holds a line break"),
    (", headers: {a: é}", "that is not ASCII"),
    (", headers: {a: 1, A: 2}", "headers of deployment 'd' hold 'a' twice"),
    (", headers: [a]", "headers of deployment 'd' must be a mapping"),
    (", key: k, basic_auth: {username: u, password: p}", "cannot stand beside a key"),
    (", tags: [a b]", "tags of deployment 'd': 'a b' is not one word"),
    (", tags: {a: b}", "tags of deployment 'd' is a mapping; write a list"),
    (", tags: ['']", "tags of deployment 'd' holds an empty text"),
    (", region: a b", "region of deployment 'd' is not one word"),
    (", max_context_length: 0", "it must be at least 1"),
    (", price: {inputs: 1}", "price of deployment 'd' takes no key 'inputs'; did you mean 'input'?"),
    (", price: {input: -1}", "input of price of deployment 'd' is '-1'"),
    (", price: {input: 1}, costs: {prompt_tokens: 1}", "says the same as the costs beside it"),
    (", health: {billed: maybe}", "billed of health of deployment 'd' is 'maybe'; write true or false"),
    (", health: {path: up}", "path of health of deployment 'd' must begin with /"),
    (", qos_metric: ttft, qos_limit: 1", "qos_metric of deployment 'd' is 'ttft'; it is one of inflight"),
    (", qos_metric: inflight", "needs a qos_limit"),
    (", qos_policy: performance-threshold", "qos_policy of deployment 'd' is 'performance-threshold'"),
    (", endpoint: big", "deployment 'd' names no endpoint: 'big'; define it under endpoints:"),
    (", args: {replies: x}", "replies is unknown"),
    (", args: 7", "args of deployment 'd' must be a mapping"),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "told"), DEPLOYMENTS, ids=[fields[2:42] for fields, _ in DEPLOYMENTS])
def test_deployments(fields: str, told: str) -> None:
    """One thing wrong with a deployment is one line."""
    (said,) = refused(with_deployment(fields))
    assert said.startswith("gw.yaml:5: ")
    assert told in said
    assert "sk-secret" not in said


MODELS = [
    ("aliasses: [x]", 5, "model 'm' takes no key 'aliasses'; did you mean 'aliases'?"),
    ("\naliases: [n]", 6, "alias 'n' names the model 'n' already"),
    ("aliases: [m]", 5, "alias 'm' is the id of its own model"),
    ('aliases: ["a\\tb"]', 5, "holds a line break"),
    ("strategy: fastest", 5, "strategy of model 'm' is 'fastest'"),
    ("routing_strategy: least-bussy", 5, "did you mean 'least_busy'?"),
    ("routing_strategy: a\nstrategy: b", 6, "strategy of model 'm' says the same as routing_strategy"),
    ("fallbacks: [x]", 5, "fallbacks of model 'm': there is no model 'x'"),
    ("fallbacks:\n- n\n- nn", 7, "fallbacks of model 'm': there is no model 'nn'"),
    ("wake_fallback: x", 5, "wake_fallback of model 'm': there is no model 'x'"),
    ("fallbacks: [m]", 5, "fallbacks go round in a circle: m > m"),
    ("wake_fallback: m", 5, "wake_fallback go round in a circle: m > m"),
    ("sticky_by: session", 5, "sticky_by of model 'm' must be user, principal or header:NAME"),
    ("sticky_by: 'header:'", 5, "must be user, principal or header:NAME"),
    ("total_timeout: -1", 5, "total_timeout of model 'm' is '-1'"),
    ("retry: {max_attempts: 0}", 5, "max_attempts of retry of model 'm' is '0'; it must be at least 1"),
    ("retry: {max_attempts: 1.5}", 5, "write a whole number"),
    ("retry: {unclear: 2}", 5, "write true or false"),
    ("breaker: {open_for: 9, open_max: 3}", 5, "open_max of breaker of model 'm' is less than open_for (9)"),
    ("breaker: {ratio: 2}", 5, "at most 1"),
    ("ejection: {panik: 1}", 5, "did you mean 'panic'?"),
    ("hedge: {max_share: 0.1}", 5, "hedge of model 'm' needs an after"),
    ("created: soon", 5, "write a number"),
    ("fallbacks: {a: b}", 5, "is a mapping; write a list"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "line",
     "told"), [each for each in MODELS if each[1]], ids=[each[0] for each in MODELS if each[1]]
)  # fmt: skip
def test_models(fields: str, line: int, told: str) -> None:
    """What is wrong with a model is told at the line where it stands."""
    told_lines = refused(with_model(fields))
    assert any(said.startswith(f"gw.yaml:{line}: ") and told in said for said in told_lines), told_lines


WHOLE = [
    ("[]", "gw.yaml:1: a configuration is a mapping; begin with models:"),
    ("models", "gw.yaml:1: a configuration is a mapping; begin with models:"),
    ("models: {a: b}", "gw.yaml:1: models of the configuration must be a list"),
    ("modles: []", "gw.yaml:1: the configuration takes no key 'modles'; did you mean 'models'?"),
    ("models: [a]", "gw.yaml:1: model 1 must be a mapping, not 'a'"),
    ("models:\n- {type: text-generation, clients: [{type: scripted}]}", "gw.yaml:2: model 1 needs a id"),
    ("models:\n- {id: '', type: text-generation, clients: [{type: scripted}]}",
     "gw.yaml:2: id of model 1 is empty"),
    ("models:\n- {id: m, clients: [{type: scripted}]}", "gw.yaml:2: model 'm' needs a type"),
    ("models:\n- {id: m, type: chat, clients: [{type: scripted}]}", "gw.yaml:2: type of model 'm' is 'chat'"),
    ("models:\n- {id: m, type: text-generation}", "gw.yaml:2: model 'm' has no deployments"),
    ("models:\n- {id: m, type: text-generation, clients: []}", "gw.yaml:2: model 'm' has no deployments"),
    ("models:\n- {id: m, type: text-generation, clients: [a]}", "gw.yaml:2: deployment 1 must be a mapping"),
    ("models:\n- {id: m, type: text-generation, clients: [{}]}",
     "gw.yaml:2: deployment 1 of model 'm' needs a type"),
    ("models:\n- {id: m, type: text-generation, clients: [{type: vlm}]}", "'vlm'; did you mean 'vllm'?"),
    ("models:\n- {id: m, type: text-generation, clients: [{type: vllm}]}", "gw.yaml:2: deployment m/vllm-"),
    ("models:\n- {id: m, type: text-generation, clients: [{type: tei, url: 'http://h'}]}",
     "is of type 'tei', which has none of the endpoints of text-generation"),
    ("models:\n- {id: m, type: text-generation, clients: [{type: openai, key: k, args: {api_version: 1}}]}",
     "take no 'api_version'; it takes api_key, base_url"),
    ("models:\n- {id: m, type: text-generation, clients: [{type: azure, args: {apiversion: 1}}]}",
     "did you mean 'api_version'?"),
    ("endpoints:\n- {driver: none, url: 'http://h'}", "gw.yaml:2: endpoint 1 needs a name"),
    ("endpoints:\n- {name: a/b, driver: none, url: 'http://h'}", "name of endpoint 'a/b' holds a /"),
    ("endpoints:\n- {name: a}", "gw.yaml:2: endpoint 'a' needs a driver: huggingface, runpod, none"),
    ("endpoints:\n- {name: a, driver: none}", "endpoint 'a' needs a url"),
    ("endpoints:\n- {name: a, driver: runpod, token: t}", "endpoint 'a' needs a remote"),
    ("endpoints:\n- {name: a, driver: runpod, remote: x}", "needs a token: write token: ${RUNPOD_API_KEY}"),
    ("endpoints:\n- {name: a, driver: huggingface, token: t, url: 'https://x.endpoints.huggingface.cloud'}",
     "endpoint 'a' needs a namespace and a remote"),
    ("endpoints:\n- {name: a, driver: hf}", "driver of endpoint 'a' is 'hf'"),
    ("endpoints:\n- {name: a, driver: none, url: 'http://h', wake_timeout: 1e9}", "at most 3600"),
    ("endpoints:\n- &e {name: a, driver: none, url: 'http://h'}\n- *e",
     "there is an endpoint 'a' already, in line 2"),
    ("default_model: x", "gw.yaml:1: default_model: there is no model 'x'"),
    ("routing_rules: {}", "gw.yaml:1: routing_rules of the configuration must be a list of rules"),
    ("routing_rules: [1]", "gw.yaml:1: rule 1 must be a mapping"),
    ("routing_rules:\n- name: r\n  targetModels:\n  - modelId: x",
     "gw.yaml:2: targetModels of rule 'r': there is no model 'x'"),
    ("routing_rules:\n- name: r\n  condition:\n    agentTypo: [x]\n  targetModels: [{modelId: x}]",
     "gw.yaml:4: rule 'r': condition.agentTypo"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "told"), WHOLE, ids=range(len(WHOLE)))
def test_the_whole(text: str, told: str) -> None:
    """What is wrong with the file as such, with models, endpoints and rules."""
    said = refused(text)
    assert any(told in each for each in said), said


def test_one_mistake_is_told_once() -> None:
    """A client is not asked about a deployment that could not be read."""
    row = "models:\n- {{id: m, type: text-generation, clients: [{{type: vllm, {}}}]}}"
    assert len(refused(row.format("url: 'ftp://h'"))) == 1
    assert len(refused(row.format("url: '${NOPE}'"))) == 1


def test_names_must_be_one_of_a_kind() -> None:
    """Ids, aliases, deployments and rules: two of a name are told with the line of the first."""
    model = "- {{id: {}, type: text-generation, aliases: [{}], clients: [{{type: scripted, id: {}}}]}}\n"
    rule = "- {name: r, targetModels: [{modelId: a}]}\n"
    text = f"models:\n{model.format('a', 'x', 'd')}{model.format('a', 'y', 'd')}{model.format('b', 'x', 'e')}"
    assert refused(f"{text}routing_rules:\n{rule}{rule}") == [
        "gw.yaml:3: there is a model 'a' already, in line 2",
        "gw.yaml:3: there is a deployment 'd' already, in line 2",
        "gw.yaml:4: alias 'x' names the model 'a' already",
        "gw.yaml:7: there is a rule 'r' already, in line 6",
    ]


def test_fallbacks_that_go_round() -> None:
    """A circle of any length, told once and by name; diamonds are none."""
    row = "- {{id: {0}, type: text-generation, fallbacks: [{1}], clients: [{{type: scripted}}]}}\n"
    names = {"a": "b", "b": "c", "c": "a", "d": "a"}
    text = "models:\n" + "".join(row.format(name, to) for name, to in names.items())
    assert refused(text) == ["gw.yaml:2: fallbacks go round in a circle: a > b > c > a"]
    diamond = {"a": "b, c", "b": "d", "c": "d", "d": ""}
    assert parsed("models:\n" + "".join(row.format(name, to) for name, to in diamond.items())).models


def test_long_chains_of_fallbacks() -> None:
    """Two thousand models in a row are no circle, and no recursion."""
    row = "- {{id: m{0}, type: text-generation, fallbacks: [m{1}], clients: [{{type: scripted}}]}}\n"
    end = "- {id: m2000, type: text-generation, clients: [{type: scripted}]}\n"
    text = "models:\n" + "".join(row.format(n, n + 1) for n in range(2000)) + end
    assert len(parsed(text).models) == 2001


def test_fallbacks_must_serve_the_same_calls() -> None:
    """An embedding cannot stand in for a chat; a model that sees can for one that reads."""
    text = with_model("fallbacks: [n]")
    other = text.replace("- id: n\n  type: text-generation", "- id: n\n  type: text-embeddings-inference")
    assert refused(other) == [
        "gw.yaml:5: fallbacks of model 'm': 'n' is of type text-embeddings-inference, which serves none of "
        "the calls of text-generation"
    ]
    seeing = text.replace("- id: n\n  type: text-generation", "- id: n\n  type: image-text-to-text")
    assert parsed(seeing).models


def test_vectors_have_one_size() -> None:
    """Deployments of an embedding model that say different sizes cannot stand in for each other."""
    row = "models:\n- id: e\n  type: text-embeddings-inference\n  clients:\n"
    sizes = ["    - {type: scripted}\n", "    - {type: scripted, vector_size: 1024}\n"]
    assert parsed(row + sizes[0] + sizes[1] + sizes[1]).models
    assert refused(row + "".join(sizes) + "    - {type: scripted, vector_size: 768, id: x}\n") == [
        "gw.yaml:7: vector_size of 'x' is 768 where another deployment of model 'e' has 1024; vectors of one "
        "model need one size"
    ]


def test_everything_is_told_at_once_and_in_order() -> None:
    """Not only the first thing that is wrong; an alias's mistake once."""
    text = with_deployment(", weight: x, prority: 1, key: '${A}', model: '${B}'") + "default_model: z\n"
    lines = [each.split(":")[1] for each in refused(text)]
    assert len(lines) == 5
    assert lines == sorted(lines)
    shared = "x-d: &d {type: scripted, weight: x}\nmodels:\n"
    row = "- {{id: {0}, type: text-generation, clients: [{{<<: *d, id: d}}]}}\n"
    assert len([each for each in refused(shared + row.format("a")) if "weight" in each]) == 1


def test_a_flood_of_mistakes_is_cut() -> None:
    """The first hundred are enough to begin with."""
    said = refused("models:\n" + "- a\n" * 500)
    assert len(said) == 101
    assert said[-1] == "gw.yaml: and 400 more"


def test_messages_show_what_is_written_not_what_it_stands_for() -> None:
    """A variable in the wrong place may hold a secret."""
    text = with_deployment(", weight: '${KEY}', region: '${KEY}', endpoint: x").replace(
        "scripted", "'${KEY}'"
    )
    said = "\n".join(refused(text, {"KEY": "sk-secret value"}))
    assert "sk-secret" not in said
    assert "weight of deployment 'd' is '${KEY}'" in said
    assert "type of deployment 'd' is '${KEY}'" in said


def test_what_stands_beside_is_merged_and_the_file_wins() -> None:
    """By name, for models and endpoints; references may go to either side."""
    scripted = (Deployment("2/d", "2", "scripted", "x"),)
    beside = GatewayConfig(
        models=tuple(Model(name, "text-generation", scripted, (f"{name}x",)) for name in ("turbo", "2")),
        endpoints=(EndpointSpec("e", "none", "http://beside"), EndpointSpec("f", "none", "http://beside")),
        selector=scripted, version="v", default_model="2",
    )  # fmt: skip
    text = SEED.replace("    aliases:", "    fallbacks: [2x]\n    aliases:")
    text += "endpoints: [{name: e, driver: none, url: 'http://file'}]\n"
    config = parse_config(text, "gw.yaml", {}, beside=beside)
    assert [each.id for each in config.models] == ["turbo", "2"]
    assert config.models[0].aliases == ("turbo-alias",)
    assert config.models[0].fallbacks == ("2",)
    assert [each.url for each in config.endpoints] == ["http://file", "http://beside"]
    assert (config.selector, config.default_model) == (scripted, "2")
    assert config.version != parsed(SEED).version


def test_an_alias_may_not_hide_a_model_of_the_environment() -> None:
    """The file would take its calls without anybody having said so."""
    beside = GatewayConfig(models=(Model("20b", "text-generation", ()),))
    with pytest.raises(Misconfigured, match=r"gw\.yaml:4: alias '20b' names the model '20b' already"):
        parse_config(SEED.replace("turbo-alias", "20b"), "gw.yaml", {}, beside=beside)


@pytest.mark.parametrize("kind", ["missing", "folder", "fifo", "huge"])
def test_files_that_cannot_be_read(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is none, or is too large, is told by its path; nothing waits for ever."""
    path = tmp_path / "gateway.yaml"
    if kind == "folder":
        path.mkdir()
    elif kind == "fifo":
        import os

        os.mkfifo(path)
    elif kind == "huge":
        monkeypatch.setattr("router_core.gateway.config.load.MAX_BYTES", 10)
        path.write_text("# " * 10)
    with pytest.raises(Misconfigured) as caught:
        load_config(path, {})
    assert caught.value.detail.startswith(str(path))
    assert document.MAX_BYTES > 10


_LITELLM = """
model_list:
  - model_name: gpt-4o
    litellm_params: {model: azure/gpt-4o-eu, api_key: os.environ/AZURE_API_KEY}
router_settings: {num_retries: 2}
"""


def test_a_file_of_litellm_is_known_for_one() -> None:
    """Whoever comes from there is told where to read on, not that a key is unknown."""
    told = refused(_LITELLM)
    assert [line.partition(": ")[0] for line in told] == ["gw.yaml:2", "gw.yaml:5"]
    assert all("LiteLLM" in line for line in told)


@pytest.mark.parametrize("written", ["os.environ/OPENAI_KEY", "$OPENAI_KEY"])
def test_a_reference_as_others_write_it_is_no_key(written: str) -> None:
    """It would go to the upstream as it is, which answers 401 and nothing else."""
    text = f"models: [{{id: m, type: text-generation, clients: [{{type: openai, api_key: {written}}}]}}]"
    (told,) = refused(text)
    assert "${OPENAI_KEY}" in told


@pytest.mark.parametrize(("key", "instead"), [("api_base", "base_url"), ("rpm", "requestsPerMinute")])
def test_words_of_others_are_translated(key: str, instead: str) -> None:
    """A key of another gateway is refused with what to write here."""
    text = f"models: [{{id: m, type: text-generation, clients: [{{type: scripted, {key}: 7}}]}}]"
    (told,) = refused(text)
    assert f"takes no key '{key}'" in told
    assert instead in told
