"""The SAM CLI itself deploys template.yaml into the emulator: made, made worse, restored, deleted."""

from __future__ import annotations

import io
import os
import re
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from handlers.deploy.aws import AwsOptions, deploy_aws, destroy_aws
from handlers.deploy.aws_template import stage_template
from handlers.deploy.errors import DeployError
from handlers.deploy.progress import Progress
from tests.aws.stacks import folder_of
from tests.deploy.aws_deploying import Account
from tests.parts import sam_program

pytestmark = [pytest.mark.soak, pytest.mark.process, pytest.mark.timeout(600)]


class _Emulated(httpx.BaseTransport):
    """Leads the addresses of HTTP APIs to the emulator, which answers for them by their name."""

    def __init__(self, url: str) -> None:
        self._url = httpx.URL(url)
        self._inner = httpx.HTTPTransport()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send the request to the emulator."""
        found = re.match(r"(\w+)\.execute-api\.", request.url.host)
        assert found, request.url
        request.headers["host"] = f"{found[1]}.execute-api.localhost"
        request.url = request.url.copy_with(scheme="http", host=self._url.host, port=self._url.port)
        return self._inner.handle_request(request)

    def close(self) -> None:
        """Close the connections."""
        self._inner.close()


def test_a_service_lives_and_dies(
    aws: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """Deploy, run a job, refuse a version that does not start, go back, delete."""
    monkeypatch.setenv("PATH", f"{sam_program().parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("ROUTER_LAMBDA_ARCH", "host")  # the emulator runs functions on this machine
    folder = folder_of(tmp_path / "app")
    template = stage_template(tmp_path / "template")
    text = template.read_text()
    assert "!Ref JobMaximumConcurrency" in text
    # the emulator takes the value of a parameter for text, and cannot compare it
    template.write_text(text.replace("!Ref JobMaximumConcurrency", "10"))
    told = io.StringIO()
    progress = Progress(told)
    options = AwsOptions(
        app="service:router", stack="real", folder=folder, template=template, local=False, timeout=90,
        parameters={"AllowAnonymous": "true"}, test={"path": "/double", "n": 21},
    )  # fmt: skip
    account = Account("real")
    http = httpx.Client(transport=_Emulated(aws))
    request.addfinalizer(http.close)

    made = deploy_aws(options, progress, http=http)
    assert (made.action, account.status()) == ("created", "CREATE_COMPLETE"), told.getvalue()
    assert "the job of POST /double succeeded" in told.getvalue()

    service = folder / "service.py"
    good = service.read_text()
    service.write_text(f"{good}\nraise RuntimeError('a mistake of today')\n")
    worse = replace(options, parameters={"LogLevel": "debug"}, timeout=5)
    with pytest.raises(DeployError, match="what was deployed before is deployed again"):
        deploy_aws(worse, progress, http=http)
    assert account.parameters()["LogLevel"] == "info"
    assert http.get(f"{made.url}/hello").json() == "Hello, world!"

    left = destroy_aws(options, progress, confirm=lambda question: True)
    assert account.status() == ""
    assert left is not None
    assert len(left) == 2
