"""Certificates for the tests of the transport."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import trustme

__all__ = ["Authority"]


class Authority:
    """An authority of our own, and a folder for what it issues."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._made = trustme.CA()
        self.file = str(folder / "ca.pem")
        self._made.cert_pem.write_to_path(self.file)

    def issue(self, *hosts: str, expired: bool = False) -> str:
        """Write a certificate with its key, and return the file."""
        certificate = self._made.issue_cert(
            *hosts,
            not_before=datetime(2020, 1, 1, tzinfo=UTC) if expired else None,
            not_after=datetime(2021, 1, 1, tzinfo=UTC) if expired else None,
        )
        file = str(self._folder / "server.pem")
        certificate.private_key_and_cert_chain_pem.write_to_path(file)
        return file
