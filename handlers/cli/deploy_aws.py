"""``router-core deploy aws``."""

from __future__ import annotations

import argparse
import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from handlers.cli.exits import Exit, UsageError
from handlers.cli.output import say, to_text

if TYPE_CHECKING:
    from handlers.deploy.aws import AwsDeployed, AwsOptions
    from handlers.deploy.progress import Progress

__all__ = ["DESCRIPTION", "EXAMPLES", "add_arguments", "run"]

DESCRIPTION = """\
Deploy a service to AWS Lambda, as a CloudFormation stack.

The service is tested on this machine, built and deployed by the SAM CLI, and tested there. A deployment that
fails is taken back by CloudFormation, one that fails its test by this command."""
EXAMPLES = """\
examples:
  router-core deploy aws service:router --param AllowAnonymous=true --dry-run
  router-core deploy aws service:router --param ApiKeys=ann:sha256=... --region eu-west-1
  router-core deploy aws service:router --stack service-prod --param Stage=prod --param JobMemorySize=3008
  router-core deploy aws service:router --test '{"path": "/predict", "text": "x"}'
  router-core deploy aws --destroy service

Credentials and region are found as the AWS CLI finds them. ROUTER_API_KEY is the key of the test request.
Parameters are those of template.yaml; an existing stack keeps those that are not given."""

_KEYS = ("ApiKeys", "WorkerKeys")
_STACK = re.compile(r"[A-Za-z][A-Za-z0-9-]{0,127}")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what it takes."""
    parser.add_argument("app", nargs="?", default="", help="module:attribute (default: ROUTER_APP)")
    parser.add_argument("--stack", default="", help="name of the stack (default: that of the module)")
    parser.add_argument("--region", default="", help="AWS region (default: AWS_REGION, or the profile's)")
    parser.add_argument("--profile", default="", help="profile of the AWS configuration")
    parser.add_argument("--dry-run", action="store_true", help="build and show, and ask AWS for nothing")
    parser.add_argument("--destroy", default="", metavar="STACK", help="delete this stack")
    parser.add_argument("--data", action="store_true", help="with --destroy: records and results, too")
    parser.add_argument("--yes", action="store_true", help="do not ask before something is deleted")
    parser.add_argument("--json", action="store_true", help="print the outcome as JSON")
    group = parser.add_argument_group("the stack")
    group.add_argument(
        "--param", action="append", default=[], metavar="NAME=VALUE",
        help="parameter of the template; NAME=@FILE reads the value from a file (repeatable)",
    )  # fmt: skip
    group.add_argument("--template", default="", metavar="FILE", help="a template of your own")
    group.add_argument("--bucket", default="", help="bucket for the code (default: SAM makes one)")
    test = parser.add_argument_group("the test")
    test.add_argument(
        "--test", default="", metavar="JSON",
        help="the test request, or @FILE (default: a GET without arguments, else openapi.json)",
    )  # fmt: skip
    test.add_argument("--url", default="", help="address to test (default: that of the stack)")
    test.add_argument("--no-local-test", action="store_true", help="do not load the app on this machine")
    test.add_argument(
        "--timeout", type=float, default=300.0, metavar="S", help="seconds of each test (default: 300)"
    )


def run(args: argparse.Namespace) -> int:
    """Deploy, or destroy."""
    from handlers.deploy.errors import DeployError
    from handlers.deploy.progress import Progress

    if args.timeout <= 0:
        raise UsageError("--timeout must be above 0")
    options = _options(args)
    progress = Progress()
    try:
        return _destroy(args, options, progress) if args.destroy else _deploy(args, options, progress)
    except DeployError as error:
        # what AWS and SAM answer may quote what was sent
        error.args = (progress.masked(str(error)),)
        raise


def _deploy(args: argparse.Namespace, options: AwsOptions, progress: Progress) -> int:
    from handlers.deploy.aws import deploy_aws

    done = deploy_aws(options, progress)
    _tell(args, done)
    return Exit.OK


def _tell(args: argparse.Namespace, done: AwsDeployed) -> None:
    if args.json:
        told = {"action": done.action, "stack": done.stack, "url": done.url, "outputs": dict(done.outputs)}
        print(to_text(told))
        return
    say({
        "created": f"{done.stack} is deployed",
        "updated": f"{done.stack} is updated",
        "unchanged": f"{done.stack} was left as it is: nothing differs",
        "planned": "a dry run: nothing was changed",
    }[done.action])  # fmt: skip
    if done.url:
        print(done.url)


def _destroy(args: argparse.Namespace, options: AwsOptions, progress: Progress) -> int:
    from handlers.cli.deploy import confirm
    from handlers.deploy.aws import destroy_aws

    left = destroy_aws(options, progress, confirm=confirm(args.yes), data=args.data)
    action = "none" if left is None else "planned" if args.dry_run else "destroyed"
    if args.json:
        print(to_text({"action": action, "stack": options.stack, "left": list(left or ())}))
    elif action == "destroyed":
        say(f"{options.stack} is deleted" + (f"; what remains: {', '.join(left)}" if left else ""))
    else:
        say("a dry run: nothing was changed" if args.dry_run else "nothing was deleted")
    return Exit.OK


def _options(args: argparse.Namespace) -> AwsOptions:
    from handlers.deploy.aws import AwsOptions

    app = args.app or os.environ.get("ROUTER_APP", "").strip()
    if args.destroy and args.app:
        raise UsageError("--destroy deletes a stack and deploys nothing: leave the app out")
    if not args.destroy and not app:
        raise UsageError("name the app as module:attribute, or set ROUTER_APP")
    stack = args.destroy or args.stack or _name_of(app)
    if not _STACK.fullmatch(stack):
        raise UsageError(f"{stack!r} is no name for a stack: a letter, then letters, digits and - (--stack)")
    return AwsOptions(
        app=app, stack=stack, folder=Path.cwd(), region=args.region, profile=args.profile,
        parameters=_parameters(args.param), template=Path(args.template) if args.template else None,
        bucket=args.bucket, test=_test(args.test), url=args.url, local=not args.no_local_test,
        api_key=os.environ.get("ROUTER_API_KEY", "").strip(), dry_run=args.dry_run, timeout=args.timeout,
    )  # fmt: skip


def _name_of(app: str) -> str:
    """Return the last part of the module: service for pkg.service:router and for pkg/service.py."""
    module = app.partition(":")[0].removesuffix(".py").replace("/", ".").rstrip(".")
    return module.rpartition(".")[2].replace("_", "-")


def _parameters(pairs: list[str]) -> dict[str, str]:
    found = {}
    for pair in pairs:
        name, separator, value = pair.partition("=")
        if not name or not separator:
            raise UsageError(f"--param {name or pair!r}: write NAME=VALUE")
        found[name] = _from_file(name, value[1:]) if value.startswith("@") else value
    return found


def _from_file(name: str, path: str) -> str:
    """Return what a file holds; of keys it has one a line, as the file of a setting has."""
    text = _read(path, "--param").strip()
    if name not in _KEYS:
        return text
    entries = (line.partition("#")[0].strip() for line in text.splitlines())
    return ",".join(entry for entry in entries if entry)


def _read(path: str, option: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise UsageError(f"{option}: {path} cannot be read: {reason}") from None


def _test(text: str) -> dict[str, Any] | None:
    if not text:
        return None
    try:
        found = json.loads(_read(text[1:], "--test") if text.startswith("@") else text)
    except ValueError as error:
        raise UsageError(f'--test takes a JSON object such as \'{{"path": "/hello"}}\' ({error})') from None
    if not isinstance(found, dict) or not isinstance(found.get("path"), str):
        raise UsageError('--test takes a JSON object with a path, such as \'{"path": "/hello"}\'')
    return found
