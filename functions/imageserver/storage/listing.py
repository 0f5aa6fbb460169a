"""The folder of a version as a listing shows it."""

from imageserver.format.keys import VersionId
from imageserver.storage.port import ObjectInfo, Store
from imageserver.versions.records import FileFacts


def listed(store: Store, version: VersionId) -> dict[str, FileFacts]:
    """The files that are there, by name: which generation of each, and nothing of its content."""
    found = {info.key.removeprefix(version.prefix): info for info in store.list(version.prefix)}
    return {file: as_listed(info) for file, info in found.items() if file}  # consoles put an empty object for a folder


def as_listed(info: ObjectInfo) -> FileFacts:
    """What a listing tells of a file."""
    return FileFacts(etag=info.etag, size_bytes=info.size_bytes, modified=info.modified)
