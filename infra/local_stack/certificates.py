"""The local stack's own certificate authority, and its certificate for localhost.

The authority is kept in the state folder, so that trust in it survives restarts. It and the certificate are
renewed when they have less than a month left.
"""

import os
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import trustme
from cryptography import x509

NAMES: Final = ("localhost", "127.0.0.1", "::1")
RENEW_BEFORE: Final = timedelta(days=30)
# Apple's systems refuse server certificates that are valid for more than 825 days.
CERTIFICATE_LASTS: Final = timedelta(days=397)


@dataclass(frozen=True, slots=True)
class Certificates:
    """Paths of PEM files: the authority's certificate, and the server's chain and key."""

    ca_file: Path
    chain_file: Path
    key_file: Path


def ensure_certificates(folder: Path, now: datetime | None = None) -> Certificates:
    """Return the certificates in `folder`; make or renew them if necessary."""
    now = now or datetime.now(UTC)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    files = Certificates(folder / "ca.pem", folder / "server.pem", folder / "server.key")
    authority_key = folder / "ca.key"
    if not (authority_key.exists() and _lasts(files.ca_file, now)):
        fresh = trustme.CA(organization_name="simplestreams local stack", key_type=trustme.KeyType.ECDSA)
        _write(authority_key, fresh.private_key_pem.bytes())
        _write(files.ca_file, fresh.cert_pem.bytes())
        files.chain_file.unlink(missing_ok=True)
    if not (files.key_file.exists() and _lasts(files.chain_file, now)):
        authority = trustme.CA.from_pem(files.ca_file.read_bytes(), authority_key.read_bytes())
        issued = authority.issue_cert(*NAMES, not_after=now + CERTIFICATE_LASTS, key_type=trustme.KeyType.ECDSA)
        _write(files.key_file, issued.private_key_pem.bytes())
        _write(files.chain_file, b"".join(part.bytes() for part in issued.cert_chain_pems))
    return files


def _lasts(certificate: Path, now: datetime) -> bool:
    if not certificate.exists():
        return False
    try:
        parsed = x509.load_pem_x509_certificate(certificate.read_bytes())
    except ValueError:  # cut short, as by a disk that was full
        return False
    return parsed.not_valid_after_utc - now > RENEW_BEFORE


def _write(path: Path, content: bytes) -> None:
    """Replace a file atomically; keys are readable only by their owner."""
    scratch = path.with_name(f"{path.name}.{os.getpid()}")
    scratch.touch(mode=0o600 if path.suffix == ".key" else 0o644)
    scratch.write_bytes(content)
    scratch.replace(path)
