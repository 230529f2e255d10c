"""Secrets in files: those of Docker, Kubernetes and systemd, and what a Vault agent writes."""

from __future__ import annotations

import os
import stat

from router_core.errors import Misconfigured
from router_core.secrets.reference import MAX_SECRET, member

__all__ = ["FileSecrets", "read_secret_file"]


class FileSecrets:
    """Reads ``${file:/path}``; of ``${file:/path#field}`` the file is a JSON object."""

    def fetch(self, name: str, field: str) -> str:
        """Return the content of a file without the line break at its end."""
        text = read_secret_file(name)
        return member(text, field, f"the file {name}") if field else text


def read_secret_file(path: str) -> str:
    """Return what a file holds. Raises Misconfigured for none, a large one, and what is not text."""
    try:
        # a pipe or a device would keep us waiting for ever
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
        with open(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise Misconfigured(f"{path} is not a file")
            data = file.read(MAX_SECRET + 1)
        text = data.decode()
    except OSError as error:
        raise Misconfigured(f"the secret in {path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise Misconfigured(f"the secret in {path} is not text in UTF-8") from None
    if len(data) > MAX_SECRET:
        raise Misconfigured(f"{path} has more than {MAX_SECRET} bytes, which is no secret")
    text = text.removesuffix("\n").removesuffix("\r")
    if not text:
        raise Misconfigured(f"the secret in {path} is empty")
    return text
