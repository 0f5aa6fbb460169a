"""A bucket in memory with S3's conditional writes, and the whole system around it without a queue.

`on` is the hook for staging races and faults: it is called before each storage call with the
method's name and the key.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from imageserver.catalog.rights import NOBODY, Rights
from imageserver.errors import ObjectChanged
from imageserver.format import documents
from imageserver.format.file_kinds import ALL_CLIENTS
from imageserver.format.keys import ProductId, VersionId, parse_record_key, product_of, version_of
from imageserver.operations.ingest import Ingested, IngestServices, ingest
from imageserver.operations.publish import Published, PublishServices, Subject, publish
from imageserver.operations.view_documents import KnownViews
from imageserver.storage.port import KeyHistory, ObjectInfo, Opened, StoredObject

START = datetime(2026, 11, 23, 10, 0, tzinfo=UTC)
CHUNK = 1000


@dataclass
class Stored:
    body: bytes
    etag: str
    modified: datetime
    content_encoding: str = ""
    version_id: str = ""
    is_tagged: bool = False
    origin: str = ""


@dataclass
class MemoryStore:
    """Implements imageserver.storage.port.FileStore.

    `log` has every call as (method, key). `bytes_read` counts by key. `uploads` has the parts of unfinished uploads.
    """

    objects: dict[str, Stored] = field(default_factory=dict)
    on: Callable[[str, str], None] = lambda *_: None
    log: list[tuple[str, str]] = field(default_factory=list)
    bytes_read: dict[str, int] = field(default_factory=dict)
    chunk: int = CHUNK
    clock: datetime = START
    generations: dict[str, list[Stored]] = field(default_factory=dict)
    uploads: dict[str, dict[int, bytes]] = field(default_factory=dict)
    upload_origins: dict[str, str] = field(default_factory=dict)
    _uploads_created: int = 0

    def put(self, key: str, body: bytes, content_encoding: str = "", origin: str = "") -> None:
        """Upload into the bucket as a publisher does. `origin` is the origin with which a copy is written."""
        self.clock += timedelta(seconds=1)
        etag = f'"{hashlib.md5(body).hexdigest()}"'
        earlier = self.generations.setdefault(key, [])
        self.objects[key] = Stored(body, etag, self.clock, content_encoding, f"v{len(earlier)}", origin=origin)
        earlier.append(self.objects[key])

    def remove(self, key: str) -> None:
        del self.objects[key]

    def _called(self, method: str, key: str) -> None:
        self.log.append((method, key))
        self.on(method, key)

    def read(self, key: str) -> StoredObject | None:
        self._called("read", key)
        found = self.objects.get(key)
        return StoredObject(found.body, found.etag, (self.clock - found.modified).total_seconds()) if found else None

    def create(self, key: str, body: bytes) -> str | None:
        self._called("create", key)
        if key in self.objects:
            return None
        self.put(key, body)
        return self.objects[key].etag

    def replace(self, key: str, body: bytes, revision: str) -> str | None:
        self._called("replace", key)
        if key not in self.objects or self.objects[key].etag != revision:
            return None
        self.put(key, body)
        return self.objects[key].etag

    def delete(self, key: str, revision: str) -> bool:
        self._called("delete", key)
        if key not in self.objects or self.objects[key].etag != revision:
            return False
        del self.objects[key]
        return True

    def history(self, key: str) -> KeyHistory:
        self._called("history", key)
        kept = reversed(self.generations.get(key, []))
        return KeyHistory(tuple(_info(key, stored) for stored in kept), key not in self.objects)

    def bring_back(self, upload: ObjectInfo) -> bool:
        self._called("bring_back", upload.key)
        if upload.key in self.objects:
            return False
        (found,) = [one for one in self.generations[upload.key] if one.version_id == upload.version_id]
        self.put(upload.key, found.body, found.content_encoding, found.origin)
        return True

    def tag_listed(self, key: str, version_id: str) -> bool:
        self._called("tag_listed", key)
        found = [stored for stored in self.generations.get(key, ()) if stored.version_id == version_id]
        for stored in found:
            stored.is_tagged = True
        return bool(found)

    def is_tagged(self, key: str) -> bool:
        self._called("is_tagged", key)
        return key in self.objects and self.objects[key].is_tagged

    def list(self, prefix: str, after: str = "") -> Iterator[ObjectInfo]:
        self._called("list", prefix)
        for key in sorted(key for key in self.objects if key.startswith(prefix) and key > after):
            info = _info(key, self.objects[key])
            yield info if key.startswith("images") else replace(info, version_id="")

    def meanwhile(self, method: str, key: str, act: Callable[[], object]) -> None:
        """Run an action of another process once, right before the first call of a method with a key."""

        def on(called: str, with_key: str) -> None:
            if (called, with_key) == (method, key):
                self.on = lambda *_: None
                act()

        self.on = on

    def earlier(self, key: str) -> Iterator[bytes]:
        self._called("earlier", key)
        kept = self.generations.get(key, [])
        yield from (stored.body for stored in reversed(kept[:-1] if key in self.objects else kept))

    def open(self, key: str, etag: str) -> Opened:
        self._called("open", key)
        found = self.objects.get(key)
        if found is None or found.etag != etag:
            raise ObjectChanged(key)
        chunks = self._chunks(key, etag, found.body)
        return Opened(len(found.body), found.content_encoding, chunks, origin=found.origin)

    def create_file(self, key: str, body: bytes | bytearray, sha256: str, origin: str = "") -> bool:
        self._called("create_file", key)
        assert hashlib.sha256(body).hexdigest() == sha256, "S3 answers 400 to a body of another checksum"
        if key in self.objects:
            return False
        self.put(key, bytes(body), origin=origin)
        return True

    def begin(self, key: str, _sha256: str, origin: str = "") -> str:
        self._called("begin", key)
        self._uploads_created += 1
        upload_id = f"{key}#{self._uploads_created}"
        self.uploads[upload_id] = {}
        self.upload_origins[upload_id] = origin
        return upload_id

    def put_part(self, key: str, upload_id: str, number: int, body: bytes | bytearray) -> str | None:
        self._called("put_part", key)
        if upload_id not in self.uploads:
            return None
        self.uploads[upload_id][number] = bytes(body)
        return f'"{hashlib.md5(body).hexdigest()}"'

    def complete(self, key: str, upload_id: str, etags: Sequence[str]) -> bool:
        self._called("complete", key)
        parts = self.uploads.get(upload_id, {})
        named = [
            f'"{hashlib.md5(parts[number]).hexdigest()}"' for number in range(1, len(etags) + 1) if number in parts
        ]
        if key in self.objects or not etags or named != list(etags):
            return False
        body = b"".join(parts[number] for number in range(1, len(etags) + 1))
        self.put(key, body, origin=self.upload_origins[upload_id])
        del self.uploads[upload_id]
        return True

    def abort(self, key: str, upload_id: str) -> None:
        self._called("abort", key)
        self.uploads.pop(upload_id, None)

    def _chunks(self, key: str, etag: str, body: bytes) -> Iterator[bytes]:
        for start in range(0, len(body), self.chunk):
            self._called("chunk", key)
            if key not in self.objects or self.objects[key].etag != etag:
                raise ObjectChanged(key)
            part = body[start : start + self.chunk]
            self.bytes_read[key] = self.bytes_read.get(key, 0) + len(part)
            yield part


def _info(key: str, stored: Stored) -> ObjectInfo:
    return ObjectInfo(key, len(stored.body), stored.etag, stored.modified.isoformat(), stored.version_id)


@dataclass
class MemoryKeyValues:
    """Implements imageserver.storage.key_values.KeyValues. `on` is called before each call, with its name."""

    entries: dict[str, str] = field(default_factory=dict)
    on: Callable[[str], None] = lambda _: None

    def read(self) -> Mapping[str, str]:
        self.on("read")
        return dict(self.entries)

    def change(self, put: Mapping[str, str], delete: Collection[str]) -> None:
        self.on("change")
        self.entries |= put
        for key in delete:
            self.entries.pop(key, None)


@dataclass
class Sent:
    """Implements imageserver.aws.queues.Notifier: what was sent, in order."""

    versions: list[VersionId] = field(default_factory=list)
    products: list[ProductId] = field(default_factory=list)

    def version_changed(self, version: VersionId) -> None:
        self.versions.append(version)

    def product_changed(self, product: ProductId) -> None:
        self.products.append(product)

    @property
    def paths(self) -> list[str]:
        """Return the paths of the versions that were sent."""
        return [version.path for version in self.versions]


@dataclass
class System:
    """The publisher's view of the system: put files, then `ingest` and `publish` like the functions."""

    store: MemoryStore = field(default_factory=MemoryStore)
    clients: tuple[str, ...] = ALL_CLIENTS
    max_bytes: int = 1 << 40
    rights: Rights = NOBODY
    views: bool = False
    known_views: KnownViews = field(default_factory=dict)
    outdated: list[ProductId] = field(default_factory=list)

    @property
    def ingest_services(self) -> IngestServices:
        return IngestServices(self.store, lambda: self.store.clock, lambda _: None, self.max_bytes, lease_seconds=900)

    @property
    def publish_services(self) -> PublishServices:
        return PublishServices(
            self.store,
            self.clients,
            lambda: self.store.clock,
            lambda _: None,
            rights=self.rights,
            notify=self.outdated.append,
            views=self.views,
            known_views=self.known_views,
        )

    def upload(self, path: str, files: dict[str, bytes]) -> None:
        for name, body in files.items():
            self.store.put(f"{path}/{name}", body)

    def ingest(self, path: str) -> Ingested:
        return ingest(version_of(f"{path}/"), self.ingest_services)

    def publish(self, *subjects: Subject) -> list[Published]:
        """Publish these subjects, then those of other streams that became outdated, as the queue would."""
        done = self.publish_once(*subjects)
        for _ in range(100):
            if not self.outdated:
                return done
            again, self.outdated = {*self.outdated}, []
            self.publish_once(*again)
        raise AssertionError("publishing never ends")

    def publish_once(self, *subjects: Subject) -> list[Published]:
        """Publish only these subjects. `outdated` is what they would send to the queue."""
        streams = sorted({product_of(subject).stream for subject in subjects})
        return [
            publish(stream, [one for one in subjects if product_of(one).stream == stream], self.publish_services)
            for stream in streams
        ]

    def catch_up(self) -> None:
        """Ingest every folder, then render every record: the result of all events together."""
        for version in self.versions():
            ingest(version, self.ingest_services)
        self.publish(*self.products())

    def versions(self) -> list[VersionId]:
        folders = {version_of(key) for key in self.store.objects if key.startswith("images")}
        recorded = {parse_record_key(key) for key in self.store.objects if key.startswith("versions/")}
        return sorted(folders | recorded)

    def products(self) -> list[ProductId]:
        return sorted({parse_record_key(key).product for key in self.store.objects if key.startswith("versions/")})

    def streams(self) -> dict[str, bytes]:
        """Return everything served below streams/."""
        return {key: found.body for key, found in sorted(self.store.objects.items()) if key.startswith("streams/")}

    def products_document(self, stream: str = "images", view: str = "") -> documents.Products:
        prefix = f"views/{view}/" if view else ""
        found = self.store.objects.get(prefix + documents.products_key(stream))
        return documents.decode_products(found.body if found else None, stream)

    def listed(self, stream: str = "images", view: str = "") -> dict[str, list[str]]:
        """Return product name -> the versions that the catalog, or that of a view, lists."""
        products = self.products_document(stream, view).products
        return {name: sorted(documents.decode_versions(product)) for name, product in products.items()}
