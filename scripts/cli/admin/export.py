"""Export the listed images into a folder that any web server can serve: the files first, then their catalog."""

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from msgspec.structs import replace

from cli.admin.errors import explain
from cli.admin.verification import CHUNK, Mismatch, Open, UnreadableFile
from imageserver.errors import InvalidUpload
from imageserver.format import documents
from imageserver.format.documents import Index, Item, Product, Products, Version
from imageserver.format.keys import ImageKey, parse_key
from imageserver.storage.port import Store
from imageserver.upstream.filters import Filter, chosen


@dataclass(frozen=True)
class Export:
    """The contents of the folder: items by their path, and the documents, with the index last."""

    files: dict[str, Item]
    documents: dict[str, bytes]

    @property
    def size_bytes(self) -> int:
        return sum(item.size for item in self.files.values())


@dataclass
class Written:
    """The result of an export. `is_whole`: nothing failed, so the documents were written."""

    files: list[str] = field(default_factory=list)
    already: list[str] = field(default_factory=list)
    failed: list[Mismatch] = field(default_factory=list)
    is_whole: bool = False


def choose(store: Store, filters: Sequence[Filter], keep: int | None) -> Export:
    """Return the listed items that the filters take. Without a filter return everything, with the documents unchanged.

    `keep` is the number of newest versions to export of each product; None for all. Raise CatalogDamaged.
    """
    files: dict[str, Item] = {}
    bodies: dict[str, bytes] = {}
    index = documents.decode_index(_body(store, documents.INDEX_KEY))
    entries = dict(index.index)
    for stream in sorted(index.index):
        key = documents.products_key(stream)
        body = _body(store, key)
        found = documents.decode_products(body, stream)
        if filters or keep:
            found, body = _only(found, filters, keep), None
            if not found.products:
                del entries[stream]
                continue
        files |= {item.path: item for _, item in _items(found)}
        bodies[key] = body or documents.encode(found)
        entries[stream] = replace(entries[stream], products=sorted(found.products))
    if filters or keep:
        index = Index(format=index.format, index=entries)
    return Export(files, {**bodies, documents.INDEX_KEY: documents.encode(index)})


def compare(export: Export, root: Path, advance: Callable[[int], object]) -> Written:
    """Return what `write` would write, and what it would find in place. It does not refuse files as `write` does."""
    written = Written()
    for path, item in sorted(export.files.items()):
        (written.already if _is_there(root / path, item) else written.files).append(path)
        advance(item.size)
    return written


def write(export: Export, root: Path, read: Open, advance: Callable[[int], object]) -> Written:
    """Write an export below `root`; `advance` gets the count of bytes done. Write the catalog once every file is there.

    A file that is there with the right bytes stays. Any other is written beside its place and moved there once its
    sha256 is right, so an interrupted export leaves no wrong file, and the next one continues it.
    """
    written = Written()
    for path, item in sorted(export.files.items()):
        try:
            parse_key(path)  # a path of another form could lead out of the folder
            if _is_there(root / path, item):
                written.already.append(path)
                advance(item.size)
                continue
            _write_file(root / path, item, read(path), advance)
            written.files.append(path)
        except (UnreadableFile, InvalidUpload) as error:
            written.failed.append(Mismatch(path, str(error)))
        except Exception as error:  # noqa: BLE001 - whatever fails for one file, the others are written
            written.failed.append(Mismatch(path, f"it cannot be written: {explain(error).what}"))
    if not written.failed:
        for key, body in export.documents.items():
            _replace(root / key, [body])
        written.is_whole = True
    return written


def _body(store: Store, key: str) -> bytes | None:
    found = store.read(key)
    return found.body if found else None


def _items(products: Products) -> Iterable[tuple[str, Item]]:
    for product in products.products.values():
        for version in documents.decode_versions(product).values():
            yield from version.items.items()


def _only(products: Products, filters: Sequence[Filter], keep: int | None) -> Products:
    """Return the products with the versions that have an exported item, and what is withheld of them."""
    sizes: dict[ImageKey, int] = {parse_key(item.path): item.size for _, item in _items(products)}
    come = {image.key for image in chosen(sizes, filters or [Filter({})], keep)}
    kept: dict[str, Product] = {}
    for name, product in products.products.items():
        versions: Mapping[str, Version] = documents.decode_versions(product)
        exported = {
            number: replace(version, items=items)
            for number, version in versions.items()
            if (items := {key: item for key, item in version.items.items() if item.path in come})
        }
        if exported:
            kept[name] = replace(product, versions=documents.encode_versions(exported))
    withheld = {name: entries for name, entries in products.withheld.items() if name in kept}
    return replace(products, products=kept, withheld=withheld)


def _is_there(target: Path, item: Item) -> bool:
    if target.is_symlink() or not target.is_file() or target.stat().st_size != item.size:
        return False
    with target.open("rb") as there:
        return hashlib.file_digest(there, "sha256").hexdigest() == item.sha256


def _write_file(target: Path, item: Item, chunks: Iterable[bytes], advance: Callable[[int], object]) -> None:
    """Write one file. Raise UnreadableFile if its bytes differ from the catalog."""
    digest = hashlib.sha256()

    def counted() -> Iterable[bytes]:
        for chunk in chunks:
            digest.update(chunk)
            advance(len(chunk))
            yield chunk
        if digest.hexdigest() != item.sha256:
            raise UnreadableFile(f"has sha256 {digest.hexdigest()}, the catalog says {item.sha256}")

    _replace(target, counted())


def _replace(target: Path, chunks: Iterable[bytes]) -> None:
    """Put a file in place atomically. If `chunks` raises, the previous file stays."""
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.part")
    try:
        with part.open("wb", buffering=CHUNK) as file:
            file.writelines(chunks)
            file.flush()
            os.fsync(file.fileno())
        part.replace(target)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
