"""A bucket that is only looked at: what a command would do is found out by letting it do that here."""

from collections.abc import Iterator

from imageserver.storage.port import Document, ObjectInfo, Opened, Store


class DryStore:
    """imageserver.storage.port.Store over another one: reads are real, writes seem to succeed and are invalidated."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def read(self, key: str) -> Document | None:
        return self._store.read(key)

    def create(self, _key: str, _body: bytes) -> str | None:
        return "not written"

    def replace(self, _key: str, _body: bytes, revision: str) -> str | None:
        return revision

    def delete(self, _key: str, _revision: str) -> bool:
        return True

    def list(self, prefix: str, after: str = "") -> Iterator[ObjectInfo]:
        return self._store.list(prefix, after)

    def open(self, key: str, etag: str) -> Opened:
        return self._store.open(key, etag)
