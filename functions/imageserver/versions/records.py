"""The record of a version: everything that is known about its files.

Records are private and complete: the catalog can be rebuilt from them without reading an image. A record
holds facts (sizes, digests, what a file's content turned out to be). Its state and reasons are a pure function of
those facts (versions.assessment), written beside them for people and for the API.
"""

import json
from collections.abc import Callable
from datetime import datetime
from functools import cached_property, wraps
from typing import Annotated, Final, Literal, TypeVar

import msgspec

from imageserver.errors import CatalogDamaged, InvalidUpload, NewerRecord
from imageserver.format import file_kinds
from imageserver.format.file_kinds import FileKind, Role
from imageserver.format.keys import VersionId, parse_version
from imageserver.inspection.overrides import Overrides
from imageserver.inspection.tarball import Content
from imageserver.versions.state import State

SCHEMA: Final = 1
CHECKSUMS_FILE: Final = "SHA256SUMS"

_Sha256 = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]

Fault = Literal[
    "", "empty", "too-large", "encoded", "wrong-kind", "damaged", "metadata", "digest", "second", "late", "replaced",
    "name",
]  # fmt: skip
"""The cause of a refusal, in one word for counters and programs; empty where an older release refused the file.

encoded: it was stored with a Content-Encoding; metadata: its metadata.yaml is wrong; digest: it is not what was
declared; second: another file has its place in the version; late: it would change what the version was published
with; replaced: a URL to replace it was given out.
"""


class Withdrawal(msgspec.Struct, frozen=True, omit_defaults=True):
    """A version or a file was taken off the list; its files stay until `delete_after` (ISO 8601, UTC).

    `final`: its files are being deleted; from now on it cannot be restored.
    `automatic`: retention or a mirror withdrew it, and may take that back. A withdrawal by a person replaces it.
    """

    since: str
    delete_after: str
    reason: str = ""
    final: bool = False
    automatic: bool = False


class Origin(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where a mirrored file comes from, as the function that copied it declared.

    `host` is upstream's, never its whole address: that may hold a token. `combined` are upstream's combined sha256s of
    a root, each preceded by the sha256 of its metadata file. `signed_by` is the fingerprint of the key that signed
    upstream's document; empty where no keyring is configured, so that no signature was checked.
    """

    host: Annotated[str, msgspec.Meta(min_length=1, max_length=253)]
    combined: tuple[tuple[_Sha256, _Sha256], ...] = ()
    signed_by: Annotated[str, msgspec.Meta(pattern=r"^([0-9a-f]{40}|[0-9a-f]{64})?\Z")] = ""


class FileFacts(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """What is known of one object. `sha256` is empty until it was read.

    `etag` and `size_bytes` distinguish one content of the object from the next. `version_id` is that of the current
    upload, which may not be the first with these bytes; empty where an older release saw it. `combined` maps the sha256
    of a metadata file to the combined sha256 with it. `refusal` completes "<file> …", `fault` is its cause. `warnings`
    are sentences about what was ignored in the file. `modified` is the date that S3 gives the object (ISO 8601, UTC):
    for one that was sent in parts, when its upload began. `arrived` is when digest first saw such an object; empty for
    others, and where an older release saw it. `since` is when these bytes were first uploaded here, if they were
    published and then uploaded again; empty if they were uploaded once.
    `content` is what a tarball with a metadata.yaml holds besides; empty where an older release read it.
    `delta_base_bytes` is how much a delta reads of its base, `delta_made_bytes` how much it produces; 0 where unknown.
    `checksums` maps files to the sha256 that a SHA256SUMS declares, `unreadable` files to a sentence about the line
    that names them and cannot be read; None where an older release read it, which knew fewer forms of lines.
    `withdrawn` applies to this generation of the object: another upload under the same name begins anew.
    `origin` is where a mirror copied it from; None for an upload.
    """

    etag: str
    size_bytes: int
    modified: str
    version_id: str = ""
    arrived: str = ""
    since: str = ""
    sha256: str = ""
    combined: dict[str, str] = {}
    refusal: str = ""
    fault: Fault = ""
    warnings: tuple[str, ...] = ()
    content: Content = ""
    delta_base_bytes: int = 0
    delta_made_bytes: int = 0
    overrides: Overrides | None = None
    checksums: dict[str, str] = {}
    unreadable: dict[str, str] | None = None
    withdrawn: Withdrawal | None = None
    origin: Origin | None = None

    @property
    def is_in_parts(self) -> bool:
        """Whether it was sent in parts: S3 ends the ETag of such an object with their number."""
        return "-" in self.etag

    def is_same_upload(self, other: "FileFacts") -> bool:
        """Return whether both are about the same upload of a file, not only about equal bytes.

        Only the date decides for an upload that an older release saw, and in a bucket without versioning, where all
        uploads have the same id.
        """
        same_id = self.version_id == other.version_id or not (self.version_id and other.version_id)
        return same_id and (self.etag, self.modified) == (other.etag, other.modified)

    @property
    def uploaded(self) -> str:
        """When it was here in full, as far as is known. An uploader cannot make this any earlier (see `modified`)."""
        return self.arrived or self.modified

    @property
    def first_uploaded(self) -> str:
        """When these bytes were here for the first time, so that a copy of them never counts as earlier."""
        return self.since or self.uploaded


class Reason(msgspec.Struct, frozen=True, order=True, omit_defaults=True):
    """A sentence for the publisher about one file, or about the version where `file` is empty.

    error: the file stays refused until another one is uploaded, `fault` says why in a word; waiting: it has not
    arrived or has not been read; warning: the image works without it.
    """

    file: str
    kind: Literal["error", "waiting", "warning"]
    sentence: str
    fault: Fault = ""


class DeltaNote(msgspec.Struct, frozen=True, omit_defaults=True):
    """What this server noted about a delta that it made, or why it made none: `reason` is empty where it made one.

    It is about two roots, by their sha256; with other roots, a delta is tried anew.
    """

    base_sha256: str
    root_sha256: str
    reason: str = ""


class Record(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """The record of one version; `version` is its path, `images/<os>/…/<version>`.

    `replaced` names the files whose key has held other bytes since the record was made: a cache may still have those.

    `published` maps each file with which the version was complete to the sha256 that it had then. Clients may have
    those bytes, so nothing that arrives later takes a published file's place or contradicts its bytes. A file leaves
    the map when it is gone, or when it is withdrawn and another has its place. It stays when it is overwritten.

    `replaceable` maps a file to the ETags of refused objects for whose replacement a URL was given out. The URL is
    bound to the ETag alone and works for hours, so an object with such an ETag is never published.

    `since` is when the product was first published, according to its other records when this one was made; empty if
    there were none. It survives the deletion of those versions.

    `deltas` maps the version of a base to what this server noted about making a delta from it.

    What follows from the facts is computed once and kept with the object, see `once`; a copy computes it anew.
    """

    version: str
    files: dict[str, FileFacts] = {}
    withdrawn: Withdrawal | None = None
    replaced: tuple[str, ...] = ()
    published: dict[str, str] = {}
    replaceable: dict[str, tuple[str, ...]] = {}
    since: str = ""
    deltas: dict[str, DeltaNote] = {}
    state: State = State.EMPTY
    reasons: tuple[Reason, ...] = ()
    schema: int = SCHEMA

    @cached_property
    def id(self) -> VersionId:
        """The version that this record describes."""
        return parse_version(self.version)

    @property
    def size_bytes(self) -> int:
        """The total size of its files."""
        return sum(facts.size_bytes for facts in self.files.values())

    @property
    def published_since(self) -> str:
        """When the product was first published, as far as this record knows; empty if it does not."""
        files = [self.files[file].first_uploaded for file in self.published if file in self.files]
        return min(filter(None, (self.since, max(files, default=""))), default="")

    def is_published(self, file: str) -> bool:
        """Return whether clients may have seen this file with the bytes that it has."""
        facts = self.files.get(file)
        return facts is not None and facts.sha256 != "" and self.published.get(file) == facts.sha256


_T = TypeVar("_T")


def once(rule: Callable[[Record], _T]) -> Callable[[Record], _T]:
    """Compute once for each record object what follows from its facts, because every catalog of a server asks for it.

    The facts of a record must not change after that.
    """

    @wraps(rule)
    def kept(record: Record) -> _T:
        known = vars(record)
        if rule.__name__ not in known:
            known[rule.__name__] = rule(record)
        found: _T = known[rule.__name__]
        return found

    return kept


def kind_of(file: str, facts: FileFacts) -> FileKind:
    """Return the kind of a file by its name, and for a tarball also by its content."""
    kind = file_kinds.classify(file)
    if kind.role is Role.UNIFIED and facts.content == "metadata":
        return FileKind(Role.METADATA, file_kinds.METADATA_FTYPES["incus" if "incus" in file.lower() else "lxd"])
    return kind


_encoder = msgspec.json.Encoder(order="sorted")
_decoder = msgspec.json.Decoder(Record)
_origin = msgspec.json.Decoder(Origin)


def encode_origin(origin: Origin) -> str:
    """Return an origin in ASCII, as object metadata requires."""
    return json.dumps(msgspec.to_builtins(origin))


def decode_origin(text: str) -> Origin | None:
    """Read an origin. Return None if there is none, or if the text is not one of ours."""
    try:
        return _origin.decode(text) if text else None
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return None


def encode(record: Record) -> bytes:
    """Return the bytes of a record; equal records give equal bytes."""
    return _encoder.encode(record)


def decode(body: bytes, key: str) -> Record:
    """Read a record. Raise CatalogDamaged if it is not one of ours, NewerRecord if its schema is newer.

    A record with a time that cannot be compared is none of ours: all its readers rely on its times.
    """
    try:
        record = _decoder.decode(body)
        version = parse_version(record.version)
        times = [time for facts in record.files.values() for time in (facts.modified, facts.arrived, facts.since)]
        times.append(record.since)
        for withdrawal in (record.withdrawn, *(facts.withdrawn for facts in record.files.values())):
            times += [withdrawal.since, withdrawal.delete_after] if withdrawal else []
        for time in filter(None, times):
            if datetime.fromisoformat(time).tzinfo is None:
                raise ValueError(f"{time} has no time zone, expected ISO 8601 in UTC")
    except (msgspec.DecodeError, InvalidUpload, ValueError, RecursionError) as error:
        if (schema := _schema(body)) > SCHEMA:
            raise NewerRecord(_newer(key, schema)) from error
        raise CatalogDamaged(
            f"{key} is not a record ({error}); delete it and reconcile, its images are intact"
        ) from error
    if record.schema > SCHEMA:
        raise NewerRecord(_newer(key, record.schema))
    if version.record_key != key:
        raise CatalogDamaged(
            f"{key} is a record for {record.version}, expected one for its own path; delete it and reconcile"
        )
    return record


class _Schema(msgspec.Struct):
    schema: int = 0


def _schema(body: bytes) -> int:
    """Return the schema of a record whose other fields may differ from ours; 0 where it has none."""
    try:
        return msgspec.json.decode(body, type=_Schema).schema
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return 0


def _newer(key: str, schema: int) -> str:
    return (
        f"{key} is a record of schema {schema}, expected schema {SCHEMA} at most; deploy the newer release again, or "
        "delete it and reconcile"
    )
