"""Secrets that settings and configurations name: files, AWS, Vault."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from router_core import Router, Settings, build_app
from router_core.calls import CallService
from router_core.errors import Misconfigured, Unavailable
from router_core.gateway.config.load import load_config, parse_config
from router_core.gateway.config.watch import ConfigWatcher
from router_core.gateway.values import GatewayConfig
from router_core.http.message import Headers, Request
from router_core.secrets.reference import Reference, find
from router_core.secrets.resolve import SecretEnviron, Secrets, settings_with_secrets
from router_core.telemetry.events import Events
from router_core.vendors import boto3
from tests.secrets.stand_ins import Aws, Vault, served

SECRET = "sk-test-secret-0123456789"


@pytest.fixture
def vault() -> Iterator[tuple[Vault, dict[str, str]]]:
    """Yield a Vault and the environment that leads to it."""
    stand_in = Vault({"secret/data/models": {"data": {"openai": SECRET, "value": "plain"}, "metadata": {}}})
    with served(stand_in) as url:
        yield stand_in, {"VAULT_ADDR": url, "VAULT_TOKEN": "s.root"}


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[Aws]:
    """Yield the two services of AWS, where boto3 finds them."""
    stand_in = Aws({"models": json.dumps({"openai": SECRET}), "plain": "text"}, {"/models/openai": SECRET})
    with served(stand_in) as url:
        for name, value in {
            "AWS_ENDPOINT_URL": url, "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_REGION": "eu-west-1", "AWS_DEFAULT_REGION": "eu-west-1", "AWS_EC2_METADATA_DISABLED": "true",
        }.items():  # fmt: skip
            monkeypatch.setenv(name, value)
        boto3.forget()
        yield stand_in
        boto3.forget()


def expand(text: str, environ: Mapping[str, str] | None = None) -> str:
    """Return a text with its secrets."""
    return Secrets(environ or {}).expand(text)


def test_a_reference_is_found_wherever_it_stands() -> None:
    """Also beside other text and other references."""
    text = "ann:${file:/run/a},bob:${vault:secret/data/x#key},${HOME},$${file:/x},${ftp:/x}"
    assert [reference for _, reference in find(text)][:2] == [
        Reference("file", "/run/a"), Reference("vault", "secret/data/x", "key"),
    ]  # fmt: skip
    assert "ftp" not in str(find(text))


def test_a_file_is_read_without_its_line_break(tmp_path: Path) -> None:
    """And a member of a JSON object by its name."""
    (tmp_path / "key").write_text(f"{SECRET}\n")
    (tmp_path / "keys.json").write_text(json.dumps({"openai": SECRET, "number": 7, "flag": True}))
    assert expand(f"a:${{file:{tmp_path}/key}}") == f"a:{SECRET}"
    assert expand(f"${{file:{tmp_path}/keys.json#openai}}") == SECRET
    assert expand(f"${{file:{tmp_path}/keys.json#number}}") == "7"
    with pytest.raises(Misconfigured, match="not a text"):
        expand(f"${{file:{tmp_path}/keys.json#flag}}")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "cannot be read"), (b"", "is empty"), (b"\n", "is empty"), (b"\xff\xfe", "not text"),
        (b"x" * 70_000, "no secret"), (b"a\nb", "line break"), (b"a\0b", "line break"),
    ],
    ids=["missing", "empty", "blank", "binary", "huge", "two lines", "nul"],
)  # fmt: skip
def test_a_file_that_is_no_secret_is_refused(content: bytes | None, told: str, tmp_path: Path) -> None:
    """With what is wrong, and nothing of what it holds."""
    path = tmp_path / "key"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(Misconfigured, match=told) as caught:
        expand(f"${{file:{path}}}")
    assert "a\n" not in str(caught.value)


def test_neither_a_pipe_nor_a_folder_keeps_anybody_waiting(tmp_path: Path) -> None:
    """They are no files."""
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, Path("/dev/zero")):
        with pytest.raises(Misconfigured):
            expand(f"${{file:{path}}}")


def test_vault_gives_members_of_both_versions(vault: tuple[Vault, dict[str, str]]) -> None:
    """``value`` where none is named; the namespace goes along."""
    stand_in, environ = vault
    stand_in.secrets["kv/old"] = {"value": "older"}
    environ["VAULT_NAMESPACE"] = "team"
    assert expand("${vault:secret/data/models#openai}", environ) == SECRET
    assert expand("${vault:secret/data/models}", environ) == "plain"
    assert expand("${vault:kv/old}", environ) == "older"
    path, headers = stand_in.asked[0]
    assert (path, headers["x-vault-namespace"]) == ("/v1/secret/data/models", "team")


@pytest.mark.parametrize(
    ("status", "kind"), [(403, Misconfigured), (400, Misconfigured), (503, Unavailable), (429, Unavailable)]
)
def test_vault_that_refuses_or_is_sealed_is_told_apart(
    status: int, kind: type[Exception], vault: tuple[Vault, dict[str, str]]
) -> None:
    """One needs somebody to change something, the other a moment; neither shows the token."""
    stand_in, environ = vault
    stand_in.status = status
    with pytest.raises(kind) as caught:
        expand("${vault:secret/data/models#openai}", environ)
    assert str(status) in str(caught.value)
    assert "s.root" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "told"), [("secret/data/none#x", "no such thing"), ("secret/data/models#none", "no text 'none'")]
)
def test_what_vault_does_not_have_is_told(name: str, told: str, vault: tuple[Vault, dict[str, str]]) -> None:
    """By the name of the secret."""
    with pytest.raises(Misconfigured, match=told):
        expand(f"${{vault:{name}}}", vault[1])


def test_a_pod_logs_in_by_its_account_and_again_when_that_ends(
    tmp_path: Path, vault: tuple[Vault, dict[str, str]]
) -> None:
    """A token that Vault no longer takes is replaced once."""
    stand_in, environ = vault
    (tmp_path / "token").write_text("account-token")
    del environ["VAULT_TOKEN"]
    environ |= {"VAULT_ROLE": "gateway", "VAULT_JWT_FILE": str(tmp_path / "token")}
    secrets = Secrets(environ, fresh=0.0)
    assert secrets.expand("${vault:secret/data/models#openai}") == SECRET
    stand_in.tokens.clear()
    assert secrets.expand("${vault:secret/data/models#openai}") == SECRET
    assert stand_in.logins == 2


def test_vault_without_a_way_in_or_that_is_away_says_so(vault: tuple[Vault, dict[str, str]]) -> None:
    """Each with what to set."""
    with pytest.raises(Misconfigured, match="VAULT_TOKEN"):
        expand("${vault:a}", {"VAULT_ADDR": vault[1]["VAULT_ADDR"]})
    with pytest.raises(Unavailable, match="does not answer"):
        expand("${vault:a}", {"VAULT_ADDR": "http://127.0.0.1:9", "VAULT_TOKEN": "s.x"})
    for address in ("ftp://x", "http://user:pass@x", "vault"):
        with pytest.raises(Misconfigured, match="VAULT_ADDR"):
            expand("${vault:a}", {"VAULT_ADDR": address, "VAULT_TOKEN": "s.x"})
    with pytest.raises(Misconfigured, match="does not hold a token"):
        expand("${vault:a}", vault[1] | {"VAULT_TOKEN": "two\r\nlines"})


def test_aws_gives_secrets_and_parameters(aws: Aws) -> None:
    """Whole, or a member of a JSON object."""
    assert expand("${aws-sm:models#openai}") == SECRET
    assert expand("${aws-sm:plain}") == "text"
    assert expand("${aws-ssm:/models/openai}") == SECRET


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("${aws-sm:none}", "no such thing"), ("${aws-ssm:/none}", "no such thing"),
        ("${aws-sm:plain#x}", "no JSON object"), ("${aws-sm:models#x}", "has no 'x'"),
    ],
)  # fmt: skip
def test_what_aws_does_not_have_is_told(text: str, told: str, aws: Aws) -> None:
    """By the name of the secret."""
    with pytest.raises(Misconfigured, match=told):
        expand(text)


def test_a_role_that_may_not_is_told_apart_from_a_service_that_is_busy(aws: Aws) -> None:
    """One needs somebody to change something."""
    aws.error = "AccessDeniedException"
    with pytest.raises(Misconfigured, match="may not be read"):
        expand("${aws-sm:models}")
    aws.error = "ThrottlingException"
    with pytest.raises(Unavailable):
        expand("${aws-sm:models}")


def test_a_secret_is_asked_for_once_in_minutes(vault: tuple[Vault, dict[str, str]]) -> None:
    """Then anew; where the store is away meanwhile, it is believed to be what it was."""
    stand_in, environ = vault
    now = [0.0]
    secrets = Secrets(environ, fresh=300.0, time=lambda: now[0])
    text = "${vault:secret/data/models#openai}"
    assert [secrets.expand(text) for _ in range(3)] == [SECRET] * 3
    assert len(stand_in.asked) == 1
    assert not secrets.stale()
    now[0] = 301.0
    assert (secrets.stale(), secrets.stale()) == (True, False)
    stand_in.status = 503
    assert secrets.expand(text) == SECRET
    stand_in.status = 0
    stand_in.secrets["secret/data/models"]["data"]["openai"] = "rotated-0123456789"
    assert secrets.expand(text) == SECRET  # not asked again at once
    now[0] = 400.0
    assert secrets.expand(text) == "rotated-0123456789"


def test_variables_may_name_secrets(vault: tuple[Vault, dict[str, str]]) -> None:
    """Whoever reads them sees the secret; what does not look like one is left alone."""
    environ = SecretEnviron(
        vault[1] | {"OPENAI_API_KEY": "${vault:secret/data/models#openai}", "PLAIN": "a", "SHELL": "${x}"}
    )
    assert environ["OPENAI_API_KEY"] == SECRET
    assert environ["vault:secret/data/models#openai"] == SECRET
    assert (environ["PLAIN"], environ["SHELL"], environ.get("NONE")) == ("a", "${x}", None)
    assert "NONE" not in environ
    assert len(environ) == len(list(environ)) == 5


def test_settings_name_secrets(tmp_path: Path) -> None:
    """The app works with them, and shows none."""
    (tmp_path / "key").write_text(SECRET)
    given = Settings(api_keys=f"ann:${{file:{tmp_path}/key}}", jobs="memory://", blobs="memory://")
    app = build_app(Router(), given)
    assert app.settings.api_keys == f"ann:{SECRET}"
    plain = Settings(api_keys=f"ann:{SECRET}")
    assert settings_with_secrets(plain, {}) is plain
    with pytest.raises(Misconfigured, match=r"ROUTER_API_KEYS: the secret in .* cannot be read"):
        settings_with_secrets(Settings(api_keys="${file:/no/such/file}"), {})


async def test_a_service_of_calls_alone_knows_them_too(tmp_path: Path) -> None:
    """That is what a function on Lambda begins with."""
    (tmp_path / "key").write_text(SECRET)
    router = Router()

    @router.get("/hello")
    def hello() -> str:
        return "hello"

    service = CallService(router, Settings(api_keys=f"ann:${{file:{tmp_path}/key}}", provider="lambda"))
    await service.start()
    for key, status in ((SECRET, 200), ("another-0123456789", 401)):
        headers = Headers([("authorization", f"Bearer {key}")])
        assert (await service.handle(Request("GET", "/hello", "", headers, b""))).status == status
    await service.stop()


def test_a_configuration_names_secrets(tmp_path: Path) -> None:
    """Like variables; one that cannot be had is told with its line."""
    (tmp_path / "key").write_text(SECRET)
    text = (
        "models:\n  - id: m\n    type: text-generation\n    clients:\n"
        "      - {type: openai, model: gpt, key: '${file:%s}'}\n"
    )
    config = parse_config(text % (tmp_path / "key"), "gateway.yaml", SecretEnviron({}))
    assert config.models[0].deployments[0].key.reveal() == SECRET
    with pytest.raises(Misconfigured, match=r"gateway.yaml:5: .*no/file cannot be read"):
        parse_config(text % "/no/file", "gateway.yaml", SecretEnviron({}))


async def test_a_secret_that_has_changed_is_taken_like_a_new_file(tmp_path: Path) -> None:
    """The watcher reads again when secrets are due, and applies what differs."""
    (tmp_path / "key").write_text(SECRET)
    file = tmp_path / "gateway.yaml"
    file.write_text(
        "models:\n  - id: m\n    type: text-generation\n    clients:\n"
        f"      - {{type: openai, model: gpt, key: '${{file:{tmp_path}/key}}'}}\n"
    )
    now, taken = [0.0], list[GatewayConfig]()
    secrets = Secrets({}, time=lambda: now[0])
    environ = SecretEnviron({}, secrets)
    watcher = ConfigWatcher(
        file, lambda: load_config(file, environ), taken.append, Events(), stale=secrets.stale
    )
    for _ in range(3):
        await watcher.tick()
    (tmp_path / "key").write_text("rotated-0123456789")
    await watcher.tick()
    now[0] = 301.0
    for _ in range(3):
        await watcher.tick()
    keys = [config.models[0].deployments[0].key.reveal() for config in taken]
    assert keys == [SECRET, "rotated-0123456789"]
