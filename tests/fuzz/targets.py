"""The fuzzer's targets: everything that reads untrusted bytes, with invariants for any bytes.

A target raises only if the code under test breaks an invariant. Mutation starts from `SEEDS`.
"""

from __future__ import annotations

import bz2
import json
import lzma
import struct
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial

from imageserver.aws import events
from imageserver.catalog.fold import fold, fold_unlisted
from imageserver.errors import CatalogDamaged, InvalidUpload
from imageserver.format import documents, file_kinds, keys
from imageserver.format.keys import parse_product
from imageserver.inspection import ending, image_metadata, overrides, qcow2, unpacking, vcdiff
from imageserver.inspection import tarball as archive
from imageserver.inspection.checksums import parse_checksums
from imageserver.inspection.scan import Chunk
from imageserver.versions import examine, records
from imageserver.versions.assessment import new_record
from tests.support import edge_views, images
from tests.support.messages import s3_event

PRODUCT = parse_product("images/ubuntu/noble/amd64/default")
PATH = f"{PRODUCT.path}/20261123_10:00"
RECORD_KEY = f"versions/{PATH}.json"
LIMITS = archive.Limits(unpacked_bytes=4 << 20, members=1000)


def key(data: bytes) -> None:
    """Check that a key is refused, or is parsed into itself and safe everywhere."""
    text = data.decode("utf-8", "surrogateescape")
    with suppress(InvalidUpload):
        parsed = keys.parse_key(text)
        assert parsed.key == text
        assert keys.parse_record_key(parsed.version.record_key) == parsed.version
        assert parsed.version.product.name.count(":") == 3
        assert not set(text) & set(" +%\\,\"'<>&?#\0\n")
        assert ".." not in text.split("/")
        file_kinds.classify(parsed.file)
    with suppress(InvalidUpload):
        keys.version_of(text)


def metadata_json(data: bytes) -> None:
    """Check that parsing never raises, and that accepted overrides can be published and are read back the same."""
    _publishable(overrides.parse_metadata_json(data).overrides)


def image_yaml(data: bytes) -> None:
    """Check that parsing never raises, and that accepted overrides can be published."""
    _publishable(overrides.parse_image_yaml(data, PRODUCT).overrides)


def metadata_yaml(data: bytes) -> None:
    """Check that it is accepted, or refused with a reason."""
    with suppress(InvalidUpload):
        assert all(isinstance(note, str) for note in image_metadata.check_metadata_yaml(data, "amd64"))


def checksums(data: bytes) -> None:
    """Check that parsing never raises, and that digests are valid."""
    sums = parse_checksums(data, "SHA256SUMS")
    assert all(len(digest) == 64 and digest == digest.lower() for digest in sums.digests.values())


def record(data: bytes) -> None:
    """Check that a record is damaged, or can be assessed, folded and written back."""
    with suppress(CatalogDamaged):
        found = records.decode(data, RECORD_KEY)
        assessed = new_record(found.id, found.files, found.withdrawn)
        assert records.decode(records.encode(assessed), RECORD_KEY) == assessed
        folded = fold(documents.decode_products(None, "images"), {PRODUCT: [assessed]}).document
        assert documents.decode_products(documents.encode(folded), "images") == folded
        fold_unlisted(documents.decode_unlisted(None, "images"), {PRODUCT: [assessed]})


def document(data: bytes) -> None:
    """Check that a served document is damaged, or a product can be folded into it."""
    with suppress(CatalogDamaged):
        products = documents.decode_products(data, "images")
        for product in products.products.values():
            documents.decode_versions(product)
        fold(products, {PRODUCT: []})
    with suppress(CatalogDamaged):
        documents.decode_index(data)
    with suppress(CatalogDamaged):
        documents.decode_unlisted(data, "images")


def tarball(data: bytes) -> None:
    """Check that a tarball is refused with a reason, or holds the member. The first byte chooses its compression."""
    if not data:
        return
    body = data[1:]
    wrapped = (body, images.compress(body, "gz"), bz2.compress(body, 1), images.compress(body, "zst"))
    chunk = wrapped[data[0] % len(wrapped)]
    for whole in (True, False):
        with suppress(unpacking.UnreadableArchive, archive.WholeImage):
            found = archive.read_image(iter((chunk[:700], chunk[700:])), LIMITS, whole=whole)
            assert len(found.metadata_yaml) <= LIMITS.member_bytes


def compressed(data: bytes) -> None:
    """Check the same for raw bytes: damaged compression."""
    with suppress(unpacking.UnreadableArchive, archive.WholeImage):
        archive.read_image(iter((data,)), LIMITS, whole=True)


def squashfs_root(data: bytes) -> None:
    """Check a superblock followed by anything: refused with a reason, or hashed unchanged, for any chunk sizes."""
    facts = records.FileFacts(etag="e", size_bytes=len(data), modified="2026-11-23T10:00:00+00:00")
    whole, cut = (
        examine.read_root(facts, iter(chunks), file_kinds.SQUASHFS, {}) for chunks in ((data,), (data[:70], data[70:]))
    )
    assert whole == cut
    assert bool(whole.refusal) != (whole.sha256 == images.sha256_hex(data))


def root_tar(data: bytes) -> None:
    """Check that a root is refused as truncated or damaged, or passed on unchanged, the same for any chunk sizes.

    If zstd has two faults, one in its blocks and one in the data, which is found first depends on the chunk sizes.
    """
    is_reason_compared = not unpacking.compression(data)
    check = partial(ending.checked, head=data[:512], size_bytes=len(data))
    _same_in_any_chunks(check, unpacking.UnreadableArchive, data, is_reason_compared=is_reason_compared)


def disk(data: bytes) -> None:
    """Refused with a reason, or passed on as it is; the same however it is cut into chunks."""
    _same_in_any_chunks(lambda chunks: qcow2.checked(chunks, len(data)), qcow2.UnusableDisk, data)


def delta(data: bytes) -> None:
    """Refused with a reason, or passed on as it is; the same however it is cut into chunks."""
    _same_in_any_chunks(lambda chunks: vcdiff.checked(chunks, vcdiff.Sizes()), vcdiff.UnusableDelta, data)


def _same_in_any_chunks(
    check: Callable[[Iterator[Chunk]], Iterator[Chunk]],
    refusal: type[Exception],
    data: bytes,
    *,
    is_reason_compared: bool = True,
) -> None:
    outcomes = set()
    for size in (len(data) + 1, 700, 61):
        chunks = iter([data[start : start + size] for start in range(0, len(data), size)])
        try:
            assert b"".join(check(chunks)) == data
            outcomes.add("")
        except refusal as reason:
            outcomes.add(str(reason) if is_reason_compared else "refused")
    assert len(outcomes) == 1, outcomes


def message(data: bytes) -> None:
    """Check that a message is unreadable, or names keys."""
    with suppress(events.UnreadableEvent):
        assert all(isinstance(key, str) for key in events.keys(data.decode("utf-8", "replace")))


def request(data: bytes) -> None:
    """Check that the edge's function serves only what a request may get. The first line is a URI, the rest headers."""
    uri, *logins = data.decode("latin-1").split("\n")
    found = edge_views.shared().ask(uri, *logins)
    assert found.status in (0, 302, 401, 404)
    assert found.status or edge_views.right(found.key, uri, *logins), found.key


def _publishable(given: overrides.Overrides) -> None:
    facts = records.FileFacts(etag="e", size_bytes=1, modified="2026-11-23T10:00:00+00:00", sha256="a" * 64)
    files = {
        "lxd_combined.tar.gz": facts,
        "metadata.json": records.FileFacts(
            etag="o", size_bytes=1, modified=facts.modified, sha256="b" * 64, overrides=given
        ),
    }
    found = new_record(keys.parse_version(PATH), files, None)
    assert records.decode(records.encode(found), RECORD_KEY) == found
    folded = fold(documents.decode_products(None, "images"), {PRODUCT: [found]}).document
    product = json.loads(documents.encode(folded))["products"][PRODUCT.name]
    assert all(part == part.strip() != "" for part in product["aliases"].split(","))


def _record_seed() -> bytes:
    meta, root = images.metadata_tarball(), images.squashfs()
    sha256 = images.sha256_hex(meta)
    files = {
        "lxd.tar.xz": records.FileFacts(etag="m", size_bytes=len(meta), modified="2026-11-23T10:00:00Z", sha256=sha256),
        "rootfs.squashfs": records.FileFacts(
            etag="r",
            size_bytes=len(root),
            modified="2026-11-23T10:00:00Z",
            sha256=images.sha256_hex(root),
            combined={sha256: images.sha256_hex(meta, root)},
        ),
    }
    return records.encode(new_record(keys.parse_version(PATH), files, None))


def _document_seed() -> bytes:
    found = records.decode(_record_seed(), RECORD_KEY)
    return documents.encode(fold(documents.decode_products(None, "images"), {PRODUCT: [found]}).document)


OVERRIDES = json.dumps({"aliases": ["a/b", "c"], "requirements": {"secureboot": "false"}, "supported": True,
                        "support_eol": "2030-01-01", "retain_days": 3, "os": "Ubuntu"}).encode()  # fmt: skip
IMAGE_YAML = b"""simplestream:
  distro_name: U
  release_aliases: {noble: 24.04}
  requirements:
  - {requirements: {a: b}}
"""


def _packed(how: str) -> bytes:
    tar = images.tarball({"etc/x": images.filler("x", 700), "y": b"y" * 3000})
    if how == "bz2":
        return bz2.compress(tar)
    return lzma.compress(tar, format=lzma.FORMAT_ALONE) if how == "lzma" else images.compress(tar, how)


def _disks() -> list[bytes]:
    """Return disks with each kind of table and entry: plain, compressed and extended clusters, a snapshot, bitmaps."""
    size = images.QCOW2_CLUSTER
    l1 = struct.pack(">Q", 1 << 63 | 4 * size).ljust(size, b"\0")
    l2 = struct.pack(">QQQ", 1 << 63 | 5 * size, 1 << 62 | 6 * size + 7, 1).ljust(size, b"\0")
    behind = bytes(2 * size) + l1 + l2 + bytes(3 * size)
    bitmaps = struct.pack(">IIIIQQ", 0x23852875, 24, 1, 0, 32, size)
    headers = [
        images.qcow2_header(snapshots=1, snapshots_at=size),
        images.qcow2_header(version=3, incompatible=8, compression=1, header_bytes=112),
        images.qcow2_header(version=3)[:104] + bitmaps.ljust(size - 104, b"\0"),
    ]
    extended = images.qcow2_header(
        version=3, incompatible=16, cluster_bits=14, l1_entries=1, l1=3 << 14, refcounts=1 << 14
    ).ljust(3 << 14, b"\0")
    return [*(header + behind for header in headers), extended + l1.ljust(1 << 14, b"\0") + l2.ljust(1 << 14, b"\0")]


TARGETS: dict[str, tuple[Callable[[bytes], None], list[bytes]]] = {
    "key": (key, [f"{PATH}/rootfs.squashfs".encode(), b"images-daily/a/b/arm64/cloud/20261123/x.20261101.vcdiff"]),
    "metadata_json": (metadata_json, [OVERRIDES, b'{"aliases": "a, b"}']),
    "image_yaml": (image_yaml, [IMAGE_YAML]),
    "metadata_yaml": (metadata_yaml, [images.metadata_yaml(), b"architecture: &a x86_64\nb: *a\n"]),
    "checksums": (checksums, [b"a" * 64 + b"  rootfs.squashfs\n"]),
    "record": (record, [_record_seed()]),
    "document": (document, [_document_seed(), b'{"format":"index:1.0","index":{}}']),
    "tarball": (
        tarball,
        [
            bytes([n]) + body
            for n in range(4)
            for body in (
                images.tarball({"metadata.yaml": images.metadata_yaml()}),
                images.sparse_map(2),
                images.pax_sparse_map(99),
            )
        ],
    ),
    "compressed": (compressed, [images.metadata_tarball("amd64", how) for how in ("xz", "gz", "zst")]),
    "squashfs_root": (
        squashfs_root,
        [images.squashfs(), images.squashfs_of("bin", "rootfs"), images.superblock(200, ids=5000) + bytes(104)],
    ),
    "root_tar": (root_tar, [_packed(how) for how in ("plain", "xz", "gz", "zst", "bz2", "lzma")]),
    "disk": (disk, [images.qcow2(), *_disks()]),
    "delta": (delta, [images.vcdiff(base_bytes=700), images.vcdiff("2", 60) + images.vcdiff("3", 70)[5:]]),
    "request": (
        request,
        [
            f"/{edge_views.signed('staging', edge_views.PRIVATE)}\n{edge_views.basic(edge_views.STAGING)}".encode(),
            f"/{edge_views.LAB}/streams/v1/index.json".encode(),
            f"/{edge_views.PRIVATE}".encode(),
            b"/stable/streams/v1/images.json",
        ],
    ),
    "message": (
        message,
        [s3_event(f"{PATH}/x").encode(), events.changed(f"{PATH}/").encode(), b'{"Event": "s3:TestEvent"}'],
    ),
}
