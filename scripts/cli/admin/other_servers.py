"""Images of another server, found by its catalog: a folder, a bucket or an address with streams/v1/index.json.

Each file declares the sha256 that the other server's catalog gives, and digest compares it. Every imported image keeps
its fingerprint, and bytes that differ from the catalog are refused with the reason.
"""

import hashlib
import ssl
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from io import BytesIO
from pathlib import Path
from typing import Any, Final, Protocol, Self
from urllib.parse import urlsplit

import requests
from botocore.exceptions import ClientError
from requests.adapters import HTTPAdapter
from urllib3.exceptions import HTTPError, SSLError
from urllib3.util import Retry

from cli import network
from cli.admin.deployment import Deployment
from cli.admin.transfer import Advance, Copy, File, Upload, Written, upload
from imageserver.errors import InvalidUpload, UpstreamRefused
from imageserver.format.documents import INDEX_KEY
from imageserver.format.keys import ImageKey, VersionId, parse_key
from imageserver.remote.connections import NO_TLS, WANTS_TLS, speaks_no_tls, wants_tls
from imageserver.storage.port import ObjectInfo
from imageserver.upstream.addresses import joined
from imageserver.upstream.filters import Filter, chosen
from imageserver.upstream.mapping import LeftOut, UpstreamFile, mapped, metadata_json
from imageserver.upstream.simplestreams import LARGEST_DOCUMENT_BYTES, products_paths

TIMEOUT_S: Final = (10, 60)
"""To connect, and between two chunks of an answer."""
_AS_IT_IS: Final = {"Accept-Encoding": "identity"}
_START_BYTES: Final = 4096
"""Read of a page that comes in place of a file."""


class _Retries(Retry):
    """Tries of one request. TLS that fails for good is not tried again."""

    def increment(self, *arguments: Any, **about: Any) -> Self:
        """Return what is left after a try. Raise MaxRetryError if nothing is."""
        error = about.get("error")
        cause = error.args[0] if isinstance(error, SSLError) and error.args else None
        lasts = isinstance(cause, ssl.SSLCertVerificationError) or (cause is not None and speaks_no_tls(cause))
        return Retry.increment(self.new(total=0) if lasts else self, *arguments, **about)


_RETRIES: Final = _Retries(
    total=5, backoff_factor=0.5, status_forcelist=(429, 500, 502, 503, 504), raise_on_status=False
)


class Site(Protocol):
    """The location of another server's files; paths are relative to its address."""

    def read(self, path: str) -> bytes | None:
        """Return a document, or None when there is no such file. Raise UpstreamRefused when it cannot be read."""

    def file(self, file: UpstreamFile) -> File | LeftOut:
        """Return one file of an image as it is imported."""


def by_catalog(site: Site, stream: str) -> Iterator[File | LeftOut]:
    """Yield every file that the other server's catalog lists, as it comes into `stream`.

    Raise UpstreamRefused when there is no index, or a document cannot be read as a whole.
    """
    index = site.read(INDEX_KEY)
    if index is None:
        raise UpstreamRefused(f"there is no {INDEX_KEY}")
    for path in products_paths(index):
        document = site.read(path)
        if document is None:
            yield LeftOut(path, "is named by the index, and is not there")
            continue
        for found in mapped(document, stream):
            if isinstance(found, LeftOut):
                yield found
                continue
            yield from map(site.file, found.files)
            if body := metadata_json(found.overrides):
                yield File(f"{found.id.prefix}metadata.json", len(body), Written(body))


def with_catalog(walked: Iterator[File | LeftOut], site: Site, stream: str) -> Iterator[File | LeftOut]:
    """Yield the files of a tree that are in this server's layout, and those that its catalog lists elsewhere.

    A catalog that cannot be used is reported, and the tree is imported without it.
    """
    listed: list[File | LeftOut] = []
    try:
        listed = list(by_catalog(site, stream)) if site.read(INDEX_KEY) is not None else []
    except UpstreamRefused as refusal:
        yield LeftOut("the catalog", f"cannot be used: {refusal}; only files in this server's layout are imported")
    elsewhere = {one.path for one in listed if isinstance(one, File) and one.path != one.key}
    versions: set[VersionId] = set()
    for one in walked:
        if isinstance(one, File) and one.path in elsewhere:
            continue
        if isinstance(one, File):
            with suppress(InvalidUpload):  # the plan refuses it by name
                versions.add(parse_key(one.key).version)
        yield one
    yield from (one for one in listed if isinstance(one, LeftOut) or parse_key(one.key).version not in versions)


def only_chosen(
    found: Iterable[File | LeftOut], filters: Sequence[Filter], keep: int | None
) -> Iterator[File | LeftOut]:
    """Yield the files that the filters take, and of those left out only the ones that the filters may mean.

    `keep` is the number of newest versions to import of each product; None for all.
    """
    files: dict[ImageKey, File] = {}
    for one in found:
        if isinstance(one, LeftOut):
            if one.product is None or any(each.takes_of(one.product) for each in filters):
                yield one
            continue
        try:
            files[parse_key(one.key)] = one
        except InvalidUpload:  # the plan refuses it by name
            yield one
    come = chosen({image: file.size_bytes for image, file in files.items()}, filters, keep)
    yield from (file for image, file in files.items() if image in come)


@dataclass(frozen=True)
class Folder:
    """The folder that a web server serves."""

    root: Path

    def read(self, path: str) -> bytes | None:
        found = self._below(path)
        if isinstance(found, str):
            raise UpstreamRefused(f"{path} {found}")
        return found.read_bytes() if found.is_file() else None

    def file(self, file: UpstreamFile) -> File | LeftOut:
        found = self._below(file.path)
        if isinstance(found, str):
            return LeftOut(file.path, found)
        if not found.is_file():
            return LeftOut(file.path, "is in the catalog and not in the folder")
        return File(file.key, found.stat().st_size, Upload(found), file.sha256, file.path)

    def _below(self, path: str) -> Path | str:
        """Return the file, or why it is not read: a link may lead to a private file of this machine."""
        found = self.root / path
        if found.resolve() != self.root.resolve() / path:
            return "is reached over a symbolic link, which is not followed: put the file itself there"
        return found


@dataclass(frozen=True)
class Bucket:
    """A bucket; `prefix` ends in a slash or is empty."""

    s3: Any
    name: str
    prefix: str

    def read(self, path: str) -> bytes | None:
        try:
            body: bytes = self.s3.get_object(Bucket=self.name, Key=self.prefix + path)["Body"].read()
        except self.s3.exceptions.NoSuchKey:
            return None
        return body

    def file(self, file: UpstreamFile) -> File | LeftOut:
        key = self.prefix + file.path
        try:
            head = self.s3.head_object(Bucket=self.name, Key=key)
        except ClientError as error:
            if error.response["Error"].get("Code") in ("404", "NoSuchKey"):
                return LeftOut(file.path, "is in the catalog and not in the bucket")
            raise
        source = Copy(self.s3, self.name, key, head["ETag"])
        return File(file.key, head["ContentLength"], source, file.sha256, file.path)


@dataclass(frozen=True)
class Web:
    """An image server as clients reach it. Proxies and certificate authorities are those of the environment."""

    address: str
    session: requests.Session = field(default_factory=requests.Session)

    def __post_init__(self) -> None:
        for scheme in ("http://", "https://"):
            self.session.mount(scheme, HTTPAdapter(max_retries=_RETRIES))
        self.session.headers["User-Agent"] = "serverless-simplestreams-import"

    def read(self, path: str) -> bytes | None:
        with self.open(path) as answer:
            if answer.status_code == requests.codes.not_found:
                return None
            self.check(answer, path)
            body = BytesIO()  # hands its bytes over without a copy; `bytes +=` copies all of them for each chunk
            for chunk in answer.iter_content(1 << 20):
                if body.tell() + len(chunk) > LARGEST_DOCUMENT_BYTES:
                    raise UpstreamRefused(f"{path} has more than {LARGEST_DOCUMENT_BYTES:,} bytes")
                body.write(chunk)
            return body.getvalue()

    def file(self, file: UpstreamFile) -> File | LeftOut:
        if not file.size_bytes:  # not every catalog states it; clients only show it
            with self.open(file.path, **_AS_IT_IS) as answer:
                size = answer.headers.get("Content-Length", "")
                if answer.status_code != requests.codes.ok or not size.isdecimal():
                    why = f"is in the catalog without a size, and the server answers {answer.status_code} for it"
                    return LeftOut(file.path, f"{why}, expected its size in bytes (Content-Length)")
            file = replace(file, size_bytes=int(size))
        return File(file.key, file.size_bytes, Download(self, file), file.sha256, file.path)

    def open(self, path: str, **headers: str) -> requests.Response:
        """Start a request. Raise UpstreamRefused if there is no answer, or if the path would lead elsewhere.

        The message of the error has no credentials.
        """
        try:
            return self.session.get(joined(self.address, path), headers=headers, timeout=TIMEOUT_S, stream=True)
        except OSError as error:  # all errors of requests, and a missing file of authorities
            raise UpstreamRefused(f"{self.host} does not answer: {_why(error)}") from error

    def check(self, answer: requests.Response, path: str) -> None:
        """Raise UpstreamRefused unless the answer is 200."""
        if answer.status_code != requests.codes.ok:
            is_bad = answer.status_code == requests.codes.bad_request
            why = f"; {WANTS_TLS}" if is_bad and wants_tls(answer.raw.read(_START_BYTES)) else ""
            raise UpstreamRefused(f"{self.host} answers {answer.status_code} for {path}{why}")

    @property
    def host(self) -> str:
        """The server's name, for messages: an address may hold a password."""
        return urlsplit(self.address).hostname or self.address


def _why(error: OSError) -> str:
    """Return the error, with what to set if the network caused it. The error's own words may hold a password."""
    if isinstance(error, requests.exceptions.ProxyError):
        return network.refused_by_proxy(str(error))
    if speaks_no_tls(error):
        return NO_TLS
    if isinstance(error, requests.exceptions.SSLError) or not isinstance(error, requests.RequestException):
        return "its certificate cannot be verified; name the PEM file of its authority in REQUESTS_CA_BUNDLE"
    return f"{type(error).__name__}; look at the address of that server, or try again in a minute"


@dataclass(frozen=True)
class Download:
    """A file that is uploaded while it is fetched; nothing is created unless size and sha256 are as in the catalog."""

    web: Web
    file: UpstreamFile

    def create(self, deployment: Deployment, file: File, advance: Advance) -> None:
        with self.web.open(self.file.path, **_AS_IT_IS) as answer:
            self.web.check(answer, self.file.path)
            upload(deployment, _VerifiedBody(answer, self.file), file, advance)

    def is_same(self, _deployment: Deployment, _there: ObjectInfo, sha256: str) -> bool | None:
        return self.file.sha256 == sha256 if sha256 else None


class _VerifiedBody:
    """The body of an answer as a file.

    Reading raises UpstreamRefused if the body differs from the catalog: at its end, or as soon as it is too long.
    """

    def __init__(self, answer: requests.Response, file: UpstreamFile) -> None:
        self._answer, self._file = answer, file
        self._digest, self._read = hashlib.sha256(), 0

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes; none at the end."""
        try:
            chunk: bytes = self._answer.raw.read(None if size < 0 else size)
        except (OSError, HTTPError) as error:
            raise UpstreamRefused(f"{self._file.path} broke off after {self._read:,} bytes: {error}") from error
        self._digest.update(chunk)
        self._read += len(chunk)
        ended = not chunk or size < 0
        if self._read > self._file.size_bytes or (ended and self._read != self._file.size_bytes):
            raise UpstreamRefused(
                f"{self._file.path} has {self._read:,} bytes, expected {self._file.size_bytes:,} as its catalog says"
            )
        if ended and self._digest.hexdigest() != self._file.sha256:
            raise UpstreamRefused(
                f"{self._file.path} has sha256 {self._digest.hexdigest()}, expected {self._file.sha256} as its catalog "
                "says"
            )
        return chunk
