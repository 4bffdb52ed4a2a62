"""A certificate authority for tests, made with the openssl command. Must never be used outside a test."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hil.needs import require_tool

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Identity:
    """A certificate with its key, both PEM files."""

    certificate: Path
    key: Path


class Authority:
    """One CA whose files are in `folder`. Give it to both sides, or to one of them and see it fail."""

    def __init__(self, folder: Path, *, name: str = "Test CA") -> None:
        self._openssl = require_tool("openssl", package="openssl")
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.certificate = folder / "ca.pem"
        self._key = folder / "ca.key"
        self._run("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
                  "-days", "30", "-subj", f"/CN={name}", "-addext", "keyUsage=critical,keyCertSign,cRLSign",
                  "-keyout", str(self._key), "-out", str(self.certificate))  # fmt: skip

    def issue(self, name: str = "localhost", *, alternatives: str = "DNS:localhost,IP:127.0.0.1") -> Identity:
        """Return a new identity with common name `name`, good for a server and for a client.

        `alternatives` is openssl's subjectAltName: what a client compares the host with.
        """
        identity = Identity(self._folder / f"{name}.pem", self._folder / f"{name}.key")
        request = self._folder / f"{name}.csr"
        extensions = self._folder / f"{name}.ext"
        extensions.write_text(f"subjectAltName={alternatives}\nextendedKeyUsage=serverAuth,clientAuth\n")
        self._run("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
                  "-subj", f"/CN={name}", "-keyout", str(identity.key), "-out", str(request))  # fmt: skip
        self._run("x509", "-req", "-in", str(request), "-CA", str(self.certificate), "-CAkey", str(self._key),
                  "-CAcreateserial", "-days", "30", "-extfile", str(extensions),
                  "-out", str(identity.certificate))  # fmt: skip
        return identity

    def _run(self, *arguments: str) -> None:
        done = subprocess.run([self._openssl, *arguments], capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"openssl {arguments[0]} failed: {done.stderr.strip()}")
