"""Import the images of another server: compare its files with this server's, then create what is missing."""

from collections import Counter
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass, field, replace

from cli.admin.deployment import Deployment
from cli.admin.source_records import SourceRecords, Withdrawn, summed_up
from cli.admin.transfer import Advance, AlreadyThere, File, Written, create
from imageserver.errors import CatalogDamaged, InvalidUpload, UpstreamRefused
from imageserver.format import file_kinds
from imageserver.format.file_kinds import Role
from imageserver.format.keys import ImageKey, VersionId, parse_key
from imageserver.format.wording import counted
from imageserver.operations.inventory import record_of
from imageserver.storage.port import ObjectInfo
from imageserver.upstream.mapping import LeftOut
from imageserver.versions.records import FileFacts, Record, Withdrawal


@dataclass(frozen=True)
class Plan:
    """What an import will do. `refused`, `taken` and `unknown` say why a file is left out.

    `withdrawn`: left out because the source has withdrawn it. `notes`: remarks.
    """

    files: list[File] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    taken: list[str] = field(default_factory=list)
    already: list[File] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    withdrawn: list[Withdrawn] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def is_empty(self) -> bool:
        """Whether the source has no file below images*."""
        return not (self.files or self.already or self.withdrawn or self.left_out)

    @property
    def left_out(self) -> list[str]:
        """A sentence for each file or version that cannot be imported."""
        return [*self.refused, *self.taken, *self.unknown]

    @property
    def size_bytes(self) -> int:
        """The bytes to copy."""
        return sum(file.size_bytes for file in self.files)


def plan(
    deployment: Deployment,
    found: Iterator[File | LeftOut],
    advance: Callable[[str], object] = lambda _: None,
    source: SourceRecords | None = None,
) -> Plan:
    """Compare files with the server. `advance` is called with each key to compare; `source`: the source's records."""
    there = {info.key: info for info in deployment.store.list("images")}
    comparing, result = Comparing(deployment), Plan()
    for file in _not_withdrawn(result, found, source or SourceRecords(), there, comparing):
        if file.key not in there:
            result.files.append(file)
            continue
        advance(file.key)
        _sort_in(result, file, comparing.difference(file, there[file.key]))
    result.files.sort(key=_order)
    return result


def _not_withdrawn(
    result: Plan, found: Iterator[File | LeftOut], source: SourceRecords, there: Container[str], comparing: "Comparing"
) -> Iterator[File]:
    """Yield the files that the source has not withdrawn; note the others in the plan."""
    coming: list[ImageKey] = []
    withdrawn: list[tuple[ImageKey, Withdrawal]] = []
    unknown: Counter[VersionId] = Counter()
    for file in found:
        if isinstance(file, LeftOut):
            result.refused.append(f"{file.name} {file.reason}")
            continue
        try:
            image = parse_key(file.key)
        except InvalidUpload as refusal:
            result.refused.append(str(refusal))
            continue
        if image.version in source.unreadable:
            unknown[image.version] += 1
            continue
        if withdrawal := source.withdrawal_of(image, file.size_bytes):
            withdrawn.append((image, withdrawal))
            if file.key in there and not comparing.is_withdrawn(image):
                result.notes.append(f"{file.key} is on this server already: admin withdraw {file.key} takes it off")
            continue
        coming.append(image)
        if file.key not in there and (sentence := source.refusal_of(image, file.size_bytes)):
            result.notes.append(f"{file.key} is not listed on the source ({sentence}); it is checked again here")
        yield file
    result.withdrawn.extend(summed_up(withdrawn, coming))
    for version, count in sorted(unknown.items()):
        what = f"{version.path} ({counted(count, 'file')}): its record on the source {source.unreadable[version]}"
        result.unknown.append(f"{what}; until then it is unknown whether it was withdrawn")


def carry_out(deployment: Deployment, todo: Plan, advance: Advance) -> Plan:
    """Create the files. Return a plan whose `files` are those created. Compare a file that has appeared meanwhile."""
    comparing = Comparing(deployment)
    done = replace(todo, files=[], taken=list(todo.taken), already=list(todo.already), refused=list(todo.refused))
    for file in todo.files:
        try:
            create(deployment, file, advance)
            done.files.append(file)
        except UpstreamRefused as error:
            done.refused.append(f"{file.key} was not created: {error}; run it again")
        except AlreadyThere:
            there = next((info for info in deployment.store.list(file.key) if info.key == file.key), None)
            other = f"{file.key} is being written by another client; run it again"
            _sort_in(done, file, comparing.difference(file, there) if there else other)
    return done


def _sort_in(result: Plan, file: File, difference: str) -> None:
    if difference:
        result.taken.append(difference)
    else:
        result.already.append(file)


class Comparing:
    """A comparison of files with the objects of the same keys. Reads each record once, and a file only if it must."""

    def __init__(self, deployment: Deployment) -> None:
        self._deployment = deployment
        self._records: dict[VersionId, Record | None] = {}

    def difference(self, file: File, there: ObjectInfo) -> str:
        """Return how they differ, or that it is unknown; empty if they are the same."""
        if isinstance(file.source, Written):
            return ""  # a different one on this server was written on purpose
        if file.size_bytes != there.size_bytes:
            return f"{file.key} is there with {there.size_bytes:,} bytes, here it has {file.size_bytes:,}"
        _, facts = self._known(parse_key(file.key))
        known = facts.sha256 if facts and facts.etag == there.etag else ""  # the digest of this generation
        same = file.source.is_same(self._deployment, there, known)
        if same:
            return ""
        if same is None:
            return (
                f"{file.key} is there with the same size and another ETag ({there.etag}); it was not "
                "compared, because the server has not read it: run this again when admin show has its sha256"
            )
        return f"{file.key} is there with the same size and sha256 {known}, here it has another: nothing was replaced"

    def is_withdrawn(self, image: ImageKey) -> bool:
        """Return whether a file is withdrawn here too."""
        record, facts = self._known(image)
        return bool(record and record.withdrawn) or bool(facts and facts.withdrawn)

    def _known(self, image: ImageKey) -> tuple[Record | None, FileFacts | None]:
        """Return the record of a file's version, and what it says of the file."""
        version = image.version
        if version not in self._records:
            try:
                self._records[version] = record_of(self._deployment.store, version)
            except CatalogDamaged:  # the doctor reports it; here it means that no digest is known
                self._records[version] = None
        record = self._records[version]
        return record, record.files.get(image.file) if record else None


def _order(file: File) -> tuple[str, bool, str]:
    """Order by version, metadata last: a root that precedes its metadata is read once, with it."""
    parsed = parse_key(file.key)
    return parsed.version.path, file_kinds.classify(parsed.file).role is Role.METADATA, parsed.file
