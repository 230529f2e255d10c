"""``router-core call``: a route of a running service, with a progress bar and its result on disk."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from handlers.cli.exits import Exit, UsageError, printable
from handlers.cli.output import say, to_text, write_result
from handlers.cli.service import add_service_options, connected

if TYPE_CHECKING:
    from router_core.client import Client, Job

__all__ = ["DESCRIPTION", "EXAMPLES", "add_arguments", "run"]

DESCRIPTION = "Call a route of a running service."
EXAMPLES = """\
arguments of the route:
  name=text        text
  name:=json       a number, true, a list ... (name:=@file reads the JSON from a file)
  name=@file       a file (also name@file, --file name=@file); - is standard input

examples:
  router-core call hello name=ann
  router-core call predict text="a cat" steps:=4 --wait
  router-core call upscale image=@photo.png --wait --output big.png

exit codes: 0 done, 1 the job failed, 2 wrong usage, 3 cannot connect, 4 the service refused,
            5 not done in time (the job goes on), 130 interrupted"""

_ITEM: Final = re.compile(r"([^=:@\s]+)(:=|=|@)(.*)", re.DOTALL)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what call takes."""
    parser.add_argument("path", help="path of the route, such as predict or /v1/predict, or its whole URL")
    parser.add_argument("items", nargs="*", metavar="name=value", help="arguments of the route")
    parser.add_argument(
        "--file", action="append", default=[], metavar="name=@FILE", help="a file (repeatable)"
    )
    parser.add_argument("--method", default="", help="default: the one that the route has")
    parser.add_argument(
        "--wait", action="store_true", help="wait for the job, with a progress bar, and get its result"
    )
    parser.add_argument("--timeout", type=float, metavar="S", help="give up waiting after so many seconds")
    parser.add_argument("-o", "--output", default="", metavar="FILE", help="write the result here")
    parser.add_argument(
        "--json", action="store_true", help="print JSON only: of a job, all that is known of it"
    )
    parser.add_argument("--key", metavar="TEXT", help="idempotency key: calls under the same key are one job")
    parser.add_argument("--priority", type=int, help="-100 to 100; higher runs earlier")
    parser.add_argument("--delay", type=float, metavar="S", help="start the job only after so many seconds")
    parser.add_argument(
        "--cancel-on-interrupt", action="store_true", help="let Ctrl-C cancel the job, not only the wait"
    )
    add_service_options(parser)


def run(args: argparse.Namespace) -> int:
    """Call."""
    values = parse_items(args.items, args.file)
    url, path = split_target(args.path)
    # to submit a job takes a moment however short the wait for it may be
    patience = None if args.timeout is None else max(5.0, args.timeout)
    with connected(args, url) as client:
        endpoint = client.endpoint(path, method=args.method).options(
            idempotency_key=args.key, priority=args.priority, delay=args.delay, timeout=patience
        )
        outcome = endpoint.submit(**values) if args.delay else endpoint(**values)
        return _finish(args, client, outcome)


def parse_items(items: list[str], files: list[str]) -> dict[str, Any]:
    """Read the arguments of the route; one name several times makes a list. Raises UsageError."""
    values: dict[str, Any] = {}
    pairs = [_item(item) for item in items]
    pairs += [_file(item) for item in files]
    for name, value in pairs:
        if name not in values:
            values[name] = value
        elif isinstance(values[name], list):
            values[name] = [*values[name], value]
        else:
            values[name] = [values[name], value]
    return values


def _item(text: str) -> tuple[str, Any]:
    match = _ITEM.fullmatch(text)
    if match is None:
        raise UsageError(f"{text!r} is no argument; write name=text, name:=json or name=@file")
    name, mark, value = match.groups()
    if mark == ":=":
        return name, _json(name, value)
    if mark == "@":
        return name, _open(value)
    if not value.startswith("@"):
        return name, value
    quoted = json.dumps(value, ensure_ascii=False)
    return name, _open(value[1:], f"; for this text write {name}:='{quoted}'")


def _json(name: str, value: str) -> Any:
    from_file = value.startswith("@")
    try:
        return json.loads(_content(value[1:]) if from_file else value)
    except ValueError as error:
        if from_file:
            raise UsageError(f"{name}:= takes JSON and {value[1:]} holds none ({error})") from None
        raise UsageError(
            f"{name}:= takes JSON and {value!r} is none ({error}); for text write {name}=..."
        ) from None


def _content(path: str) -> bytes:
    found = _open(path)
    return found if isinstance(found, bytes) else bytes(found.read_bytes())


def _file(text: str) -> tuple[str, Any]:
    name, separator, path = text.partition("=")
    if not separator or not name:
        raise UsageError(f"--file {text!r}: write --file name=@path")
    return name, _open(path.removeprefix("@"))


def _open(path: str, hint: str = "") -> Any:
    if path == "-":
        return sys.stdin.buffer.read()
    found = Path(path).expanduser()
    if not found.is_file():
        raise UsageError(f"there is no file {path or repr(path)}{hint}")
    return found


def split_target(target: str) -> tuple[str, str]:
    """Split a whole URL into the address of the service and the path; a path alone has no address."""
    if "://" not in target:
        return "", target
    parts = urlsplit(target)
    return f"{parts.scheme}://{parts.netloc}", parts.path or "/"


def _finish(args: argparse.Namespace, client: Client, outcome: Any) -> int:
    from router_core.client import Job

    if isinstance(outcome, Job):
        return _job(args, outcome)
    if isinstance(outcome, Iterator):
        _stream(outcome, raw=args.json)
        return Exit.OK
    write_result(outcome, args.output, raw=args.json)
    return Exit.OK


def _job(args: argparse.Namespace, job: Job) -> int:
    if not args.wait:
        if args.json:
            print(to_text(dict(job.view.raw)))
        else:
            print(job.id)
            say(f"watch it: router-core jobs watch {job.id}")
        return Exit.OK
    return wait_for(job, args.timeout, output=args.output, raw=args.json, cancel=args.cancel_on_interrupt)


def wait_for(
    job: Job, timeout: float | None, *, output: str = "", raw: bool = False, cancel: bool = False
) -> int:
    """Wait with a progress bar and write the result; Ctrl-C leaves the job running unless ``cancel``."""
    try:
        job.progress_bar(timeout)
    except KeyboardInterrupt:
        return _interrupted(job, cancel)
    except TimeoutError as error:
        say(f"router-core: {error}; watch it: router-core jobs watch {job.id}")
        return Exit.TIMEOUT
    if raw:
        print(to_text(dict(job.view.raw)))
        return Exit.OK if job.status == "succeeded" else Exit.JOB_FAILED
    write_result(job.result(timeout), output)
    return Exit.OK


def _interrupted(job: Job, cancel: bool) -> int:
    if cancel:
        say(f"router-core: interrupted; job {job.id} is {job.cancel().status}")
    else:
        say(f"router-core: interrupted; job {job.id} goes on. Watch it: router-core jobs watch {job.id}")
    return Exit.INTERRUPTED


def _stream(values: Iterator[Any], *, raw: bool) -> None:
    ended = True
    for value in values:
        if isinstance(value, str) and not raw:
            text = printable(value) if sys.stdout.isatty() else value
            print(text, end="", flush=True)
            ended = text.endswith("\n")
        else:
            print(json.dumps(value, ensure_ascii=False, default=str), flush=True)
            ended = True
    if not ended:
        print()
