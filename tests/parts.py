"""Real parts of other makers that tests run against; one that is missing is a skip that says so."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Self

import pytest

from tests.served import free_port

__all__ = ["AWS_VARIABLES", "RedisProcess", "aws_emulator", "end_group", "rie_binary", "sam_program"]

ROOT = Path(__file__).parent.parent
AWS_VARIABLES: Mapping[str, str] = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_REGION": "us-east-1",
    # nothing of the machine's own account may reach a test, nor may a client look for one in the network
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
}
_START = 30.0


@contextlib.contextmanager
def aws_emulator(folder: Path) -> Iterator[str]:
    """Run ministack, which answers for DynamoDB, SQS, S3, Lambda and CloudFormation; yields its URL."""
    program = ROOT / ".venv-aws" / "bin" / "ministack"
    if not program.exists():
        pytest.skip("the AWS emulator is not installed: `make .venv-aws/.stamp` does that")
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("AWS_", "ROUTER_"))}
    environ = {**inherited, **AWS_VARIABLES, "BIND_HOST": "127.0.0.1", "GATEWAY_PORT": str(port)}
    log = folder / "ministack.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [str(program)], cwd=folder, env=environ, stdin=subprocess.DEVNULL, stdout=out, stderr=out,
            start_new_session=True,
        )  # fmt: skip
    try:
        _await(url, process, log)
        yield url
    finally:
        end_group(process)


class RedisProcess:
    """A redis-server of our own on a loopback port that keeps nothing on disk; ``with`` runs it."""

    def __init__(self, folder: Path, *options: str) -> None:
        program = shutil.which("redis-server")
        if program is None:
            pytest.skip(
                "redis-server is not installed: the package redis-server of Debian or Homebrew's redis"
            )
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"
        self.url = f"redis://{self.address}/0"
        self._command = [
            program, "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no",
            "--dir", str(folder), "--databases", "64", *options,
        ]  # fmt: skip
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self) -> None:
        """Start it, and wait until it listens."""
        self._process = subprocess.Popen(
            self._command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
        until = time.monotonic() + _START
        while True:
            try:
                with socket.create_connection(("127.0.0.1", self.port), 2) as sock:
                    sock.sendall(b"PING\r\n")
                    if sock.recv(64):
                        return
            except OSError:
                pass
            if time.monotonic() > until or self._process.poll() is not None:
                raise AssertionError("redis-server does not answer")
            time.sleep(0.02)

    def signal(self, number: int) -> None:
        """Send it a signal."""
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        """End it at once, also when it is stopped."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)


def _await(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + _START
    while True:
        if process.poll() is not None:
            raise AssertionError(f"the AWS emulator ended:\n{log.read_text(errors='replace')[-3000:]}")
        try:
            with urllib.request.urlopen(f"{url}/_ministack/health", timeout=2) as answer:
                answer.read()
                return
        except urllib.error.HTTPError:
            return  # it answers
        except OSError:
            if time.monotonic() > until:
                raise AssertionError("the AWS emulator does not answer") from None
            time.sleep(0.05)


def end_group(process: subprocess.Popen[bytes], grace: float = 5.0) -> None:
    """End a process that was started in a session of its own, with all that it has started."""
    for sig, wait in ((signal.SIGTERM, grace), (signal.SIGKILL, grace)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, sig)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(wait)
            if sig == signal.SIGTERM:
                continue  # what it started may still live
            return


def rie_binary() -> Path:
    """Return the Lambda runtime interface emulator, which comes inside the SAM CLI."""
    machine = "arm64" if os.uname().machine in ("aarch64", "arm64") else "x86_64"
    name = f"samcli/local/rapid/aws-lambda-rie-{machine}"
    found = next((ROOT / ".venv-sam").glob(f"lib/python3*/site-packages/{name}"), None)
    if sys.platform != "linux" or found is None:
        pytest.skip("the Lambda runtime emulator is not installed: `make .venv-sam/.stamp` does that")
    if not os.access(found, os.X_OK):
        found.chmod(0o755)
    return found


def sam_program(name: str = "sam") -> Path:
    """Return a program of the SAM CLI's environment: ``sam``, ``cfn-lint`` or ``python``."""
    program = ROOT / ".venv-sam" / "bin" / name
    if not program.exists():
        pytest.skip("the SAM CLI is not installed: `make .venv-sam/.stamp` does that")
    return program
