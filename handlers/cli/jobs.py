"""``router-core jobs``."""

from __future__ import annotations

import argparse
import sys
from datetime import datetime
from typing import TYPE_CHECKING, TextIO

from handlers.cli.exits import Exit
from handlers.cli.output import say, table, to_text, write_result
from handlers.cli.service import add_service_options, connected

if TYPE_CHECKING:
    from router_core.client import Client, Job
    from router_core.jobs.wire import JobView

__all__ = ["DESCRIPTION", "EXAMPLES", "add_arguments", "run"]

DESCRIPTION = "List, show, watch, cancel or retry the jobs of a running service."
EXAMPLES = """\
examples:
  router-core jobs list --status failed --route /predict
  router-core jobs watch 019a...                wait for it, with a progress bar
  router-core jobs result 019a... -o out.png    its result, again, as long as it is kept
  router-core jobs cancel 019a...
  router-core jobs retry 019a... --wait"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what jobs takes."""
    commands = parser.add_subparsers(
        dest="action", required=True, metavar="list|show|watch|result|cancel|retry"
    )
    listing = commands.add_parser("list", help="list jobs, newest first", allow_abbrev=False)
    listing.add_argument(
        "--status", default="", help="only these: queued, running, failed ... (comma-separated)"
    )
    listing.add_argument("--route", default="", help="only those of this route")
    listing.add_argument("--limit", type=int, default=20, help="how many (default: 20)")
    show = commands.add_parser("show", help="print all that is known of a job", allow_abbrev=False)
    watch = commands.add_parser("watch", help="wait for a job, with a progress bar", allow_abbrev=False)
    watch.add_argument("--events", action="store_true", help="print its events as they come, instead")
    result = commands.add_parser("result", help="get the result of a job", allow_abbrev=False)
    cancel = commands.add_parser("cancel", help="stop a job", allow_abbrev=False)
    retry = commands.add_parser("retry", help="run a failed job again, as a new one", allow_abbrev=False)
    retry.add_argument("--wait", action="store_true", help="wait for it, with a progress bar")
    for command in (watch, retry, result):
        command.add_argument(
            "--timeout", type=float, metavar="S", help="give up waiting after so many seconds"
        )
    for command in (retry, result):
        command.add_argument("-o", "--output", default="", metavar="FILE", help="write the result here")
    for command in (show, watch, result, cancel, retry):
        command.add_argument("id", help="id of the job")
    for command in (listing, show, watch, result, cancel, retry):
        command.add_argument("--json", action="store_true", help="print JSON")
        add_service_options(command)


def run(args: argparse.Namespace) -> int:
    """Do what was asked."""
    with connected(args) as client:
        if args.action == "list":
            return _list(args, client)
        return _ACTIONS[args.action](args, client.job(args.id))


def _list(args: argparse.Namespace, client: Client) -> int:
    views: list[JobView] = []
    cursor = ""
    while len(views) < args.limit:
        limit = min(100, args.limit - len(views))
        page = client.jobs(status=args.status, route=args.route, cursor=cursor, limit=limit)
        views += page.jobs
        cursor = page.cursor
        if not cursor or not page.jobs:
            break
    if args.json:
        print(to_text([dict(view.raw) for view in views]))
        return Exit.OK
    if not views:
        say("no jobs")
        return Exit.OK
    rows = [
        (
            view.job_id,
            view.route,
            view.status.value,
            f"{view.progress:.0%}",
            _moment(view.created_at),
            _last(view),
        )
        for view in views
    ]
    print(table(("ID", "ROUTE", "STATUS", "DONE", "CREATED", "MESSAGE"), rows))
    return Exit.OK


def _show(args: argparse.Namespace, job: Job) -> int:
    view = job.view
    if args.json:
        print(to_text(dict(view.raw)))
        return Exit.OK
    seconds = view.metrics.get("execution_time_s")
    rows = [
        ("id", view.job_id), ("route", view.route),
        ("status", view.status.value + (f" ({view.reason})" if view.reason else "")),
        ("progress", f"{view.progress:.0%} {view.message}".strip()), ("attempt", str(view.attempt)),
        ("created", _moment(view.created_at)), ("started", _moment(view.started_at)),
        ("finished", _moment(view.finished_at)), ("took", f"{seconds:g} s" if seconds is not None else ""),
        ("error", _error(view)), ("result", "" if view.result is None else to_text(view.result)[:1000]),
    ]  # fmt: skip
    if view.result_ref:
        rows.append(("result", f"large: router-core jobs result {view.job_id}"))
    say("\n".join(f"{name:<10}{text}" for name, text in rows if text), stream=_out())
    return Exit.OK


def _watch(args: argparse.Namespace, job: Job) -> int:
    from handlers.cli.call import wait_for

    if args.events:
        for event in job:
            data = event.data.raw if event.type == "job" else event.data
            print(to_text({"event": event.type, "id": event.id, "data": data}), flush=True)
        return Exit.OK if job.status == "succeeded" else Exit.JOB_FAILED
    return wait_for(job, args.timeout, raw=args.json)


def _result(args: argparse.Namespace, job: Job) -> int:
    write_result(job.result(args.timeout if args.timeout is not None else 0.0), args.output, raw=args.json)
    return Exit.OK


def _cancel(args: argparse.Namespace, job: Job) -> int:
    job.cancel()
    if args.json:
        print(to_text(dict(job.view.raw)))
    elif job.status in ("cancelled", "cancelling"):
        say(f"job {job.id} is {job.status}")
    if job.status in ("cancelled", "cancelling"):
        return Exit.OK
    say(f"router-core: job {job.id} has {job.status} already")
    return Exit.REFUSED


def _retry(args: argparse.Namespace, job: Job) -> int:
    from handlers.cli.call import wait_for

    again = job.retry()
    if args.wait:
        return wait_for(again, args.timeout, output=args.output, raw=args.json)
    print(to_text(dict(again.view.raw)) if args.json else again.id)
    return Exit.OK


_ACTIONS = {"show": _show, "watch": _watch, "result": _result, "cancel": _cancel, "retry": _retry}


def _moment(moment: datetime | None) -> str:
    return moment.astimezone().strftime("%Y-%m-%d %H:%M:%S") if moment is not None else ""


def _error(view: JobView) -> str:
    if view.error is None:
        return ""
    return ": ".join(str(part) for part in (view.error.get("type"), view.error.get("message")) if part)


def _last(view: JobView) -> str:
    return (_error(view) if view.status == "failed" else view.message)[:60]


def _out() -> TextIO:
    return sys.stdout
