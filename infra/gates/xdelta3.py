"""Puts xdelta3 into a package: Debian's binary and the library that it needs, each checked by its digest.

Why this one is in functions/decisions/0016-xdelta3-in-lambda.md. Debian removes a package from its mirrors when it has
a newer one. Its snapshots keep each for ever, by the SHA-1 of the file. Needs the standard library alone, as bundle.py.
"""

import hashlib
import io
import lzma
import shutil
import tarfile
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

FOLDER: Final = "xdelta3"
"""Of a package; imageserver/programs/xdelta3.py looks there."""
LICENCES: Final = Path(__file__).parent / "licences"
_TIMEOUT_S: Final = 60
_HEADER_BYTES: Final = 60


@dataclass(frozen=True, slots=True)
class Package:
    """A Debian package; `files` maps paths in it to names in the folder."""

    url: str
    sha1: str
    sha256: str
    files: dict[str, str]

    @property
    def urls(self) -> tuple[str, str]:
        """Where it is, today and for ever."""
        return self.url, f"https://snapshot.debian.org/file/{self.sha1}"


def packages(architecture: str) -> tuple[Package, Package]:
    """Return what belongs into a package for `arm64` or `amd64`."""
    triplet = {"arm64": "aarch64-linux-gnu", "amd64": "x86_64-linux-gnu"}[architecture]
    pool = "https://deb.debian.org/debian/pool/main/x/xdelta3"
    updates = "https://deb.debian.org/debian-security/pool/updates/main/x/xz-utils"
    xdelta3, liblzma = _DIGESTS[architecture]
    return (
        Package(
            f"{pool}/xdelta3_3.0.11-dfsg-1.2_{architecture}.deb",
            *xdelta3,
            {"usr/bin/xdelta3": "xdelta3", "usr/share/doc/xdelta3/copyright": "xdelta3.copyright"},
        ),
        Package(
            f"{updates}/liblzma5_5.4.1-1+deb12u2_{architecture}.deb",
            *liblzma,
            {
                f"lib/{triplet}/liblzma.so.5.4.1": "liblzma.so.5",
                "usr/share/doc/liblzma5/copyright": "liblzma5.copyright",
            },
        ),
    )


def add(folder: Path, architecture: str) -> None:
    """Fill `folder`/xdelta3 with the program, its library and their licences. SystemExit if they cannot be had."""
    target = folder / FOLDER
    target.mkdir(exist_ok=True)
    for package in packages(architecture):
        members = dict(unpacked(fetched(package), package.url))
        for path, name in package.files.items():
            (target / name).write_bytes(members[path])
    (target / "xdelta3").chmod(0o755)
    for text in LICENCES.iterdir():
        shutil.copyfile(text, target / text.name)


def fetched(package: Package) -> bytes:
    """Return the bytes of a package from the first place that has them."""
    problems = []
    for url in package.urls:
        try:
            with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as answer:
                body: bytes = answer.read()
        except OSError as error:
            problems.append(f"{url}: {error}")
            continue
        found = hashlib.sha256(body).hexdigest()
        if found == package.sha256:
            return body
        problems.append(f"{url}: sha256 {found}, expected {package.sha256}")
    raise SystemExit("bundle: xdelta3 cannot be had: " + "; ".join(problems))


def unpacked(deb: bytes, where: str) -> Iterator[tuple[str, bytes]]:
    """Yield path and content of each file of a Debian package: an ar archive with a data.tar.xz."""
    data = next((body for name, body in _ar(deb) if name == "data.tar.xz"), None)
    if data is None:
        raise SystemExit(f"bundle: {where} has no data.tar.xz")
    with tarfile.open(fileobj=io.BytesIO(lzma.decompress(data))) as archive:
        for member in archive:
            content = archive.extractfile(member) if member.isfile() else None
            if content:
                yield member.name.removeprefix("./"), content.read()


def _ar(body: bytes) -> Iterator[tuple[str, bytes]]:
    start = len(b"!<arch>\n")
    while start < len(body):
        header = body[start : start + _HEADER_BYTES]
        start, size = start + _HEADER_BYTES, int(header[48:58])
        yield header[:16].decode().strip().rstrip("/"), body[start : start + size]
        start += size + size % 2


_DIGESTS: Final = {
    "arm64": (
        (
            "29523b32f165676908c34fab731b2031b298fe56",
            "15d8433b80e85cdee6324cc3a0e6ce8019cf29494e9827381879181470970aef",
        ),
        (
            "2c2faccca2b28446514551cb6da5fb9ebe859fea",
            "36358d245f246234721e6c1c2ee5d11a46c1c877023c63f7570df02cd79964f5",
        ),
    ),
    "amd64": (
        (
            "a977d0201663344338bf954adc60a811f0abeba3",
            "90e8e79355e94ba203797e36a467b02e2454bc7c7670e1b9da142e0b3166fe4f",
        ),
        (
            "4ca1ab3d93562d042e76186b20476ceded4446a7",
            "3d8c29c8c21ec6007635e1b2591edf98b771c9572a085968f47452b33040f384",
        ),
    ),
}
"""Architecture -> SHA-1 and SHA-256 of the packages xdelta3 and liblzma5."""
