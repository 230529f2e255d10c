"""``router-core deploy aws``: every way that it can go, against the emulator's CloudFormation."""

from __future__ import annotations

import os
import re
import secrets
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
from botocore.loaders import Loader, create_loader

from handlers.cli.main import main
from handlers.deploy import aws, aws_smoke, aws_stack
from handlers.deploy.aws_sam import Sam
from handlers.deploy.aws_stack import Stack
from handlers.deploy.errors import TooSlow
from router_core.stores.state_dynamodb import state_table_definition
from tests.aws.stacks import share_packages
from tests.deploy.aws_deploying import SERVICE, Account, FakeSam
from tests.deploy.deploying import Deploy, Ran
from tests.parts import sam_program
from tests.served import Served, free_port, served

ROOT = Path(__file__).parent.parent.parent
WRONG = {
    "Wrong": {"Type": "AWS::CloudWatch::Alarm", "Properties": {"Metrics": [{"Id": "a", "Expression": "1"}]}}
}
"""Fails while the stack is made: the emulator can make no alarm of several metrics."""
KEYED = f"k:{'x' * 40}"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Serve what stands for the deployed service: the address that a stack puts out."""
    folder = tmp_path_factory.mktemp("deployed")
    (folder / "service.py").write_text(SERVICE)
    with served("service:router", folder, ROUTER_JOBS="memory://", ROUTER_BLOBS="memory://") as service:
        yield service


@pytest.fixture(scope="module")
def models() -> Loader:
    """Read the descriptions of AWS's services once: every deployment has a session of its own."""
    return create_loader()


@pytest.fixture
def sam(aws: str, models: Loader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSam:
    """Put a quick SAM first on PATH, and work in a folder with a service."""
    place = tmp_path / "bin"
    place.mkdir()
    folder = tmp_path / "app"
    folder.mkdir()
    (folder / "service.py").write_text(SERVICE)
    monkeypatch.chdir(folder)
    monkeypatch.setattr("botocore.session.create_loader", lambda path=None: models)
    monkeypatch.setenv("PATH", f"{place}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_SAM", str(place))
    for name in ("ROUTER_APP", "ROUTER_API_KEY", "ROUTER_LAMBDA_ARCH"):
        monkeypatch.delenv(name, raising=False)
    return FakeSam.made(place)


@pytest.fixture
def account(sam: FakeSam) -> Account:
    """Return a stack of this test's own, which is not there yet."""
    return Account(f"stack-{secrets.token_hex(4)}")


@pytest.fixture
def deploy(account: Account, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Deploy:
    """Run ``router-core deploy aws service:router`` in this process, with quick looks.

    ``local`` tests the service on this machine first, as it is usual.
    """
    monkeypatch.setattr(aws_stack, "_POLL", 0.05)
    monkeypatch.setattr(aws_smoke, "_PAUSE", 0.05)

    def run(*words: str, timeout: str = "20", local: bool = False) -> Ran:
        capsys.readouterr()
        more = words if local else (*words, "--no-local-test")
        code = main(
            ["deploy", "aws", "service:router", "--stack", account.stack, "--timeout", timeout, *more]
        )
        out, err = capsys.readouterr()
        return Ran(code, out, err)

    return run


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give an address up soon, but not a stack that is being changed on a busy machine."""
    real = aws_smoke.smoke_test

    def quick(http: httpx.Client, url: str, test: Mapping[str, Any], *, key: str, seconds: float) -> str:
        return real(http, url, test, key=key, seconds=0.2)

    monkeypatch.setattr(aws, "smoke_test", quick)


def test_a_service_is_deployed_and_tested(
    sam: FakeSam, account: Account, deploy: Deploy, running: Served
) -> None:
    """Test here, build, validate, deploy, test there; tell the address alone on standard output."""
    sam.plan(url=running.url)
    ran = deploy("--param", "AllowAnonymous=true", "--bucket", "artifacts", local=True)
    assert (ran.code, ran.out.strip()) == (0, running.url), ran.err
    assert sam.commands() == ["build", "validate", "deploy"]
    assert account.status() == "CREATE_COMPLETE"
    assert "on this machine: 3 routes; /hello succeeded" in ran.err
    assert "healthy; GET /hello answers 200" in ran.err
    build, _, deployed = sam.calls()
    assert build["environ"]["ROUTER_LAMBDA_FOLDER"] == os.getcwd()
    assert build["environ"]["ROUTER_LAMBDA_APP"] == "service:router"
    assert build["environ"]["ROUTER_LAMBDA_ARCH"] == "arm64"
    assert "artifacts" in deployed["words"]
    assert deployed["environ"]["AWS_REGION"] == "us-east-1"


def test_parameters_fit_the_app(sam: FakeSam, account: Account, deploy: Deploy, running: Served) -> None:
    """Name the app, and let a message live as long as its job has attempts."""
    sam.plan(url=running.url)
    assert deploy("--param", "AllowAnonymous=true", local=True).code == 0
    assert account.parameters()["App"] == "service:router"
    assert account.parameters()["MaxReceiveCount"] == "16"  # 2 x 6 + 4


def test_an_update_keeps_what_is_not_given(
    sam: FakeSam, account: Account, deploy: Deploy, running: Served
) -> None:
    """Update the stack; parameters that are not given stay as they are."""
    sam.plan(url=running.url)
    assert deploy("--param", "AllowAnonymous=true", "--param", "Stage=blue").code == 0
    sam.plan(url=running.url, delay=5)
    ran = deploy("--param", "Stage=green")
    assert (ran.code, account.status(), account.delay()) == (0, "UPDATE_COMPLETE", "5")
    assert (account.parameters()["Stage"], account.parameters()["AllowAnonymous"]) == ("green", "true")
    assert "is updated" in ran.err


def test_code_is_built_for_the_machine_of_the_stack(
    sam: FakeSam, account: Account, deploy: Deploy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Build for the architecture that is given, or that the stack has; refuse to build for another one."""
    assert deploy("--param", "AllowAnonymous=true", "--param", "Architecture=x86_64").code == 0
    sam.plan(url="", delay=3)
    assert deploy().code == 0
    builds = [call for call in sam.calls() if call["words"][0] == "build"]
    assert [call["environ"]["ROUTER_LAMBDA_ARCH"] for call in builds] == ["x86_64", "x86_64"]
    monkeypatch.setenv("ROUTER_LAMBDA_ARCH", "arm64")
    ran = deploy()
    assert ran.code == 2
    assert "--param Architecture=arm64" in ran.last
    assert len([call for call in sam.calls() if call["words"][0] == "build"]) == 2


def test_snapstart_publishes_each_deployment(
    sam: FakeSam, account: Account, deploy: Deploy, running: Served
) -> None:
    """Draw other digits each time, as a changed key would not be served otherwise; turn it off again."""
    assert deploy("--param", "AllowAnonymous=true", "--param", "SnapStart=on").code == 0
    first = account.parameters()["SnapStart"]
    sam.plan(url="", delay=3)
    assert deploy().code == 0
    second = account.parameters()["SnapStart"]
    assert first != second
    assert all(re.fullmatch("[0-9a-f]{16}", digits) for digits in (first, second))
    sam.plan(url="", delay=4)
    assert deploy("--param", "SnapStart=off").code == 0
    assert account.parameters().get("SnapStart", "") == ""


def test_nothing_to_do_is_said(sam: FakeSam, account: Account, deploy: Deploy, running: Served) -> None:
    """Tell an update that changed nothing from one that did."""
    sam.plan(url=running.url)
    assert deploy("--param", "AllowAnonymous=true", "--json").json["action"] == "created"
    sam.plan(url=running.url, unchanged=True)
    assert deploy("--json").json["action"] == "unchanged"


def test_a_dry_run_asks_aws_for_nothing(
    sam: FakeSam, account: Account, deploy: Deploy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Build and show what would be done, without credentials, and without the keys."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name)
    ran = deploy("--param", f"ApiKeys={KEYED}", "--dry-run")
    assert ran.code == 0
    assert sam.commands() == ["build", "validate"]
    assert f"--stack-name {account.stack}" in ran.err
    assert "nothing was changed" in ran.err
    assert "x" * 20 not in ran.err


def test_keys_are_neither_shown_nor_on_a_command_line(
    sam: FakeSam, account: Account, deploy: Deploy, running: Served
) -> None:
    """Hand secrets to SAM in a file that nobody else can read and that is gone afterwards."""
    sam.plan(url=running.url)
    killed = Path(".router-core/deploy/aws", account.stack, "parameters-x.toml")
    killed.parent.mkdir(parents=True)
    killed.write_text("keys of a run that was killed")
    value = f'{KEYED}, b:"quoted" it\'s {"y" * 30}'
    ran = deploy("--param", f"ApiKeys={value}")
    assert ran.code == 0
    deployed = sam.calls()[-1]
    assert deployed["parameters"]["ApiKeys"] == value
    assert all("x" * 20 not in word for call in sam.calls() for word in call["words"])
    assert "x" * 20 not in ran.err + ran.out
    left = Path(".router-core/deploy/aws").rglob("parameters-*")
    assert list(left) == []


def test_the_first_key_of_the_state_is_told(sam: FakeSam, account: Account, deploy: Deploy) -> None:
    """Keys in the state need no other; who has just begun with them hears how the first is made, once."""
    sam.plan(url="", outputs={"StateTable": "state-1"})
    keys = ("--param", "Keys=state", "--param", "StateTable=create")
    ran = deploy(*keys)
    told = "AWS_REGION=us-east-1 router-core keys create --role admin --state dynamodb://state-1"
    assert (ran.code, ran.err.count(told)) == (0, 1)
    sam.plan(url="", outputs={"StateTable": "state-1"}, unchanged=True)
    for words in (keys, ("--param", "Stage=test")):
        again = deploy(*words)
        assert (again.code, told in again.err) == (0, False)


def test_a_file_of_keys_has_one_a_line(sam: FakeSam, deploy: Deploy, running: Served) -> None:
    """As `router-core keys new --hashed >> keys.txt` makes it."""
    sam.plan(url=running.url)
    Path("keys.txt").write_text(f"# who calls\n{KEYED}\n\nb:{'y' * 40}  # of Ben\n")
    assert deploy("--param", "ApiKeys=@keys.txt").code == 0
    assert sam.calls()[-1]["parameters"]["ApiKeys"] == f"{KEYED},b:{'y' * 40}"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "AllowAnonymous"),
        (("--param", "ApiKey=k"), "did you mean ApiKeys?"),
        (("--param", "ApiKeys"), "write NAME=VALUE"),
        (("--param", "ApiKeys=@missing"), "cannot be read"),
        (("--param", "ApiKeys=ann:short"), "the parameter ApiKeys cannot be used"),
        (("--param", "AllowAnonymous=true", "--param", "WorkerKeys=w:short"), "the parameter WorkerKeys"),
        (("--param", "AllowAnonymous=true", "--param", "WebhookSecret=x"), "the parameter WebhookSecret"),
        (("--param", "AllowAnonymous=true", "--param", "Stage=a\\"), "Stage"),
        (("--param", "AllowAnonymous=true", "--param", "JobTimeout=30"), "JobTimeout is 30 s"),
        (("--param", "AllowAnonymous=true", "--param", "JobReservedConcurrency=5"), "10 jobs are taken"),
        (("--param", "Keys=state"), "set StateTable=create"),
        (("--param", "JwtIssuer=https://login.example.com/"), "JwtAudience"),
        (("--param", "AllowAnonymous=true", "--param", "GatewayConfig=models.yaml"), "no such file"),
        (("--param", "AllowAnonymous=true", "--param", "GatewayConfig=../models.yaml"), "has to lie"),
        (("--param", "AllowAnonymous=true", "--template", "nowhere.yaml"), "nowhere.yaml"),
        (("--param", "AllowAnonymous=true", "--test", "{"), "--test takes a JSON object"),
        (("--param", "AllowAnonymous=true", "--test", '{"text": "x"}'), "with a path"),
        (("--param", "AllowAnonymous=true", "--profile", "nobody"), "nobody"),
        (("--param", "AllowAnonymous=true", "--timeout", "0"), "--timeout"),
    ],
)
def test_what_is_missing_is_said_before_anything_is_done(
    sam: FakeSam, account: Account, deploy: Deploy, words: tuple[str, ...], said: str
) -> None:
    """Refuse what cannot work with one line that says what to change, and call nobody."""
    ran = deploy(*words, local=True)
    assert ran.code == 2, ran.err
    assert said in ran.last
    assert sam.commands() == []
    assert account.status() == ""


def test_missing_tools_are_named(
    sam: FakeSam, account: Account, deploy: Deploy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Name the tool that is not installed, and how to get it."""
    monkeypatch.setenv("PATH", os.fspath(sam.place.parent))
    ran = deploy("--param", "AllowAnonymous=true")
    assert ran.code == 2
    assert "the SAM CLI is not installed" in ran.last


def test_missing_credentials_are_named(
    sam: FakeSam, account: Account, deploy: Deploy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Say in one line that nobody is logged in."""
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    ran = deploy("--param", "AllowAnonymous=true")
    assert (ran.code, sam.commands()) == (2, [])
    assert "no AWS credentials" in ran.last
    assert "aws configure" in ran.last


def test_a_missing_region_is_named(
    sam: FakeSam, account: Account, deploy: Deploy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ask for a region where none is chosen."""
    monkeypatch.delenv("AWS_REGION")
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    ran = deploy("--param", "AllowAnonymous=true")
    assert ran.code == 2
    assert "--region" in ran.last


def test_nobody_there_is_said(
    sam: FakeSam, account: Account, deploy: Deploy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tell that AWS cannot be reached from everything else."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    ran = deploy("--param", "AllowAnonymous=true")
    assert ran.code == 3
    assert "AWS cannot be asked" in ran.last


def test_an_app_that_does_not_load_is_not_deployed(sam: FakeSam, account: Account, deploy: Deploy) -> None:
    """Find out here that the app cannot be imported."""
    Path("service.py").write_text("import no_such_package\n")
    ran = deploy("--param", "AllowAnonymous=true", local=True)
    assert (ran.code, sam.commands()) == (1, [])
    assert "no_such_package" in ran.last


def test_an_app_that_fails_its_test_here_is_not_deployed(
    sam: FakeSam, account: Account, deploy: Deploy
) -> None:
    """Find out here that the chosen request fails."""
    ran = deploy("--param", "AllowAnonymous=true", "--test", '{"path": "/broken"}', local=True)
    assert (ran.code, sam.commands()) == (1, [])
    assert "out of order" in ran.last


def test_a_job_longer_than_lambda_is_refused(sam: FakeSam, account: Account, deploy: Deploy) -> None:
    """Refuse a route that may run longer than any function."""
    Path("service.py").write_text(SERVICE.replace("timeout=60", "timeout=1200"))
    ran = deploy("--param", "AllowAnonymous=true", local=True)
    assert (ran.code, sam.commands()) == (2, [])
    assert "1200 s" in ran.last
    assert "900 s" in ran.last


@pytest.mark.parametrize("step", ["build", "validate"])
def test_a_build_that_fails_changes_nothing(
    sam: FakeSam, account: Account, deploy: Deploy, step: str
) -> None:
    """Stop at the first tool that fails, with its own words."""
    sam.plan(url="", fails=step, says="Error: no space left")
    ran = deploy("--param", "AllowAnonymous=true")
    assert ran.code == 1
    assert ran.last == f"router-core: `sam {step}` failed: Error: no space left"
    assert account.status() == ""


def test_a_first_deployment_that_fails_is_explained(
    sam: FakeSam, account: Account, deploy: Deploy, running: Served
) -> None:
    """Say which resource failed and what CloudFormation made of the stack; then say how to go on."""
    sam.plan(url=running.url, resources=WRONG)
    ran = deploy("--param", "AllowAnonymous=true")
    assert ran.code == 1
    assert "Wrong: " in ran.last
    assert "the stack is ROLLBACK_COMPLETE" in ran.last
    again = deploy("--param", "AllowAnonymous=true")
    assert again.code == 2
    assert f"--destroy {account.stack}" in again.last


def test_an_update_that_fails_is_taken_back_by_cloudformation(
    sam: FakeSam, account: Account, deploy: Deploy, running: Served
) -> None:
    """Say that what was deployed before is deployed."""
    sam.plan(url=running.url)
    assert deploy("--param", "AllowAnonymous=true").code == 0
    sam.plan(url=running.url, delay=7, resources=WRONG)
    ran = deploy()
    assert ran.code == 1
    assert "CloudFormation has gone back to what was deployed before" in ran.last
    assert (account.status(), account.delay()) == ("UPDATE_ROLLBACK_COMPLETE", "0")


@pytest.mark.usefixtures("impatient")
def test_a_new_service_that_does_not_answer_is_removed(
    sam: FakeSam, account: Account, deploy: Deploy
) -> None:
    """Delete a stack that this run has made and that does not work, with its empty table and bucket."""
    sam.plan(url=f"http://127.0.0.1:{free_port()}")
    ran = deploy("--param", "AllowAnonymous=true")
    assert ran.code == 3
    assert "does not answer" in ran.last
    assert "the stack that this run has made is deleted" in ran.last
    assert account.status() == ""


@pytest.mark.usefixtures("impatient")
def test_an_update_that_does_not_answer_is_taken_back(
    sam: FakeSam, account: Account, deploy: Deploy, running: Served
) -> None:
    """Restore template and parameters of what was deployed before, and say what cannot be restored."""
    sam.plan(url=running.url)
    assert deploy("--param", f"ApiKeys={KEYED}", "--param", "Stage=blue").code == 0
    sam.plan(url=f"http://127.0.0.1:{free_port()}", delay=9)
    ran = deploy("--param", "Stage=green")
    assert ran.code == 3
    assert "what was deployed before is deployed again" in ran.last
    assert "ApiKeys as given now" in ran.last
    assert (account.status(), account.delay(), account.parameters()["Stage"]) == (
        "UPDATE_COMPLETE",
        "0",
        "blue",
    )


def test_a_request_that_fails_there_is_taken_back(
    sam: FakeSam, account: Account, deploy: Deploy, running: Served
) -> None:
    """Wait for the job of the test request; its failure is the deployment's."""
    sam.plan(url=running.url)
    assert deploy("--param", "AllowAnonymous=true", "--test", '{"path": "/predict", "text": "x"}').code == 0
    sam.plan(url=running.url, delay=9)
    ran = deploy("--test", '{"path": "/broken"}')
    assert ran.code == 1
    assert "out of order" in ran.last
    assert account.delay() == "0"


@pytest.mark.process
def test_an_interrupted_test_is_taken_back(sam: FakeSam, account: Account, deploy: Deploy) -> None:
    """Take an update back when Ctrl-C ends its test."""
    assert deploy("--param", "AllowAnonymous=true").code == 0
    words = [
        sys.executable, "-m", "handlers.cli", "deploy", "aws", "service:router", "--stack", account.stack,
        "--no-local-test", "--timeout", "60", "--param", "AllowAnonymous=true",
    ]  # fmt: skip
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    sam.plan(url=f"http://127.0.0.1:{free_port()}", delay=9)
    process = subprocess.Popen(words, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + 30
    while (account.delay(), account.status()) != ("9", "UPDATE_COMPLETE"):
        assert time.monotonic() < until
        time.sleep(0.1)
    time.sleep(0.7)  # SAM has ended, and the address is asked
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, account.delay()) == (130, "0"), err
    assert "what was deployed before is deployed again" in err


def test_a_stack_without_an_address_is_said_to_be_untested(
    sam: FakeSam, account: Account, deploy: Deploy
) -> None:
    """Claim no test that there was not."""
    ran = deploy("--param", "AllowAnonymous=true")
    assert ran.code == 0
    assert "nothing was tested there" in ran.err


def test_a_key_that_is_missing_is_said(
    sam: FakeSam, account: Account, deploy: Deploy, tmp_path: Path
) -> None:
    """Say that only the health was looked at when the service asks for a key and there is none."""
    with served("service:router", tmp_path / "app", ROUTER_JOBS="memory://", ROUTER_API_KEYS=KEYED) as closed:
        sam.plan(url=closed.url)
        ran = deploy("--param", f"ApiKeys={KEYED}", "--test", '{"path": "/hello"}')
        assert ran.code == 0
        assert "wants an API key" in ran.err


def test_a_key_that_is_given_is_used(
    sam: FakeSam, account: Account, deploy: Deploy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ask with the key of ROUTER_API_KEY, and never show it."""
    monkeypatch.setenv("ROUTER_API_KEY", "x" * 40)
    with served("service:router", tmp_path / "app", ROUTER_JOBS="memory://", ROUTER_API_KEYS=KEYED) as closed:
        sam.plan(url=closed.url)
        ran = deploy("--param", f"ApiKeys={KEYED}", "--test", '{"path": "/hello"}')
        assert "GET /hello answers 200" in ran.err
        assert "x" * 20 not in ran.err


def _destroy(account: Account, capsys: pytest.CaptureFixture[str], *words: str) -> Ran:
    capsys.readouterr()
    code = main(["deploy", "aws", "--destroy", account.stack, *words])
    return Ran(code, *capsys.readouterr())


def test_a_stack_is_destroyed_and_its_data_are_kept(
    sam: FakeSam, account: Account, deploy: Deploy, capsys: pytest.CaptureFixture[str]
) -> None:
    """Delete the stack when somebody says yes, and name what remains."""
    assert deploy("--param", "AllowAnonymous=true").code == 0
    asked = _destroy(account, capsys)
    assert (asked.code, account.status()) == (2, "CREATE_COMPLETE")
    assert "add --yes" in asked.last
    planned = _destroy(account, capsys, "--dry-run")
    assert (planned.code, account.status()) == (0, "CREATE_COMPLETE")
    done = _destroy(account, capsys, "--yes")
    assert (done.code, account.status(), sam.commands()[-1]) == (0, "", "delete")
    assert "what remains: " in done.last


def test_an_interrupted_deletion_is_explained(
    sam: FakeSam,
    account: Account,
    deploy: Deploy,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Say at Ctrl-C that CloudFormation does not stop, and whose name to look for."""
    assert deploy("--param", "AllowAnonymous=true").code == 0

    def pressed(*words: object, **more: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Sam, "run", pressed)
    ran = _destroy(account, capsys, "--yes")
    assert ran.code == 130
    assert f"look at the stack {account.stack}" in ran.err


def test_a_failure_that_drags_on_keeps_its_cause(
    sam: FakeSam, account: Account, deploy: Deploy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tell why a deployment failed, although the way back takes longer than somebody waits for it."""
    sam.plan(url="", fails="deploy", says="Error: no rights")

    def slow(self: Stack, seconds: float) -> None:
        raise TooSlow("the stack is still UPDATE_ROLLBACK_IN_PROGRESS")

    monkeypatch.setattr(Stack, "settled", slow)
    ran = deploy("--param", "AllowAnonymous=true")
    assert ran.code == 1
    assert "no rights; the stack is still UPDATE_ROLLBACK_IN_PROGRESS" in ran.last


def test_data_are_destroyed_when_that_is_asked(
    sam: FakeSam, account: Account, deploy: Deploy, capsys: pytest.CaptureFixture[str]
) -> None:
    """Delete tables and bucket with all that is in them."""
    import boto3

    boto3.client("dynamodb").create_table(**state_table_definition(f"state-{account.stack}"))
    sam.plan(url="", outputs={"StateTable": f"state-{account.stack}"})
    assert deploy("--param", "AllowAnonymous=true").code == 0
    outputs = {entry["OutputKey"]: entry["OutputValue"] for entry in (account.state() or {})["Outputs"]}
    boto3.client("s3").put_object(Bucket=outputs["BlobBucket"], Key="blobs/x", Body=b"x")
    done = _destroy(account, capsys, "--yes", "--data", "--json")
    assert done.json == {"action": "destroyed", "stack": account.stack, "left": []}
    buckets = [entry["Name"] for entry in boto3.client("s3").list_buckets()["Buckets"]]
    assert outputs["BlobBucket"] not in buckets
    tables = boto3.client("dynamodb").list_tables()["TableNames"]
    assert {outputs["JobsTable"], outputs["StateTable"]}.isdisjoint(tables)


def test_a_stack_that_is_not_there_is_said(account: Account, capsys: pytest.CaptureFixture[str]) -> None:
    """Refuse to delete what there is not."""
    ran = _destroy(account, capsys, "--yes")
    assert ran.code == 2
    assert "there is no stack" in ran.last


@pytest.mark.process
@pytest.mark.timeout(600)
def test_the_real_sam_builds_and_validates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Build what would be deployed with the SAM CLI itself; every function has the app and its adapter."""
    program = sam_program()
    folder = tmp_path / "app"
    folder.mkdir()
    (folder / "service.py").write_text(SERVICE)
    share_packages(folder)
    (folder / "constraints.txt").write_text((ROOT / "constraints.txt").read_text())
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("ROUTER_LAMBDA_ARCH", raising=False)
    words = ["deploy", "aws", "service:router", "--param", "AllowAnonymous=true", "--dry-run"]
    assert main(words) == 0, capsys.readouterr().err
    built = folder / ".router-core" / "deploy" / "aws" / "service" / "build"
    functions = {path.name for path in built.iterdir() if path.is_dir()}
    assert functions == {
        "HttpFunction", "SnapStartFunction", "StreamFunction", "JobFunction", "DeadLetterFunction",
        "SweeperFunction",
    }  # fmt: skip
    assert list((folder / ".router-core" / "lambda").glob("run-*")) == []
    for function in functions:
        assert (built / function / "service.py").is_file()
        assert (built / function / "handlers" / "aws" / "entry.py").is_file()
        wrapper = built / function / "handlers" / "aws" / "bootstrap"
        assert wrapper.stat().st_mode & stat.S_IXUSR
