"""The listing of the examples in RunPod's hub, held to the fields of its publishing guide."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, HttpUrl, TypeAdapter

from router_core.settings import VARIABLES, Settings

ROOT = Path(__file__).parent.parent.parent
DOCKERFILE = ROOT / "Dockerfile.runpod"
HUB = ROOT / ".runpod"


class Strict(BaseModel):
    """No member that the guide does not name."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Option(Strict):
    """One choice."""

    label: str
    value: str


class Input(Strict):
    """What the form asks for."""

    name: str
    type: Literal["string", "number", "boolean", "huggingface"]
    description: str
    default: str | int | float | bool
    advanced: bool = False
    options: list[Option] | None = None
    min: int | None = None
    max: int | None = None
    trueValue: str | None = None
    falseValue: str | None = None


class Variable(Strict):
    """An environment variable: fixed, or asked for."""

    key: Annotated[str, Field(pattern=r"^[A-Z][A-Z0-9_]*$")]
    value: str | None = None
    input: Input | None = None


class Preset(Strict):
    """Named defaults."""

    name: str
    defaults: dict[str, str | int | bool]


class Config(Strict):
    """Where it runs."""

    runsOn: Literal["CPU", "GPU"]
    containerDiskInGb: int
    cpuFlavor: str | None = None
    gpuCount: int | None = None
    gpuIds: str | None = None
    allowedCudaVersions: list[str] | None = None
    env: list[Variable] = []
    presets: list[Preset] = []


class Hub(Strict):
    """hub.json."""

    title: str
    description: str
    type: Literal["serverless"]
    category: Literal["audio", "embedding", "language", "video", "image"]
    iconUrl: HttpUrl | None = None
    config: Config


class Case(Strict):
    """One test."""

    name: Annotated[str, Field(pattern=r"^\w+$")]
    input: dict[str, Any]
    timeout: Annotated[int, Field(ge=1000)] = 10_000


class TestConfig(Strict):
    """Where the tests run."""

    __test__ = False

    gpuTypeId: str | None = None
    gpuCount: int | None = None
    cpuFlavor: str | None = None
    env: list[Variable] = []
    allowedCudaVersions: list[str] | None = None


class Tests(Strict):
    """tests.json."""

    __test__ = False

    tests: Annotated[list[Case], Field(min_length=1)]
    config: TestConfig


def read(name: str, kind: type[Any]) -> Any:
    """Return one of the hub's files, checked."""
    return TypeAdapter(kind).validate_json((HUB / name).read_text(encoding="utf-8"))


def test_the_listing_has_the_form_that_the_hub_reads() -> None:
    """Required members, known values, and what belongs together."""
    hub: Hub = read("hub.json", Hub)
    config = hub.config
    assert (config.runsOn == "CPU") == (config.cpuFlavor is not None)
    assert (config.runsOn == "GPU") == (config.gpuIds is not None)
    for variable in config.env:
        assert (variable.value is None) != (variable.input is None)


def test_the_listing_offers_settings_that_exist_and_defaults_that_can_be_read() -> None:
    """Every choice of every variable is one that the worker accepts."""
    hub: Hub = read("hub.json", Hub)
    known = {name for names in VARIABLES.values() for name in names}
    keys = {variable.key for variable in hub.config.env}
    assert keys <= known
    for preset in hub.config.presets:
        assert set(preset.defaults) <= keys
        Settings.from_env({key: str(value) for key, value in preset.defaults.items()})
    for variable in hub.config.env:
        asked = variable.input
        assert asked is not None
        given = [option.value for option in asked.options or []] or [str(asked.default)]
        given += [each for each in (asked.trueValue, asked.falseValue) if each]
        for value in given:
            Settings.from_env({variable.key: value})


def test_the_hubs_tests_have_the_form_and_run_where_the_listing_does() -> None:
    """Names are unique, and every example service is called."""
    tests: Tests = read("tests.json", Tests)
    hub: Hub = read("hub.json", Hub)
    names = [case.name for case in tests.tests]
    assert len(set(names)) == len(names)
    assert tests.config.cpuFlavor == hub.config.cpuFlavor
    paths = {case.input["path"] for case in tests.tests}
    assert {"/hello", "/text/generate", "/image/process", "/batch/segment"} <= paths


def test_the_hub_finds_the_files_that_it_asks_for() -> None:
    """Beside the two: handler.py, README.md and a Dockerfile, which is ours."""
    assert (HUB / "Dockerfile").read_text() == DOCKERFILE.read_text()
    assert "handlers.runpod" in (HUB / "handler.py").read_text()
    assert (HUB / "README.md").is_file()
