"""Puts xdelta3 into a package: Debian's binary and the library that it needs, each checked by its digest.

functions/decisions/0016-xdelta3-in-lambda.md explains the choice. Debian removes a package from its mirrors when it has
a newer one. Its snapshots keep each for ever, by the SHA-1 of the file. Downloads are kept, so the next
build needs no network for them. Like bundle.py, this needs only the standard library.
"""

import hashlib
import http.client
import io
import lzma
import os
import shutil
import sys
import tarfile
import tempfile
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

FOLDER: Final = "xdelta3"
"""Of a package; imageserver/programs/xdelta3.py looks there."""
LICENCES: Final = Path(__file__).parent / "licences"
PACKAGES: Final = "XDELTA3_PACKAGES"
"""The variable that names the folder of Debian's packages: it is read first, and downloads are kept there."""
USUAL_PACKAGES: Final = Path(__file__).resolve().parents[2] / ".cache" / "xdelta3"
WANTED: Final = "XDELTA3"
"""The variable that leaves xdelta3 out of the package if it is `no`: for a server that makes no deltas."""
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
    def name(self) -> str:
        """The name of its file."""
        return self.url.rpartition("/")[2]

    @property
    def urls(self) -> tuple[str, str]:
        """Its addresses: the mirror, for now, and the snapshots, for ever."""
        return self.url, f"https://snapshot.debian.org/file/{self.sha1}"


def packages(architecture: str) -> tuple[Package, Package]:
    """Return the Debian packages for `arm64` or `amd64`."""
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


def is_wanted(environment: Mapping[str, str] = os.environ) -> bool:
    """Return whether the package should have xdelta3. Raise SystemExit for an unknown value."""
    value = environment.get(WANTED, "")
    if value not in ("", "no"):
        raise SystemExit(f"bundle: {WANTED} is {value!r}, expected no, or nothing")
    return not value


def add(folder: Path, architecture: str, environment: Mapping[str, str] = os.environ) -> None:
    """Fill `folder`/xdelta3 with the program, its library and their licences, or raise SystemExit."""
    kept = Path(environment.get(PACKAGES) or USUAL_PACKAGES)
    target = folder / FOLDER
    target.mkdir(exist_ok=True)
    for package in packages(architecture):
        members = dict(unpacked(fetched(package, kept), package.url))
        for path, name in package.files.items():
            (target / name).write_bytes(members[path])
    (target / "xdelta3").chmod(0o755)
    for text in LICENCES.iterdir():
        shutil.copyfile(text, target / text.name)


def fetched(package: Package, kept: Path) -> bytes:
    """Return the bytes of a package from the first place that has them: the folder `kept`, then Debian's addresses.

    Downloads are kept. Bytes with another digest are never used, wherever they come from.
    """
    problems = []
    try:
        return _checked((kept / package.name).read_bytes(), package)
    except FileNotFoundError:
        pass  # the usual case in a first build, not a problem to report
    except (OSError, _DigestMismatch) as problem:
        problems.append(f"{kept / package.name}: {problem}")
    for url in package.urls:
        try:
            with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as answer:
                body = _checked(answer.read(), package)
        except (OSError, http.client.HTTPException, _DigestMismatch) as problem:
            problems.append(f"{url}: {problem}")
            continue
        _keep(body, kept / package.name)
        return body
    raise SystemExit(
        "\n".join(
            (
                f"bundle: {package.name}, which the package of delta needs, could not be fetched:",
                *(f"  {problem}" for problem in problems),
                f"Without deltas (the parameter Deltas is 0) it is not needed: {WANTED}=no sam build",
                f"Otherwise download it on a machine with a network, from either address, and put it into {kept},",
                f"or name another folder: {PACKAGES}=FOLDER sam build. Behind a proxy, set https_proxy.",
            )
        )
    )


class _DigestMismatch(Exception):
    """The bytes are not those of the package; the message has both digests."""


def _checked(body: bytes, package: Package) -> bytes:
    found = hashlib.sha256(body).hexdigest()
    if found != package.sha256:
        raise _DigestMismatch(f"sha256 {found}, expected {package.sha256}")
    return body


def _keep(body: bytes, path: Path) -> None:
    """Store a file for the next build, completely or not at all. If the folder cannot be written, go on without it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
            file.write(body)
        Path(file.name).replace(path)
    except OSError as problem:
        sys.stderr.write(f"bundle: {path.name} is not kept for the next build: {problem}\n")


def unpacked(deb: bytes, where: str) -> Iterator[tuple[str, bytes]]:
    """Yield path and content of each file of a Debian package: an ar archive with a data.tar.xz."""
    start = len(b"!<arch>\n")
    while start < len(deb):
        header = deb[start : start + _HEADER_BYTES]
        start, size = start + _HEADER_BYTES, int(header[48:58])
        if header[:16].decode().strip().rstrip("/") == "data.tar.xz":
            break
        start += size + size % 2
    else:
        raise SystemExit(f"bundle: {where} has no data.tar.xz")
    with tarfile.open(fileobj=io.BytesIO(lzma.decompress(deb[start : start + size]))) as archive:
        for member in archive:
            content = archive.extractfile(member) if member.isfile() else None
            if content:
                yield member.name.removeprefix("./"), content.read()


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
