"""``python -m handlers.runpod``: work for RunPod, check that the app loads, or try one input."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from router_core.errors import BadRequest, Misconfigured, RouterError

if TYPE_CHECKING:
    from handlers.runpod.worker import Worker
    from router_core.settings import Settings

__all__ = ["main"]

_EXAMPLES: Final = """\
examples:
  python -m handlers.runpod service:router                       the command of a worker's image
  python -m handlers.runpod service:router --check               exit 0 if the app loads
  python -m handlers.runpod service:router --test-input '{"input": {"path": "/hello", "name": "ann"}}'
  python -m handlers.runpod --test-input @test_input.json        with ROUTER_APP=service:router

Further settings are environment variables: ROUTER_JOBS, ROUTER_BLOBS, ROUTER_RUNPOD_CONCURRENCY ..."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    # the SDK reads its own arguments itself
    own = [word for word in words if not word.startswith("--rp_")]
    arguments = _parser().parse_args(own)
    try:
        return _run(arguments)
    except (RouterError, OSError) as error:
        sys.stderr.write(f"error: {' '.join(str(error).split())}\n")
        return 1 if arguments.check else 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m handlers.runpod", description="Work for a RunPod serverless endpoint.",
        epilog=_EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("app", nargs="?", default="", help="module:attribute (default: ROUTER_APP)")
    parser.add_argument("--check", action="store_true", help="load the app, say so, and exit")
    parser.add_argument(
        "--test-input", metavar="JSON", help="run one job, as RunPod would hand it out; @file reads a file"
    )
    return parser


def _run(arguments: argparse.Namespace) -> int:
    from handlers.loader import load
    from handlers.runpod.provider import check_platform, serve
    from handlers.runpod.sdk import set_knobs
    from router_core.settings import Settings

    settings = Settings.from_env(os.environ, app=arguments.app or None, provider="runpod")
    if not settings.app:
        raise Misconfigured("name the app as module:attribute, or set ROUTER_APP")
    job = None if arguments.test_input is None else _read(arguments.test_input)
    if job is None and not arguments.check:
        check_platform(os.environ, sys.argv)
    set_knobs(settings, os.environ)  # the app may import the SDK itself
    served = load(settings.app)
    if arguments.check:
        return _check(served, settings)
    if job is not None:
        return _try(served, settings, job)
    return serve(served, settings)


def _worker(served: Any, settings: Settings) -> Worker:
    from handlers.runpod.provider import build
    from handlers.runpod.worker import Worker

    return Worker(build(served, settings))


def _check(served: Any, settings: Settings) -> int:
    from handlers.runpod.sdk import check_version

    worker = _worker(served, settings)
    worker.app.parts.runner.check()
    routes = sum(not route.internal for route in worker.app.routes)
    version = check_version()
    sys.stdout.write(f"ok: {routes} routes, {worker.concurrency} jobs at once, runpod {version}\n")
    return 0


def _read(text: str) -> Mapping[str, Any]:
    from router_core.binding.strict_json import loads

    if text.startswith("@"):
        with open(text[1:], "rb") as file:
            raw = file.read()
    else:
        raw = text.encode("utf-8", "surrogateescape")
    try:
        job = loads(raw)
    except BadRequest as error:
        raise Misconfigured(f"--test-input {str(error).removeprefix('the body ')}") from None
    if not isinstance(job, dict) or "input" not in job:
        raise Misconfigured('--test-input takes a job such as {"input": {"path": "/hello"}}')
    return {"id": "test", **job}


class _Shown:
    """A line to the terminal."""

    async def progress(self, body: bytes) -> None:
        """Show it."""
        sys.stderr.write(f"progress: {body.decode()}\n")

    async def chunk(self, body: bytes) -> bool:
        """Show it."""
        sys.stderr.write(f"chunk: {body.decode()}\n")
        return True


def _try(served: Any, settings: Settings, job: Mapping[str, Any]) -> int:
    """Run one job here, through all that a worker's jobs go through; the outcome goes to stdout."""
    worker = _worker(served, settings)

    async def run() -> int:
        await worker.start()
        try:
            outcome = await worker.handle(job, _Shown())
        finally:
            await worker.stop()
        sys.stdout.write(outcome.body().decode() + "\n")
        return 1 if outcome.error else 0

    return asyncio.run(run())
