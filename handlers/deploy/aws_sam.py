"""Run the SAM CLI: what it says is shown, and what went wrong is one line."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from handlers.deploy.aws_template import quoted
from handlers.deploy.errors import DeployError, NotPrepared
from handlers.deploy.progress import Progress

__all__ = ["Sam", "parameter_file"]

_ERROR: Final = re.compile(r"^(?:Error|Build Failed|Make Failed|cannot build the bundle|E\d{4})[: ]")
_QUIET: Final = re.compile(r"^[\s=-]*$|^\s*Uploading to \S+\s+\d+ / \d+\s+\(\d\d?\.")
"""Rules, and how far an upload has come: on a terminal one line that changes, here it would be a hundred."""
_NOTE: Final = "note: "
"""Begins what our own part of a build has to tell; it runs once for every function."""
_LAST: Final = 2


class Sam:
    """The SAM CLI of this machine."""

    def __init__(self, program: str, progress: Progress, environ: Mapping[str, str]) -> None:
        self.program = program
        self._progress = progress
        self._environ = {**environ, "SAM_CLI_TELEMETRY": environ.get("SAM_CLI_TELEMETRY", "0")}

    @classmethod
    def found(cls, progress: Progress, environ: Mapping[str, str]) -> Sam:
        """Return the one on PATH; raises NotPrepared when it, or make, is missing."""
        path = environ.get("PATH", os.defpath)
        program = shutil.which("sam", path=path)
        if program is None:
            raise NotPrepared(
                "the SAM CLI is not installed: pipx install aws-sam-cli, or see docs.aws.amazon.com"
            )
        if shutil.which("make", path=path) is None:
            raise NotPrepared("make is not installed, and `sam build` needs it")
        return cls(program, progress, environ)

    def run(
        self, words: Sequence[str], folder: Path, more: Mapping[str, str] | None = None, *, shown: bool = True
    ) -> None:
        """Run a command. Raises DeployError with its last words."""
        lines: list[str] = []
        process = subprocess.Popen(  # noqa: S603
            [self.program, *words], cwd=folder, env={**self._environ, **(more or {})},
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            encoding="utf-8", errors="replace",
        )  # fmt: skip
        with process:
            try:
                for line in process.stdout or ():
                    text = line.rstrip()
                    if not _QUIET.match(text):
                        told = shown or (text.startswith(_NOTE) and text not in lines)
                        lines.append(text.strip())
                        if told:
                            self._progress.say(f"                 {text}")
                code = process.wait()
            except BaseException:
                _end(process)
                raise
        if code:
            raise DeployError(f"`sam {words[0]}` failed: {_why(lines, code)}")


def _end(process: subprocess.Popen[str]) -> None:
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _why(lines: Sequence[str], code: int) -> str:
    told = [line for line in lines if _ERROR.match(line)] or list(lines)
    return " / ".join(told[-_LAST:]) or f"it ended with code {code} and said nothing"


@contextmanager
def parameter_file(parameters: Mapping[str, str], folder: Path) -> Iterator[Path]:
    """Write parameters to a file for `--config-file`: keys on a command line are seen by everybody here."""
    items = [quoted(name, value) for name, value in parameters.items()]
    # a list of strings is written in TOML as in JSON
    text = f"version = 0.1\n[default.deploy.parameters]\nparameter_overrides = {json.dumps(items)}\n"
    handle, name = tempfile.mkstemp(".toml", "parameters-", folder)  # only this user may read it
    path = Path(name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        yield path
    finally:
        path.unlink(missing_ok=True)
