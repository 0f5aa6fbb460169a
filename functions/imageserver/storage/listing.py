"""The folder of a version as a listing shows it."""

from collections.abc import Collection, Mapping
from os.path import commonprefix

from imageserver.format.keys import VersionId
from imageserver.storage.parallel import in_parallel
from imageserver.storage.port import ObjectInfo, Store
from imageserver.versions.records import FileFacts


def listed(store: Store, version: VersionId) -> dict[str, FileFacts]:
    """Return the files that are there, by name: the generation of each, without facts about its content."""
    found = {info.key.removeprefix(version.prefix): info for info in store.list(version.prefix)}
    return {file: as_listed(info) for file, info in found.items() if file}  # consoles create empty objects as folders


def is_unchanged(store: Store, seen: Mapping[str, Mapping[str, str]]) -> bool:
    """Return whether the objects are still those `seen`: prefix -> key -> version id of an image, ETag of any other.

    New folder objects do not count. Callers check this after a conditional write, because the condition is not enough:
    equal objects have equal ETags, so If-Match also holds for one that changed and changed back meanwhile.
    """

    def is_as_seen(prefix: str) -> bool:
        ids = seen[prefix]
        listed = {i.key: i.version_id or i.etag for i in store.list(prefix) if i.key in ids or not i.key.endswith("/")}
        return listed == ids

    return all(in_parallel(is_as_seen, seen)) if len(seen) > 1 else all(map(is_as_seen, seen))


def etags(store: Store, keys: Collection[str]) -> dict[str, str]:
    """Return the ETags of the existing ones among these keys, by one listing of their common prefix."""
    if not keys:
        return {}
    shared = commonprefix(list(keys))  # noqa: RUF071  (S3 compares keys by characters too)
    return {info.key: info.etag for info in store.list(shared) if info.key in keys}


def as_listed(info: ObjectInfo) -> FileFacts:
    """Return the facts about a file that a listing gives."""
    return FileFacts(etag=info.etag, size_bytes=info.size_bytes, modified=info.modified, version_id=info.version_id)
