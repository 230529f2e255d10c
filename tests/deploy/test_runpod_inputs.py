"""What is missing or wrong is told in one line that says what to do, before anything is changed."""

from __future__ import annotations

import io
import os
import stat
from pathlib import Path

import pytest

from handlers.deploy.errors import NotPrepared, Unclear
from handlers.deploy.progress import Progress
from handlers.deploy.runpod_api import RunpodApi
from handlers.deploy.runpod_config import checked, merged, profile_names, read_config, read_env, read_profile
from router_core.testing.runpod_rest import RunpodRest
from tests.deploy.deploying import SERVICE, Deploy, service
from tests.served import free_port

NEW = ("--name", "sdxl", "--image", "ann/sdxl:1")
CHANGING = ("create", "update", "delete")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "name the endpoint with --name, or the app as module:attribute"),
        (("--name", "a/b", "--image", "x:1"), "'a/b' is no name for an endpoint"),
        (("--name", "a"), "there is no endpoint a yet, so --image is needed"),
        ((*NEW, "--test", "[1]"), "--test takes a JSON object"),
        ((*NEW, "--test", "{"), "--test takes a JSON object"),
        ((*NEW, "--test", "@none.json"), "none.json cannot be read"),
        ((*NEW, "--env", "=x"), "--env: write NAME=VALUE"),
        ((*NEW, "--env", "hunter2-my-secret"), "--env: write NAME=VALUE"),
        ((*NEW, "--env", "NOT_SET_HERE"), "NOT_SET_HERE has no value"),
        ((*NEW, "--env-file", "none.env"), "none.env cannot be read"),
        ((*NEW, "--config", "none.toml"), "none.toml cannot be read"),
        ((*NEW, "--profile", "huge"), "there is no profile 'huge'; there are cpu, gpu-16gb"),
        ((*NEW, "--profile", "../../pyproject"), "there is no profile"),
        ((*NEW, "--workers-min", "-1"), "workers.min"),
        ((*NEW, "--workers-min", "5"), "workers.min 5 is above workers.max 3"),
        ((*NEW, "--idle-timeout", "0"), "workers.idleTimeout"),
        ((*NEW, "--gpu-count", "0"), "gpu.count"),
        ((*NEW, "--timeout", "0"), "--timeout and --poll must be above 0"),
        (("--name", "a", "--build"), "--build needs --image"),
        ((*NEW, "--build", "--build-arg", "x"), "write --build-arg NAME=VALUE"),
        ((*NEW, "--destroy", "a"), "--destroy deletes an endpoint and deploys nothing"),
        (("--destroy", "a"), "there is no endpoint a"),
        (("nothing:router", "--image", "x:1"), "there is no module 'nothing'"),
    ],
)  # fmt: skip
def test_wrong_usage_is_exit_code_2_or_1(
    runpod: RunpodRest, deploy: Deploy, words: tuple[str, ...], said: str
) -> None:
    """One line at the end, no traceback, nothing changed, and no value that may be a secret."""
    ran = deploy(*words)
    assert ran.code == (1 if "nothing:router" in words else 2)
    assert said in ran.last
    assert "Traceback" not in ran.err
    assert "hunter2" not in ran.err
    assert runpod.seen(*CHANGING) == []


def test_without_a_key(runpod: RunpodRest, deploy: Deploy, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says where one is made, and asks nobody."""
    monkeypatch.delenv("RUNPOD_API_KEY")
    ran = deploy(*NEW)
    assert ran.code == 2
    assert "put it into RUNPOD_API_KEY" in ran.last
    assert ran.err.count("\n") == 1
    assert runpod.requests == []


@pytest.mark.parametrize("key", ["two words", "kéy", "line\nbreak"])
def test_a_key_that_is_none(
    runpod: RunpodRest, deploy: Deploy, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    """It is not sent, and not shown."""
    monkeypatch.setenv("RUNPOD_API_KEY", key)
    ran = deploy(*NEW)
    assert (ran.code, runpod.requests) == (2, [])
    assert key not in ran.err


def test_a_wrong_key(runpod: RunpodRest, deploy: Deploy, monkeypatch: pytest.MonkeyPatch) -> None:
    """401 is asked once, and the key stays out of the output."""
    monkeypatch.setenv("RUNPOD_API_KEY", "rpa_WRONGWRONGWRONG")
    ran = deploy(*NEW)
    assert ran.code == 4
    assert "does not accept the API key (401)" in ran.last
    assert "rpa_WRONG" not in ran.err
    assert len(runpod.requests) == 1


def test_a_key_of_another_scope(runpod: RunpodRest, deploy: Deploy) -> None:
    """403 names what it needs."""
    runpod.fault("create", status=403)
    ran = deploy(*NEW)
    assert ran.code == 4
    assert "it needs write access to Serverless" in ran.last
    assert ran.last.endswith("nothing was changed")


def test_nobody_there(runpod: RunpodRest, deploy: Deploy, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit code 3 after some tries."""
    monkeypatch.setenv("RUNPOD_REST_URL", f"http://127.0.0.1:{free_port()}")
    ran = deploy(*NEW)
    assert ran.code == 3
    assert "cannot connect to 127.0.0.1:" in ran.last


@pytest.mark.parametrize("url", ["http://api.runpod.io/v2", "ftp://x", "api.runpod.io"])
def test_the_key_is_not_sent_in_the_clear(
    runpod: RunpodRest, deploy: Deploy, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    """An address without TLS, other than of this machine, is refused."""
    for variable in ("RUNPOD_REST_URL", "RUNPOD_ENDPOINT_BASE_URL"):
        with monkeypatch.context() as patched:
            patched.setenv(variable, url)
            ran = deploy(*NEW)
            assert ran.code == 2
            assert variable in ran.last


def test_an_answer_that_is_none(runpod: RunpodRest, deploy: Deploy) -> None:
    """As from a proxy, or a wrong address."""
    runpod.fault("list", "garbage")
    ran = deploy(*NEW)
    assert (ran.code, "no JSON" in ran.last) == (4, True)


def test_secrets_are_in_no_output(runpod: RunpodRest, deploy: Deploy, tmp_path: Path) -> None:
    """Not in plans, errors of the platform that quote them, or errors of the service."""
    secrets = {"DB_PASSWORD": "pw-one-two", "SOME_URL": "https://x/y?sig=abcdef", "OTHER": "plainlylong",
               "QUOTED": 'a"b\\c-secret', "API_TOKEN": "tok4"}  # fmt: skip
    env = [word for name, value in secrets.items() for word in ("--env", f"{name}={value}")]
    runpod.habits.answer = lambda fields, given: {"error": f"bad: {fields['env']}"}
    ran = deploy(*NEW, *env)
    assert ran.code == 1
    for error in (ran, deploy(*NEW, *env, "--dry-run"), deploy(*NEW, *env, "--json")):
        for value in secrets.values():
            assert value not in error.err + error.out
    # the API quotes what it does not like
    runpod.habits.answer = lambda fields, given: {"output": 1}
    (tmp_path / "bad.json").write_text('{"env": {"DB_PASSWORD": ["pw-one-two"]}}')
    ran = deploy(*NEW, "--config", "bad.json")
    assert (ran.code, "pw-one-two" in ran.err) == (2, False)
    assert runpod.key not in ran.err


def test_the_local_test_stops_a_service_that_does_not_load(
    runpod: RunpodRest, deploy: Deploy, tmp_path: Path
) -> None:
    """With the line of the author's code; RunPod is only read."""
    service(tmp_path, "import os\nos.environ['NEEDED']\n" + SERVICE)
    ran = deploy("service:router", "--image", "x:1")
    assert ran.code == 1
    assert "service.py:2: KeyError: 'NEEDED'" in ran.last
    assert runpod.seen(*CHANGING) == []
    # what the endpoint will have, it has here as well; a reference only RunPod can resolve it has not
    assert deploy("service:router", "--image", "x:1", "--env", "NEEDED=1", "--dry-run").code == 0
    assert deploy("service:router", "--image", "x:1", "--env", "NEEDED={{ RUNPOD_SECRET_a }}").code == 1
    assert deploy("service:router", "--image", "x:1", "--no-local-test", "--dry-run").code == 0


@pytest.mark.parametrize(
    ("code", "test", "said"),
    [
        ("def hello(): raise SystemExit(3)", "", "FAILED: "),
        ("def hello(): raise ValueError('no model')", "", "service.py, line 4)"),
        ("def hello(): import os; os._exit(7)", "", "ended with code 7"),
        ("def hello(): print('x' * 9); import os; os.abort()", "", "ended with code -6"),
        ("def hello(): import time; time.sleep(60)", "", "has not ended after 0.5 s"),
        ("def hello(): return 1", '{"path": "/nowhere"}', "names no route"),
        ("def hello(n: int): return n", '{"path": "/hello", "n": "x"}', "FAILED: "),
    ],
)  # fmt: skip
def test_the_local_test_stops_a_service_that_does_not_work(
    runpod: RunpodRest, deploy: Deploy, tmp_path: Path, code: str, test: str, said: str
) -> None:
    """Whatever it does to the process that it runs in."""
    service(tmp_path, f"from router_core import Router\nrouter = Router()\n@router.get('/hello')\n{code}\n")
    words = ["--test", test] if test else []
    ran = deploy("service:router", "--image", "x:1", *words, "--timeout", "0.5" if "sleep" in code else "30")
    assert ran.code == (5 if "sleep" in code else 1)
    assert said in ran.last
    assert runpod.seen(*CHANGING) == []


def test_the_local_test_touches_nothing_of_production(
    runpod: RunpodRest, deploy: Deploy, tmp_path: Path
) -> None:
    """Stores and queues of the endpoint are not opened here, and its key is not passed on."""
    service(
        tmp_path,
        "import os\nassert 'RUNPOD_API_KEY' not in os.environ\n" + SERVICE,
    )
    env = [
        "ROUTER_JOBS=dynamodb://production",
        "ROUTER_QUEUE=sqs://production",
        "ROUTER_BLOBS=s3://production",
    ]
    words = [word for each in env for word in ("--env", each)]
    test = '{"path": "/predict", "text": "x"}'
    assert deploy("service:router", "--image", "x:1", "--test", test, "--dry-run", *words).code == 0
    assert list(tmp_path.glob(".router-core")) == []


def fake_docker(folder: Path, text: str) -> None:
    path = folder / "docker"
    path.write_text(f'#!/bin/sh\necho "$@" >> {folder}/calls\n{text}\n')
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def test_build_pushes_and_deploys_the_digest(
    runpod: RunpodRest, deploy: Deploy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tag may be pushed again; what was tested is what runs."""
    digest = f"ann/service@sha256:{'0' * 64}"
    bin_ = tmp_path / "bin"
    bin_.mkdir()
    fake_docker(bin_, f'[ "$1" = image ] && echo \'["bob/x@sha256:1", "{digest}"]\'; true')
    monkeypatch.setenv("PATH", f"{bin_}:{os.environ['PATH']}")
    service(tmp_path)
    (tmp_path / "Dockerfile.runpod").write_text("FROM scratch\n")
    ran = deploy("service:router", "--image", "docker.io/ann/service:1", "--build", "--build-arg", "X=1")
    assert ran.code == 0, ran.err
    assert runpod.endpoint("service")["image"] == digest
    build, push, inspect = (bin_ / "calls").read_text().splitlines()
    assert build == (
        "build --platform linux/amd64 -f Dockerfile.runpod -t docker.io/ann/service:1 --build-arg "
        "ROUTER_APP=service:router --build-arg APP_DIR=service.py --build-arg X=1 ."
    )
    assert push == "push docker.io/ann/service:1"
    assert inspect.startswith("image inspect")


def test_a_build_that_fails_changes_nothing(
    runpod: RunpodRest, deploy: Deploy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Docker's last words, and where there is no docker what to do."""
    (tmp_path / "Dockerfile.runpod").write_text("FROM scratch\n")
    bin_ = tmp_path / "bin"
    bin_.mkdir()
    monkeypatch.setenv("PATH", str(bin_))
    ran = deploy(*NEW, "--build")
    assert (ran.code, "docker is not there: install it" in ran.last) == (2, True)
    fake_docker(bin_, "echo step 1; echo no space left >&2; exit 9")
    monkeypatch.setenv("PATH", f"{bin_}:/bin:/usr/bin")
    ran = deploy(*NEW, "--build")
    assert ran.code == 1
    assert "docker build failed (9): step 1 / no space left; nothing was changed" in ran.last
    ran = deploy(*NEW, "--build", "--dockerfile", "none")
    assert (ran.code, "there is no none; name it with --dockerfile" in ran.last) == (2, True)
    assert runpod.seen(*CHANGING) == []


def test_every_profile_is_one() -> None:
    """They are read, and lay hardware and scaling down."""
    assert profile_names() == ["cpu", "gpu-16gb", "gpu-24gb", "gpu-48gb", "gpu-80gb"]
    for name in profile_names():
        fields = read_profile(name).wire()
        assert fields["workers"]["min"] == 0
        assert ("gpu" in fields) != ("cpu" in fields)


def test_every_profile_is_accepted(runpod: RunpodRest, deploy: Deploy) -> None:
    """By the API's own rules."""
    for name in profile_names():
        assert deploy("--name", name, "--image", "x:1", "--profile", name).code == 0


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ({"imageName": "x"}, "imageName: Extra inputs are not permitted (known: image, args"),
        ({"disk": "20"}, "disk"),
        ({"image": "Ann/Service:1"}, "image: Value error, must name an image in small letters"),
        ({"image": "ann/service:"}, "such as docker.io/ann/service:1.0"),
        ({"image": "https://docker.io/ann/service"}, "image"),
        ({"gpu": {"pools": []}}, "gpu.pools"),
        ({"gpu": {"pools": ["A"]}, "cpu": [{"id": "cpu5c", "vcpuCount": 2}]}, "exclude each other"),
        ({"scaling": {"type": "NONE"}}, "scaling"),
        ({"flashboot": True}, "flashboot"),
        ({"env": {"A": 1}}, "env.A"),
        ([], "it"),
        (None, "it"),
    ],
)  # fmt: skip
def test_a_wrong_configuration_names_the_field(found: object, said: str) -> None:
    """And not the value, which may be a secret."""
    with pytest.raises(NotPrepared) as raised:
        checked(found, "e.toml")
    assert str(raised.value).startswith("e.toml: ")
    assert said in str(raised.value)


@pytest.mark.parametrize(
    "image",
    [
        "x", "ann/service:1.0", "docker.io/ann/my_service-2:v1.2_a", "localhost:5000/a/b/c:1",
        "ghcr.io/ann/service@sha256:" + "0f" * 32, "ghcr.io/ann/service:1@sha256:" + "0f" * 32,
    ],
)  # fmt: skip
def test_names_of_images_are_known(image: str) -> None:
    """With and without registry, version and digest."""
    assert checked({"image": image}, "e.toml").image == image


def test_files_that_are_no_configuration(tmp_path: Path) -> None:
    """Of either kind."""
    for name, text in (("a.toml", "x ="), ("a.json", "{"), ("b.json", "[" * 9)):
        (tmp_path / name).write_text(text)
        with pytest.raises(NotPrepared, match=name):
            read_config(tmp_path / name)


def test_hardware_of_one_kind_replaces_the_other() -> None:
    """A profile with GPUs under a file that wants CPUs."""
    cpu = checked({"cpu": [{"id": "cpu5c", "vcpuCount": 4}]}, "x")
    assert "gpu" not in merged(read_profile("gpu-24gb"), cpu).wire()
    assert "cpu" not in merged(read_profile("cpu"), checked({"gpu": {"pools": ["A"]}}, "x")).wire()


def test_an_env_file_is_read_as_people_write_them(tmp_path: Path) -> None:
    """Quotes, comments, export, empty values, equals signs."""
    (tmp_path / "e").write_text("\n# c\nA=1\nexport B = 'x # y' \nC=\"q\"\nD=\nE=a=b # c\nF=a#b\n")
    found = read_env(["A=2", "G= spaced "], [tmp_path / "e"], {})
    assert found == {"A": "2", "B": "x # y", "C": "q", "D": "", "E": "a=b", "F": "a#b", "G": " spaced "}
    (tmp_path / "b").write_bytes(b"\xff\xfe")
    for path in ("b", "none"):
        with pytest.raises(NotPrepared):
            read_env([], [tmp_path / path], {})


def test_masked_output_stays_readable() -> None:
    """Short and public values are shown, secrets are not, terminals are not commanded."""
    progress = Progress()
    progress.hide_env({"DEBUG": "true", "ROUTER_APP": "service:router", "TOKEN": "abcd", "URL": "longenough"})
    text = progress.masked("true service:router abcd longenough \x1b[31m\n")
    assert text == "true service:router *** ***  [31m "


@pytest.mark.parametrize(("typed", "names"), [("y\n", []), ("yes\n", []), ("n\n", ["a"]), ("", ["a"])])
def test_at_a_terminal_the_person_is_asked(
    runpod: RunpodRest, deploy: Deploy, monkeypatch: pytest.MonkeyPatch, typed: str, names: list[str]
) -> None:
    """Anything but yes is no."""
    terminal = io.StringIO(typed)
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr("sys.stdin", terminal)
    runpod.add("a")
    ran = deploy("--destroy", "a")
    assert ran.code == 0
    assert "delete a? [y/N]" in ran.err
    assert runpod.names() == names


def test_an_api_that_does_not_answer_in_time(runpod: RunpodRest) -> None:
    """What may be repeated is, and of a create nobody knows what became of it."""
    environ = runpod.environ()
    api = RunpodApi(
        runpod.key, environ["RUNPOD_REST_URL"], environ["RUNPOD_ENDPOINT_BASE_URL"], timeout=0.1
    )  # fmt: skip
    with api:
        slow = runpod.fault("list", "hold")
        assert api.endpoints() == []
        runpod.release(slow)
        slow = runpod.fault("create", "hold")
        with pytest.raises(Unclear, match="did not answer POST in time"):
            api.create({})
        runpod.release(slow)
    assert len(runpod.seen("create")) == 1
