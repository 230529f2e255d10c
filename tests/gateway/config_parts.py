"""What the tests of the configuration share."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from router_core.errors import Misconfigured
from router_core.gateway.config import parse_config
from router_core.gateway.values import Deployment, GatewayConfig, Model

__all__ = ["SEED", "model_of", "one", "parsed", "refused", "with_deployment", "with_model"]

SEED = """\
models:
  - id: turbo
    type: text-generation
    aliases: ["turbo-alias"]
    routing_strategy: round_robin
    clients:
      - model: gpt-3.5-turbo\x20
        type: openai
        args:
          base_url: https://api.openai.com/v1
          api_key: sk-...sA
          timeout: 60
      - model: meta-llama/Llama-3.1-8B-Instruct
        type: vllm
        args:
          base_url: http://.../v1
          api_key: sf...Df
          timeout: 60
"""
"""The example that Albert's page about routing gives, to the letter."""


def parsed(text: str, environ: Mapping[str, str] | None = None) -> GatewayConfig:
    """Read a configuration."""
    return parse_config(text, "gw.yaml", environ or {})


def refused(text: str, environ: Mapping[str, str] | None = None) -> list[str]:
    """Return what is said about a configuration that is refused, a line for each thing."""
    with pytest.raises(Misconfigured) as caught:
        parsed(text, environ)
    return caught.value.detail.splitlines()


def with_deployment(fields: str) -> str:
    """Return a file with one model and one deployment, to which fields (a flow mapping) are added."""
    return f"models:\n- id: m\n  type: text-generation\n  clients:\n  - {{type: scripted, id: d{fields}}}\n"


def with_model(fields: str) -> str:
    """Return a file with the model m, which has these lines as well, and the model n."""
    lines = "".join(f"  {line}\n" for line in fields.splitlines())
    scripted = "  clients: [{type: scripted}]\n"
    m, n = (f"- id: {name}\n  type: text-generation\n{scripted}" for name in "mn")
    return f"models:\n{m}{lines}{n}"


def one(fields: str, environ: Mapping[str, str] | None = None) -> Deployment:
    """Return the deployment of ``with_deployment``."""
    return parsed(with_deployment(fields), environ).models[0].deployments[0]


def model_of(fields: str) -> Model:
    """Return the model of ``with_model``."""
    return parsed(with_model(fields)).models[0]
