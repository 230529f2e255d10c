"""Put secrets where settings, variables and configurations name them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, replace
from typing import Any, Final

from router_core.errors import Misconfigured, Unavailable
from router_core.secrets.reference import SCHEMES, Reference, SecretStore, find
from router_core.settings import VARIABLES, Settings

__all__ = ["SecretEnviron", "Secrets", "settings_with_secrets"]

_FRESH: Final = 300.0
"""Seconds for which a secret is not asked for again."""
_AGAIN: Final = 60.0
"""Seconds before a store that did not answer is asked again for what is known."""


class Secrets:
    """The stores of all schemes, each made when it is first needed. May be used from any thread."""

    def __init__(
        self, environ: Mapping[str, str], stores: Mapping[str, SecretStore] | None = None,
        *, fresh: float = _FRESH, time: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        """``stores`` stand in the place of the usual ones, by scheme."""
        self._environ = environ
        self._stores: dict[str, SecretStore] = dict(stores or {})
        self._fresh = fresh
        self._time = time
        self._known: dict[Reference, tuple[float, str]] = {}
        self._before: dict[Reference, str] = {}
        """What those were that are due to be asked for again."""
        self._lock = threading.Lock()

    def fetch(self, reference: Reference) -> str:
        """Return a secret, of the last minutes. Raises Misconfigured or Unavailable.

        While the store of one that was known does not answer, it is believed to be what it was.
        """
        with self._lock:  # whoever asks for the same meanwhile gets what is fetched now
            known = self._known.get(reference)
            now = self._time()
            if known is not None and now < known[0]:
                return known[1]
            try:
                value = self._store(reference.scheme).fetch(reference.name, reference.field)
            except Unavailable:
                value = known[1] if known is not None else self._before.get(reference, "")
                if not value:
                    raise
                self._known[reference] = (now + _AGAIN, value)
                return value
            if any(sign in value for sign in "\r\n\0"):
                raise Misconfigured(f"{reference} holds a line break or another control character")
            self._known[reference] = (now + self._fresh, value)
            return value

    def stale(self) -> bool:
        """Return whether secrets that were given out are due to be asked for again; says so once of each."""
        with self._lock:
            now = self._time()
            due = {reference: value for reference, (until, value) in self._known.items() if until <= now}
            for reference in due:
                del self._known[reference]
            self._before.update(due)
            return bool(due)

    def expand(self, text: str) -> str:
        """Return a text with the secrets in the place of their names."""
        for written, reference in find(text):
            text = text.replace(written, self.fetch(reference))
        return text

    def _store(self, scheme: str) -> SecretStore:
        store = self._stores.get(scheme)
        if store is None:
            store = self._stores[scheme] = _make(scheme, self._environ)
        return store


class SecretEnviron(Mapping[str, str]):
    """An environment in which the values of variables may name secrets, and names may be those of secrets.

    ``environ["OPENAI_API_KEY"]`` is a secret where the variable holds ``${vault:secret/data/models#openai}``,
    and so is ``environ["vault:secret/data/models#openai"]``.
    """

    def __init__(self, environ: Mapping[str, str], secrets: Secrets | None = None) -> None:
        self._environ = environ
        self._secrets = secrets or Secrets(environ)

    def __getitem__(self, name: str) -> str:
        value = self._environ.get(name)
        if value is None:
            if name.partition(":")[0] not in SCHEMES or not (found := find(f"${{{name}}}")):
                raise KeyError(name)
            return self._secrets.fetch(found[0][1])
        return self._secrets.expand(value) if "${" in value else value

    def __contains__(self, name: object) -> bool:
        # that of Mapping would fetch it
        return name in self._environ

    def __iter__(self) -> Iterator[str]:
        return iter(self._environ)

    def __len__(self) -> int:
        return len(self._environ)


def settings_with_secrets(settings: Settings, environ: Mapping[str, str]) -> Settings:
    """Return settings with the secrets that they name; the same ones where they name none.

    Raises Misconfigured, naming the variable, for a secret that cannot be had.
    """
    named = {
        field.name: value
        for field in fields(settings)
        if isinstance(value := getattr(settings, field.name), str) and "${" in value and find(value)
    }
    if not named:
        return settings
    secrets = Secrets(environ)
    found: dict[str, Any] = {}
    for name, value in named.items():
        try:
            found[name] = secrets.expand(value)
        except Misconfigured as error:
            raise Misconfigured(f"{VARIABLES[name][0]}: {error}") from None
    return replace(settings, **found)


def _make(scheme: str, environ: Mapping[str, str]) -> SecretStore:
    if scheme == "file":
        from router_core.secrets.files import FileSecrets

        return FileSecrets()
    if scheme == "vault":
        from router_core.secrets.vault import VaultSecrets

        return VaultSecrets(environ)
    from router_core.secrets.aws import AwsParameters, AwsSecrets

    return AwsSecrets() if scheme == "aws-sm" else AwsParameters()
