"""Published files stay, whatever a publisher without AllowOverwrites and AllowDeletes does with the upload API.

The publisher asks for URLs at any time, keeps them, and sends to each any bytes that S3 lets through it. It controls
every document. Sizes are equal, so a URL for one file's bytes fits another's.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter
from contextlib import suppress
from typing import Any

import pytest

from imageserver.api.problems import Problem
from imageserver.api.schema import BatchFile, BatchRequest, FileRequest, Multipart, Single
from imageserver.api.uploads import UploadService, sign_batch, sign_one
from imageserver.catalog.rights import Rights
from imageserver.format import documents
from imageserver.format.keys import parse_version
from imageserver.versions import records
from tests.support import images
from tests.support.memory_store import MemoryStore, System

VERSION = "images/ubuntu/noble/amd64/default/20261123_1000"
CALLER = "publisher"
METADATA = [images.metadata_tarball("amd64", serial=serial) for serial in ("1", "2")]
ROOTS = [images.squashfs(seed, 700) for seed in ("a", "b")]
DISKS = [images.qcow2(seed, 2400) for seed in ("c", "d")]
UNIFIED = [images.unified_tarball("amd64", "gz", marker) for marker in ("u", "v")]
DELTAS = [images.vcdiff(seed, 300, 700) for seed in ("e", "f")]
BODIES: dict[str, list[bytes]] = {
    "lxd.tar.xz": [*METADATA, b"not a tarball"],
    "incus.tar.xz": METADATA,
    "meta-lxd.tar.xz": METADATA,
    "rootfs.squashfs": [*ROOTS, b"<html>"],
    "root.squashfs": ROOTS,
    "disk.qcow2": [*DISKS, b"x"],
    "lxd_combined.tar.gz": UNIFIED,
    "incus_combined.tar.gz": UNIFIED,
    "rootfs.20261101_1000.vcdiff": DELTAS,
    "metadata.json": [b'{"aliases": ["lts"]}', b'{"aliases": ["new"]}', b"{"],
}
LISTS = [
    "".join(f"{hashlib.sha256(body).hexdigest()}  {file}\n" for file, body in named).encode()
    for named in (
        [("rootfs.squashfs", ROOTS[0]), ("root.squashfs", ROOTS[0]), ("disk.qcow2", DISKS[0])],
        [("rootfs.squashfs", ROOTS[1]), ("root.squashfs", ROOTS[1]), ("disk.qcow2", DISKS[1])],
        [("lxd.tar.xz", METADATA[0]), ("incus.tar.xz", METADATA[0]), ("lxd_combined.tar.gz", UNIFIED[0])],
        [("lxd.tar.xz", METADATA[1]), ("meta-lxd.tar.xz", METADATA[0]), ("rootfs.squashfs", b"neither")],
        [("nothing.squashfs", b"")],
    )
]
BODIES["SHA256SUMS"] = [*LISTS, b"", b"0123abcd rootfs.squashfs\n", LISTS[0] + b"nonsense\n"]


class Uploads(MemoryStore):
    """imageserver.storage.presigned.S3Uploads over memory. A URL holds what S3 checks."""

    def sign(self, operation: str, key: str, headers: dict[str, str], _lifetime_s: int, **_: Any) -> str:
        return json.dumps({"operation": operation, "key": key, "headers": headers})

    def begin(self, _key: str, _sha256: str, _origin: str = "") -> str:
        return "upload"

    def arrived(self, _key: str, _upload_id: str) -> dict[int, tuple[int, str]] | None:
        return None


class Publisher:
    """A publisher with the right to upload but not to overwrite or withdraw."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.store = Uploads()
        self.system = System(self.store)
        self.urls: list[tuple[Single | Multipart, bytes]] = []
        self.published: dict[str, str] = {}  # path -> sha256
        self.fingerprints: set[str] = set()
        self.counted: Counter[str] = Counter()

    def step(self) -> None:
        action = self.rng.choice((self.ask, self.ask_for_all, self.send, self.send, self.send, self.process))
        action()
        self.check()

    def service(self) -> UploadService:
        rights = Rights.parse(json.dumps({CALLER: ["images*"]}))
        # MemoryStore signs uploads too.
        return UploadService(self.store, rights, 1 << 40, False, self.store.clock, lambda _: None)  # type: ignore[arg-type]

    def ask(self) -> None:
        file = self.rng.choice(list(BODIES))
        body = self.rng.choice([body for body in BODIES[file] if body])
        request = FileRequest(
            path=f"{VERSION}/{file}",
            size=len(body),
            sha256=self.rng.choice((None, images.sha256_hex(body))),
            multipart=self.rng.choice((None, True, False)),
        )
        try:
            self.urls.append((sign_one(self.service(), CALLER, request), body))
        except Problem as problem:
            self.counted[problem.kind.name] += 1

    def ask_for_all(self) -> None:
        chosen = {file: self.rng.choice([b for b in BODIES[file] if b]) for file in self.rng.sample(list(BODIES), 3)}
        files = [BatchFile(file=f, size=len(b), sha256=images.sha256_hex(b)) for f, b in chosen.items()]
        with suppress(Problem):
            answer = sign_batch(self.service(), CALLER, BatchRequest(version=VERSION, files=files))
            for upload, body in zip(answer.uploads, chosen.values(), strict=True):
                if isinstance(upload, (Single, Multipart)):
                    self.urls.append((upload, body))

    def send(self) -> None:
        """Use any URL with any bytes that S3 accepts for it."""
        if not self.urls:
            return
        upload, body = self.rng.choice(self.urls[-12:])
        file = upload.path.rpartition("/")[2]
        others = [other for other in BODIES[file] if len(other) == len(body)]
        if isinstance(upload, Multipart):
            body = self.rng.choice(others)
            headers, etag = upload.complete.headers, f'"{hashlib.md5(body).hexdigest()}-{len(upload.parts)}"'
        else:
            body = body if "x-amz-checksum-sha256" in upload.headers else self.rng.choice(others)
            headers, etag = upload.headers, f'"{hashlib.md5(body).hexdigest()}"'
        there = self.store.objects.get(upload.path)
        expected = headers.get("If-Match")
        if expected != (there.etag if there else None):
            self.counted["412"] += 1
        else:
            self.store.put(upload.path, body)
            self.store.objects[upload.path].etag = etag
            self.counted["replaced" if there else "sent"] += 1

    def process(self) -> None:
        if any(key.startswith("images") for key in self.store.objects):
            self.system.catch_up()

    def check(self) -> None:
        product = self.system.products_document().products.get("ubuntu:noble:amd64:default")
        listed = documents.decode_versions(product) if product else {}
        items = {item.path: item.sha256 for version in listed.values() for item in version.items.values()}
        fingerprints = {print_ for version in listed.values() for print_ in documents.images(version)}
        assert self.published.items() <= items.items(), "a published file is listed no longer, or with other bytes"
        assert self.fingerprints <= fingerprints, "a published image is listed no longer"
        for path, sha256 in items.items():
            assert images.sha256_hex(self.store.objects[path].body) == sha256, f"{path} holds other bytes than listed"
        for version in listed.values():
            for item in version.items.values():
                self.counted[f"listed {item.ftype}"] += item.path not in self.published
        self.published |= items
        self.fingerprints |= fingerprints


RUNS = 12  # a few seconds
COUNTED = {"sent": 150, "replaced": 30, "412": 100, "exists": 50, "listed squashfs": 10, "listed lxd.tar.xz": 10}


def test_nothing_that_a_publisher_sends_changes_what_was_published() -> None:
    total: Counter[str] = Counter()
    for seed in range(4 * RUNS):
        publisher = Publisher(seed)
        try:
            for _ in range(60):
                publisher.step()
            publisher.process()
            publisher.check()
        except BaseException as error:
            error.add_note(f"seed {seed}")
            raise
        total += publisher.counted
    assert {what: total[what] for what, least in COUNTED.items() if total[what] < least} == {}, dict(total)


def test_each_object_that_may_be_replaced_is_kept_off_the_list() -> None:
    """The record shows it for every object that an outstanding URL could still replace."""
    for seed in range(RUNS):
        publisher = Publisher(seed)
        for _ in range(60):
            publisher.step()
        publisher.process()
        seen = publisher.store.objects.get(parse_version(VERSION).record_key)
        if seen is None:
            continue
        record = records.decode(seen.body, parse_version(VERSION).record_key)
        for upload, _ in publisher.urls:
            headers = upload.complete.headers if isinstance(upload, Multipart) else upload.headers
            file = upload.path.rpartition("/")[2]
            there = publisher.store.objects.get(upload.path)
            if there and headers.get("If-Match") == there.etag and file not in ("SHA256SUMS", "metadata.json"):
                assert not record.is_published(file)


@pytest.mark.parametrize("form", ["one PUT", "in parts"])
def test_a_second_url_for_a_refused_object_cannot_replace_the_corrected_one(form: str) -> None:
    """The list is corrected after both URLs were signed. The object stays refused, and no URL can replace it."""
    publisher = Publisher(0)
    files = {"lxd.tar.xz": METADATA[0], "rootfs.squashfs": ROOTS[0], "SHA256SUMS": LISTS[1]}
    publisher.system.upload(VERSION, files)
    publisher.process()
    request = FileRequest(
        path=f"{VERSION}/rootfs.squashfs", size=700, sha256=images.sha256_hex(ROOTS[1]), multipart=form == "in parts"
    )
    publisher.urls = [(sign_one(publisher.service(), CALLER, request), ROOTS[1]) for _ in range(2)]
    publisher.store.put(f"{VERSION}/SHA256SUMS", LISTS[0])
    publisher.process()
    publisher.check()
    assert publisher.published == {}
    publisher.urls = publisher.urls[:1]
    for _ in range(20):
        publisher.send()
    publisher.store.put(f"{VERSION}/SHA256SUMS", LISTS[1])
    publisher.process()
    publisher.check()


def test_the_same_bytes_with_a_corrected_list_need_not_be_sent_again() -> None:
    publisher = Publisher(0)
    files = {"lxd.tar.xz": METADATA[0], "rootfs.squashfs": ROOTS[0], "SHA256SUMS": LISTS[1]}
    publisher.system.upload(VERSION, files)
    publisher.process()
    wanted = [
        BatchFile(file=file, size=len(body), sha256=images.sha256_hex(body))
        for file, body in (files | {"SHA256SUMS": LISTS[0]}).items()
    ]
    answer = sign_batch(publisher.service(), CALLER, BatchRequest(version=VERSION, files=wanted))
    assert [type(upload).__name__ for upload in answer.uploads] == ["Present", "Present", "Single"]
    publisher.store.put(f"{VERSION}/SHA256SUMS", LISTS[0])
    publisher.process()
    publisher.check()
    assert publisher.published.keys() >= {f"{VERSION}/rootfs.squashfs"}
