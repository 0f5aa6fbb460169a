"""One measured plan: `python -m cli.bench.processes.plan HOW FOLDER` prints CPU seconds and peak memory.

The folder holds the products document of another server, from which nothing was copied yet. Listings and records of
this server are not counted, because S3 answers them.
"""

import hashlib
import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from cli.bench.processes.beside_json import run
from cli.bench.processes.copy import Sink
from imageserver.format.documents import INDEX_KEY, products_key
from imageserver.operations.mirror_compare import Comparer, Reader
from imageserver.operations.runs import Run
from imageserver.upstream.mirrors import Mirror, MirrorState
from imageserver.upstream.port import PART_BYTES, Document, Reading

STREAM = "images"
DOCUMENT = "products.json"
VERSIONS_PER_PRODUCT = 4
KEEP = 2


class OneDocument:
    """An imageserver.upstream.port.Upstream with an index of one products document, and without files."""

    part_bytes = PART_BYTES

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def document(self, path: str, _etag: str = "") -> Document | None:
        if path == INDEX_KEY:
            entry = {"datatype": "image-downloads", "path": products_key(STREAM)}
            return Document(json.dumps({"index": {STREAM: entry}}).encode(), "")
        return Document((self._folder / DOCUMENT).read_bytes(), "")

    def read(self, path: str, size_bytes: int, seconds: float, start: int = 0, generation: str = "") -> Reading:
        raise NotImplementedError(path, size_bytes, seconds, start, generation)


def prepare(versions: int, folder: Path) -> int:
    """Write a document of this many versions with lxd.tar.xz and two roots each. Return its size in bytes."""
    products = {}
    for number in range(versions // VERSIONS_PER_PRODUCT):
        os, release = f"os{number % 20:02d}", f"release{number // 20:04d}"
        names = [f"202611{day:02d}_1000" for day in range(1, VERSIONS_PER_PRODUCT + 1)]
        folders = {name: f"{STREAM}/{os}/{release}/amd64/default/{name}" for name in names}
        products[f"{os}:{release}:amd64:default"] = {
            "arch": "amd64",
            "os": os,
            "release": release,
            "release_title": release,
            "variant": "default",
            "aliases": f"{os}/{release}/default,{os}/{release}",
            "versions": {name: {"items": _items(path)} for name, path in folders.items()},
        }
    body = json.dumps({"content_id": STREAM, "format": "products:1.0", "products": products}).encode()
    return (folder / DOCUMENT).write_bytes(body)


def _items(path: str) -> dict[str, dict[str, object]]:
    def item(ftype: str, file: str, size: int, **more: str) -> dict[str, object]:
        return {"ftype": ftype, "path": f"{path}/{file}", "sha256": _digest(path, file), "size": size, **more}

    combined = {"combined_squashfs_sha256": _digest(path, "1"), "combined_disk-kvm-img_sha256": _digest(path, "2")}
    return {
        "lxd.tar.xz": item("lxd.tar.xz", "lxd.tar.xz", 700) | combined,
        "root.squashfs": item("squashfs", "rootfs.squashfs", 120_000_000),
        "disk.qcow2": item("disk-kvm.img", "disk.qcow2", 310_000_000),
    }


def _digest(path: str, file: str) -> str:
    return hashlib.sha256(f"{path}/{file}".encode()).hexdigest()


def with_our_plan(folder: Path) -> int:
    """Compare as the scheduled function does, and return how many files are to be copied."""
    mirror = Mirror(address="https://images.example.org", stream=STREAM, only=("all",), keep=KEEP)
    comparer = Comparer("up", mirror, MirrorState(), (), Sink(), Run(), datetime.now(UTC))
    return len(comparer.compare(Reader(OneDocument(folder)), accept=False).missing)


def with_plain_json(folder: Path) -> int:
    """Decode the document and count the files of the newest versions: the least that any program has to do."""
    document = json.loads((folder / DOCUMENT).read_bytes())
    newest = (sorted(product["versions"])[-KEEP:] for product in document["products"].values())
    counted = zip(document["products"].values(), newest, strict=True)
    return sum(len(product["versions"][name]["items"]) for product, names in counted for name in names)


WAYS: dict[str, Callable[[Path], int]] = {"plan": with_our_plan, "plain": with_plain_json}


if __name__ == "__main__":
    run(prepare, WAYS)
