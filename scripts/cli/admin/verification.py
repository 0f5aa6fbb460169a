"""Read the files that the catalog names, and compare: size, sha256, and the combined sha256 that clients check."""

import hashlib
import http.client
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Final
from urllib.parse import quote

import msgspec

from cli.admin.errors import explain
from cli.admin.inventory import ListedItem
from imageserver.format import file_kinds
from imageserver.format.documents import Item
from imageserver.inspection.digests import Sha256
from imageserver.storage.parallel import in_parallel
from imageserver.storage.port import Store

CHUNK: Final = 1 << 20
READERS: Final = 4

Open = Callable[[str], Iterator[bytes]]


class UnreadableFile(Exception):
    """The file cannot be read; the message says why."""


@dataclass(frozen=True)
class Mismatch:
    """A fault of one file."""

    path: str
    what: str


def from_bucket(store: Store) -> Open:
    """Read files from the bucket itself."""

    def chunks(path: str) -> Iterator[bytes]:
        info = next((info for info in store.list(path) if info.key == path), None)
        if info is None:
            raise UnreadableFile("there is no such object")
        for chunk in store.open(path, info.etag).chunks:
            yield bytes(chunk)

    return chunks


def from_edge(url: str, trust: ssl.SSLContext) -> Open:
    """Read files as clients do, through the address that they know."""

    def chunks(path: str) -> Iterator[bytes]:
        address = f"{url.rstrip('/')}/{quote(path, safe='/:~')}"
        try:
            with urllib.request.urlopen(address, timeout=60, context=trust) as answer:
                while chunk := answer.read(CHUNK):
                    yield chunk
        except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
            raise UnreadableFile(f"{address}: {error}") from error

    return chunks


def verify(files: Sequence[ListedItem], read: Open, advance: Callable[[int], object]) -> Iterator[Mismatch]:
    """Yield every mismatch of these items; `advance` gets the count of bytes read. Versions are read in parallel."""
    ordered = sorted(files, key=lambda listed: listed.version)
    versions = [list(found) for _, found in groupby(ordered, key=lambda listed: listed.version)]
    for found in in_parallel(lambda found: _version(found, read, advance), versions, READERS):
        yield from found


def _version(found: list[ListedItem], read: Open, advance: Callable[[int], object]) -> list[Mismatch]:
    """Return the mismatches of one version. Metadata is read first, because every combined sha256 begins with it."""
    wrong: list[Mismatch] = []
    metadata = {
        entry.item.path: entry.item for entry in found if entry.item.ftype in file_kinds.METADATA_FTYPES.values()
    }
    states = {path: hashlib.sha256() for path in metadata}
    for path in sorted({entry.item.path for entry in found}, key=lambda path: (path not in metadata, path)):
        item = next(entry.item for entry in found if entry.item.path == path)
        digests = {"": states[path]} if path in metadata else {"": hashlib.sha256()}
        if path not in metadata:
            digests |= {meta: state.copy() for meta, state in states.items()}
        try:
            read_bytes = 0
            for chunk in read(path):
                for digest in digests.values():
                    digest.update(chunk)
                read_bytes += len(chunk)
                advance(len(chunk))
        except UnreadableFile as error:
            wrong.append(Mismatch(path, str(error)))
            continue
        except Exception as error:  # noqa: BLE001 - whatever fails for one file, the others are read
            wrong.append(Mismatch(path, f"it cannot be read: {explain(error).what}"))
            continue
        if read_bytes != item.size:
            wrong.append(Mismatch(path, f"has {read_bytes:,} bytes, the catalog says {item.size:,}"))
        if (sha256 := digests[""].hexdigest()) != item.sha256:
            wrong.append(Mismatch(path, f"has sha256 {sha256}, the catalog says {item.sha256}"))
        if item.ftype in file_kinds.ROOT_FTYPES:
            wrong += _combined(path, item.ftype, metadata, digests)
    return wrong


def _combined(path: str, ftype: str, metadata: Mapping[str, Item], digests: Mapping[str, Sha256]) -> Iterator[Mismatch]:
    """Yield a mismatch if a client would compute another fingerprint from metadata and root than the catalog has."""
    for meta, item in metadata.items():
        fields = msgspec.to_builtins(item)
        for field in file_kinds.combined_fields(ftype):
            if (found := digests[meta].hexdigest()) != fields.get(field, ""):
                listed = fields.get(field) or "nothing"
                yield Mismatch(path, f"with {meta} has {field} {found}, the catalog says {listed}")
