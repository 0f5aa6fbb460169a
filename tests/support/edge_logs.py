"""Access-log lines and files in CloudFront's format, for tests."""

from __future__ import annotations

import gzip
from collections.abc import Iterable, Sequence
from typing import Final

_LEGACY: Final = (
    "date time x-edge-location sc-bytes c-ip cs-method cs(Host) cs-uri-stem sc-status cs(Referer) cs(User-Agent) "
    "cs-uri-query cs(Cookie) x-edge-result-type x-edge-request-id x-host-header cs-protocol cs-bytes time-taken "
    "x-forwarded-for ssl-protocol ssl-cipher x-edge-response-result-type cs-protocol-version fle-status "
    "fle-encrypted-fields c-port time-to-first-byte x-edge-detailed-result-type sc-content-type sc-content-len "
    "sc-range-start sc-range-end"
)
_CHOSEN: Final = (
    "date time x-edge-location sc-bytes cs-method cs-uri-stem sc-status cs(User-Agent) x-edge-result-type "
    "sc-content-len sc-range-start c-country"
)
LEGACY: Final = _LEGACY.split()
CHOSEN: Final = _CHOSEN.split()
"""Fields of version 2 as infra/README.md selects them: without an IP address."""
ADDRESS: Final = "203.0.113.77"
LXD: Final = "LXD%205.21.3%20LTS%20(Linux;%20x86_64;%206.8.0;%20Ubuntu;%2024.04)"
PRODUCT: Final = "images/ubuntu/noble/amd64/default"
VERSION: Final = f"{PRODUCT}/20261123_1000"
ROOT: Final = f"{VERSION}/rootfs.squashfs"
USUAL: Final = {
    "date": "2026-11-27",
    "time": "10:11:12",
    "x-edge-location": "FRA56-P5",
    "sc-bytes": "1000",
    "c-ip": ADDRESS,
    "cs-method": "GET",
    "cs(Host)": "d111111abcdef8.cloudfront.net",
    "cs-uri-stem": f"/{ROOT}",
    "sc-status": "200",
    "cs(User-Agent)": LXD,
    "x-edge-result-type": "Hit",
    "x-forwarded-for": ADDRESS,
    "sc-content-len": "600",
    "c-country": "DE",
}


def line(fields: Sequence[str] = LEGACY, /, **values: str) -> bytes:
    """Return a line of these fields. `sc_status="206"` is the value of sc-status, `agent` that of cs(User-Agent)."""
    given = {{"agent": "cs(User-Agent)"}.get(name, name.replace("_", "-")): value for name, value in values.items()}
    return "\t".join((USUAL | given).get(name, "-") for name in fields).encode()


def header(fields: Sequence[str] = LEGACY) -> list[bytes]:
    return [b"#Version: 1.0", b"#Fields: " + " ".join(fields).encode()]


def log(lines: Iterable[bytes], fields: Sequence[str] = LEGACY) -> bytes:
    """Return a whole file."""
    return gzip.compress(b"\n".join([*header(fields), *lines, b""]))
