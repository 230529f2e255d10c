"""What importing the gateway costs, and what is said where its packages are missing."""

from __future__ import annotations

import subprocess
import sys

import pytest

_IDLE = ("genai_prices", "yaml", "uvloop", "uvicorn", "httpx", "httpx2", "boto3", "anthropic", "openai")
"""Nothing of this is needed before somebody asks for it."""


def _run(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    return (done.stdout + done.stderr).strip()


@pytest.mark.process
def test_nothing_is_imported_before_it_is_needed() -> None:
    """The core does without the gateway, its package without its parts, and these without vendors."""
    code = (
        "import sys; import router_core; found = lambda *names: [n for n in names if n in sys.modules]\n"
        "assert not found('router_core.gateway')\n"
        "import router_core.gateway\n"
        "assert not found('msgspec', 'httptools', 'router_core.gateway.gateway', 'pydantic')\n"
        "import router_core.gateway.gateway\n"
        f"print(found(*{_IDLE!r}))"
    )
    assert _run(code) == "[]"


@pytest.mark.process
@pytest.mark.parametrize(
    ("missing", "code"),
    [
        ("msgspec", "from router_core.gateway import Gateway"),
        ("httptools", "from router_core.gateway import Gateway"),
        ("msgspec", "from handlers.loader import load; load('router_core.gateway.app:create_app', '.')"),
        ("yaml", "from router_core.gateway import Gateway; Gateway(path='examples/gateway.yaml')"),
    ],
    ids=["msgspec", "httptools", "by name", "yaml"],
)
def test_a_missing_package_is_named_with_the_extra_that_brings_it(missing: str, code: str) -> None:
    """In one line."""
    said = _run(
        f"import sys; sys.modules[{missing!r}] = None\n"
        "from router_core.errors import Misconfigured\n"
        f"try: {code.replace('; ', ';')}\n"
        "except Misconfigured as error: print(error)"
    )
    assert said.count("\n") == 0, said
    assert said.endswith("pip install 'router-core[gateway]'"), said


@pytest.mark.process
def test_without_yaml_and_prices_variables_are_enough() -> None:
    """Only who has a file needs PyYAML, and prices that nobody configured are unknown without the list."""
    code = (
        "import sys; sys.modules.update(yaml=None, genai_prices=None)\n"
        "from router_core.gateway import Gateway\n"
        "url = 'https://x.endpoints.huggingface.cloud'\n"
        "made = Gateway(environ={'HF_BASE_URL_20B': url, 'HF_TOKEN': 'hf_x'})\n"
        "print(list(made.registry.snapshot.models))"
    )
    assert _run(code) == "['20b']"
