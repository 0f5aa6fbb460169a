"""Each fault that the random runs found, as a regression test."""

import json
from collections.abc import Callable

from imageserver.catalog.fold import fold
from imageserver.format import documents
from imageserver.format.keys import ProductId, VersionId, parse_product
from imageserver.versions import records
from imageserver.versions.assessment import new_record
from imageserver.versions.records import FileFacts, Record
from tests.support import images
from tests.support.memory_store import MemoryStore, System

PRODUCT = "images/ubuntu/noble/amd64/default"
OLD, NEW = f"{PRODUCT}/20261101_10:00", f"{PRODUCT}/20261102_10:00"
ID = parse_product(PRODUCT)


class Interrupted(MemoryStore):
    """A store that runs `then` once, right before the `count`th call of `method` on `key`."""

    def quiet(self) -> None:
        self.on = MemoryStore().on

    def meanwhile(self, method: str, key: str, then: Callable[[], object], count: int = 1) -> None:
        left = [count]

        def hook(called: str, called_key: str) -> None:
            if (called, called_key) == (method, key):
                left[0] -= 1
                if left[0] == 0:
                    then()

        self.on = hook


class AnswerLost(MemoryStore):
    """Loses the answer to the first write of a key. The adapter retries and meets its own write: 412."""

    lose: str = ""

    def create(self, key: str, body: bytes) -> str | None:
        revision = super().create(key, body)
        if self.lose and key.startswith(self.lose):
            self.lose = ""
            return None
        return revision


def test_a_lease_whose_reply_was_lost_is_still_held_by_its_owner() -> None:
    store = AnswerLost()
    store.lose = "leases/"
    system = System(store)
    system.upload(OLD, images.split_image())
    assert system.ingest(OLD).outcome == "recorded"
    assert not [key for key in store.objects if key.startswith("leases/")]


def test_a_stale_listing_never_overwrites_a_record_that_returned_to_an_earlier_revision() -> None:
    store = Interrupted()
    system = System(store)
    system.upload(OLD, images.split_image())
    system.ingest(OLD)

    def come_and_go() -> None:
        store.quiet()
        system.ingest(OLD)  # another worker is faster, and sees the same file
        store.remove(f"{OLD}/metadata.json")
        system.ingest(OLD)  # the record is byte for byte what it was

    store.put(f"{OLD}/metadata.json", b'{"os": "Other"}')
    store.meanwhile("replace", f"versions/{OLD}.json", come_and_go)
    system.ingest(OLD)
    record = records.decode(store.objects[f"versions/{OLD}.json"].body, f"versions/{OLD}.json")
    assert "metadata.json" not in record.files


def test_an_overtaken_publisher_does_not_remove_an_index_entry() -> None:
    store = Interrupted()
    system = System(store)
    system.upload(OLD, images.split_image(seed="old"))
    system.catch_up()

    def another_version_is_published() -> None:
        store.quiet()
        system.upload(NEW, images.split_image(seed="new"))
        system.ingest(NEW)
        system.publish(ID)  # finds a correct index: the entry is not gone yet

    for file in images.split_image():
        store.remove(f"{OLD}/{file}")
    system.ingest(OLD)
    store.meanwhile("replace", documents.INDEX_KEY, another_version_is_published)
    system.publish(ID)
    assert system.listed() == {ID.name: ["20261102_10:00"]}
    index = documents.decode_index(store.objects[documents.INDEX_KEY].body)
    assert index.index["images"].products == [ID.name]


def test_stale_records_never_overwrite_a_catalog_that_returned_to_an_earlier_revision() -> None:
    store = Interrupted()
    system = System(store)
    system.upload(OLD, images.split_image(seed="old"))
    system.catch_up()
    system.upload(NEW, images.split_image(seed="new"))
    system.ingest(NEW)

    def come_and_go() -> None:
        store.quiet()
        system.publish(ID)
        store.remove(f"{NEW}/lxd.tar.xz")
        system.ingest(NEW)
        system.publish(ID)  # the document is byte for byte what it was

    store.meanwhile("replace", documents.products_key("images"), come_and_go)
    system.publish(ID)
    assert system.listed() == {ID.name: ["20261101_10:00"]}


def test_overwriting_metadata_json_never_shows_the_product_without_overrides() -> None:
    store = MemoryStore()
    system = System(store)
    system.upload(OLD, {**images.split_image(), "metadata.json": b'{"aliases": ["stable"]}'})
    system.ingest(OLD)
    shown: list[list[str]] = []

    def note(method: str, key: str) -> None:
        if method == "list" and key.startswith("images"):
            record = json.loads(store.objects[f"versions/{OLD}.json"].body)
            shown.append(record["files"]["metadata.json"]["overrides"]["aliases"])

    store.put(f"{OLD}/metadata.json", b'{"aliases": ["edge"]}')
    store.on = note
    system.ingest(OLD)
    assert shown
    assert all(aliases in (["stable"], ["edge"]) for aliases in shown)


def test_an_unreadable_record_stops_only_its_own_product() -> None:
    """This holds even if a neighbour shares a fingerprint with a third product, whose records are then needed too."""
    system = System()
    files = images.split_image()
    paths = [f"images/{os}/1/amd64/default/20261101_10:00" for os in ("alma", "beta", "gamma")]
    for path in paths:
        system.upload(path, files if "gamma" not in path else images.split_image(seed="other"))
        system.ingest(path)
    alma, beta, gamma = (parse_product(path.rpartition("/")[0]) for path in paths)
    system.publish(alma)
    system.store.put(f"versions/{paths[2]}.json", b"{")
    done = system.publish(beta, gamma)
    assert list(done[0].damaged) == [gamma]
    assert list(system.products_document().withheld) == [beta.name]


def test_a_root_is_listed_again_even_if_only_one_of_its_two_fingerprints_was_taken() -> None:
    """A root has two fingerprints with LXD's and Incus's metadata; freeing one frees the product that waits for it."""
    alma, beta, gamma = (ProductId("images", os, "1", "amd64", "default") for os in ("alma", "beta", "gamma"))
    both = {"lxd.tar.xz": "1", "incus.tar.xz": "2"}
    document = documents.decode_products(None, "images")
    known = {beta: [_record(beta, both)], gamma: [_record(gamma, {"incus.tar.xz": "2"})]}
    document = fold(document, known).document
    assert sorted(document.products) == [beta.name]
    known |= {alma: [_record(alma, {"lxd.tar.xz": "1"})]}
    assert sorted(_folded(document, known, alma).products) == [alma.name, gamma.name]


def test_an_image_whose_digest_was_listed_as_metadata_still_withholds_its_duplicate() -> None:
    alma, beta = (ProductId("images", os, "1", "amd64", "default") for os in ("alma", "beta"))
    document = documents.decode_products(None, "images")
    known = {alma: [_record(alma, {"lxd.tar.xz": "1"})], beta: [_unified(beta, "1")]}
    document = fold(document, known).document
    assert sorted(document.products) == [alma.name, beta.name]
    known[alma] = [*known[alma], _unified(alma, "1", "20261102_10:00")]
    after = _folded(document, known, alma)
    assert sorted(after.products) == [alma.name]
    assert after == fold(documents.decode_products(None, "images"), known).document


def _folded(
    document: documents.Products, known: dict[ProductId, list[Record]], changed: ProductId
) -> documents.Products:
    wanted = {changed: known[changed]}
    while (folded := fold(document, wanted)).needs:
        wanted |= {product: versions for product, versions in known.items() if product in folded.needs}
    return folded.document


def _record(product: ProductId, metadata: dict[str, str]) -> Record:
    """Return a sound version with the root `r`. `metadata` maps a file's name to a digit that its digest repeats."""
    files = {file: _facts(sha256=digit * 64) for file, digit in metadata.items()}
    combined = {digit * 64: f"c{digit}" * 32 for digit in metadata.values()}
    files["rootfs.squashfs"] = _facts(sha256="f" * 64, combined=combined)
    return new_record(_version(product), files, None)


def _unified(product: ProductId, digit: str, version: str = "20261101_10:00") -> Record:
    return new_record(_version(product, version), {"lxd_combined.tar.gz": _facts(sha256=digit * 64)}, None)


def _version(product: ProductId, version: str = "20261101_10:00") -> VersionId:
    return VersionId(product, version)


def _facts(sha256: str, combined: dict[str, str] | None = None) -> FileFacts:
    return FileFacts(
        etag="e", size_bytes=1, modified="2026-11-01T10:00:00+00:00", sha256=sha256, combined=combined or {}
    )


def test_a_refused_lease_is_retried_if_nobody_holds_it() -> None:
    class Conflict(MemoryStore):
        """Answers 409 to the first lease, as S3 does while another one is being removed."""

        refused = False

        def create(self, key: str, body: bytes) -> str | None:
            if key.startswith("leases/") and not self.refused:
                self.refused = True
                return None
            return super().create(key, body)

    system = System(Conflict())
    system.upload(OLD, images.split_image())
    assert system.ingest(OLD).outcome == "recorded"


def test_a_worker_is_not_blocked_by_its_own_lease_that_it_failed_to_remove() -> None:
    class Conflict(MemoryStore):
        """Answers 409 to the first removal of a lease, when a file arrives too, so that the worker repeats its loop."""

        refused = False

        def delete(self, key: str, revision: str) -> bool:
            if key.startswith("leases/") and not self.refused:
                self.refused = True
                self.put(f"{OLD}/disk.qcow2", images.qcow2())
                return False
            return super().delete(key, revision)

    system = System(Conflict())
    system.upload(OLD, images.split_image())
    done = system.ingest(OLD)
    assert done.outcome == "recorded"
    assert done.record is not None
    assert done.record.files["disk.qcow2"].sha256
