"""How each gateway is started in front of one upstream."""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.gateways.upstream import CHAT
from benchmarks.load import ROOT, free_port, serve

__all__ = [
    "KEY",
    "Running",
    "envoy",
    "litellm",
    "nginx_proxy",
    "nginx_static",
    "ours",
    "request_body",
    "slow",
]

KEY: Final = "benchmark-key-0123456789"
_GATEWAYS: Final = ROOT / ".venv-gateways" / "bin"


@dataclass(frozen=True, slots=True)
class Running:
    """A server that answers."""

    name: str
    port: int
    pid: int
    """Of the process that does the work."""


def request_body(model: str, stream: bool = False) -> str:
    """Return a chat request of about 1 KB."""
    messages = [
        {"role": "system", "content": "You answer briefly and to the point. " * 4},
        {"role": "user", "content": "Tell me what a gateway is good for, please. " * 14},
    ]
    return json.dumps(
        {"model": model, "messages": messages, "temperature": 0.5, "max_tokens": 200, "stream": stream}
    )


@contextlib.contextmanager
def _nginx(name: str, http: str, port: int, core: int | None) -> Iterator[Running]:
    program = shutil.which("nginx") or "/usr/sbin/nginx"
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "nginx.conf"
        config.write_text(
            f"daemon off; worker_processes 1; pid {folder}/pid; error_log {folder}/error.log crit;\n"
            "events { worker_connections 8192; }\n"
            f"http {{ access_log off; keepalive_requests 100000000; client_body_temp_path {folder}/b;\n"
            f"proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u;\n"
            f"scgi_temp_path {folder}/s;\n{http}\n}}\n"
        )
        command = [program, "-p", folder, "-c", str(config), "-e", f"{folder}/error.log"]
        with serve(command, port, core=core) as process:
            yield Running(name, port, _child(process.pid))


def nginx_static(core: int = 1) -> contextlib.AbstractContextManager[Running]:
    """Serve one chat completion of 1 KB, always the same."""
    port = free_port()
    body = CHAT.replace("'", "")
    http = (
        f"server {{ listen 127.0.0.1:{port}; default_type application/json;\n"
        f"location / {{ return 200 '{body}'; }} }}"
    )
    return _nginx("nginx, static", http, port, core)


def nginx_proxy(upstream: int, core: int | None = 0) -> contextlib.AbstractContextManager[Running]:
    """Pass everything on, streams unbuffered."""
    port = free_port()
    http = (
        f"upstream up {{ server 127.0.0.1:{upstream}; keepalive 1024; keepalive_requests 100000000; }}\n"
        f"server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://up; proxy_http_version 1.1;\n"
        'proxy_set_header Connection ""; proxy_buffering off; } }'
    )
    return _nginx("nginx, reverse proxy", http, port, core)


@contextlib.contextmanager
def slow(delay: float = 0.0, events: int = 50, pace: float = 0.01, core: int | None = 1) -> Iterator[Running]:
    """Answer after ``delay`` seconds, or stream ``events`` events ``pace`` seconds apart."""
    port = free_port()
    env = {"DELAY": str(delay), "EVENTS": str(events), "PACE": str(pace)}
    with serve(
        [sys.executable, "-m", "benchmarks.gateways.upstream", str(port)], port, env=env, core=core
    ) as process:
        yield Running("upstream", port, process.pid)


_CONFIG: Final = """
models:
  - id: bench
    type: text-generation
    aliases: [bench-alias]
    routing_strategy: latency
    clients:
      - {{model: bench, type: vllm, args: {{base_url: "http://127.0.0.1:{port}/v1", api_key: key-one}}}}
      - {{model: bench, type: openai, args: {{base_url: "http://127.0.0.1:{port}/v1", api_key: key-two}}}}
      - {{model: bench, type: generic, args: {{base_url: "http://localhost:{port}/v1", api_key: key-three}}}}
default_model: bench
routing_rules:
  - name: creative
    condition: {{agentType: [creative]}}
    targetModels: [{{modelId: bench, weight: 1, fallbackOrder: 1}}]
    priority: 10
    enabled: true
  - name: everybody
    condition: {{}}
    targetModels: [{{modelId: bench, weight: 1, fallbackOrder: 1}}]
    priority: 1
    enabled: true
"""


@contextlib.contextmanager
def ours(
    upstream: int, core: int | None = 0, arguments: Sequence[str] = (), *, more: str = "",
    environ: Mapping[str, str] | None = None,
) -> Iterator[Running]:  # fmt: skip
    """Serve the gateway as ``router-core serve`` does: keys, rules, three deployments, metrics, accounts.

    ``more`` is added to its file, ``environ`` to its variables.
    """
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "gateway.yaml"
        config.write_text(_CONFIG.format(port=upstream) + more)
        env = {
            "ROUTER_GATEWAY": str(config), "ROUTER_API_KEYS": f"bench:{KEY}", "ROUTER_JOBS": "memory://",
            "ROUTER_BLOBS": "memory://", "ROUTER_LOG_LEVEL": "warning", **(environ or {}),
        }  # fmt: skip
        command = [sys.executable, "-m", "handlers.cli", "serve", "router_core.gateway.app:create_app",
                   "--port", str(port), *arguments]  # fmt: skip
        with serve(command, port, env=env, core=core) as process:
            yield Running("router-core", port, process.pid)


@contextlib.contextmanager
def litellm(upstream: int, core: int = 0) -> Iterator[Running]:
    """Serve LiteLLM's proxy, one worker, tuned as its documentation says for production."""
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "litellm.yaml"
        config.write_text(
            "model_list:\n  - model_name: bench\n    litellm_params: {model: openai/bench, "
            f'api_base: "http://127.0.0.1:{upstream}/v1", api_key: key}}\n'
            "litellm_settings: {callbacks: []}\n"
            f"general_settings: {{master_key: sk-{KEY}}}\n"
        )
        env = {"LITELLM_MODE": "PRODUCTION", "LITELLM_LOG": "ERROR", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
        command = [str(_GATEWAYS / "litellm"), "--config", str(config), "--host", "127.0.0.1",
                   "--port", str(port), "--num_workers", "1"]  # fmt: skip
        with serve(command, port, env=env, core=core) as process:
            yield Running("LiteLLM", port, process.pid)


@contextlib.contextmanager
def envoy(upstream: int, core: int = 0) -> Iterator[Running]:
    """Serve Envoy with one worker thread as a plain reverse proxy."""
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "envoy.json"
        config.write_text(json.dumps(_envoy_config(port, upstream)))
        command = [str(_GATEWAYS / "envoy"), "-c", str(config), "--concurrency", "1", "--log-level", "error",
                   "--use-dynamic-base-id"]  # fmt: skip
        with serve(command, port, core=core) as process:
            yield Running("Envoy", port, _child(process.pid))


def _envoy_config(port: int, upstream: int) -> dict[str, object]:
    def address(number: int) -> dict[str, object]:
        return {"socket_address": {"address": "127.0.0.1", "port_value": number}}

    http = "type.googleapis.com/envoy.extensions.filters"
    manager = {
        "@type": f"{http}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "in",
        "http_filters": [
            {"name": "envoy.filters.http.router", "typed_config": {"@type": f"{http}.http.router.v3.Router"}}
        ],
        "route_config": {
            "virtual_hosts": [
                {"name": "all", "domains": ["*"],
                 "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "up", "timeout": "60s"}}]}
            ]
        },
    }  # fmt: skip
    filters = [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]
    endpoint = {"endpoint": {"address": address(upstream)}}
    cluster = {
        "name": "up", "connect_timeout": "5s", "type": "STATIC",
        "load_assignment": {"cluster_name": "up", "endpoints": [{"lb_endpoints": [endpoint]}]},
        "circuit_breakers": {"thresholds": [{"max_connections": 4096, "max_pending_requests": 4096,
                                             "max_requests": 4096}]},
    }  # fmt: skip
    listener = {"name": "in", "address": address(port), "filter_chains": [{"filters": filters}]}
    return {"static_resources": {"listeners": [listener], "clusters": [cluster]}}


def _child(pid: int) -> int:
    """Return the pid of the only child, or the process itself where it has none."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(children[0]) if children else pid
