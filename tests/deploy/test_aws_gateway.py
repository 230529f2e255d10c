"""A gateway that is deployed to AWS: its file is read before anything changes, and its rights suffice."""

from __future__ import annotations

import asyncio
import re
import secrets
from pathlib import Path
from typing import Any

import pytest

from handlers.aws.function import build
from handlers.deploy.aws_parameters import check_gateway, first_key
from handlers.deploy.errors import DeployError
from handlers.deploy.local_test import local_test
from router_core.settings import unknown_variables
from router_core.stores.state_dynamodb import DynamoStateStore, create_state_table
from router_core.vendors import boto3
from tests.aws.template_files import TEMPLATE, read

APP = "router_core.gateway.app:create_app"
CONFIG = "models:\n  - {id: m, type: text-generation, clients: [{type: scripted, model: x}]}\n"
LISTING = {"path": "/v1/models", "method": "GET"}


def test_its_file_is_read_by_the_test_on_this_machine(tmp_path: Path) -> None:
    """A file that cannot work is told with its line, before there is a stack."""
    file = tmp_path / "gateway.yaml"
    file.write_text(CONFIG)
    variables = check_gateway({"GatewayConfig": "gateway.yaml"}, tmp_path)
    assert variables == {"ROUTER_GATEWAY": str(file)}
    report = local_test(APP, LISTING, folder=tmp_path, env=variables, timeout=60)
    assert report.routes > 20
    file.write_text(CONFIG.replace("scripted", "scrapted"))
    with pytest.raises(DeployError, match=r"gateway\.yaml:2"):
        local_test(APP, LISTING, folder=tmp_path, env=variables, timeout=60)


@pytest.mark.parametrize(
    ("there", "before", "outputs"),
    [
        ({}, {}, {"StateTable": "t"}), ({"Keys": "none"}, {"Keys": "state"}, {"StateTable": "t"}),
        ({"Keys": "state"}, {"Keys": "state"}, {"StateTable": "t"}), ({"Keys": "state"}, {}, {}),
    ],
)  # fmt: skip
def test_no_first_key_is_told_of_where_there_may_be_one(
    there: dict[str, str], before: dict[str, str], outputs: dict[str, str]
) -> None:
    """Or where none is kept."""
    assert first_key(there, before, outputs, "eu-west-1") == ""


def _rights() -> set[str]:
    """Return what the template lets functions do with the state table."""
    (statement,) = read()["Resources"]["StatePolicy"]["Properties"]["PolicyDocument"]["Statement"]
    return {action.removeprefix("dynamodb:") for action in statement["Action"]}


async def _use_all(store: DynamoStateStore) -> None:
    """Do everything that a store of state can do."""
    await store.open()
    await store.ping()
    version = await store.put("a/b", b"1", if_absent=True, ttl=60)
    await store.put("a/b", b"2", if_version=version)
    assert await store.get("a/b") is not None
    assert await store.increment("a/n", limit=5) == 1
    assert await store.increment("a/n", limit=5) == 2
    assert len((await store.entries("a/")).entries) == 2
    assert await store.delete("a/b")
    await store.close()


@pytest.mark.usefixtures("aws")
def test_the_rights_on_the_table_are_those_that_are_used() -> None:
    """No fewer and no more."""
    name = f"state-{secrets.token_hex(6)}"
    create_state_table(name, expire=False)
    used: set[str] = set()

    def note(model: Any, **_: Any) -> None:
        used.add(model.name)

    events = boto3.client("dynamodb").meta.events
    events.register("before-call.dynamodb", note)
    try:
        asyncio.run(_use_all(DynamoStateStore(name)))
    finally:
        events.unregister("before-call.dynamodb", note)
    assert used == _rights()


def test_variables_that_are_empty_say_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """CloudFormation sets all that the template names, most of them to nothing; and they are all known."""
    text = TEMPLATE.read_text(encoding="utf-8")
    names = re.findall(r"^ {8}(ROUTER_[A-Z_]+):", text, re.MULTILINE)
    assert {"ROUTER_KEYS", "ROUTER_JWT_ISSUER", "ROUTER_ENCRYPTION_KEY", "ROUTER_GATEWAY"} <= {*names}
    monkeypatch.delenv("ROUTER_GATEWAY", raising=False)
    environ = {**dict.fromkeys(names, ""), "ROUTER_APP": APP}
    made = build(environ)
    service: Any = made._service
    assert not service.settings.authenticates
    made.stop()
    assert not [*unknown_variables(environ)]
