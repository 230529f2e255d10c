"""The code of the Lambda functions: what is in it, what is not, how large it is."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import threading
import time
import tomllib
import zipfile
from pathlib import Path

import pytest

from handlers.deploy import aws_bundle, aws_packages
from handlers.deploy.aws_bundle import Bundle, build_bundle, main, zip_folder
from handlers.deploy.aws_packages import HOST, Target, app_requirements, find_compiler
from handlers.deploy.aws_sources import BundleConfig, copy_app, read_config
from handlers.deploy.errors import DeployError, NotPrepared
from tests.aws.bundles import build
from tests.aws.template_files import ROOT

LIMIT = 6_000_000


@pytest.fixture(scope="module")
def arm64(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Build what a deployment of the examples uploads."""
    out = tmp_path_factory.mktemp("arm64") / "bundle"
    return build(ROOT, out, Target("arm64"), app="examples.text:router")


@pytest.fixture
def uncompiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compile nothing, which takes most of the time of a build, where it does not matter."""
    monkeypatch.setattr(aws_bundle, "find_compiler", lambda target: None)


def _write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def _copied(folder: Path, out: Path) -> set[str]:
    copy_app(folder, out, read_config(folder))
    return {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}


def test_the_zip_is_small(arm64: Bundle, tmp_path: Path) -> None:
    """Stay under 6 MB: what is uploaded, and what each cold start fetches."""
    assert zip_folder(arm64.folder, tmp_path / "bundle.zip") < LIMIT


def test_it_holds_what_runs_and_nothing_else(arm64: Bundle) -> None:
    """Hold router-core, the adapter and the app; no boto3, no command line, no server, no tests."""
    tops = {path.name for path in arm64.folder.iterdir()}
    assert {"router_core", "handlers", "examples", "pydantic", "aws_lambda_powertools"} <= tops
    assert not tops & {"boto3", "botocore", "s3transfer", "tests", "benchmarks", "docs", "bin", "uvicorn"}
    handlers = {path.name for path in (arm64.folder / "handlers").iterdir()}
    assert handlers <= {"__init__.py", "__pycache__", "aws", "loader.py"}
    assert not (arm64.folder / "router_core" / "testing").exists()
    assert not (arm64.folder / "router_core" / "gateway").exists(), "nobody asked for its extra"


def test_its_machine_code_is_for_lambda(arm64: Bundle) -> None:
    """Hold extension modules for arm64 and Lambda's Python, whatever machine this is."""
    modules = [path.name for path in arm64.folder.rglob("*.so*")]
    assert modules
    assert all("cpython-313-aarch64" in name for name in modules)


def test_its_modules_are_compiled(arm64: Bundle) -> None:
    """Hold compiled modules of Lambda's Python, which do not ask for the time of their source."""
    if find_compiler(Target("arm64")) is None:
        pytest.skip("no Python 3.13 is here to compile with")
    compiled = arm64.folder / "router_core" / "__pycache__" / "app.cpython-313.pyc"
    flags = compiled.read_bytes()[4:8]
    assert flags == b"\x01\x00\x00\x00"  # a hash that nobody checks
    assert not list((arm64.folder / "pydantic" / "v1").rglob("*.pyc"))


def test_equal_folders_make_equal_zips(tmp_path: Path) -> None:
    """Write the same bytes whenever it is written, with the mode of scripts."""
    _write(tmp_path / "a", {"x.py": "1", "run": "#!/bin/sh\n", "p/y.py": "2"})
    (tmp_path / "a" / "run").chmod(0o700)
    zip_folder(tmp_path / "a", tmp_path / "1.zip")
    os.utime(tmp_path / "a" / "x.py", (1, 1))
    zip_folder(tmp_path / "a", tmp_path / "2.zip")
    assert (tmp_path / "1.zip").read_bytes() == (tmp_path / "2.zip").read_bytes()
    with zipfile.ZipFile(tmp_path / "1.zip") as archive:
        modes = {info.filename: info.external_attr >> 16 for info in archive.infolist()}
    assert modes == {"p/y.py": 0o644, "run": 0o755, "x.py": 0o644}


def test_the_whole_folder_is_taken_but_for_leftovers(tmp_path: Path) -> None:
    """Take the app's files and data; leave secrets, caches, environments and tests behind."""
    app = tmp_path / "app"
    _write(app, {
        "service.py": "", "pkg/__init__.py": "", "pkg/data.json": "{}", "pkg/tests/t.py": "",
        ".env": "SECRET=1", ".git/config": "", "pkg/__pycache__/x.pyc": "", "env/pyvenv.cfg": "",
        "env/lib/x.py": "", "tests/test_x.py": "", "build/x": "", "node_modules/x.js": "",
        "x.egg-info/PKG": "",
    })  # fmt: skip
    assert _copied(app, tmp_path / "out") == {
        "service.py",
        "pkg/__init__.py",
        "pkg/data.json",
        "pkg/tests/t.py",
    }


def test_include_and_exclude_choose(tmp_path: Path) -> None:
    """Take only what is included, without what is excluded."""
    app = tmp_path / "app"
    _write(app, {
        "a.py": "", "b.py": "", "tests/one.py": "", "data/big.bin": "", "data/small.json": "",
        "pyproject.toml":
            '[tool.router-core.bundle]\ninclude = ["a.py", "./data", "tests"]\nexclude = ["*.bin"]\n',
    })  # fmt: skip
    assert _copied(app, tmp_path / "out") == {"a.py", "data/small.json", "tests/one.py"}


def test_what_looks_like_a_secret_is_left_out(tmp_path: Path) -> None:
    """Leave keys behind, and say which; take one that is named."""
    app = tmp_path / "app"
    _write(app, {
        "service.py": "", "ann.key": "k", "certs/server.PEM": "k", "prod.env": "k", "credentials.json": "k",
        "certs/roots.pem": "public", "keys.py": "", ".env": "k",
    })  # fmt: skip
    config = BundleConfig()
    left = {"ann.key", "certs/server.PEM", "certs/roots.pem", "prod.env", "credentials.json"}
    assert set(copy_app(app, tmp_path / "out", config)) == left
    assert {path.name for path in (tmp_path / "out").rglob("*")} == {"service.py", "keys.py"}
    named = BundleConfig(include=("service.py", "./certs/roots.pem", "certs"))
    assert copy_app(app, tmp_path / "named", named) == ["certs/server.PEM"]
    assert (tmp_path / "named" / "certs" / "roots.pem").read_text() == "public"


def test_a_folder_that_is_too_large_is_told_before_it_is_copied(tmp_path: Path) -> None:
    """Name what is large; fill no disk with it."""
    app = tmp_path / "app"
    _write(app, {"service.py": "", "models/one.bin": "", "models/two.bin": ""})
    for name in ("one", "two"):
        with (app / "models" / f"{name}.bin").open("wb") as file:
            file.truncate(200 * 1024 * 1024)  # takes no room
    with pytest.raises(NotPrepared, match=r"models \(400 MB\)"):
        copy_app(app, tmp_path / "out", BundleConfig())
    assert not (tmp_path / "out").exists()


def test_packages_of_others_are_not_deployed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse a cache in the folder for temporary files that others may write to."""
    app = tmp_path / "app"
    _write(app, {"service.py": ""})
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    planted = tmp_path / f"router-core-lambda-{os.getuid()}"
    planted.mkdir()
    planted.chmod(0o777)
    with pytest.raises(NotPrepared, match="written by others"):
        build_bundle(app, tmp_path / "out", HOST, say=lambda text: None)


def test_a_full_disk_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Say what the system says, and leave nothing half done."""

    def full(folder: Path, out: Path, *rest: object) -> bool:
        _write(out, {"half": ""})
        raise OSError(28, "No space left on device", str(out / "x"))

    monkeypatch.setattr(aws_bundle, "_fill", full)
    with pytest.raises(DeployError, match="No space left on device"):
        build_bundle(tmp_path, tmp_path / "out", HOST, say=lambda text: None)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "missing"])
def test_include_stays_inside(tmp_path: Path, name: str) -> None:
    """Refuse what lies outside of the folder, and what is not there."""
    with pytest.raises(NotPrepared, match=name):
        copy_app(tmp_path, tmp_path / "out", BundleConfig(include=(name,)))


def test_links_are_followed_and_circles_are_not(tmp_path: Path) -> None:
    """Copy what a link names; end where links lead in a circle or nowhere."""
    app = tmp_path / "app"
    _write(tmp_path, {"shared/x.py": "", "app/a.py": ""})
    (app / "shared").symlink_to(tmp_path / "shared")
    (app / "again").symlink_to(app)
    (app / "nowhere").symlink_to(tmp_path / "missing")
    assert _copied(app, tmp_path / "out") == {"a.py", "shared/x.py"}


def test_names_of_our_packages_are_refused(tmp_path: Path) -> None:
    """Refuse an app whose package would replace a part of router-core."""
    _write(tmp_path, {"app/handlers/__init__.py": ""})
    with pytest.raises(NotPrepared, match="rename it"):
        copy_app(tmp_path / "app", tmp_path / "out", BundleConfig())


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("[tool", "cannot be read"),
        ("[tool.router-core]\nbundle = 1", "must be a table"),
        ("[tool.router-core.bundle]\ninclude = 'a'", "list of strings"),
        ("[tool.router-core.bundle]\nincludes = ['a']", "'includes'"),
        ("[project]\ndependencies = [1]", "list of strings"),
    ],
)
def test_a_wrong_pyproject_is_one_line(tmp_path: Path, text: str, word: str) -> None:
    """Say what is wrong with the configuration, and where it is."""
    _write(tmp_path, {"pyproject.toml": text})
    with pytest.raises(NotPrepared, match=word) as caught:
        read_config(tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_requirements_come_from_the_app(tmp_path: Path) -> None:
    """Read requirements.txt and the files that it names, without what is met anyway."""
    _write(tmp_path, {
        "requirements.txt":
            "# what we need\nrequests==2.32 # pinned\nboto3\nrouter_core[aws]>=0.1\n-r more/base.txt\n"
            "--no-binary none\nnumpy \\\n  >=2\n",
        "more/base.txt": "-r ../requirements.txt\nbotocore\npillow\n",
    })  # fmt: skip
    lines = app_requirements(tmp_path, BundleConfig(project=("ignored",)))
    assert lines == ["requests==2.32", "pillow", "--no-binary none", "numpy    >=2"]


def test_pinned_boto3_is_kept(tmp_path: Path) -> None:
    """Install a boto3 that is asked for by its version: Lambda's own may be older."""
    config = BundleConfig(requirements=("boto3>=1.44", "botocore", "router-core"))
    assert app_requirements(tmp_path, config) == ["boto3>=1.44"]


def test_pyproject_dependencies_are_used(tmp_path: Path) -> None:
    """Fall back on the dependencies of the project."""
    assert app_requirements(tmp_path, BundleConfig(project=("rich", "router-core"))) == ["rich"]


def test_the_gateway_is_bundled_for_who_asks_for_its_extra(tmp_path: Path) -> None:
    """What it needs comes with it, as for other extras of functions; the others are for who deploys."""
    project = ("rich", "router-core[local, gateway] >=0.1")
    lines = app_requirements(tmp_path, BundleConfig(project=project))
    assert lines[0] == "rich"
    brought = {re.split(r"[<>=]", line)[0] for line in lines[1:]}
    assert {"msgspec", "pyyaml"} <= brought
    assert not {"router-core", "uvicorn"} & brought
    assert app_requirements(tmp_path, BundleConfig(project=("router-core[local]",))) == []


def test_what_a_gateway_may_need_beside_is_bundled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokens, encryption and Redis by their extras, as they stand in pyproject.toml."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    lines = [f"{line}; extra == '{extra}'" for extra, found in extras.items() for line in found]
    monkeypatch.setattr("importlib.metadata.requires", lambda name: lines)
    asked = BundleConfig(project=("router-core[jwt,encryption,redis,dev]",))
    brought = {re.split(r"[<>=]", line)[0] for line in app_requirements(tmp_path, asked)}
    assert brought == {"pyjwt", "cryptography", "redis"}


def test_a_requirements_file_that_is_missing_is_named(tmp_path: Path) -> None:
    """Name the file that another one asks for."""
    _write(tmp_path, {"requirements.txt": "-r base.txt"})
    with pytest.raises(NotPrepared, match=r"base\.txt"):
        app_requirements(tmp_path, BundleConfig())


def test_a_package_that_is_not_there_is_told(tmp_path: Path) -> None:
    """Say what cannot be installed, and leave nothing half done."""
    _write(tmp_path, {"requirements.txt": "router-core-no-such-package==1", "service.py": ""})
    old = tmp_path / ".router-core" / "lambda" / "old"
    old.mkdir(parents=True)
    os.utime(old, (1, 1))  # nobody would use it again
    with pytest.raises(DeployError, match="router-core-no-such-package") as caught:
        build_bundle(tmp_path, tmp_path / "out", Target("arm64"), say=lambda text: None)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()
    left = {path.name for path in (tmp_path / ".router-core" / "lambda").iterdir()}
    assert left == {".lock", ".gitignore"}


def test_the_command_line_tells_in_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """End with the error's code and one line for a folder that is not empty."""
    _write(tmp_path, {"out/x": ""})
    assert main(["--folder", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    assert capfd.readouterr().err == f"cannot build the bundle: {tmp_path / 'out'} is not empty\n"


@pytest.mark.usefixtures("uncompiled")
def test_an_app_that_is_not_in_it_is_told(tmp_path: Path) -> None:
    """Refuse a bundle without the module that it is to serve."""
    with pytest.raises(NotPrepared, match="no module service"):
        build(ROOT, tmp_path / "out", HOST, app="service:router")
    assert not (tmp_path / "out").exists()


@pytest.mark.process
def test_sam_build_makes_it_from_a_clone(arm64: Bundle, tmp_path: Path) -> None:
    """Build the examples when `sam build` runs the Makefile from a copy of its folder, alone."""
    make = shutil.which("make")
    if make is None:
        pytest.skip("make is not installed")
    out = tmp_path / "out"
    out.mkdir()
    environ = {key: value for key, value in os.environ.items() if not key.startswith("ROUTER_")}
    done = subprocess.run(
        [make, "--makefile", str(ROOT / "infra" / "aws" / "Makefile"), "build-AnyFunction"], cwd=tmp_path,
        env={**environ, "ARTIFACTS_DIR": str(out), "ROUTER_LAMBDA_PYTHON": sys.executable},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (out / "examples" / "text.py").is_file()
    assert not (out / "tests").exists()
    assert (out / "handlers" / "aws" / "bootstrap").stat().st_mode & stat.S_IXUSR


@pytest.mark.process
@pytest.mark.usefixtures("uncompiled")
def test_it_runs_without_anything_else(tmp_path: Path) -> None:
    """Import and build the app from the bundle alone, in an interpreter that has no packages."""
    bundle = build(ROOT, tmp_path / "out", HOST, app="examples.text:router")
    program = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from handlers.loader import load\n"
        "from router_core.wiring import build_app\n"
        "from router_core.settings import Settings\n"
        "build_app(load('examples.text:router'), Settings(jobs='memory://', blobs='memory://'))\n"
        "print(sys.modules['pydantic'].__file__)"
    )
    # -I -S: neither the checkout nor any site-packages
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", program, str(bundle.folder)],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(bundle.folder))


@pytest.mark.usefixtures("uncompiled")
def test_a_run_makes_its_bundle_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Copy what was made for the first function, to the byte and the second; make it anew for another run."""
    app = tmp_path / "app"
    _write(app, {"service.py": "1"})
    monkeypatch.setattr(aws_packages, "_install", lambda wanted, pins, target, out, folder: out.mkdir())

    def made(name: str, run: str) -> Path:
        words = ["--folder", str(app), "--arch", "host", "--app", "service", "--run", run]
        assert main([*words, "--out", str(tmp_path / name)]) == 0
        return tmp_path / name / "service.py"

    first = made("first", "a")
    first_time = first.stat().st_mtime
    (app / "service.py").write_text("2")
    second, third = made("second", "a"), made("third", "b")
    assert (first.read_text(), second.read_text(), third.read_text()) == ("1", "1", "2")
    assert second.stat().st_mtime == first_time == third.stat().st_mtime
    zips = [tmp_path / "first.zip", tmp_path / "second.zip"]
    for path in zips:
        zip_folder(tmp_path / path.stem, path)
    assert zips[0].read_bytes() == zips[1].read_bytes()


@pytest.mark.usefixtures("uncompiled")
def test_builds_side_by_side_do_not_meet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Build twice at the same time from a cold cache, and install once: `sam build --parallel` does."""
    app = tmp_path / "app"
    _write(app, {"service.py": ""})
    failed: list[BaseException] = []
    installed: list[Path] = []

    def install(wanted: object, constraints: object, target: object, out: Path, folder: object) -> None:
        installed.append(out)
        for number in range(20):
            _write(out, {f"package/module{number}.py": ""})
            time.sleep(0.01)  # where the other build gets its turn

    monkeypatch.setattr(aws_packages, "_install", install)

    def one(out: Path) -> None:
        try:
            build_bundle(app, out, HOST, app="service", say=lambda text: None)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=one, args=(tmp_path / name,)) for name in ("one", "two")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert len(installed) == 1
    trees = [
        sorted(path.relative_to(tmp_path / name).as_posix() for path in (tmp_path / name).rglob("*.py"))
        for name in ("one", "two")
    ]
    assert trees[0] == trees[1]
    assert "package/module19.py" in trees[0]
