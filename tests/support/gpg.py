"""Keys and signatures made by real gpg in its own home folder."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.processes import need, short_folder


class Gpg:
    """One home folder of gpg. Keys have no passphrase and are named."""

    def __init__(self, home: Path) -> None:
        self._home = home

    def make_key(self, name: str, expires: str = "0", at: str = "") -> None:
        """Make a key, now or at the given time (`20200101T000000`)."""
        self._gpg(*self._at(at), "--quick-gen-key", name, "ed25519", "sign", expires)

    def revoke(self, name: str) -> None:
        """Revoke a key."""
        (fingerprint,) = self.fingerprints(name)
        written = (self._home / "openpgp-revocs.d" / f"{fingerprint.upper()}.rev").read_text()
        self._gpg("--import", stdin=written.replace(":-----BEGIN", "-----BEGIN").encode())

    def fingerprints(self, *names: str) -> list[str]:
        """Return the fingerprints of keys, in lower case."""
        lines = self._gpg("--with-colons", "--list-keys", *names).decode().splitlines()
        return [line.split(":")[9].lower() for line in lines if line.startswith("fpr:")]

    def keyring(self, *names: str, armor: bool = False) -> bytes:
        """Return what `gpg --export` writes."""
        return self._gpg(*(["--armor"] if armor else []), "--export", *names)

    def clear_sign(self, name: str, document: bytes, *options: str, at: str = "") -> bytes:
        """Return a document as `.sjson`, with its clear signature."""
        return self._gpg(*self._at(at), *options, "--local-user", name, "--clear-sign", stdin=document)

    def sign(self, name: str, document: bytes, *, armor: bool = False) -> bytes:
        """Return the detached signature of a document, as `.gpg`."""
        return self._gpg(*(["--armor"] if armor else []), "--local-user", name, "--detach-sign", stdin=document)

    def _at(self, time: str) -> tuple[str, ...]:
        return ("--faked-system-time", time) if time else ()

    def _gpg(self, *arguments: str, stdin: bytes = b"") -> bytes:
        always = ("gpg", "--homedir", str(self._home), "--batch", "--yes", "--pinentry-mode", "loopback")
        command = [*always, "--passphrase", "", *arguments]
        return subprocess.run(command, input=stdin, check=True, capture_output=True, timeout=60).stdout


@contextmanager
def gpg() -> Iterator[Gpg]:
    """Yield a gpg without keys."""
    need("gpg", "gpgconf")
    with short_folder() as home:
        try:
            yield Gpg(home)
        finally:
            subprocess.run(["gpgconf", "--homedir", str(home), "--kill", "all"], check=True, timeout=60)
