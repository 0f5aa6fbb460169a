"""Decide what may be uploaded, and sign the requests for it.

Everything is checked before anything is signed, and refused with the sentences that digest would write into the record.
"""

import base64
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice
from typing import Final, TypeVar

import msgspec

from imageserver.api import multipart, problems
from imageserver.api.problems import Problem, parsed
from imageserver.api.quotas import Quotas
from imageserver.api.schema import BatchAnswer, BatchRequest, FileRequest, Multipart, PartPlan, Present, Signed, Single
from imageserver.catalog.rights import Rights, role_of
from imageserver.format import file_kinds
from imageserver.format.caching import cache_control
from imageserver.format.file_kinds import Role
from imageserver.format.keys import ImageKey, VersionId, is_ahead, parse_key, parse_version
from imageserver.storage import listing
from imageserver.storage.port import StoredObject
from imageserver.storage.presigned import S3Uploads
from imageserver.storage.retries import Pause, RaceLost, retry
from imageserver.storage.s3 import CONTENT_TYPE
from imageserver.versions import examine, records
from imageserver.versions.assessment import UNKNOWN_FILE, assessed
from imageserver.versions.limits import DEFAULT_LIMITS, Limits, too_many_files, too_many_versions
from imageserver.versions.records import CHECKSUMS_FILE, FileFacts, Record

MOST_PARTS_OF_A_BATCH: Final = 1000
MOST_REPLACED: Final = 20
"""How often a refused file may be replaced. The record remembers each object that was replaced."""
_DOCUMENTS: Final = (Role.OVERRIDES, Role.CHECKSUMS)

_T = TypeVar("_T")
_R = TypeVar("_R")


@dataclass(frozen=True, slots=True)
class UploadService:
    """Dependencies of signing uploads."""

    store: S3Uploads
    rights: Rights
    max_bytes: int
    allow_overwrites: bool
    now: datetime
    pause: Pause
    limits: Limits = DEFAULT_LIMITS
    quotas: Quotas | None = None


@dataclass(frozen=True, slots=True)
class _Folder:
    """A version as it is now. `seen` is its record as read."""

    seen: StoredObject | None
    record: Record | None
    listed: Mapping[str, FileFacts]


def sign_one(service: UploadService, caller: str, request: FileRequest) -> Single | Multipart:
    """Return the answer for one file.

    Raise Problem if it may not be sent, CatalogBusy if other writers won every race.
    """
    image = _checked(service, caller, request)

    def decide() -> dict[str, str]:
        folder = _look(service, image.version)
        condition = _condition(service, image, request, folder)
        _check_limits(service, caller, [(image, request)], folder)
        _give_up(service, folder, {image: condition})
        return condition

    return _signed(service, image, request, retry(image.version.path, decide, service.pause))


def sign_batch(service: UploadService, caller: str, request: BatchRequest) -> BatchAnswer:
    """Return the answer for the files of a version.

    Raise one Problem with all refusals if any of them may not be sent, CatalogBusy if other writers won every race.
    """
    version = parsed(parse_version, request.version)
    files = [
        FileRequest(
            path=f"{version.prefix}{f.file}", size=f.size, sha256=f.sha256, multipart=f.multipart, upload_id=f.upload_id
        )
        for f in request.files
    ]
    images = _each(lambda file: _checked(service, caller, file), files)
    _check_batch([(image.file, file) for image, file in images])

    def decide() -> list[tuple[Present | dict[str, str], tuple[ImageKey, FileRequest]]]:
        folder = _look(service, version)
        decided = _each(lambda pair: _present(*pair, folder) or _condition(service, *pair, folder), images)
        _check_limits(service, caller, [pair for what, pair in decided if not isinstance(what, Present)], folder)
        _give_up(service, folder, {image: what for what, (image, _) in decided if not isinstance(what, Present)})
        return decided

    decided = retry(version.path, decide, service.pause)
    uploads = [
        decision if isinstance(decision, Present) else _signed(service, image, file, decision)
        for decision, (image, file) in decided
    ]
    return BatchAnswer(version=version.path, uploads=uploads)


def allowed(rights: Rights, caller: str, path: str) -> None:
    """Raise Problem unless the caller may write there."""
    if not rights.allow(caller, path):
        raise Problem(
            problems.FORBIDDEN,
            f"{caller or 'a caller without a name'} may not write to {path}; "
            "the operator names callers and their path prefixes in the parameter Publishers"
            + (f', this one as "{role_of(caller) or caller}"' if caller else ""),
        )


def _check_batch(files: Sequence[tuple[str, FileRequest]]) -> None:
    wanted = dict(files)
    if len(wanted) < len(files):
        raise Problem(problems.BAD_REQUEST, "two of the files have the same name; name each file of a version once")
    count = sum(len(multipart.parts(f.size)) for f in wanted.values() if multipart.in_parts(f.size, f.multipart))
    if count > MOST_PARTS_OF_A_BATCH:
        raise Problem(
            problems.BAD_REQUEST,
            f"the files have {count:,} parts together, expected at most {MOST_PARTS_OF_A_BATCH:,} in one answer; "
            "ask for the large files one by one",
        )


def _check_limits(
    service: UploadService, caller: str, wanted: Sequence[tuple[ImageKey, FileRequest]], folder: _Folder
) -> None:
    """Raise Problem if these files would exceed a limit of the version, the product or the publisher."""
    new = [(image, request) for image, request in wanted if image.file not in folder.listed]
    if not new:
        return
    version, limits = new[0][0].version, service.limits
    if len(folder.listed) + len(new) > limits.files:
        raise Problem(problems.LIMIT, f"{version.path}: {too_many_files(limits)}")
    if not folder.listed and folder.record is None:
        others = islice(service.store.list(version.product.records_prefix), limits.versions)
        if sum(1 for _ in others) >= limits.versions:
            raise Problem(problems.LIMIT, f"{version.path}: {too_many_versions(limits)}")
    if service.quotas:
        service.quotas.check(service.store, caller, version.product, sum(request.size for _, request in new))


def _each(decide: Callable[[_T], _R], wanted: Iterable[_T]) -> list[tuple[_R, _T]]:
    """Return the decision about each file. Raise one Problem with all refusals if there are any."""
    decided: list[tuple[_R, _T]] = []
    refusals: list[Problem] = []
    for one in wanted:
        try:
            decided.append((decide(one), one))
        except Problem as refusal:
            refusals.append(refusal)
    if refusals:
        first = refusals[0]
        about = [{"type": r.kind.uri, "detail": r.detail} for r in refusals]
        others = f" ({len(refusals) - 1} more)" if len(refusals) > 1 else ""
        raise Problem(first.kind, f"{first.detail}{others}", refusals=about)
    return decided


def _checked(service: UploadService, caller: str, request: FileRequest) -> ImageKey:
    """Validate name, size and caller, and return the key of the file."""
    image = parsed(parse_key, request.path)
    allowed(service.rights, caller, image.key)
    if is_ahead(image.version.version, service.now):
        raise Problem(
            problems.INVALID,
            f"the version {image.version.version} is dated ahead, expected {service.now:%Y%m%d} in UTC or a day later "
            "at most: clients take the highest name for the newest, so it would hide every real version; upload it "
            "under its real date, and check the clock of the machine that named it",
        )
    if file_kinds.classify(image.file).role is Role.OTHER:
        raise Problem(problems.INVALID, f"{image.file} {file_kinds.conversion(image.file) or UNKNOWN_FILE}")
    declared = FileFacts(etag="", size_bytes=request.size, modified="")
    if refusal := examine.refuse_unread(image.file, declared, "", service.max_bytes).refusal:
        raise Problem(problems.INVALID, f"{image.file} {refusal}")
    if request.multipart is False and request.size > multipart.LARGEST_SINGLE_BYTES:
        raise Problem(
            problems.INVALID,
            f"{image.file} has {request.size:,} bytes, expected at most "
            f"{multipart.LARGEST_SINGLE_BYTES:,} for one PUT; "
            "leave `multipart` out and send it in parts",
        )
    return image


def _look(service: UploadService, version: VersionId) -> _Folder:
    seen = service.store.read(version.record_key)
    record = records.decode(seen.body, version.record_key) if seen else None
    if record and record.withdrawn:
        raise Problem(
            problems.WITHDRAWN,
            f"{version.path} is withdrawn and will be deleted after {record.withdrawn.delete_after}; "
            "restore it first, or upload under the name of another version",
        )
    return _Folder(seen, record, listing.listed(service.store, version))


def _present(image: ImageKey, request: FileRequest, folder: _Folder) -> Present | None:
    """Return the stored file if it is, as far as is known, what the uploader wants to send."""
    there = folder.listed.get(image.file)
    if there is None or there.size_bytes != request.size:
        return None
    facts = _facts(folder, there, image.file)
    known = facts.sha256 if facts else ""
    if (known and request.sha256 and known != request.sha256.lower()) or (facts and facts.withdrawn):
        return None
    if _refused(folder, image.file, facts) and not _only_sums_are_wrong(folder, image.file, request, facts):
        return None
    return Present(path=image.key, size=there.size_bytes, sha256=known)


def _facts(folder: _Folder, there: FileFacts, file: str) -> FileFacts | None:
    """Return the recorded facts of exactly this generation of a file."""
    facts = folder.record.files.get(file) if folder.record else None
    return facts if facts and facts.etag == there.etag else None


def _refused(folder: _Folder, file: str, facts: FileFacts | None) -> bool:
    """Return whether the file is refused, or is the SHA256SUMS beside a refused file: clients never saw it."""
    if facts is None or folder.record is None or folder.record.is_published(file):
        return False
    refused = {reason.file for reason in folder.record.reasons if reason.kind == "error"}
    return file in refused or (file == CHECKSUMS_FILE and bool(refused))


def _only_sums_are_wrong(folder: _Folder, file: str, request: FileRequest, facts: FileFacts | None) -> bool:
    """Return whether a refused file has the bytes that its uploader wants to send: a corrected SHA256SUMS is enough."""
    if facts is None or folder.record is None or file_kinds.classify(file).role in _DOCUMENTS:
        return False
    given_up = facts.etag in folder.record.replaceable.get(file, ())
    return bool(facts.sha256) and facts.sha256 == (request.sha256 or "").lower() and not given_up


def _condition(service: UploadService, image: ImageKey, request: FileRequest, folder: _Folder) -> dict[str, str]:
    """Return the header with which the URL replaces nothing that is published."""
    there = folder.listed.get(image.file)
    if service.allow_overwrites:
        return {}
    if there is None:
        return {"If-None-Match": "*"}
    facts = _facts(folder, there, image.file)
    if facts and facts.withdrawn:
        raise Problem(
            problems.WITHDRAWN,
            f"{image.key} is withdrawn and will be deleted after {facts.withdrawn.delete_after}; restore it first, "
            "wait until it is deleted, or upload under the name of another version",
        )
    exists = f"{image.key} exists already, with {there.size_bytes:,} bytes; nothing was changed. "
    advice = "Upload under the name of a new version"
    if _refused(folder, image.file, facts) or _is_document_with_warnings(folder, image.file, facts):
        if _only_sums_are_wrong(folder, image.file, request, facts):
            advice = f"It has these bytes, and {CHECKSUMS_FILE} or another file beside it refuses it: correct that file"
        elif facts and facts.sha256 and not request.sha256 and file_kinds.classify(image.file).role not in _DOCUMENTS:
            advice = "It is refused: declare the sha256 of what you want to send in its place"
        elif folder.record and len(folder.record.replaceable.get(image.file, ())) >= MOST_REPLACED:
            advice = f"It was replaced {MOST_REPLACED} times: upload under the name of a new version"
        else:
            return {"If-Match": there.etag}  # once, and only over the refused object
    raise Problem(
        problems.EXISTS,
        exists + advice,
        existing={"size": there.size_bytes, "sha256": facts.sha256 if facts else ""},
    )


def _is_document_with_warnings(folder: _Folder, file: str, facts: FileFacts | None) -> bool:
    """Return whether it is a document with warnings to correct, which no published file depends on."""
    if facts is None or folder.record is None or file_kinds.classify(file).role not in _DOCUMENTS:
        return False
    return any(reason.file == file for reason in folder.record.reasons)


def _give_up(service: UploadService, folder: _Folder, conditions: Mapping[ImageKey, Mapping[str, str]]) -> None:
    """Record the objects that a new URL may replace. Raise RaceLost if the record was written meanwhile.

    The URL works for hours, on any object with that ETag, so no object with that ETag may be published from now on.
    """
    replaceable = dict(folder.record.replaceable) if folder.record else {}
    for image, condition in conditions.items():
        etag = condition.get("If-Match", "")
        if etag and file_kinds.classify(image.file).role not in _DOCUMENTS:
            replaceable[image.file] = tuple(sorted({*replaceable.get(image.file, ()), etag}))
    if folder.seen is None or folder.record is None or replaceable == folder.record.replaceable:
        return
    record = assessed(msgspec.structs.replace(folder.record, replaceable=replaceable))
    if not service.store.replace(record.id.record_key, records.encode(record), folder.seen.revision):
        raise RaceLost


def _signed(
    service: UploadService, image: ImageKey, request: FileRequest, condition: Mapping[str, str]
) -> Single | Multipart:
    sha256 = (request.sha256 or "").lower()
    if multipart.in_parts(request.size, request.multipart, _parts_of(condition)):
        return _multipart(service, image, request, condition)
    headers = {
        "Content-Length": str(request.size),
        "Content-Type": CONTENT_TYPE,
        "Cache-Control": cache_control(image.key),
        **condition,
    }
    if sha256:
        headers["x-amz-checksum-sha256"] = base64.b64encode(bytes.fromhex(sha256)).decode()
    return Single(
        path=image.key,
        size=request.size,
        url=service.store.sign("put_object", image.key, headers, multipart.SINGLE_LIFETIME_S),
        headers=headers,
        expires_at=_after(service, multipart.SINGLE_LIFETIME_S),
    )


def _multipart(
    service: UploadService, image: ImageKey, request: FileRequest, condition: Mapping[str, str]
) -> Multipart:
    """Return a new multipart upload, or the rest of the one that the uploader began earlier."""
    arrived = service.store.arrived(image.key, request.upload_id) if request.upload_id else None
    begun = request.upload_id if arrived is not None else None
    upload_id = begun or service.store.begin(image.key, (request.sha256 or "").lower())

    def signed(operation: str, method: str, headers: dict[str, str], unsigned: dict[str, str]) -> Signed:
        url = service.store.sign(operation, image.key, headers, multipart.PARTS_LIFETIME_S, UploadId=upload_id)
        return Signed(method=method, url=url, headers=headers | unsigned)

    other = _parts_of(condition)
    plans = []
    for part in multipart.parts(request.size, other):
        url, (size, etag) = "", (arrived or {}).get(part.number, (0, ""))
        if size != part.size:  # it has not arrived in full
            length, about = {"Content-Length": str(part.size)}, {"UploadId": upload_id, "PartNumber": part.number}
            url = service.store.sign("upload_part", image.key, length, multipart.PARTS_LIFETIME_S, **about)
            etag = ""
        plans.append(PartPlan(number=part.number, offset=part.offset, size=part.size, url=url, etag=etag))
    whole = {**condition, "x-amz-mp-object-size": str(request.size)}
    return Multipart(
        path=image.key,
        size=request.size,
        upload_id=upload_id,
        part_size=multipart.part_bytes(request.size, other),
        parts=plans,
        complete=signed("complete_multipart_upload", "POST", whole, {"Content-Type": "application/xml"}),
        abort=signed("abort_multipart_upload", "DELETE", {}, {}),
        expires_at=_after(service, multipart.PARTS_LIFETIME_S),
    )


def _parts_of(condition: Mapping[str, str]) -> int:
    """Return the number of parts in which the object to replace was sent; 0 for none, or for a single PUT.

    The ETag of an object that was sent in parts ends with their number. Equal bytes in another number of parts have
    another ETag, so they are not mistaken for the refused object.
    """
    count = condition.get("If-Match", "").strip('"').partition("-")[2]
    return int(count) if count.isdecimal() else 0


def _after(service: UploadService, seconds: int) -> str:
    return (service.now + timedelta(seconds=seconds)).isoformat(timespec="seconds")
