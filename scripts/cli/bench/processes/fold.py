"""One measured fold: `python -m cli.bench.processes.fold HOW FOLDER` prints CPU seconds and peak memory.

The folder holds a stream's products document and the records of one of its products. That product has one version more
than the document lists, as the publish function finds it when a version has arrived.
"""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

from cli.bench.processes.beside_json import run
from imageserver.catalog.feeds import render_feed
from imageserver.catalog.fold import fold, fold_index
from imageserver.format import documents
from imageserver.format.documents import product_id
from imageserver.format.keys import VersionId
from imageserver.versions import records
from imageserver.versions.assessment import new_record
from imageserver.versions.records import FileFacts, Record

STREAM = "images"
VERSIONS_PER_PRODUCT = 20


def name_of(number: int) -> str:
    """Return a product's name."""
    return f"os{number % 20:02d}:release{number // 20:04d}:amd64:default"


def record_of(product: int, version: int) -> Record:
    """Return the complete record of a version with lxd.tar.xz, rootfs.squashfs and disk.qcow2."""
    name = f"202{version // 336:d}{version // 28 % 12 + 1:02d}{version % 28 + 1:02d}_10:00"

    def digest(what: int) -> str:
        return hashlib.sha256(f"{product}/{version}/{what}".encode()).hexdigest()

    def facts(what: int, size_bytes: int, combined: int = 0) -> FileFacts:
        return FileFacts(
            etag=f'"{digest(what)[32:]}"',
            size_bytes=size_bytes,
            modified="2026-11-23T10:00:00+00:00",
            sha256=digest(what),
            combined={digest(1): digest(combined)} if combined else {},
        )

    files = {"lxd.tar.xz": facts(1, 876), "rootfs.squashfs": facts(2, 123_456_789, 4)}
    files["disk.qcow2"] = facts(3, 323_456_789, 5)
    return new_record(VersionId(product_id(STREAM, name_of(product)), name), files, None)


def prepare(versions: int, folder: Path) -> int:
    """Write a document with that many versions, and the records of its middle product. Return the document's size."""
    products = max(1, versions // VERSIONS_PER_PRODUCT)
    per_product = versions // products
    all_records = {
        product_id(STREAM, name_of(product)): [record_of(product, version) for version in range(per_product)]
        for product in range(products)
    }
    document = fold(documents.decode_products(None, STREAM), all_records).document
    body = documents.encode(document)
    (folder / "document.json").write_bytes(body)
    (folder / "records.jsonl").write_bytes(
        b"\n".join(records.encode(record_of(products // 2, version)) for version in range(per_product + 1))
    )
    return len(body)


def with_our_fold(folder: Path) -> int:
    """Read, fold one changed product, render the document, the index and the feed."""
    changed = [
        records.decode(line, f"versions/{json.loads(line)['version']}.json")
        for line in (folder / "records.jsonl").read_bytes().splitlines()
    ]
    before = documents.decode_products((folder / "document.json").read_bytes(), STREAM)
    folded = fold(before, {changed[0].id.product: changed})
    if folded.needs:
        raise AssertionError(f"the synthetic catalog is entangled: {sorted(folded.needs)[:3]}")
    index = fold_index(documents.decode_index(None), folded.document)
    rendered = (documents.encode(folded.document), documents.encode(index), render_feed(folded.document, "bench"))
    return sum(map(len, rendered))


def with_plain_json(folder: Path) -> int:
    """Parse, change and dump the same document with the standard library."""
    document = json.loads((folder / "document.json").read_bytes())
    document["products"][name_of(0)]["label"] = "changed"
    return len(json.dumps(document, sort_keys=True, separators=(",", ":")).encode())


WAYS: dict[str, Callable[[Path], int]] = {"fold": with_our_fold, "plain": with_plain_json}


if __name__ == "__main__":
    run(prepare, WAYS)
