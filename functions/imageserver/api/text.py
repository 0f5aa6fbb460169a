"""Render the answers as text, for a shell without a JSON parser and for `curl --config`.

An upload is a curl config file: a plain one can be given to curl as it is (`curl -K answer -T file`). Facts that are
not options of curl are comments, one a line. A status has a keyword and its value on each line.
"""

from collections.abc import Iterator, Mapping

from imageserver.api.problems import one_line
from imageserver.api.schema import (
    BatchAnswer,
    Checked,
    CheckStatus,
    Multipart,
    Present,
    ProductStatus,
    Promoted,
    Restored,
    Single,
    VersionStatus,
    Withdrawn,
)

Answer = Single | Multipart | BatchAnswer | VersionStatus | ProductStatus | Withdrawn | Restored | Promoted | Checked


def render(answer: Answer) -> str:
    """Return the answer as lines, each with its newline."""
    return "".join(f"{line}\n" for line in _lines(answer))


def _lines(answer: Answer) -> Iterator[str]:
    if isinstance(answer, BatchAnswer):
        for upload in answer.uploads:
            yield from _upload(upload)
    elif isinstance(answer, VersionStatus):
        yield from _status(answer)
    elif isinstance(answer, ProductStatus):
        yield f"path {answer.path}"
        yield from (f"version {version}" for version in answer.versions)
    elif isinstance(answer, (Withdrawn, Restored)):
        yield from (f"version {path}" for path in answer.versions)
        yield from (f"file {path}" for path in answer.files)
        if isinstance(answer, Withdrawn):
            yield f"delete-after {answer.delete_after}"
            moved = answer.channels or ()
            yield from (f"channel {one.channel} {one.before} {one.after or '-'}" for one in moved)
    elif isinstance(answer, Promoted):
        yield f"channel {answer.channel}"
        yield f"product {answer.product}"
        yield f"before {answer.before or '-'}"
        yield f"after {answer.after or '-'}"
    elif isinstance(answer, Checked):
        yield _check(answer.check, answer.result)
    else:
        yield from _upload(answer)


def _upload(upload: Single | Multipart | Present) -> Iterator[str]:
    yield f"# upload {type(upload).__struct_config__.tag} {upload.size} {upload.path}"
    if isinstance(upload, Present):
        return
    yield f"# expires {upload.expires_at}"
    if isinstance(upload, Single):
        yield from _request(upload.method, upload.url, upload.headers)
        return
    yield f"# upload-id {upload.upload_id}"
    for part in upload.parts:
        yield f"# part {part.number} {part.offset} {part.size} {part.etag}".rstrip()
        if part.url:
            yield f'url = "{part.url}"'
    for name, request in (("complete", upload.complete), ("abort", upload.abort)):
        yield f"# {name}"
        yield from _request(request.method, request.url, request.headers)


def _request(method: str, url: str, headers: Mapping[str, str]) -> Iterator[str]:
    yield f'request = "{method}"'
    yield f'url = "{url}"'
    for name, value in headers.items():
        if name != "Content-Length":  # curl sends that of the file: should it differ, S3 refuses, and nothing hangs
            escaped = value.replace("\\", "\\\\").replace('"', '\\"')
            yield f'header = "{name}: {escaped}"'


def _check(name: str, result: CheckStatus) -> str:
    outcome = ("passed" if result.passed else "failed") if result.counts else "outdated"
    return f"check {name} {outcome} {result.at} {one_line(result.by)}"


def _status(status: VersionStatus) -> Iterator[str]:
    yield f"status {status.status}"
    yield f"path {status.path}"
    yield from (f"alias {alias}" for alias in status.aliases)
    yield from (f"fingerprint {fingerprint}" for fingerprint in status.fingerprints)
    yield from (f"client {client}" for client in status.clients)
    yield from (f"file {facts.size} {facts.sha256 or '-'} {file}" for file, facts in status.files.items())
    yield from (f"reason {r.kind} {r.file or '-'} {one_line(r.sentence)}" for r in status.reasons)
    if status.delete_after:
        yield f"delete-after {status.delete_after}"
    yield from (_check(name, result) for name, result in (status.checks or {}).items())
    for channel, promotions in (status.channels or {}).items():
        yield from (f"promoted {channel} {one.at} {one_line(one.by)}" for one in promotions if not one.back_at)
