"""Compare a version's folder with its record: the known facts about each file, and the files still to read.

`listed` are the facts that a listing gives: which generation of each file is there, and nothing of its content.
"""

from collections.abc import Collection, Mapping
from typing import Final

from msgspec.structs import replace

from imageserver.format import file_kinds
from imageserver.format.file_kinds import Role
from imageserver.versions import examine
from imageserver.versions.records import FileFacts, Record, kind_of
from imageserver.versions.state import State

Files = dict[str, FileFacts]
Learned = dict[tuple[str, str, str], FileFacts]  # by file, etag, modified
_MAY_BE_METADATA: Final = (Role.METADATA, Role.UNIFIED)
"""The roles that are read before the roots: only the content of a tarball shows whether it is metadata."""
_LISTED: Final = (Role.METADATA, Role.ROOT, Role.UNIFIED, Role.DELTA)


def outdated(before: Record | None, listed: Mapping[str, FileFacts]) -> str:
    """Return why the version must be ingested again, in a sentence; empty when the record is up to date."""
    files = known({}, before, listed)
    if before is None:
        return "it has no record" if files else ""
    if files.keys() != before.files.keys():
        other = ", ".join(sorted(files.keys() ^ before.files.keys()))
        return f"its folder and its record differ in {other}"
    if left := unread(files):
        return f"{left[0]} was not read in its present form"
    return "" if files == before.files else "an object changed"


def known(learned: Learned, before: Record | None, listed: Mapping[str, FileFacts]) -> Files:
    """Return the facts about each file in the folder, as far as they are known for exactly this generation of it."""
    files: Files = {}
    for file, there in listed.items():
        stored = before.files.get(file) if before else None
        stored = stored if stored and _same_generation(stored, there) else None
        facts = learned.get((file, there.etag, there.modified)) or stored
        if not facts or not _same_generation(facts, there):
            files[file] = there
            continue
        since = ""
        if stored and stored.modified == there.modified:
            since = stored.since
        elif stored and before and before.is_published(file):  # the same bytes once more: their first upload counts
            since = stored.first_uploaded
        files[file] = replace(
            facts,
            # Somebody may have withdrawn or restored the file since it was read.
            # The same bytes may have been uploaded again: a later withdrawal applies to that upload.
            withdrawn=stored.withdrawn if stored else None,
            modified=there.modified,
            version_id=there.version_id,
            arrived=facts.arrived if facts.modified == there.modified else "",
            since=since,
        )
    return files


def dated(files: Files, before: Record | None, now: str) -> Files:
    """Return the files; those sent in parts that the record does not know get the time when they arrived.

    S3 dates them by the start of their upload. A publisher that starts early and completes later, with bytes that
    somebody else has published meanwhile, would otherwise count as the first.
    """
    known_before = {(file, facts.etag, facts.modified) for file, facts in before.files.items()} if before else set()
    return {
        file: replace(facts, arrived=now)
        if facts.is_in_parts and not facts.arrived and (file, facts.etag, facts.modified) not in known_before
        else facts
        for file, facts in files.items()
    }


def _same_generation(facts: FileFacts, there: FileFacts) -> bool:
    """Return whether the facts still hold for the object that is there.

    A digest holds for equal bytes. A refusal or withdrawal ends with the next upload, even of the same bytes.
    """
    same = (facts.etag, facts.size_bytes) == (there.etag, there.size_bytes)
    return same and (not (facts.refusal or facts.withdrawn) or facts.is_same_upload(there))


def unread(files: Files, failed: Collection[str] = ()) -> list[str]:
    """Return the files to read, in this order: documents, metadata, then the large ones.

    `failed` are files that could not be read now: nothing waits for them.
    """
    metadata = metadata_sha256s(files)
    left = [file for file in files if file not in failed]
    waiting = any(
        file_kinds.classify(f).role in _MAY_BE_METADATA and examine.needs_reading(f, files[f], ()) for f in left
    )
    wanted = [*metadata, *(["of metadata that is unread"] if waiting else [])]
    roles = {f: file_kinds.classify(f).role for f in left if examine.needs_reading(f, files[f], wanted)}
    return sorted(roles, key=lambda f: (roles[f] not in examine.SMALL, roles[f] not in _MAY_BE_METADATA, f))


def metadata_sha256s(files: Files) -> list[str]:
    """Return the digests of the metadata files that were read: each root has a combined sha256 with each of them."""
    found = (facts.sha256 for file, facts in files.items() if kind_of(file, facts).role is Role.METADATA)
    return sorted(filter(None, found))


def lists_what_changed(before: Record | None, files: Files) -> bool:
    """Return whether clients may have seen a digest that a key no longer holds."""
    if before is None or before.state is not State.COMPLETE:
        return False
    can_be_listed = [file for file in files if file in before.files and file_kinds.classify(file).role in _LISTED]
    return any(before.files[file].sha256 and not files[file].sha256 for file in can_be_listed)
