"""Dashboard and alerts: every metric, label and word in them exists in what a gateway renders."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from router_core.gateway.outcome import KINDS
from router_core.telemetry.metrics import BUCKETS
from tests.gateway.serving import chat, house

INFRA = Path(__file__).parents[2] / "infra"
RULES = ("rules.yaml", "alerts.yaml")
CONFIG = "models: [{id: m, type: text-generation, clients: [{id: d, model: d, type: scripted}]}]"
_RECORDED = re.compile(r"\b[a-z]+:[a-z0-9_]+:[a-z0-9_]+")
_NAMED = re.compile(r"\b(?:model_router|router)_[a-z0-9_]+")
_MATCHED = re.compile(r"([a-z_]+)\s*(?:=~|!~|!=|=)\s*\"([^\"]*)\"")
_GROUPED = re.compile(r"\bby \(([a-z_, ]+)\)")
_SCRAPED = frozenset({"job", "instance"})
"""Labels that Prometheus adds."""


def rules() -> Iterator[dict[str, Any]]:
    """Go through all rules."""
    for name in RULES:
        for group in yaml.safe_load((INFRA / "prometheus" / name).read_text())["groups"]:
            yield from group["rules"]


def panels() -> list[dict[str, Any]]:
    """Return the panels of the dashboard that ask something."""
    board = json.loads((INFRA / "grafana" / "gateway.json").read_text())
    return [panel for panel in board["panels"] if panel["type"] != "row"]


def expressions() -> list[str]:
    """Return everything that is asked of Prometheus."""
    asked = [str(rule["expr"]) for rule in rules()]
    return asked + [target["expr"] for panel in panels() for target in panel["targets"]]


async def rendered() -> dict[str, set[str]]:
    """Return the sample names of a gateway, with their labels; all of them are in what it renders."""
    found: dict[str, set[str]] = {}
    async with house(CONFIG) as gateway:
        await gateway.ask("/v1/chat/completions", chat("m"))
        text = (await gateway.ask("/metrics")).body.decode()
        for metric in gateway.app.metrics._all:
            assert f"# TYPE {metric.name} {metric.kind}" in text
            endings = ("_bucket", "_sum", "_count") if metric.kind == "histogram" else ("",)
            for ending in endings:
                found[metric.name + ending] = {*metric.labels, *(("le",) if ending == "_bucket" else ())}
    assert len(list(text_string_to_metric_families(text))) == text.count("# TYPE ")
    return found


async def test_every_metric_label_and_outcome_exists() -> None:
    """What is renamed in the code is renamed here."""
    known = await rendered()
    known |= {rule["record"]: _grouped(rule["expr"]) for rule in rules() if "record" in rule}
    for expression in expressions():
        named = _RECORDED.findall(expression) + _NAMED.findall(_RECORDED.sub("", expression))
        assert named
        assert set(named) <= set(known), expression
        labels = _SCRAPED.union(*(known[name] for name in named))
        matched = _MATCHED.findall(expression)
        assert {name for name, _ in matched} | _grouped(expression) <= labels, expression
        for name, value in matched:
            if name == "outcome":
                assert set(value.split("|")) <= set(KINDS), expression


def _grouped(expression: str) -> set[str]:
    return {name.strip() for group in _GROUPED.findall(expression) for name in group.split(",")}


def test_buckets_reach_beyond_what_alerts_ask() -> None:
    """A threshold on a quantile above the last bucket could never be reached."""
    for rule in rules():
        if "duration_seconds:p95" in rule.get("expr", "") or "first_token" in rule.get("expr", ""):
            threshold = re.search(r"> (\d+)", rule["expr"])
            assert threshold is None or float(threshold[1]) < BUCKETS[-1]


def test_the_dashboard_is_whole() -> None:
    """Ids are unique, panels do not overlap, each has a query and a title, variables exist."""
    board = json.loads((INFRA / "grafana" / "gateway.json").read_text())
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    taken: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells
    variables = {each["name"] for each in board["templating"]["list"]}
    for panel in panels():
        assert panel["title"]
        assert panel["targets"]
        for target in panel["targets"]:
            used = set(re.findall(r"\$\{?([a-z_]+)\}?", target["expr"])) - {"__rate_interval"}
            assert used <= variables
    assert set(re.findall(r"\$\{([a-z]+)\}", json.dumps(board))) <= variables


def test_alerts_say_what_to_do() -> None:
    """Each has a severity and a summary."""
    alerts = [rule for rule in rules() if "alert" in rule]
    assert len({rule["alert"] for rule in alerts}) == len(alerts)
    for rule in alerts:
        assert rule["labels"]["severity"] in ("critical", "warning", "info")
        assert rule["annotations"]["summary"]


def test_prometheus_takes_the_rules_and_they_fire_when_they_should(tmp_path: Path) -> None:
    """By its own tool: syntax of rules and of the dashboard's queries, and the cases of tests.yaml."""
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed (package prometheus)")
    asked = [target["expr"] for panel in panels() for target in panel["targets"]]
    made = [
        {"record": f"test:panel:{number}", "expr": re.sub(r"\$__rate_interval", "5m", expression)}
        for number, expression in enumerate(asked)
    ]
    queries = tmp_path / "queries.yaml"
    queries.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": made}]}))
    files = [str(INFRA / "prometheus" / name) for name in RULES]
    for command in (
        ["check", "rules", *files, str(queries)],
        ["test", "rules", str(INFRA / "prometheus" / "tests.yaml")],
    ):
        done = subprocess.run([promtool, *command], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr
