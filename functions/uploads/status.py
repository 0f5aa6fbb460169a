"""What became of a version: the record says what is wrong with it, the catalog whether clients see it."""

from collections.abc import Callable
from dataclasses import dataclass, field

from simplestreams import catalog, records
from simplestreams.catalog import Products
from simplestreams.keys import VersionId
from simplestreams.records import Reason, Record
from storage.port import Store
from uploads.shapes import FileStatus, VersionStatus

POLL_S = 0.5


@dataclass(slots=True)
class Catalogs:
    """The products documents as last read. They are large, so one is read again only when its ETag is another."""

    store: Store
    known: dict[str, tuple[str, Products]] = field(default_factory=dict)

    def products(self, stream: str) -> Products:
        """The products document of a stream, as it is now."""
        key = catalog.products_key(stream)
        etag = next((info.etag for info in self.store.list(key) if info.key == key), "")
        if stream not in self.known or self.known[stream][0] != etag:
            seen = self.store.read(key)
            document = catalog.decode_products(seen.body if seen else None, stream)
            self.known[stream] = (seen.revision if seen else "", document)
        return self.known[stream][1]


def look(store: Store, catalogs: Catalogs, version: VersionId) -> VersionStatus | None:
    """The status of a version now; None if there is nothing of that name."""
    seen = store.read(version.record_key)
    record = records.decode(seen.body, version.record_key) if seen else None
    if record is None or not record.files:
        sizes = {info.key.removeprefix(version.prefix): info.size_bytes for info in store.list(version.prefix)}
        return arrived(version, sizes) if sizes else None
    if record.state != "sound":
        return told(record)
    return shown(record, catalogs.products(version.product.stream))


def wait(
    look: Callable[[], VersionStatus | None],
    known: Callable[[VersionStatus], bool],
    passed_s: Callable[[], float],
    wait_s: float,
    pause: Callable[[float], object],
) -> VersionStatus | None:
    """Look until there is something that the caller does not know, or `wait_s` have passed; the last look."""
    found = look()
    while (found is None or known(found)) and passed_s() + POLL_S < wait_s:
        pause(POLL_S)
        found = look()
    return found


def arrived(version: VersionId, sizes: dict[str, int]) -> VersionStatus:
    """A version whose files are there and were not looked at yet."""
    sentence = f"{version.path} has arrived and is about to be looked at"
    files = {file: FileStatus(size=size) for file, size in sizes.items() if file}
    return VersionStatus(path=version.path, status="incomplete", reasons=[Reason("", "waiting", sentence)], files=files)


def told(record: Record) -> VersionStatus:
    """A version of which the record alone says that it is not listed."""
    status = record.state if record.state in ("refused", "withdrawn") else "incomplete"
    withdrawals = [record.withdrawn] if record.withdrawn else [facts.withdrawn for facts in record.files.values()]
    delete_after = max((w.delete_after for w in withdrawals if w), default="") if status == "withdrawn" else ""
    sentence = f"{record.version} was withdrawn; it can be restored until {delete_after} and is deleted then"
    withdrawn = [Reason("", "ignored", sentence)] if delete_after else []
    return VersionStatus(
        path=record.version,
        status=status,
        reasons=[*withdrawn, *record.reasons],
        files=_files(record),
        delete_after=delete_after,
    )


def shown(record: Record, products: Products) -> VersionStatus:
    """A sound version: listed, or held back by what else is listed, or about to be listed."""
    version = record.id
    name = version.product.name
    product = products.products.get(name)
    entry = catalog.decode_versions(product).get(version.version) if product else None
    held = [w for w in products.withheld.get(name, ()) if w.version == version.version]
    if product is None or entry is None:
        reasons = [Reason(w.file, "refused", w.reason) for w in held]
        waiting = Reason("", "waiting", f"{record.version} is sound and about to be listed")
        return VersionStatus(
            path=record.version,
            status="refused" if held else "incomplete",
            reasons=[*record.reasons, *(reasons or [waiting])],
            files=_files(record),
        )
    lost = [w for w in products.withheld.get(name, ()) if w.alias]
    return VersionStatus(
        path=record.version,
        status="published",
        reasons=[*record.reasons, *(Reason(w.file, "ignored", w.reason) for w in (*held, *lost))],
        files=_files(record),
        aliases=product.aliases.split(",") if product.aliases else [],
        fingerprints=_fingerprints(entry),
    )


def _fingerprints(entry: catalog.Version) -> list[str]:
    found: set[str] = set()
    for item in entry.items.values():
        if item.ftype.endswith("_combined.tar.gz"):
            found.add(item.sha256)
        combined = (
            item.combined_squashfs_sha256,
            item.combined_rootxz_sha256,
            item.combined_disk_kvm,
            item.combined_disk1,
            item.combined_uefi1,
        )
        found |= {value for value in combined if value}
    return sorted(found)


def _files(record: Record) -> dict[str, FileStatus]:
    return {file: FileStatus(size=facts.size_bytes, sha256=facts.sha256) for file, facts in record.files.items()}
