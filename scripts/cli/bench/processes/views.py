"""One measured publish on a server with views: `python -m cli.bench.processes.views VIEWS KIND VERSIONS`.

It prints the CPU seconds, requests and writes of publishing one product with one version more, from a bucket in
memory. KIND is what each view shows: `all` of the stream, `channel` for one version of each product, `other` for
products that did not change.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from cli.bench.processes.fold import STREAM, VERSIONS_PER_PRODUCT, name_of, record_of
from imageserver.format.documents import product_id
from imageserver.operations.promotion import promote
from imageserver.operations.publish import PublishServices, publish
from imageserver.operations.view_documents import create_view
from imageserver.settings import CLIENT_CHOICES
from imageserver.storage.port import KeyHistory, ObjectInfo, Opened, StoredObject
from imageserver.versions import records
from imageserver.views.view import Promotion, View, secret_text

NOW: Final = datetime(2026, 11, 23, 10, tzinfo=UTC)


@dataclass
class MemoryStore:
    """A bucket in memory that counts requests. Methods that publish never calls raise NotImplementedError."""

    bodies: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    requests: Counter[str] = field(default_factory=Counter)
    keys: list[str] = field(default_factory=list)
    revision: int = 0

    def read(self, key: str) -> StoredObject | None:
        self.requests["GET"] += 1
        found = self.bodies.get(key)
        return StoredObject(found[1], found[0], 0.0) if found else None

    def create(self, key: str, body: bytes) -> str | None:
        return None if key in self.bodies else self._put(key, body)

    def replace(self, key: str, body: bytes, revision: str) -> str | None:
        return self._put(key, body) if self.bodies.get(key, ("",))[0] == revision else None

    def delete(self, key: str, revision: str) -> bool:
        self.requests["DELETE"] += 1
        if self.bodies.get(key, ("",))[0] != revision:
            return False
        self.keys.remove(key)
        return bool(self.bodies.pop(key))

    def list(self, prefix: str, after: str = "") -> Iterator[ObjectInfo]:
        self.requests["LIST"] += 1
        for position in range(bisect_left(self.keys, max(prefix, after)), len(self.keys)):
            key = self.keys[position]
            if not key.startswith(prefix):
                return
            if key > after:
                revision, body = self.bodies[key]
                yield ObjectInfo(key, len(body), revision, NOW.isoformat())

    def tag_listed(self, _key: str, _version_id: str) -> bool:
        self.requests["tags"] += 1
        return True

    def is_tagged(self, _key: str) -> bool:
        return True

    def history(self, key: str) -> KeyHistory:
        raise NotImplementedError(key)

    def bring_back(self, upload: ObjectInfo) -> bool:
        raise NotImplementedError(upload.key)

    def earlier(self, key: str) -> Iterator[bytes]:
        raise NotImplementedError(key)

    def open(self, key: str, etag: str) -> Opened:
        raise NotImplementedError(key, etag)

    def _put(self, key: str, body: bytes) -> str:
        self.requests["PUT"] += 1
        self.revision += 1
        if key not in self.bodies:
            insort(self.keys, key)
        self.bodies[key] = (f'"{self.revision}"', body)
        return self.bodies[key][0]


def view_of(number: int, kind: str, products: int, changed: str) -> View:
    """Return a view of the stream. A channel points to the newest version of each product; `other` leaves out one."""
    secret = secret_text(hashlib.sha256(str(number).encode()).digest())
    only = tuple(f"os{other:02d}" for other in range(20) if not changed.startswith(f"os{other:02d}:"))
    newest = [
        record_of(product, VERSIONS_PER_PRODUCT - 1).id for product in range(products if kind == "channel" else 0)
    ]
    promoted: dict[str, tuple[Promotion, ...]] = {
        id_.product.path: (Promotion(version=id_.version, at=NOW.isoformat(), by="bench"),) for id_ in newest
    }
    return View(
        name=f"view{number:03d}",
        streams=(STREAM,),
        secret=secret,
        only=only if kind == "other" else (),
        channel=promoted if kind == "channel" else None,
    )


def measure(views: int, kind: str, versions: int) -> dict[str, Any]:
    """Publish all, then measure publishing one product with one version more, which every channel then points to."""
    store = MemoryStore()
    services = PublishServices(
        store, CLIENT_CHOICES["both"], lambda: NOW, lambda _: None, views=bool(views), lease_wait_s=0
    )
    products = [product_id(STREAM, name_of(number)) for number in range(max(1, versions // VERSIONS_PER_PRODUCT))]
    changed = len(products) // 2
    for number in range(len(products)):
        for version in range(VERSIONS_PER_PRODUCT):
            record = record_of(number, version)
            store.create(record.id.record_key, records.encode(record))
    for number in range(views):
        create_view(store, view_of(number, kind, len(products), name_of(changed)))
    publish(STREAM, products, services)
    new = record_of(changed, VERSIONS_PER_PRODUCT)
    store.create(new.id.record_key, records.encode(new))
    if kind == "channel":
        for number in range(views):
            promote(store, f"view{number:03d}", new.id, NOW, "bench", lambda _: None)
    store.requests.clear()
    begin, at = time.process_time(), time.perf_counter()
    done = publish(STREAM, [new.id], services)
    taken = time.process_time() - begin
    return {"cpu_s": taken, "s": time.perf_counter() - at, "writes": done.writes, "requests": store.requests.total(),
            "of": dict(store.requests)}  # fmt: skip


if __name__ == "__main__":
    print(json.dumps(measure(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]))))
