"""Find images in all streams of a server."""

from imageserver.catalog.matching import Image, by_alias, by_fingerprint, in_record
from imageserver.errors import CatalogDamaged, InvalidUpload
from imageserver.format.keys import RECORDS, is_fingerprint, parse_record_key, without_remote
from imageserver.storage.document_cache import DocumentCache
from imageserver.storage.parallel import in_parallel
from imageserver.storage.port import Store
from imageserver.versions import records


def find_listed(cache: DocumentCache, name: str) -> list[Image]:
    """Return the listed images that an alias, a fingerprint or the start of one means, sorted by path.

    An alias takes precedence, as for clients. The name of a remote in front is ignored, and a fingerprint may be in
    upper case. Raise StorageUnavailable, StorageDenied, and CatalogDamaged for a document that cannot be read.
    """
    name, products = without_remote(name), cache.all()
    found = [image for document in products for image in by_alias(document, name)]
    if not found and is_fingerprint(name):
        found = [image for document in products for image in by_fingerprint(document, name.lower())]
    return sorted(found)


def find_recorded(store: Store, start: str) -> list[Image]:
    """Return the images whose fingerprint begins with `start`, listed or not. Reads the record of every version.

    `start` is in lower case. A record that cannot be read is skipped; `admin doctor` names it. Errors of the store as
    for `find_listed`.
    """
    keys = [info.key for info in store.list(RECORDS)]
    found: list[Image] = []
    for key, seen in zip(keys, in_parallel(store.read, keys), strict=True):
        try:
            parse_record_key(key)
            found += in_record(records.decode(seen.body, key), start) if seen else ()
        except (InvalidUpload, CatalogDamaged):
            continue
    return sorted(found)
