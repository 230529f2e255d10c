"""The code of the Lambda functions: router-core, the app and what both need, in one folder.

    python -m handlers.deploy.aws_bundle --folder . --out build/lambda [--zip build/lambda.zip]

Wheels are taken for Lambda's machine, not for this one, so nothing is compiled and nothing is run there.
boto3 is left out: it comes with Lambda's runtime and is five times as large as all the rest.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import sys
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from handlers.deploy.aws_packages import (
    HOST,
    Target,
    cache_of,
    compile_folder,
    find_compiler,
    install_packages,
    locked,
)
from handlers.deploy.aws_sources import MAX_UNZIPPED, BundleConfig, copy_app, is_ignored, read_config
from handlers.deploy.errors import DeployError, NotPrepared

__all__ = ["Bundle", "build_bundle", "build_once", "forget_run", "main", "zip_folder"]

_NOT_NEEDED: Final = "testing"
"""The room of router_core that no function runs."""
_OF_GATEWAY: Final = "msgspec"
"""A package that router-core's extra ``gateway`` brings."""
_NEEDED: Final = ("__init__.py", "aws", "loader.py")
"""What of the handlers a function runs."""
_EPOCH: Final = (1980, 1, 1, 0, 0, 0)
"""The earliest that a zip can say."""
_TIME: Final = 946_684_800
_MB: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Bundle:
    """What was built."""

    folder: Path
    size: int
    """Bytes, unzipped."""
    compiled: bool
    """Whether the modules are compiled: a cold start without that is two to three times as long."""


def build_bundle(
    folder: Path, out: Path, target: Target, *, app: str = "", say: Callable[[str], None] = print
) -> Bundle:
    """Make the bundle of the app in ``folder`` in the empty or missing folder ``out``.

    ``app`` is checked to be in it. Raises NotPrepared for what the caller has to change, DeployError for a
    package that cannot be installed and a file that cannot be read or written.
    """
    folder = folder.resolve()
    if not folder.is_dir():
        raise NotPrepared(f"{folder} is no folder")
    if out.exists() and any(out.iterdir()):
        raise NotPrepared(f"{out} is not empty")
    try:
        compiled = _fill(folder, out, target, app, say)
        size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
        _set_times(out)
        if size > MAX_UNZIPPED:
            raise NotPrepared(
                f"the bundle has {size // _MB} MB, and Lambda takes {MAX_UNZIPPED // _MB} MB unzipped; "
                "leave something out with `exclude` in [tool.router-core.bundle] of pyproject.toml"
            )
    except BaseException as error:
        shutil.rmtree(out, ignore_errors=True)
        if isinstance(error, OSError):
            raise DeployError(" ".join(str(error).split())) from error
        raise
    say(f"bundle of {size / _MB:.1f} MB for {target}: {out}")
    return Bundle(out, size, compiled)


def _fill(folder: Path, out: Path, target: Target, app: str, say: Callable[[str], None]) -> bool:
    config = read_config(folder)
    compiler = find_compiler(target)
    install_packages(folder, out, config, target, compiler, say)
    _copy_ours(out)
    secrets = copy_app(folder, out, config)
    if secrets:
        told = ", ".join(secrets)
        say(f"note: left out, as they look like secrets: {told} (`include` takes a file that it names)")
    _check_app(app, out, folder, config)
    if compiler is None:
        say(f"note: no Python {target.python} is here to compile the modules with: cold starts take longer")
        return False
    compile_folder(compiler, out)
    return True


def _set_times(out: Path) -> None:
    """Give all files one time, so that the functions' zips are equal, and one upload serves them all."""
    for path in out.rglob("*"):
        os.utime(path, (_TIME, _TIME))


def _copy_ours(out: Path) -> None:
    """Copy router-core as it is installed here, in a clone or as a package."""
    here = Path(__file__).resolve().parent.parent.parent

    def skip(folder: str, names: list[str]) -> set[str]:
        left_out = {name for name in names if is_ignored(name)}
        if Path(folder) == here / "router_core":
            left_out.add(_NOT_NEEDED)
            if not (out / _OF_GATEWAY).exists():  # nobody asked for the extra, without which it cannot work
                left_out.add("gateway")
        if Path(folder) == here / "handlers":
            left_out.update(set(names).difference(_NEEDED))
        return left_out

    for package in ("router_core", "handlers"):
        shutil.copytree(here / package, out / package, ignore=skip, dirs_exist_ok=True)
    # An installed package may have lost the mode of its scripts.
    for script in (out / "handlers").rglob("*"):
        if script.is_file() and script.read_bytes()[:2] == b"#!":
            script.chmod(0o755)


def _check_app(app: str, out: Path, folder: Path, config: BundleConfig) -> None:
    """Raise NotPrepared unless the module of ``app`` is in the bundle."""
    module = app.partition(":")[0]
    if not module:
        return
    path = out.joinpath(*module.split("."))
    if path.with_suffix(".py").is_file() or path.is_dir():
        return
    said = f" (include = {list(config.include)})" if config.include else ""
    raise NotPrepared(
        f"the bundle has no module {module}: it holds what is in {folder}{said}, and the requirements"
    )


def zip_folder(folder: Path, out: Path) -> int:
    """Zip a bundle; equal folders give equal bytes. Returns the size."""
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for path in sorted(folder.rglob("*")):
            if not path.is_file():
                continue
            info = zipfile.ZipInfo(path.relative_to(folder).as_posix(), _EPOCH)
            info.compress_type = zipfile.ZIP_DEFLATED
            mode = 0o755 if os.access(path, os.X_OK) else 0o644
            info.external_attr = mode << 16
            archive.writestr(info, path.read_bytes())
    return out.stat().st_size


def build_once(
    folder: Path, out: Path, target: Target, *, app: str, run: str, say: Callable[[str], None]
) -> None:
    """Make the bundle, or take the one that was made under that name: `sam build` asks for every function."""
    kept = cache_of(folder.resolve()) / f"run-{run}"
    with locked(kept):
        made = kept / "bundle"
        if made.is_dir():
            shutil.copytree(made, out, dirs_exist_ok=True)
            return
        build_bundle(folder, out, target, app=app, say=say)
        part = kept / "part"
        shutil.copytree(out, part)
        part.rename(made)


def forget_run(folder: Path, run: str) -> None:
    """Delete what was kept for the other functions of a run."""
    shutil.rmtree(cache_of(folder.resolve()) / f"run-{run}", ignore_errors=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Build a bundle from the command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m handlers.deploy.aws_bundle", description="Make the code of the Lambda functions."
    )
    parser.add_argument("--folder", type=Path, default=Path.cwd(), help="folder of the app")
    parser.add_argument("--out", type=Path, required=True, help="empty or missing folder to build in")
    parser.add_argument("--arch", choices=("arm64", "x86_64", "host"), default="arm64")
    parser.add_argument("--app", default="", help="module:attribute that has to be in it")
    parser.add_argument("--run", default="", metavar="NAME", help="take the bundle of the last --run NAME")
    parser.add_argument("--zip", type=Path, help="write a zip, too")
    args = parser.parse_args(argv)
    if not re.fullmatch("[A-Za-z0-9-]*", args.run):
        parser.error("--run takes letters, digits and -")
    target = HOST if args.arch == "host" else Target(args.arch)
    try:
        if args.run:
            build_once(args.folder, args.out, target, app=args.app, run=args.run, say=_say)
        else:
            build_bundle(args.folder, args.out, target, app=args.app, say=_say)
        if args.zip is not None:
            _say(f"{args.zip}: {zip_folder(args.out, args.zip) / _MB:.1f} MB")
    except DeployError as error:
        _say(f"cannot build the bundle: {error}")
        return error.exit_code
    except OSError as error:
        _say(f"cannot build the bundle: {error}")
        return 1
    return 0


def _say(text: str) -> None:
    print(text, file=sys.stderr)


if __name__ == "__main__":
    raise SystemExit(main())
