"""Limit the files, versions and catalog size of one publisher, so that no other is harmed.

No run fails because of a limit. The API refuses before anything is signed; a file that arrives otherwise is refused or
withheld with the same sentence, and what was there first stays as it is.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from msgspec.structs import replace

from imageserver.format import file_kinds
from imageserver.format.file_kinds import Role
from imageserver.versions.records import FileFacts, kind_of


@dataclass(frozen=True, slots=True)
class Limits:
    """The most `files` of a version, `versions` of a product, and `products` and `stored_bytes` of a publisher.

    The defaults are those of the template.
    """

    files: int = 100
    versions: int = 1000
    products: int = 1000
    stored_bytes: int = 10_000_000_000_000


DEFAULT_LIMITS: Final = Limits()
MOST_METADATA: Final = 8
"""Metadata tarballs of one version that differ. Each root is hashed with each of them, and that takes its time."""


def refuse_surplus(
    files: Mapping[str, FileFacts], known: Mapping[str, FileFacts], limits: Limits
) -> dict[str, FileFacts]:
    """Return the files of a version, with a refusal of each that arrived when there was no place left.

    `known` are those in its record: they keep their places, even when they are overwritten. Of the others, those
    uploaded first get the remaining places; files that clients know come before files that they do not.
    """
    held = sum(file in known and not facts.refusal for file, facts in files.items())
    new = [file for file, facts in files.items() if file not in known and not facts.refusal]
    if held + len(new) <= limits.files:
        return dict(files)
    new.sort(key=lambda file: (file_kinds.classify(file).role is Role.OTHER, files[file].modified, file))
    surplus = new[max(0, limits.files - held) :]
    refusal = f"is not read: {too_many_files(limits)}, and upload this file again"
    return {**files, **{f: replace(files[f], refusal=refusal, fault="too-large") for f in surplus}}


def refuse_all(files: Mapping[str, FileFacts], limits: Limits) -> dict[str, FileFacts]:
    """Return the files of a version beyond its product's limit, each refused."""
    refusal = f"is not read: {too_many_versions(limits)}; then upload this file again"
    return {
        f: facts if facts.refusal else replace(facts, refusal=refusal, fault="too-large") for f, facts in files.items()
    }


def refuse_another_metadata(file: str, facts: FileFacts, files: Mapping[str, FileFacts]) -> FileFacts:
    """Return the facts of a file that was read, with a refusal if it is metadata and its version has enough of it."""
    others = {f.sha256 for name, f in files.items() if name != file and kind_of(name, f).role is Role.METADATA} - {""}
    is_metadata = facts.sha256 and kind_of(file, facts).role is Role.METADATA
    if not is_metadata or facts.sha256 in others or len(others) < MOST_METADATA:
        return facts
    refusal = (
        f"is one more metadata tarball beside {MOST_METADATA} others, expected one, or one for each kind of client; "
        "delete those that are not needed, and upload this file again"
    )
    return replace(facts, sha256="", content="", warnings=(), refusal=refusal, fault="second")


def too_many_files(limits: Limits) -> str:
    """Return the sentence for a file beyond its version's limit."""
    return (
        f"the version has {limits.files:,} files, which is the most it may have (the operator sets MaxFiles); delete "
        "what it does not need"
    )


def too_many_versions(limits: Limits) -> str:
    """Return the sentence for a version beyond its product's limit."""
    return (
        f"the product has {limits.versions:,} versions, which is the most it may have (the operator sets MaxVersions); "
        "withdraw those that nobody needs, or have the operator set RetainVersions"
    )
