"""template.yaml as CloudFormation sees it: translated by SAM's own translator."""

from __future__ import annotations

import copy
import json
import os
import subprocess
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final

from tests.parts import AWS_VARIABLES, sam_program

__all__ = ["ROOT", "TEMPLATE", "lint", "read", "sam_environment", "translate"]

ROOT: Final = Path(__file__).parent.parent.parent
TEMPLATE: Final = ROOT / "template.yaml"

# Documents come in as a list and go out as a list of {"template": ...} or {"error": ...}. The import of the
# translator costs more than any translation.
_TRANSLATE: Final = """
import json, sys
from samtranslator.model.exceptions import InvalidDocumentException
from samtranslator.translator.transform import transform

class Policies:
    def load(self):
        names = ("AWSLambdaBasicExecutionRole", "AWSLambdaSQSQueueExecutionRole", "AWSXRayDaemonWriteAccess")
        return {name: f"arn:aws:iam::aws:policy/service-role/{name}" for name in names}

def one(document):
    try:
        return {"template": transform(document, {}, Policies())}
    except InvalidDocumentException as error:
        return {"error": error.message + " " + " ".join(cause.message for cause in error.causes)}

json.dump([one(document) for document in json.load(sys.stdin)], sys.stdout)
"""
_READ: Final = """
import json, sys
from samtranslator.yaml_helper import yaml_parse

json.dump(yaml_parse(sys.stdin.read()), sys.stdout)
"""


def sam_environment() -> dict[str, str]:
    """Return the variables for a program of the SAM CLI's environment: no account, no telemetry."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("AWS_", "ROUTER_"))}
    return {**kept, **AWS_VARIABLES, "SAM_CLI_TELEMETRY": "0"}


def _python(program: str, stdin: str) -> Any:
    command = [str(sam_program("python")), "-c", program]
    done = subprocess.run(
        command, input=stdin, env=sam_environment(), capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def read(path: Path = TEMPLATE) -> dict[str, Any]:
    """Return a template as a document of the caller's own, its short tags (!Ref) written out."""
    document: dict[str, Any] = copy.deepcopy(_parsed(path.read_text(encoding="utf-8")))
    return document


@cache
def _parsed(text: str) -> Any:
    return _python(_READ, text)


def translate(*documents: Mapping[str, Any], code: str = "s3://artifacts/bundle.zip") -> list[dict[str, Any]]:
    """Return ``{"template": ...}``, or ``{"error": ...}`` of the translator, for each document."""
    given = [copy.deepcopy(dict(document)) for document in documents]
    for document in given:
        document["Globals"]["Function"]["CodeUri"] = code  # where `sam package` would have put the bundle
    translated: list[dict[str, Any]] = _python(_TRANSLATE, json.dumps(given))
    return translated


def lint(folder: Path, templates: Mapping[str, Mapping[str, Any]]) -> dict[str, set[str]]:
    """Return the rules that cfn-lint finds broken in each translated template."""
    for name, template in templates.items():
        (folder / f"{name}.json").write_text(json.dumps(template))
    command = [str(sam_program("cfn-lint")), "--format", "json", "-r", "us-east-1", "-t"]
    done = subprocess.run(
        [*command, *(str(folder / f"{name}.json") for name in templates)],
        env=sam_environment(), capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.stdout, done.stderr
    found: dict[str, set[str]] = {name: set() for name in templates}
    for match in json.loads(done.stdout):
        found[Path(match["Filename"]).stem].add(match["Rule"]["Id"])
    return found
