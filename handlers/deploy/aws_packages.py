"""What a bundle installs: wheels for Lambda's machine, compiled for its Python where one is at hand."""

from __future__ import annotations

import fcntl
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from handlers.deploy.aws_sources import BundleConfig
from handlers.deploy.errors import DeployError, NotPrepared

__all__ = [
    "HOST", "Target", "app_requirements", "cache_of", "compile_folder", "find_compiler", "install_packages",
    "locked",
]  # fmt: skip

LAMBDA_PYTHON: Final = "3.13"
_MACHINES: Final = {"arm64": "aarch64", "x86_64": "x86_64"}
_GLIBC: Final = ("manylinux2014", "manylinux_2_17", "manylinux_2_28", "manylinux_2_34")
"""Wheels that Lambda's system (glibc 2.34) can load; pip may not know which of them include others."""
_RUNTIME: Final = frozenset({"boto3", "botocore", "s3transfer"})
"""What Lambda's runtime brings."""
_EXTRAS: Final = frozenset({"encryption", "gateway", "jwt", "otel", "redis"})
"""Those of router-core that a function may need; the others are for the machine that it is made on."""
_RARELY_IMPORTED: Final = (
    r"/(pydantic/(v1|deprecated|mypy)|aws_lambda_powertools/(event_handler|utilities|tracing)"
    r"|router_core/(client|jobs/remote|stores/(sqlite|memory|coordinator|state_sqlite|state_redis)"
    r"|blobs/(file|memory|coordinator)|telemetry/(opentelemetry|pooled|conventions)"
    r"|security/(certificates|cors)))"
)
_OF_GATEWAYS: Final = r"/router_core/(quota|secrets|security/(key_openapi|key_routes|key_wishes|rate_shared))"
"""Compiled modules are as large as their source: these would make the bundle larger and no start quicker."""
_TASK_ROOT: Final = "/var/task"
"""Where Lambda puts the code of a function."""
_UNUSED: Final = ("aws_lambda_powertools/event_handler/openapi/swagger_ui/*.min.*",)
"""Half a megabyte that only Powertools' own resolvers would show."""
_KEEP: Final = 3600.0
"""Seconds for which installed packages are used again: `sam build` asks once for every function."""
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Target:
    """The machine that has to run it; no architecture means this one and this Python."""

    arch: str = ""
    python: str = LAMBDA_PYTHON

    def __str__(self) -> str:
        return f"{self.arch}, Python {self.python}" if self.arch else "this machine"


HOST: Final = Target("", f"{sys.version_info.major}.{sys.version_info.minor}")


def install_packages(
    folder: Path, out: Path, config: BundleConfig, target: Target, compiler: str | None, say: _Say
) -> None:
    """Put the packages of app and router-core into ``out``; what was installed lately is used again.

    Raises DeployError with the last words of the installer.
    """
    wanted = [*_own_requirements("", "aws"), *app_requirements(folder, config)]
    constraints = folder / "constraints.txt"
    pinned = constraints.read_text(encoding="utf-8") if constraints.is_file() else ""
    mark = json.dumps([wanted, pinned, target.arch, target.python, platform.machine(), compiler is not None])
    cache = cache_of(folder)
    place = cache / hashlib.sha256(mark.encode()).hexdigest()[:16]
    with locked(cache):
        _prune_cache(cache)
        if not place.is_dir():
            say(f"installing {len(wanted)} requirements for {target} ...")
            with tempfile.TemporaryDirectory(dir=cache) as made:
                inside = Path(made) / "packages"
                _install(wanted, constraints if pinned else None, target, inside, folder)
                _prune(inside, keep=_pinned_runtime(wanted))
                if compiler is not None:
                    compile_folder(compiler, inside)
                os.utime(inside)
                inside.rename(place)
        shutil.copytree(place, out, dirs_exist_ok=True)


@contextmanager
def locked(cache: Path) -> Iterator[None]:
    """Let one build at a time use the cache: `sam build --parallel` starts one for every function."""
    cache.mkdir(parents=True, exist_ok=True)
    (cache / ".gitignore").write_text("*\n")
    with (cache / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def cache_of(folder: Path) -> Path:
    """Return where builds of an app keep what the next one can use again. Raises NotPrepared."""
    if os.access(folder, os.W_OK):
        return folder / ".router-core" / "lambda"
    shared = Path(tempfile.gettempdir()) / f"router-core-lambda-{os.getuid()}"
    shared.mkdir(mode=0o700, exist_ok=True)
    found = shared.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise NotPrepared(f"{shared} can be written by others, and its packages would be deployed: delete it")
    return shared


def _prune_cache(cache: Path) -> None:
    """Delete what is too old to be used again: each change of a requirement leaves another set."""
    for old in cache.iterdir():
        if old.is_dir() and time.time() - old.stat().st_mtime > _KEEP:
            shutil.rmtree(old, ignore_errors=True)


# -- what is wanted ----------------------------------------------------------------------------------------


def _own_requirements(*extras: str) -> list[str]:
    """Return what router-core's own metadata asks for: without an extra (empty), and with these."""
    try:
        lines = importlib.metadata.requires("router-core") or []
    except importlib.metadata.PackageNotFoundError:
        raise NotPrepared(
            f"router-core is not installed for {sys.executable}: pip install 'router-core[aws]'"
        ) from None
    found = []
    for line in lines:
        requirement, _, marker = line.partition(";")
        extra = re.search(r"extra\s*==\s*['\"]([^'\"]+)", marker)
        if _name(requirement) not in _RUNTIME and (extra[1] if extra else "") in extras:
            found.append(requirement.strip())
    return found


def app_requirements(folder: Path, config: BundleConfig) -> list[str]:
    """Return the lines that the app asks for, without those that are met anyway."""
    if config.requirements is not None:
        lines: Iterable[str] = config.requirements
    elif (folder / "requirements.txt").is_file():
        lines = _read_requirements(folder / "requirements.txt", ())
    else:
        lines = config.project
    return [each for line in lines for each in _wanted(line)]


def _wanted(line: str) -> list[str]:
    """Return what a requirement adds to the bundle, which holds router-core itself anyway."""
    if _is_given(line):
        extras = re.match(r"[^\[;@]*\[([^\]]*)\]", line)
        named = [word.strip().lower() for word in extras[1].split(",")] if extras else []
        return _own_requirements(*_EXTRAS.intersection(named)) if _name(line) == "router-core" else []
    return [line]


def _is_given(line: str) -> bool:
    """Whether a requirement is met already: by the bundle itself, or by Lambda's runtime unless pinned."""
    name = _name(line)
    return name == "router-core" or (name in _RUNTIME and not re.search(r"[=<>~@]", line))


def _read_requirements(path: Path, above: tuple[Path, ...]) -> Iterator[str]:
    """Yield the lines of a requirements file and of those that it names."""
    if path in above:
        return
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise NotPrepared(f"{path} cannot be read: {error}") from error
    for raw in text.replace("\\\n", " ").splitlines():
        line = re.sub(r"(^|\s)#.*$", "", raw).strip()
        nested = re.match(r"(?:-r|--requirement)[\s=]+(.+)", line)
        if nested:
            yield from _read_requirements((path.parent / nested[1].strip()).resolve(), (*above, path))
        elif line:
            yield line


def _name(requirement: str) -> str:
    found = _NAME.match(requirement.strip())
    return re.sub(r"[-_.]+", "-", found[0]).lower() if found else ""


def _pinned_runtime(wanted: Iterable[str]) -> bool:
    return any(_name(line) in _RUNTIME for line in wanted)


# -- installing --------------------------------------------------------------------------------------------


def _install(wanted: list[str], constraints: Path | None, target: Target, out: Path, folder: Path) -> None:
    listed = out.with_name("requirements.txt")
    listed.write_text("\n".join(wanted) + "\n", encoding="utf-8")
    command = [*_installer(target), "--target", str(out), "-r", str(listed)]
    if constraints is not None:
        command += ["-c", str(constraints)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        raise DeployError(f"the packages cannot be installed for {target}: {_last_words(done.stderr)}")


def _installer(target: Target) -> list[str]:
    """Return the beginning of the command that installs: pip's, or that of uv where pip is missing."""
    if importlib.util.find_spec("pip") is not None:
        command = [
            sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile",
        ]  # fmt: skip
        if target.arch:
            command += ["--only-binary=:all:", "--implementation", "cp", "--python-version", target.python]
            command += [
                word for libc in _GLIBC for word in ("--platform", f"{libc}_{_MACHINES[target.arch]}")
            ]
        return command
    uv = shutil.which("uv")
    if uv is None:
        raise NotPrepared(
            f"{sys.executable} has no pip, and there is no uv: one of them has to install packages"
        )
    command = [uv, "pip", "install", "--quiet", "--python-version", target.python]
    if target.arch:
        command += ["--only-binary=:all:", "--python-platform", f"{_MACHINES[target.arch]}-manylinux_2_34"]
    return command


def _last_words(stderr: str) -> str:
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR:")]
    return "; ".join((errors or lines)[-2:]) or "the installer said nothing"


def _prune(packages: Path, *, keep: bool) -> None:
    """Delete what no function needs: programs, caches, and what Lambda's runtime brings."""
    shutil.rmtree(packages / "bin", ignore_errors=True)
    for cache in list(packages.rglob("__pycache__")):
        shutil.rmtree(cache, ignore_errors=True)
    for pattern in _UNUSED:
        for path in packages.glob(pattern):
            path.unlink()
    if keep:
        return
    for path in packages.iterdir():
        if _name(re.sub(r"-[^-]+\.dist-info$", "", path.name)) in _RUNTIME:
            shutil.rmtree(path, ignore_errors=True)


# -- compiling ---------------------------------------------------------------------------------------------


def find_compiler(target: Target) -> str | None:
    """Return a Python of the target's version, or None.

    The functions cannot write where their code lies: without compiled modules, each cold start compiles them.
    """
    if target.python == HOST.python:
        return sys.executable
    name = f"python{target.python}"
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    candidates = [
        shutil.which(name),
        *map(str, sorted(pyenv.glob(f"{target.python}*/bin/{name}"), reverse=True)),
    ]
    for candidate in candidates:
        # a shim of pyenv is there for every version, and fails for one that is not selected
        if candidate and _runs(candidate, target.python):
            return candidate
    return None


def _runs(program: str, version: str) -> bool:
    ask = "import sys; print('%d.%d' % sys.version_info[:2])"
    try:
        done = subprocess.run([program, "-c", ask], capture_output=True, text=True, timeout=20, check=False)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0 and done.stdout.strip() == version


def compile_folder(compiler: str, folder: Path) -> None:
    """Compile what is not compiled yet; a module that cannot be compiled stays as it is.

    The modules say that they lie where Lambda puts them: else each folder that is built in would make other
    bytes, each function another upload, and the paths of this machine would be deployed.
    """
    gateway = (folder / "router_core" / "gateway").is_dir()
    left = _RARELY_IMPORTED if gateway else f"{_RARELY_IMPORTED}|{_OF_GATEWAYS}"
    command = [
        compiler, "-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash", "-x",
        left, "-s", str(folder), "-p", _TASK_ROOT, str(folder),
    ]  # fmt: skip
    # Its exit code also tells of templates that only look like Python: they are no reason to stop.
    subprocess.run(command, capture_output=True, check=False)  # noqa: S603
