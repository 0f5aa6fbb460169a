"""Determine what a file is by reading its bytes once, in order, whatever its size.

Each function takes the facts known from a listing and the chunks of the object, and returns the facts with
digests, or with a `refusal` that completes the sentence "<file> …".
"""

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from typing import Final

from msgspec.structs import replace

from imageserver.errors import InvalidUpload, SimplestreamsError
from imageserver.format import file_kinds
from imageserver.format.file_kinds import Role
from imageserver.format.keys import ProductId
from imageserver.inspection import (
    checksums,
    ending,
    foreign,
    image_metadata,
    overrides,
    qcow2,
    squashfs,
    tarball,
    vcdiff,
)
from imageserver.inspection.digests import Digests, Sha256, Spread, in_turn
from imageserver.inspection.qcow2 import UnusableDisk
from imageserver.inspection.squashfs import NotRoot, NotSquashfs
from imageserver.inspection.unpacking import UnreadableArchive, compression
from imageserver.versions.records import CHECKSUMS_FILE, Fault, FileFacts, Origin

Chunks = Iterable[bytes | memoryview]

SMALL: Final = (Role.METADATA, Role.OVERRIDES, Role.CHECKSUMS)
"""The roles of files that are so cheap to read that two workers may do it at once."""
_TEMPLATES_NOT_FOUND: Final = (
    "not all templates that its metadata.yaml names are in the first "
    f"{tarball.MOST_FOR_TEMPLATES >> 30} GiB that it unpacks to, where they are looked for: if one is not there at "
    "all, no instance starts"
)
_A_TARBALL: Final = "a tarball (xz, gz, zst, bz2, lzma or plain)"
_MAGIC: Final[dict[str, tuple[str, bytes]]] = {
    file_kinds.SQUASHFS: ("a squashfs", b"hsqs"),
    file_kinds.DISK_KVM: ("a qcow2 disk", b"QFI\xfb"),
    "disk1.img": ("a qcow2 disk", b"QFI\xfb"),
    "uefi1.img": ("a qcow2 disk", b"QFI\xfb"),
}


def needs_reading(file: str, facts: FileFacts, metadata_sha256s: Iterable[str]) -> bool:
    """Return whether bytes of this file must be read (again) to know all about it.

    A root waits until there is metadata to combine it with, and is read again when that changes: the metadata comes
    first in the combined sha256. Withdrawn files are read too, because restoring one sends no event.
    """
    role = file_kinds.classify(file).role
    if role is Role.OTHER or facts.refusal:
        return False
    if role is Role.ROOT:
        wanted = set(metadata_sha256s)
        return bool(wanted) and not (facts.sha256 and wanted <= facts.combined.keys())
    if role is Role.CHECKSUMS and facts.unreadable is None:
        return True  # an older release read it, which knew fewer forms
    return not facts.sha256


def refuse_unread(file: str, facts: FileFacts, content_encoding: str, max_bytes: int) -> FileFacts:
    """Return facts with a refusal when the object need not be read to know that it cannot be served."""
    if facts.size_bytes == 0:
        return _refused(facts, "empty", "is empty (0 bytes): upload it again")
    if facts.size_bytes > max_bytes:
        return _refused(
            facts,
            "too-large",
            f"has {facts.size_bytes:,} bytes, expected at most {max_bytes:,}, "
            "which is what can be hashed in one run; make the image smaller",
        )
    encodings = {part.strip() for part in content_encoding.split(",")} - {"", "identity", "aws-chunked"}
    if encodings and file_kinds.classify(file).role is not Role.OTHER:
        return _refused(
            facts,
            "encoded",
            f"was uploaded with `Content-Encoding: {', '.join(sorted(encodings))}`, expected none: clients "
            "would unpack it before they hash it; upload it again without that header",
        )
    return facts


def read_document(file: str, facts: FileFacts, chunks: Chunks, product: ProductId) -> FileFacts:
    """Read metadata.json, image.yaml or SHA256SUMS. What does not parse is noted and ignored, never refused."""
    digests = Digests()
    if facts.size_bytes > overrides.MAX_DOCUMENT_BYTES:
        note = f"it has {facts.size_bytes:,} bytes, expected at most {overrides.MAX_DOCUMENT_BYTES:,}: it is ignored"
        unreadable: dict[str, str] | None = {} if file == CHECKSUMS_FILE else None
        return replace(facts, sha256=_drained(digests, chunks).sha256, warnings=(note,), unreadable=unreadable)
    body = b"".join(bytes(chunk) for chunk in digests.tee(chunks))
    facts = replace(facts, sha256=digests.sha256)
    if file == CHECKSUMS_FILE:
        sums = checksums.parse_checksums(body, file)
        return replace(facts, checksums=sums.digests, unreadable=sums.unreadable)
    parsed = (
        overrides.parse_metadata_json(body) if file == "metadata.json" else overrides.parse_image_yaml(body, product)
    )
    return replace(facts, overrides=parsed.overrides, warnings=parsed.ignored)


def read_tarball(
    facts: FileFacts, chunks: Chunks, product: ProductId, *, whole: bool, spread: Spread = in_turn
) -> tuple[FileFacts, Sha256]:
    """Read a metadata tarball, which is unpacked as a `whole`; or a unified one, until its root is found.

    Either is hashed whole. Also return the digest state after it, which seeds the combined sha256 of each root.
    """
    digests = Digests(spread=spread)
    limits = tarball.METADATA_LIMITS if whole else tarball.UNIFIED_LIMITS
    head, rest = _peek(digests.tee(chunks))
    if tarball.looks_like_tar(head):
        rest = ending.checked(rest, head, facts.size_bytes, is_unpacked=True)
    elif foreign.by_bytes(head):
        return _refused(facts, "wrong-kind", _not_a(_A_TARBALL, head)), digests.state
    most_unpacked = tarball.MOST_UNPACKED.get(compression(head), 0)
    needed = image_metadata.needed_templates
    try:
        image = tarball.read_image(rest, limits, whole=whole, most_unpacked=most_unpacked, needed=needed)
        warnings = image_metadata.check_metadata_yaml(image.metadata_yaml, product.arch, image.templates)
        if image.templates is None:
            warnings = (*warnings, _TEMPLATES_NOT_FOUND)
        for _ in rest:
            pass
        facts = replace(facts, sha256=digests.sha256, warnings=warnings, content=image.content)
    except tarball.NoMetadata as reason:
        facts = _refused(facts, "wrong-kind", str(reason))
    except UnreadableArchive as reason:
        facts = _refused(facts, "damaged", f"{reason}; build it again and upload it again")
    except tarball.WholeImage as part:
        what = f"is a whole image and not metadata, it holds {part}"
        facts = _refused(facts, "wrong-kind", f"{what}: upload it as lxd_combined.tar.gz")
    except InvalidUpload as reason:
        facts = _refused(facts, "metadata", f"holds a metadata.yaml that {reason}")
    return facts, digests.state


def read_root(
    facts: FileFacts, chunks: Chunks, ftype: str, states: Mapping[str, Sha256], spread: Spread = in_turn
) -> FileFacts:
    """Read a root: its sha256, and its combined sha256 with each metadata file whose digest state is given."""
    head, rest = _peek(chunks)
    what, magic = _MAGIC.get(ftype, (_A_TARBALL, b""))
    if not (head.startswith(magic) if magic else tarball.looks_like_tar(head)):
        return _refused(facts, "wrong-kind", _not_a(what, head))
    if ftype == file_kinds.SQUASHFS:
        rest = squashfs.checked(rest, head, facts.size_bytes)
    elif ftype == file_kinds.ROOT_TAR:
        rest, start = _with_start(rest)
        if why := tarball.unlike_a_root(start):
            return _refused(facts, "wrong-kind", why)
        rest = ending.checked(rest, head, facts.size_bytes)
    else:
        rest = qcow2.checked(rest, facts.size_bytes)
    try:
        digests = _drained(Digests(states, spread), rest)
    except NotRoot as reason:
        return _refused(facts, "wrong-kind", str(reason))
    except (NotSquashfs, UnreadableArchive, UnusableDisk) as reason:
        return _refused(facts, "damaged", f"{reason}; build it again and upload it again")
    return replace(facts, sha256=digests.sha256, combined=digests.combined)


def read_delta(facts: FileFacts, chunks: Chunks, spread: Spread = in_turn) -> FileFacts:
    """Read a binary delta against the same root of an older version."""
    head, rest = _peek(chunks)
    if not head.startswith(vcdiff.MAGIC):
        return _refused(facts, "wrong-kind", _not_a("a vcdiff delta", head))
    sizes = vcdiff.Sizes()
    try:
        digests = _drained(Digests(spread=spread), vcdiff.checked(rest, sizes))
    except vcdiff.UnusableDelta as reason:
        return _refused(facts, "damaged", f"{reason}; build it again and upload it again")
    return replace(facts, sha256=digests.sha256, delta_base_bytes=sizes.base_bytes, delta_made_bytes=sizes.made_bytes)


def compare_declared(facts: FileFacts, declared_sha256: str, origin: Origin | None) -> FileFacts:
    """Return facts with their origin, and with a refusal if a digest is not the one that was declared with the file.

    S3 itself compares the sha256 that an uploader declares for a single PUT; files sent in parts are compared here.

    `origin` declares upstream's combined sha256s. Both files match upstream's catalog, or they would not be here, so
    where one differs from ours that catalog contradicts itself. Clients of upstream refuse such an image. Ours would
    get it under a fingerprint that upstream does not know.
    """
    if declared_sha256 and not facts.refusal and facts.sha256 != declared_sha256.lower():
        refusal = f"has sha256 {facts.sha256}, expected {declared_sha256} as its uploader declared; upload it again"
        facts = _refused(facts, "digest", refusal)
    if origin is None:
        return facts
    for metadata, expected in origin.combined:
        found = facts.combined.get(metadata, expected)
        if found != expected:
            refusal = (
                f"has the combined sha256 {found}, expected {expected} as the catalog of {origin.host} says: that "
                "catalog contradicts itself; tell its operator, or upload the image yourself as a new version"
            )
            facts = _refused(facts, "digest", refusal)
    return replace(facts, origin=origin)


def is_of_the_bytes(error: Exception) -> bool:
    """Return whether an unexpected exception of inspection comes from the bytes that it read.

    Inspection is a pure function of them, so it raises the same each time, and a retry is useless. An error of the
    machine (no memory, no thread, no file) may be gone the next time.
    """
    if isinstance(error, RecursionError):
        return True
    return not isinstance(error, SimplestreamsError | MemoryError | OSError | RuntimeError)


def refuse_unparsed(facts: FileFacts, error: Exception) -> FileFacts:
    """Return facts with a refusal of a file for which inspection raised an unexpected exception."""
    what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    refusal = (
        f"cannot be read as what its name says: its inspection ended with {what[:200]!r}; build it again and "
        "upload it again; if it should be right, ask the operator, whose log has more about it"
    )
    return _refused(facts, "damaged", refusal)


def seed(chunks: Chunks) -> Sha256:
    """Return the digest state after the bytes of a metadata file that was examined before."""
    return _drained(Digests(), chunks).state


def _refused(facts: FileFacts, fault: Fault, refusal: str) -> FileFacts:
    """Return the facts of a refused file: nothing that was read in it counts."""
    return FileFacts(
        etag=facts.etag, size_bytes=facts.size_bytes, modified=facts.modified, arrived=facts.arrived,
        refusal=refusal, fault=fault, withdrawn=facts.withdrawn,
    )  # fmt: skip


def _not_a(what: str, head: bytes) -> str:
    if found := foreign.by_bytes(head):
        return f"is not {what} but {found.what}: {found.how}"
    return f"is not {what}: it starts with {head[:8].hex(' ')}; upload the right file under this name"


def _peek(chunks: Chunks) -> tuple[bytes, Iterator[bytes | memoryview]]:
    """Return the first bytes, and an iterator that still yields everything, buffers untouched where it can."""
    source = iter(chunks)
    first = next(source, b"")
    held: list[bytes | memoryview] = [first]
    while sum(map(len, held)) < foreign.HEAD_BYTES and (more := next(source, b"")):
        held = [*(bytes(part) for part in held), more]  # copied: its buffer may be reused
    most = foreign.HEAD_BYTES
    return b"".join(bytes(part[:most]) for part in held)[:most], chain(held, source)


def _with_start(chunks: Iterator[bytes | memoryview]) -> tuple[Iterator[bytes | memoryview], bytes]:
    """Return an iterator that still yields everything, and a copy of the first `tarball.START_BYTES`."""
    held: list[bytes | memoryview] = []
    for chunk in chunks:
        held.append(chunk)
        if sum(map(len, held)) >= tarball.START_BYTES:
            break
        held[-1] = bytes(chunk)  # copied: its buffer may be reused
    return chain(held, chunks), b"".join(bytes(part[: tarball.START_BYTES]) for part in held)[: tarball.START_BYTES]


def _drained(digests: Digests, chunks: Chunks) -> Digests:
    for _ in digests.tee(chunks):
        pass
    return digests
