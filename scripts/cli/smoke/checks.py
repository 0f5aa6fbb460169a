"""What a client, a browser and a publisher must get from the server. Each check returns a detail or raises Failed."""

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Final
from urllib.parse import unquote, urlsplit

import msgspec

from cli.smoke import reader
from cli.smoke.image import ALIASES, METADATA, PRODUCT, ROOT
from cli.smoke.run import Failed, Run, Skipped
from cli.smoke.uploading import refusal_of
from cli.smoke.web import Answer
from imageserver.api.schema import VersionStatus
from imageserver.format import documents
from imageserver.format.wording import counted
from imageserver.storage.s3 import CONTENT_TYPE
from imageserver.versions import records

LONGEST_FRESH_S: Final = 300
"""If caches may keep a document longer than this, clients see an upload that much later."""
LEAST_IMAGE_S: Final = 24 * 3600
LONGEST_ERROR_S: Final = 60
PROMPT_S: Final = 5.0
"""Clients try http first for each file: when that hangs, so does every download."""
REDIRECTS: Final = (301, 302, 307, 308)


def document(run: Run, path: str) -> bytes:
    """Fetch one JSON document as a client does. Raise Failed unless it is there, readable, and cached only briefly."""
    return _document(run.server.get(path), path)


def _document(answer: Answer, path: str) -> bytes:
    if answer.status != 200:
        hint = ", and clients cannot even add the server; `admin reconcile` lays it out" if path == reader.INDEX else ""
        raise Failed(f"{path} answers {answer.status}, expected 200{hint}")
    _expect_type(answer, path, "application/json")
    if max_age_s(answer.headers) > LONGEST_FRESH_S:
        raise Failed(f"{path} has Cache-Control {_cache(answer)}, expected at most {LONGEST_FRESH_S} s")
    try:
        return answer.document
    except ValueError as error:
        raise Failed(f"{path}: {error}") from error


def whole_catalog(run: Run) -> str:
    """Check that every client can read every stream. Note the aliases of all other products."""
    images = reader.read_catalog(lambda path: document(run, path))
    others = [image for image in images if image.product != PRODUCT.name]
    run.seen_aliases = {alias for image in others for alias in image.aliases}
    return counted(len({image.fingerprint for image in images}), "image")


def listed_images(run: Run) -> list[reader.Image]:
    """Return what clients see of the version now: an image for each kind of client; none if it is not listed."""
    path, index = f"streams/v1/{PRODUCT.stream}.json", run.server.get(reader.INDEX)
    if index.status == 404 or path not in reader.read_index(_document(index, reader.INDEX)):
        return []  # the first publish of a new server makes the index
    images = reader.read_products(document(run, path), path)
    return [image for image in images if (image.product, image.version) == (PRODUCT.name, run.image.version.version)]


def await_listed(run: Run) -> str:
    """Wait until the edge lists the version."""
    run.listed = run.wait(lambda: listed_images(run) or None, lambda: whereabouts(run))
    return f"for {' and '.join(sorted({image.client for image in run.listed}))}"


def whereabouts(run: Run) -> str:
    """Return how far the version got, so that an operator knows where to look."""
    version, store = run.image.version, run.server.store
    if (seen := store.read(version.record_key)) is None:
        return "no record was written: digest has not read the files (the bucket's events, the queue arrivals, digest)"
    record = records.decode(seen.body, version.record_key)
    if record.state != "complete":
        sentences = "; ".join(reason.sentence for reason in record.reasons if reason.kind != "warning")
        return f"its record says {record.state}{f': {sentences}' if sentences else ''}"
    there = store.read(documents.products_key(PRODUCT.stream))
    if there is None or f'"{version.version}"'.encode() not in there.body:
        return "its record is complete, and the catalog in the bucket does not list it (the queue changes, publish)"
    return f"the catalog in the bucket lists it, and {run.server.address} does not (the edge)"


def entry(run: Run) -> str:
    """Check the catalog's sizes and digests of the files, and the fingerprint, for each kind of client."""
    images, image = run.listed, run.image
    clients = sorted(found.client for found in images)
    expected = sorted(run.server.clients or set(clients))
    if clients != expected:
        raise Failed(f"it is listed for {', '.join(clients)}, expected once for each of {', '.join(expected)}")
    files = {image.version.prefix + file: body for file, body in image.files.items()}
    for found in images:
        if found.fingerprint != image.fingerprint:
            raise Failed(f"{found.client} reads the fingerprint {found.fingerprint}, expected {image.fingerprint}")
        if found.aliases != ALIASES:
            raise Failed(f"{found.client} reads the aliases {', '.join(found.aliases)}, expected {', '.join(ALIASES)}")
        named = {item.path: (item.size, item.sha256) for item in found.items}
        if named != {path: (len(body), _sha256(body)) for path, body in files.items()}:
            raise Failed(f"{found.client} reads other files, sizes or digests than were uploaded: {named}")
    return image.fingerprint


def download(run: Run) -> str:
    """Check that each file comes through the edge as uploaded, and that together they have the fingerprint."""
    got = {file: _file(run, file, body) for file, body in run.image.files.items()}
    combined = _sha256(got[METADATA] + got[ROOT])
    if combined != run.image.fingerprint:
        raise Failed(f"the combined sha256 is {combined}, expected {run.image.fingerprint}")
    return f"{counted(len(got), 'file')}, {sum(map(len, got.values())):,} bytes"


def _file(run: Run, file: str, sent: bytes) -> bytes:
    path = run.image.version.prefix + file
    answer = run.server.get(path)
    if answer.status != 200:
        raise Failed(f"{path} answers {answer.status}, expected 200")
    if encoding := answer.headers.get("content-encoding"):
        raise Failed(f"{path} has Content-Encoding {encoding}, which breaks its sha256 in clients; expected none")
    if len(answer.body) != len(sent):
        raise Failed(f"{path} has {len(answer.body):,} bytes, expected {len(sent):,}")
    if (found := _sha256(answer.body)) != (expected := _sha256(sent)):
        raise Failed(f"{path} has sha256 {found}, expected {expected}")
    _expect_type(answer, path, CONTENT_TYPE)
    if "immutable" not in _cache(answer) or max_age_s(answer.headers) < LEAST_IMAGE_S:
        raise Failed(f"{path} has Cache-Control {_cache(answer)}, expected immutable and a long max-age")
    return answer.body


def redirect(run: Run) -> str:
    """Check that plain http leads to https at once, for a document and for an image."""
    secure = urlsplit(run.server.address)
    if secure.scheme != "https":
        raise Skipped(f"{run.server.address} is not https")
    for path in (reader.INDEX, f"{run.image.version.prefix}{METADATA}"):
        url, began = f"http://{secure.netloc}{secure.path}/{path}", run.clock()
        try:
            answer = run.server.web.ask(url)
        except ConnectionError as error:
            if secure.port is None:
                raise Failed(f"{error}; clients try http first, so port 80 must answer with a redirect") from error
            _expect_prompt(run.clock() - began, url)
            continue
        _expect_prompt(run.clock() - began, url)
        location = answer.headers.get("location", "")
        if answer.status not in REDIRECTS or unquote(location) != f"{run.server.address}/{path}":
            raise Failed(f"{url} answers {answer.status} {location}, expected a redirect to https")
    if secure.port is None:
        return ""
    return f"nothing is served over http on port {secure.port}, so clients continue with https"


def _expect_prompt(seconds: float, url: str) -> None:
    if seconds > PROMPT_S:
        raise Failed(f"{url} took {seconds:.1f} s, expected at most {PROMPT_S:.0f}: clients wait for it at each file")


NOT_LISTED: Final = {403, 404}
"""The edge's answers for a missing file: S3 lets the edge read listed uploads only, and this is not one."""


def missing(run: Run) -> str:
    """Check that a missing document is a 404 and a missing file an error, and that both are cached only briefly."""
    answers = {f"{run.image.version.prefix}no-such-file": NOT_LISTED, "streams/v1/no-such-document.json": {404}}
    for path, expected in answers.items():
        answer = run.server.get(path)
        if answer.status not in expected:
            raise Failed(f"{path} answers {answer.status}, expected 404: Incus takes nothing else for gone")
        if "immutable" in _cache(answer) or max_age_s(answer.headers) > LONGEST_ERROR_S:
            raise Failed(
                f"the {answer.status} of {path} has Cache-Control {_cache(answer)}, so it would outlive an upload"
            )
    return ""


def page(run: Run) -> str:
    """Check that the bare address shows the page for browsers."""
    answer = run.server.get("")
    if answer.status != 200:
        raise Failed(f"{run.server.address}/ answers {answer.status}, expected the page; maintain lays it out")
    _expect_type(answer, f"{run.server.address}/", "text/html")
    try:
        html = answer.document
    except ValueError as error:
        raise Failed(f"the page: {error}") from error
    if b"<html" not in html.lower():
        raise Failed(f"{run.server.address}/ is no HTML document: it begins with {html[:40]!r}")
    return f"{len(html):,} bytes"


def api(run: Run) -> str:
    """Check that the API describes itself to everybody."""
    answer = _ask_api(run, "openapi.json")
    if answer.status != 200:
        raise Failed(f"{run.server.api}/openapi.json answers {answer.status}, expected 200: {refusal_of(answer)}")
    try:
        version = json.loads(answer.body)["openapi"]
    except (ValueError, KeyError, TypeError) as error:
        raise Failed(f"{run.server.api}/openapi.json is no OpenAPI document: {error!r}") from error
    return f"OpenAPI {version}"


def stranger(run: Run) -> str:
    """Check that the API refuses a request without credentials."""
    answer = _ask_api(run, f"versions/{_in_address(run)}")
    if answer.status not in (401, 403):
        raise Failed(f"the API answers {answer.status} to a request without credentials, expected 401 or 403")
    return str(answer.status)


def status(run: Run) -> str:
    """Check that the API tells the publisher that the version is listed, and its fingerprint."""
    if not run.publisher:
        raise Skipped("the caller is no publisher")
    answer = run.server.call("GET", f"versions/{_in_address(run)}")
    if answer.status != 200:
        raise Failed(f"the API answers {answer.status} for the version, expected 200: {refusal_of(answer)}")
    try:
        found = msgspec.json.decode(answer.body, type=VersionStatus)
    except msgspec.DecodeError as error:
        raise Failed(f"the API's answer for a version does not match /openapi.json: {error}") from error
    if (found.status, found.fingerprints) != ("listed", [run.image.fingerprint]):
        raise Failed(f"the API says {found.status} {found.fingerprints}, expected listed {run.image.fingerprint}")
    return found.status


def await_delisted(run: Run) -> str:
    """Wait until the edge no longer lists the version."""
    address = run.server.address
    run.wait(lambda: None if listed_images(run) else True, lambda: f"{address} still lists it")
    return ""


def gone(run: Run) -> str:
    """Check that the edge no longer has the files."""
    for key in run.image.keys:
        found = run.server.get(key).status
        if found not in NOT_LISTED and (run.strict_missing or found // 100 != 4):
            raise Failed(f"{key} answers {found}, expected 404: it was deleted, and the edge still has it")
    return ""


def max_age_s(headers: Mapping[str, str]) -> int:
    """Return how many seconds a browser or an edge may keep an answer; 0 without a Cache-Control that says so."""
    found = re.search(r"(?:^|[ ,])max-age=(\d+)", headers.get("cache-control", ""))
    return int(found[1]) if found else 0


def _ask_api(run: Run, path: str) -> Answer:
    if not run.server.api:
        raise Skipped("no address of the API is known")
    return run.server.web.ask(f"{run.server.api}/{path}")


def _in_address(run: Run) -> str:
    """Return the path of the version for the API, with ~ for a colon: not every client signs a colon as AWS does."""
    return run.image.version.path.replace(":", "~")


def _cache(answer: Answer) -> str:
    return answer.headers.get("cache-control", "none")


def _expect_type(answer: Answer, path: str, expected: str) -> None:
    found = answer.headers.get("content-type", "none")
    if found.partition(";")[0].strip() != expected:
        raise Failed(f"{path} has Content-Type {found}, expected {expected}")


def _sha256(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()
