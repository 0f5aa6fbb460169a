"""Make the deltas that the newest listed version of a product lacks, and upload them as a publisher would.

A delta is decoded again before anybody sees it, because clients have no fallback. Its digest is computed while it is
made, decoding verifies the root's digest, and the store refuses a body with another digest. From there on, digest,
publish and retention treat it as any other file of the version.

A run that is killed at any moment leaves a whole delta, or nothing visible. A delta that cannot be made is noted in the
record with the reason, and not tried again for the same roots.

Memory: that of one read, xdelta3, and two parts of PART_BYTES.
"""

import fcntl
import hashlib
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, Protocol

from msgspec.structs import replace

from imageserver.catalog import delta_plan
from imageserver.catalog.delta_plan import Pair, Root, RunCapacity
from imageserver.errors import ObjectChanged, OutOfTime, ProgramFailed, StorageUnavailable
from imageserver.format import documents
from imageserver.format.documents import Version
from imageserver.format.keys import ProductId, VersionId
from imageserver.operations.inventory import record_of
from imageserver.programs import xdelta3
from imageserver.storage.port import FileStore, write
from imageserver.storage.retries import Pause, RaceLost, retry
from imageserver.versions import records
from imageserver.versions.records import DeltaNote

PART_BYTES: Final = 16 << 20
"""The size of a part. A smaller delta is sent in one request."""
_HELD: Final = "held"


class Encoder(Protocol):
    """A program that makes deltas. Files are in one folder, under the names of programs.xdelta3.

    Both methods raise ProgramFailed, also midway.
    """

    def encode(self, folder: Path, seconds: float) -> Iterator[bytes]:
        """Yield the delta that turns `base` into `target`."""

    def decode(self, folder: Path, seconds: float) -> Iterator[bytes]:
        """Yield the result of applying `delta` to `base`."""


class Outcome(StrEnum):
    """The result for one delta; `skipped` means that there was nothing to make."""

    MADE = "made"
    DROPPED = "dropped"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Delta:
    """The outcome for one delta.

    `reason` says why it was not made; `saved_bytes` is how much less a client downloads.
    """

    version: VersionId
    base: str
    outcome: Outcome
    reason: str = ""
    size_bytes: int = 0
    saved_bytes: int = 0


@dataclass(frozen=True, slots=True)
class DeltaServices:
    """Dependencies of `make_deltas`. `capacity` is what this run has left; `folder` is where files may be stored.

    `usual` is how many deltas a version gets unless its metadata.json says otherwise. `by_hand`: an operator asked for
    exactly these, so neither metadata.json nor an earlier attempt prevents them.
    """

    store: FileStore
    encoder: Encoder
    pause: Pause
    capacity: Callable[[], RunCapacity]
    folder: Path
    usual: int = 1
    by_hand: bool = False


class _Dropped(Exception):
    """This delta will never be made for these roots."""


def make_deltas(product: ProductId, services: DeltaServices, version: str = "") -> list[Delta]:
    """Make the missing deltas of the newest listed version of a product, or of `version`, from its newest bases.

    Raise StorageUnavailable, StorageDenied and CatalogDamaged as the store does, CatalogBusy if other writers won every
    race for the record, and OutOfTime if the last of several deltas needs a separate run. After any of these but
    StorageDenied, a later try may succeed.
    """
    listed = _listed(services, product)
    target = VersionId(product, version or delta_plan.newest(listed))
    record = record_of(services.store, target) if target.version in listed else None
    if record is None:
        return []
    count = services.usual if services.by_hand else delta_plan.wanted_count(record, services.usual)
    wanted = delta_plan.bases(listed, target.version, count)
    _clear(services.folder)
    run = services.capacity()
    return [_make(target, VersionId(product, base), run, services) for base in wanted]


def _make(target: VersionId, base: VersionId, run: RunCapacity, services: DeltaServices) -> Delta:
    """Make one delta, from fresh reads of what is listed now. `run` is the capacity of a run at its start."""
    found = _pair(target, base, services)
    if isinstance(found, str):
        return Delta(target, base.version, Outcome.SKIPPED, found)
    try:
        with TemporaryDirectory(prefix="delta-", dir=services.folder) as name, (Path(name) / _HELD).open("w") as held:
            fcntl.flock(held, fcntl.LOCK_EX)  # the kernel releases it when the process dies
            return _made(found, Path(name), run, services)
    except ObjectChanged as changed:
        return Delta(target, base.version, Outcome.SKIPPED, str(changed))
    except (_Dropped, ProgramFailed) as dropped:
        _note(target, base.version, found.note(str(dropped)), services)
        return Delta(target, base.version, Outcome.DROPPED, str(dropped))


def _pair(target: VersionId, base: VersionId, services: DeltaServices) -> Pair | str:
    """Return the delta to make, or why there is none to make."""
    listed = _listed(services, target.product)
    new, old = (record_of(services.store, version) for version in (target, base))
    if new is None or old is None:
        return f"{target.version} or {base.version} no longer has a record"
    return delta_plan.pair_of(listed, new, old, again=services.by_hand)


def _made(pair: Pair, folder: Path, run: RunCapacity, services: DeltaServices) -> Delta:
    """Fetch, encode, decode, and upload the verified delta. Raise _Dropped if it is not worth it."""
    target, base = pair.target.version, pair.base.version
    if reason := delta_plan.beyond_capacity(pair, run):
        raise _Dropped(reason)
    if reason := delta_plan.beyond_capacity(pair, services.capacity()):
        raise OutOfTime(f"{pair.key} is made by another run: {reason}")
    for root, name in ((pair.base, xdelta3.BASE), (pair.target, xdelta3.TARGET)):
        _fetch(services, root, folder / name)
    if services.capacity().seconds < pair.program_seconds:
        raise OutOfTime(f"{pair.key} is made by another run: fetching both roots took this one's time")
    delta, digest = folder / xdelta3.DELTA, hashlib.sha256()
    with delta.open("wb") as file:
        for chunk in services.encoder.encode(folder, services.capacity().seconds):
            digest.update(chunk)
            file.write(chunk)
            if file.tell() > pair.most_bytes:
                raise _Dropped(delta_plan.too_large(pair))
    decoded = hashlib.sha256()
    for chunk in services.encoder.decode(folder, services.capacity().seconds):
        decoded.update(chunk)
    if decoded.hexdigest() != pair.target.sha256:
        raise _Dropped(f"what xdelta3 makes of its own delta is not {pair.target.file}")
    if _pair(target, base, services) != pair:
        return Delta(target, base.version, Outcome.SKIPPED, "what is listed changed while it was made")
    is_known = _note(target, base.version, pair.note(), services)  # perhaps by a run that did not finish
    if not _put(services.store, pair.key, delta, digest.hexdigest()):
        if not is_known:
            _note(target, base.version, pair.note("another delta came first under its name"), services)
        return Delta(target, base.version, Outcome.SKIPPED, f"{pair.file} came from elsewhere meanwhile")
    size_bytes = delta.stat().st_size
    return Delta(target, base.version, Outcome.MADE, "", size_bytes, pair.target.size_bytes - size_bytes)


def _fetch(services: DeltaServices, root: Root, path: Path) -> None:
    """Store a root in a file. Raise _Dropped unless its bytes are those of its record."""
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for chunk in services.store.open(root.key, root.etag).chunks:
            digest.update(chunk)
            file.write(chunk)
    if digest.hexdigest() != root.sha256:
        raise _Dropped(f"the bytes of {root.key} are not those of its record: run admin verify")


def _put(store: FileStore, key: str, path: Path, sha256: str) -> bool:
    """Upload a file unless its key is taken; return False if it is. Raise StorageUnavailable if the upload is lost."""
    if path.stat().st_size <= PART_BYTES:
        return store.create_file(key, path.read_bytes(), sha256)
    upload = store.begin(key, sha256)
    etags = []
    with path.open("rb") as file:
        for number, part in enumerate(iter(partial(file.read, PART_BYTES), b""), 1):
            etag = store.put_part(key, upload, number, part)
            if etag is None:
                raise StorageUnavailable(f"the upload of {key} is gone; the delta is made anew")
            etags.append(etag)
    if store.complete(key, upload, etags):
        return True
    store.abort(key, upload)
    return False


def _note(version: VersionId, base: str, note: DeltaNote, services: DeltaServices) -> bool:
    """Add a note to the record, keeping what others write meanwhile. Return whether the record had it already.

    Nothing is written if the record is gone.
    """

    def attempt() -> bool:
        seen = services.store.read(version.record_key)
        record = records.decode(seen.body, version.record_key) if seen else None
        if record is None or record.deltas.get(base) == note:
            return record is not None
        noted = replace(record, deltas={**record.deltas, base: note})
        if not write(services.store, version.record_key, records.encode(noted), seen):
            raise RaceLost
        return False

    return retry(version.path, attempt, services.pause)


def _listed(services: DeltaServices, product: ProductId) -> Mapping[str, Version]:
    """Return the versions of a product that the catalog lists now."""
    seen = services.store.read(documents.products_key(product.stream))
    document = documents.decode_products(seen.body if seen else None, product.stream)
    return documents.versions_of(document, product.name)


def _clear(folder: Path) -> None:
    """Remove what killed runs left behind. Lambda keeps it, and a run has less disk than it seems until it is gone."""
    for left in folder.glob("delta-*"):
        try:
            with (left / _HELD).open() as held:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:  # a process works in it, is about to begin, or has just ended
            continue
        shutil.rmtree(left, ignore_errors=True)
