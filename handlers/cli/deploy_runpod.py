"""``router-core deploy runpod``."""

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
    from handlers.deploy.image import Build
    from handlers.deploy.progress import Progress
    from handlers.deploy.runpod import Deployed, RunpodOptions
    from handlers.deploy.runpod_api import RunpodApi
    from handlers.deploy.runpod_config import EndpointConfig

__all__ = ["DESCRIPTION", "EXAMPLES", "add_arguments", "run"]

DESCRIPTION = """\
Deploy a service to a RunPod serverless endpoint, found by its name.

The service is tested on this machine; an update is tested on an endpoint beside the real one; then the real
one is changed and tested. If that fails, or with Ctrl-C, everything is taken back."""
EXAMPLES = """\
examples:
  router-core deploy runpod service:router --image ann/service:1.2 --dry-run
  router-core deploy runpod service:router --image ann/service:1.2 --build --env-file .env
  router-core deploy runpod service:router --image ann/service:1.3 --test '{"path": "/predict", "text": "x"}'
  router-core deploy runpod service:router --config endpoint.toml --workers-max 5
  router-core deploy runpod --destroy service

The API key is read from RUNPOD_API_KEY (https://console.runpod.io/user/settings)."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._-]{0,100}")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what it takes."""
    parser.add_argument("app", nargs="?", default="", help="module:attribute (default: ROUTER_APP)")
    parser.add_argument("--name", default="", help="name of the endpoint (default: that of the module)")
    parser.add_argument("--image", default="", help="container image, with a version")
    parser.add_argument("--dry-run", action="store_true", help="show what would change, and change nothing")
    parser.add_argument(
        "--destroy", default="", metavar="NAME", help="delete the endpoint of this name or id"
    )
    parser.add_argument(
        "--yes", action="store_true", help="delete, or change what router-core has not made, without asking"
    )
    parser.add_argument("--json", action="store_true", help="print the outcome as JSON")
    _add_build(parser)
    _add_configuration(parser)
    _add_test(parser)


def _add_build(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("the image")
    group.add_argument("--build", action="store_true", help="build the image with docker and push it")
    group.add_argument(
        "--dockerfile", default="Dockerfile.runpod", metavar="FILE", help="default: %(default)s"
    )
    group.add_argument(
        "--context", default=".", metavar="FOLDER", help="folder that is built (default: this)"
    )
    group.add_argument("--build-arg", action="append", default=[], metavar="NAME=VALUE", help="(repeatable)")


def _add_configuration(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("the endpoint (what is not given stays as it is)")
    group.add_argument(
        "--profile", default="", metavar="NAME", help="hardware to start from: gpu-24gb, cpu ..."
    )
    group.add_argument("--config", default="", metavar="FILE", help="fields of the endpoint, .toml or .json")
    group.add_argument(
        "--gpu", action="append", default=[], metavar="POOL", help="such as ADA_24 (repeatable)"
    )
    group.add_argument("--gpu-count", type=int, metavar="N", help="GPUs of a worker")
    group.add_argument("--workers-min", type=int, metavar="N", help="workers that always run, and cost")
    group.add_argument("--workers-max", type=int, metavar="N", help="most workers at once")
    group.add_argument("--idle-timeout", type=int, metavar="S", help="seconds a worker waits for another job")
    group.add_argument("--execution-timeout", type=float, metavar="S", help="seconds that a job may run")
    group.add_argument("--disk", type=int, metavar="GB", help="disk of a worker")
    group.add_argument("--network-volume", action="append", default=[], metavar="ID", help="(repeatable)")
    group.add_argument("--data-center", action="append", default=[], metavar="ID", help="(repeatable)")
    group.add_argument(
        "--registry", default="", metavar="ID", help="RunPod's credential for a private registry"
    )
    group.add_argument(
        "--flashboot", action=argparse.BooleanOptionalAction, help="start workers from a snapshot"
    )
    group.add_argument(
        "--env", action="append", default=[], metavar="NAME=VALUE",
        help="variable of the workers; NAME alone takes its value from here (repeatable)",
    )  # fmt: skip
    group.add_argument("--env-file", action="append", default=[], metavar="FILE", help="lines NAME=VALUE")
    group.add_argument("--remove-env", action="append", default=[], metavar="NAME", help="(repeatable)")


def _add_test(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("the test")
    group.add_argument(
        "--test", default="", metavar="JSON",
        help="input of the test request, or @FILE (default: a GET without arguments, else openapi.json)",
    )  # fmt: skip
    group.add_argument("--no-local-test", action="store_true", help="do not load the app on this machine")
    group.add_argument(
        "--in-place", action="store_true", help="update without a test on an endpoint beside the real one"
    )
    group.add_argument("--force", action="store_true", help="roll out although nothing differs")
    group.add_argument(
        "--timeout", type=float, default=900.0, metavar="S",
        help="seconds that each test may take, the start of a worker included (default: 900)",
    )  # fmt: skip
    group.add_argument("--poll", type=float, default=2.0, metavar="S", help="seconds between two looks")


def run(args: argparse.Namespace) -> int:
    """Deploy, or destroy."""
    from handlers.deploy.progress import Progress
    from handlers.deploy.runpod_api import RunpodApi

    _check(args)
    options = None if args.destroy else _options(args)
    progress = Progress()
    progress.hide([os.environ.get("RUNPOD_API_KEY", "").strip()])
    with RunpodApi.from_env(os.environ) as api:
        if options is None:
            return _destroy(args, progress, api)
        return _deploy(args, options, progress, api)


def _deploy(args: argparse.Namespace, options: RunpodOptions, progress: Progress, api: RunpodApi) -> int:
    from handlers.deploy.errors import DeployError
    from handlers.deploy.runpod import deploy_runpod

    try:
        done = deploy_runpod(options, progress, api)
    except DeployError as error:
        # what the platform answers may quote what was sent
        error.args = (progress.masked(str(error)),)
        raise
    _tell(args, done, api)
    return Exit.OK


def _tell(args: argparse.Namespace, done: Deployed, api: RunpodApi) -> None:
    url = api.url(done.endpoint_id) if done.endpoint_id else ""
    if args.json:
        told = {"action": done.action, "name": done.name, "endpoint_id": done.endpoint_id, "url": url}
        print(to_text({**told, "changes": list(done.changes)}))
        return
    say({
        "created": f"{done.name} is deployed",
        "updated": f"{done.name} is updated",
        "unchanged": f"{done.name} is as it is wanted and was left alone (--force starts new workers)",
        "planned": "a dry run: nothing was changed",
    }[done.action])  # fmt: skip
    if url and done.action != "planned":
        print(url)


def _destroy(args: argparse.Namespace, progress: Progress, api: RunpodApi) -> int:
    from handlers.cli.deploy import confirm
    from handlers.deploy.runpod_destroy import destroy_runpod

    endpoint_id = destroy_runpod(
        args.destroy, progress, api, confirm=confirm(args.yes), dry_run=args.dry_run,
        timeout=args.timeout, poll=args.poll,
    )  # fmt: skip
    if args.json:
        print(to_text({"action": "destroyed" if endpoint_id else "none", "endpoint_id": endpoint_id}))
    elif endpoint_id:
        say(f"{args.destroy} is deleted")
    else:
        say("a dry run: nothing was changed" if args.dry_run else "nothing was deleted")
    return Exit.OK


def _check(args: argparse.Namespace) -> None:
    if args.destroy and (args.app or args.image or args.build):
        raise UsageError("--destroy deletes an endpoint and deploys nothing: leave app and image out")
    if args.timeout <= 0 or args.poll <= 0:
        raise UsageError("--timeout and --poll must be above 0")
    if args.build and not args.image:
        raise UsageError("--build needs --image, the name under which the image is pushed")


def _options(args: argparse.Namespace) -> RunpodOptions:
    from handlers.deploy.runpod import RunpodOptions

    app = args.app or os.environ.get("ROUTER_APP", "").strip()
    name = args.name or _name_of(app)
    if not _NAME.fullmatch(name):
        raise UsageError(
            "name the endpoint with --name, or the app as module:attribute"
            if not name else f"{name!r} is no name for an endpoint: letters, digits, space and . _ - only"
        )  # fmt: skip
    return RunpodOptions(
        name=name, app=app, folder=Path.cwd(), profile=args.profile, config=_config(args),
        remove_env=tuple(args.remove_env), build=_build(args, app) if args.build else None,
        test=_test(args.test), local=not args.no_local_test, candidate=not args.in_place,
        force=args.force, take_over=args.yes, dry_run=args.dry_run, timeout=args.timeout, poll=args.poll,
    )  # fmt: skip


def _name_of(app: str) -> str:
    """Return the last part of the module: service for pkg.service:router and for pkg/service.py."""
    module = app.partition(":")[0].removesuffix(".py").replace("/", ".").rstrip(".")
    return module.rpartition(".")[2].replace("_", "-")


def _config(args: argparse.Namespace) -> EndpointConfig:
    from handlers.deploy.runpod_config import EndpointConfig, checked, merged, read_config, read_env

    gpu = {"pools": args.gpu or None, "count": args.gpu_count}
    workers = {"min": args.workers_min, "max": args.workers_max, "idleTimeout": args.idle_timeout}
    seconds = args.execution_timeout
    given: dict[str, Any] = {
        "image": args.image or None, "disk": args.disk, "registry": args.registry or None,
        "gpu": _given(gpu), "workers": _given(workers),
        "dataCenterIds": args.data_center or None, "networkVolumes": args.network_volume or None,
        "timeout": None if seconds is None else int(seconds * 1000),
        "flashboot": None if args.flashboot is None else ("FLASHBOOT" if args.flashboot else "OFF"),
        "env": read_env(args.env, [Path(each) for each in args.env_file], os.environ) or None,
    }  # fmt: skip
    file = read_config(Path(args.config)) if args.config else EndpointConfig()
    return merged(file, checked(_given(given) or {}, "the options"))


def _given(values: dict[str, Any]) -> dict[str, Any] | None:
    """Return what is not None, or None when nothing is left."""
    return {key: value for key, value in values.items() if value is not None} or None


def _build(args: argparse.Namespace, app: str) -> Build:
    from handlers.deploy.image import Build

    given = [pair.partition("=") for pair in args.build_arg]
    if any(not name or not separator for name, separator, _ in given):
        raise UsageError("write --build-arg NAME=VALUE")
    values = {**_build_args(app, args.context), **{name: value for name, _, value in given}}
    return Build(args.image, Path(args.dockerfile), Path(args.context), values)


def _build_args(app: str, context: str) -> dict[str, str]:
    """Return what our Dockerfile.runpod wants to know: the app, and the package or file it is in."""
    if not app:
        return {}
    top = re.split(r"[./]", app.partition(":")[0].removesuffix(".py"), maxsplit=1)[0]
    is_file = (Path(context) / f"{top}.py").is_file() and not (Path(context) / top).is_dir()
    return {"ROUTER_APP": app, "APP_DIR": f"{top}.py" if is_file else top}


def _test(text: str) -> dict[str, Any] | None:
    if not text:
        return None
    try:
        found = json.loads(Path(text[1:]).read_text(encoding="utf-8") if text.startswith("@") else text)
    except OSError as error:
        raise UsageError(f"--test: {text[1:]} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise UsageError(f'--test takes a JSON object such as \'{{"path": "/hello"}}\' ({error})') from None
    if not isinstance(found, dict):
        raise UsageError('--test takes a JSON object such as \'{"path": "/hello"}\'')
    # /runsync of the official client takes the whole body; what counts is the input
    inner = found.get("input")
    return inner if set(found) == {"input"} and isinstance(inner, dict) else found
