"""Parameters of the template that depend on each other, or on this being a deployment."""

from __future__ import annotations

import os
import secrets
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Final

from handlers.deploy.errors import NotPrepared

__all__ = ["check_together", "dotted", "draw_snapshot", "first_key"]

_USUAL: Final = "10"
"""Jobs at the same time, as the template has it."""


def check_together(there: Mapping[str, str], known: Collection[str], folder: Path) -> dict[str, str]:
    """Check parameters against each other; returns variables for the test on this machine.

    ``known`` are those of the template, ``there`` those of the stack when it is deployed. Raises NotPrepared.
    """
    check_concurrency(there)
    if "AllowAnonymous" in known:
        check_callers(there)
    return check_gateway(there, folder)


def dotted(app: str) -> str:
    """Return ``module:attribute`` also for ``path/to/module.py:attribute``."""
    module, colon, attribute = app.strip().partition(":")
    if module.endswith(".py") or "/" in module:
        module = os.path.normpath(module.removesuffix(".py")).replace(os.sep, ".")
    return f"{module}{colon}{attribute}"


def check_concurrency(there: Mapping[str, str]) -> None:
    """Raise NotPrepared where fewer jobs have room than are taken: each that is turned away was received."""
    reserved = there.get("JobReservedConcurrency", "")
    taken = there.get("JobMaximumConcurrency") or _USUAL
    if reserved.isdecimal() and taken.isdecimal() and int(reserved) < int(taken):
        raise NotPrepared(
            f"JobReservedConcurrency is {reserved}, and {taken} jobs are taken at the same time: "
            f"set JobMaximumConcurrency={reserved}, or reserve more"
        )


def check_callers(there: Mapping[str, str]) -> None:
    """Raise NotPrepared where nobody would be asked who he is, or nobody could say so."""
    if there.get("Keys") == "state" and there.get("StateTable") != "create":
        raise NotPrepared(
            "Keys=state keeps keys in the state table, and there is none: set StateTable=create, too"
        )
    if there.get("JwtIssuer") and not (there.get("JwtAudience") and there.get("JwtJwks")):
        raise NotPrepared(
            "JwtIssuer lets tokens in: say by JwtAudience for whom they have to be, and by JwtJwks where "
            "their keys are"
        )
    asked = there.get("ApiKeys") or there.get("ApiKeysSecret") or there.get("JwtIssuer")
    if asked or there.get("Keys") == "state" or there.get("AllowAnonymous") == "true":
        return
    raise NotPrepared(
        "nobody would be asked for a key: set the parameter ApiKeys (`router-core keys new` "
        "makes one) or ApiKeysSecret, Keys=state with StateTable=create for keys that are made without a "
        "deployment, JwtIssuer for tokens, or AllowAnonymous=true to serve everybody"
    )


def check_gateway(there: Mapping[str, str], folder: Path) -> dict[str, str]:
    """Return the variables by which the test on this machine finds the gateway's file. Raises NotPrepared."""
    name = there.get("GatewayConfig", "")
    if not name:
        return {}
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise NotPrepared(f"GatewayConfig is {name}: it has to lie in the folder that is deployed")
    if not path.is_file():
        raise NotPrepared(f"GatewayConfig is {name}, and there is no such file in {folder}")
    return {"ROUTER_GATEWAY": str(path)}


def first_key(
    there: Mapping[str, str], before: Mapping[str, str], outputs: Mapping[str, str], region: str
) -> str:
    """Return the command that makes the first key, where keys are kept in the state from now on."""
    table = outputs.get("StateTable", "")
    if there.get("Keys") != "state" or before.get("Keys") == "state" or not table:
        return ""
    return f"AWS_REGION={region} router-core keys create --role admin --state dynamodb://{table}"


def draw_snapshot(given: dict[str, str], before: Mapping[str, str]) -> None:
    """Let SnapStart, where it is on, publish what is deployed now: else the old version would go on.

    ``on`` and ``off`` are for people; the template takes digits, which have to be others each time.
    """
    wanted = given.get("SnapStart", "on" if before.get("SnapStart") else None)
    if wanted == "on":
        given["SnapStart"] = secrets.token_hex(8)
    elif wanted == "off":
        given["SnapStart"] = ""
