"""Models, endpoints and the selector that variables define."""

from __future__ import annotations

import json

import pytest

from router_core.errors import Misconfigured
from router_core.gateway.environment import from_environment, merge
from router_core.gateway.values import EndpointSpec, GatewayConfig, Model, Secret

PAGE = "https://endpoints.huggingface.co/GaryOcean/endpoints/gpt-oss-{}-crazy-gary"
SEED = {
    "HUGGINGFACE_API_KEY": "hf_secret",
    "HF_BASE_URL_120B": PAGE.format("120b"),
    "HF_BASE_URL_20B": PAGE.format("20b"),
}


def refusals(environ: dict[str, str]) -> list[str]:
    """What is said about variables that are wrong."""
    with pytest.raises(Misconfigured) as caught:
        from_environment(environ)
    assert "secret" not in caught.value.detail
    return caught.value.detail.splitlines()


def test_nothing_is_nothing() -> None:
    """Without variables there is nothing, and empty ones are as good as none."""
    empty = {"HF_BASE_URL_120B": " ", "ENDPOINT_LIST": "", "HF_TOKEN": "hf", "ENDPOINT_WAKE_TIMEOUT": "x"}
    for environ in ({}, {**empty, "PATH": "/bin"}):
        config = from_environment(environ)
        assert (config.models, config.endpoints, config.selector, config.version) == ((), (), (), "")


def test_two_endpoints_of_hugging_face() -> None:
    """The big model falls back to the small one, while it wakes too; names are read from the addresses."""
    config = from_environment(SEED)
    big, small = config.models
    assert (big.id, big.fallbacks, big.wake_fallback) == ("120b", ("20b",), "20b")
    assert (small.id, small.fallbacks, small.wake_fallback) == ("20b", (), "")
    page = PAGE.format("120b")
    assert config.endpoints[0] == EndpointSpec(
        "120b", "huggingface", page, "GaryOcean", "gpt-oss-120b-crazy-gary", Secret("hf_secret")
    )
    (deployment,) = big.deployments
    assert (deployment.type, deployment.base_url, deployment.endpoint) == ("huggingface", "", "120b")
    assert deployment.key == Secret("hf_secret")
    assert (config.endpoints[0].wake_timeout, config.endpoints[0].auto_sleep) == (300.0, 900.0)
    assert "hf_secret" not in repr(config)
    assert config.version


def test_any_name_and_any_number() -> None:
    """Sizes are compared as numbers: the next smaller one is the fallback; names without one have none."""
    names = ["8B", "1.5B", "LLAMA_70B", "500M", "BGE", "7"]
    config = from_environment(
        {"HF_TOKEN": "hf", **{f"HF_BASE_URL_{name}": f"https://{n}.endpoints.huggingface.cloud/v1"
                              for n, name in enumerate(names)}}
    )  # fmt: skip
    fallbacks = {model.id: model.wake_fallback for model in config.models}
    assert fallbacks == {"llama_70b": "8b", "8b": "1.5b", "1.5b": "500m", "500m": "", "bge": "", "7": ""}
    assert {spec.driver for spec in config.endpoints} == {"none"}
    assert config.models[0].deployments[0].base_url.endswith(".endpoints.huggingface.cloud/v1")


def test_times_and_model_names() -> None:
    """Optional variables."""
    told = {"ENDPOINT_WAKE_TIMEOUT": "60", "ENDPOINT_AUTO_SLEEP": "0", "HF_MODEL_20B": "openai/gpt-oss-20b"}
    config = from_environment({**SEED, **told})
    assert [(each.wake_timeout, each.auto_sleep) for each in config.endpoints] == [(60.0, 0.0)] * 2
    assert [model.deployments[0].model for model in config.models] == ["tgi", "openai/gpt-oss-20b"]


@pytest.mark.parametrize(
    ("environ", "told"),
    [
        ({"HUGGINGFACE_API_KEY": ""}, "HUGGINGFACE_API_KEY is not set, and HF_BASE_URL_120B needs it"),
        ({"HUGGINGFACE_API_KEY": "hf secret"}, "HUGGINGFACE_API_KEY holds a sign that no key has"),
        ({"HF_BASE_URL_20B": "endpoints.huggingface.co/x"}, "HF_BASE_URL_20B must begin with https://"),
        ({"HF_BASE_URL_20B": "https://u:secret@h"}, "HF_BASE_URL_20B holds credentials"),
        ({"HF_BASE_URL_20B": "https://endpoints.huggingface.co/me/x"}, "HF_BASE_URL_20B must be https://endp"),
        ({"HF_BASE_URL_": "https://h"}, "HF_BASE_URL_ needs a name after HF_BASE_URL_"),
        ({"HF_BASE_URL_A/B": "https://h"}, "HF_BASE_URL_A/B needs a name"),
        ({"ENDPOINT_WAKE_TIMEOUT": "5 min"}, "ENDPOINT_WAKE_TIMEOUT is '5 min'; it must be a number"),
        ({"ENDPOINT_AUTO_SLEEP": "-1"}, "ENDPOINT_AUTO_SLEEP is '-1'"),
        ({"ENDPOINT_AUTO_SLEEP": "nan"}, "ENDPOINT_AUTO_SLEEP is 'nan'"),
    ],
)  # fmt: skip
def test_wrong_variables(environ: dict[str, str], told: str) -> None:
    """Each is named, and no key is shown."""
    (said,) = refusals({**SEED, **environ})
    assert said.startswith(told)


def test_the_list_of_the_selector() -> None:
    """In the order in which it is written, with tokens that do not show."""
    entries = {
        "2": {"endpoint_url": "https://e.craft.ai/endpoints/b ", "endpoint_token": "secret2"},
        "1": {"endpoint_url": "http://127.0.0.1:9/llm", "endpoint_token": "secret1"},
    }
    config = from_environment({"ENDPOINT_LIST": json.dumps(entries)})
    second, first = config.selector
    assert (second.id, second.type, second.base_url, second.key) == (
        "selector/2", "craftai", "https://e.craft.ai/endpoints/b", Secret("secret2"),
    )  # fmt: skip
    assert (first.id, first.key) == ("selector/1", Secret("secret1"))
    assert config.models == ()
    assert "secret" not in repr(config)
    assert from_environment({"ENDPOINT_LIST": "{}"}).selector == ()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[1]", 'ENDPOINT_LIST must be {"1"'),
        ("{", "ENDPOINT_LIST is not JSON (Expecting property name"),
        ('{"1": "secret"}', "ENDPOINT_LIST: entry '1' must be an object"),
        ('{"1": {"endpoint_token": "secret"}}', "ENDPOINT_LIST: entry '1' needs an endpoint_url"),
        ('{"1": {"endpoint_url": "http://h"}}', "ENDPOINT_LIST: entry '1' needs an endpoint_url and"),
        ('{"1": {"endpoint_url": 5}}', "ENDPOINT_LIST: entry '1' needs an endpoint_url"),
        (
            '{"1": {"endpoint_url": "x", "endpoint_token": "secret"}}',
            "ENDPOINT_LIST: entry '1': endpoint_url must begin with https://",
        ),
        ('{"1": {"endpoint_url": "http://h", "endpoint_token": "secret\\n"}}', "ENDPOINT_LIST: entry '1'"),
        ('{"1": {"endpoint_url": "http://h", "token": "secret"}}', "ENDPOINT_LIST: entry '1' takes no key"),
        ('{"1": {}, "1": {}}', "ENDPOINT_LIST has the key '1' twice"),
        ("[" * 100_000, "ENDPOINT_LIST is nested too deep"),
        (" " * 2_000_000 + "{", "ENDPOINT_LIST is not JSON"),
        ('"' + "x" * 2_000_000 + '"', "ENDPOINT_LIST has more than"),
        (json.dumps({str(n): {} for n in range(1001)}), "ENDPOINT_LIST has more than 1000 entries"),
    ],
    ids=range(14),
)  # fmt: skip
def test_wrong_lists(text: str, told: str) -> None:
    """What is wrong is told by the name of the entry, without what it holds."""
    assert refusals({"ENDPOINT_LIST": text})[0].startswith(told)


def test_everything_wrong_is_told_at_once() -> None:
    """Not only the first."""
    said = refusals({"HF_BASE_URL_A": "x", "HF_BASE_URL_B": "y", "ENDPOINT_LIST": "z"})
    assert len(said) == 4


def test_merging() -> None:
    """The first wins by name; where nothing is added, nothing changes, the version included."""
    given = from_environment(SEED)
    own = GatewayConfig(
        models=(Model("120b", "text-generation", (), aliases=("big", "20c")),),
        endpoints=(EndpointSpec("20b", "none", "http://own"),), version="v1",
    )  # fmt: skip
    merged = merge(own, given)
    assert [model.id for model in merged.models] == ["120b", "20b"]
    assert merged.models[0].aliases == ("big", "20c")
    assert [spec.url for spec in merged.endpoints] == ["http://own", PAGE.format("120b")]
    assert merged.version not in ("v1", given.version)
    assert merge(merged, given) is merged
    other = GatewayConfig(models=(Model("x", "text-generation", (), aliases=("big", "y")),))
    assert merge(merged, other).models[-1].aliases == ("y",)
