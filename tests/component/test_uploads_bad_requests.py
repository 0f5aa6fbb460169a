"""Requests for an upload that are refused, with their status and sentence, and that nothing is stored."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import subprocess
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.support import images
from tests.support.upload_api import PATH, PRODUCT, System

pytestmark = pytest.mark.xdist_group("uploads-bad-input")  # of the fixtures in conftest.py

GIB = 1 << 30
LIMIT = 50_000_000_000


@dataclass
class Row:
    """One refused request: its difference from a good one, and the answer."""

    name: str
    status: int
    sentence: str
    path: str = f"{PRODUCT}/20261124_10:00/rootfs.squashfs"
    caller: str = "local"
    about: dict[str, Any] = field(default_factory=dict)
    body: bytes | None = None

    @property
    def request(self) -> object:
        return self.body if self.body is not None else {"path": self.path, "size": 4096, **self.about}


def key(file: str = "rootfs.squashfs", version: str = "20261124_10:00", **folders: str) -> str:
    parts = {"stream": "images", "os": "ubuntu", "release": "noble", "arch": "amd64", "variant": "default", **folders}
    return "/".join((*parts.values(), version, file))


ROWS = [
    Row("traversal", 422, "the os '..' begins with '.', expected a letter (a to z", key(os="..")),
    Row("traversal out of the bucket", 422, "has 9 parts between slashes, expected 7", f"../../{key()}"),
    Row("encoded traversal", 422, "contains '%', expected a letter (a to z", key(os="a%2e%2e")),
    Row("plus", 422, "the file name 'root+fs.squashfs' contains '+', expected", key("root+fs.squashfs")),
    Row("space", 422, "the release 'noble numbat' contains ' ', expected", key(release="noble numbat")),
    Row("look-alike", 422, "the os 'ub\\u0443ntu' contains '\u0443' (U+0443), expected", key(os="ub\u0443ntu")),
    Row("bell", 422, r"contains '\x07', expected", key("root\x07.squashfs")),
    Row("empty folder", 422, "has an empty variant, expected images/<os>/", key(variant="")),
    Row("over-long", 422, "the file name has 109 characters, expected at most 100", key("r" * 100 + ".squashfs")),
    Row("endless", 422, "characters, expected at most 100", key(os="u" * 20_000)),
    Row("unknown arch", 422, "no client knows the architecture 'z80'; expected one of ", key(arch="z80")),
    Row("no arch", 422, "has 6 parts between slashes, expected 7: images/<os>/", key().replace("/amd64", "")),
    Row("impossible date", 422, "'20260230_10:00' is not a real date and time", key(version="20260230_10:00")),
    Row("no date", 422, "the version is 'latest', expected YYYYMMDD_HHMM, ", key(version="latest")),
    Row("another first folder", 422, "the first folder is 'streams', expected `images` or", key(stream="streams")),
    Row("private folder", 422, "the first folder is 'versions', expected `images` or", key(stream="versions")),
    Row("wrong extension", 422, "rootfs.bin is no image file that clients know", key("rootfs.bin")),
    Row("extension of an ISO", 422, "rootfs.iso is an ISO, which installs a machine; ", key("rootfs.iso")),
    Row("page", 422, "index.html is no image file that clients know", key("index.html")),
    Row("size 0", 422, "rootfs.squashfs is empty (0 bytes)", about={"size": 0}),
    Row("over the limit", 422, f"has {LIMIT + 1:,} bytes, expected at most {LIMIT:,}", about={"size": LIMIT + 1}),
    Row(
        "one PUT too large",
        422,
        "expected at most 5,368,709,120 for one PUT",
        about={"size": 6 * GIB, "multipart": False},
    ),
    Row("negative", 400, "Expected `int` >= 0 - at `$.size`", about={"size": -1}),
    Row("size as text", 400, "Expected `int`, got `str` - at `$.size`", about={"size": "4096"}),
    Row("huge number", 400, "the body of the request is not what is expected", body=b'{"path":"x","size":1e999}'),
    Row("endless upload id", 400, "Expected `str` of length <= 1024", about={"upload_id": "x" * 1025}),
    Row("bad digest", 400, "- at `$.sha256`; see /openapi.json", about={"sha256": "abc"}),
    Row("misspelled", 400, "Object contains unknown field `sha265`", about={"sha265": "a" * 64}),
    Row("no size", 400, "Object missing required field `size`", body=b'{"path": "x"}'),
    Row("no JSON", 400, "JSON is malformed: invalid character (byte 0)", body=b"path=images/x&size=4"),
    Row("half of JSON", 400, "Input data was truncated", body=b'{"path": "images/'),
    Row("nothing", 400, "is not what is expected: it is empty", body=b""),
    Row("list", 400, "Expected `object`, got `array`", body=b"[]"),
    Row("deep", 400, "the body of the request is not what is expected", body=b"[" * 50_000),
    Row("not text", 400, "the body is not UTF-8 text, expected JSON", body=b"\xff\xfe{}"),
    Row("half a megabyte", 413, "expected at most 262,144; a file's bytes go to the URL", body=b" " * 500_000),
    Row("outside the prefix", 403, "user/team-a may not write to images/ubuntu/noble/", caller="team-a"),
    Row("without rights", 403, "user/stranger may not write to images/ubuntu/", caller="stranger"),
    Row("there already", 409, "exists already, with 4,096 bytes; nothing was changed", f"{PATH}/rootfs.squashfs"),
]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_bad_request_is_answered_with_its_status_and_reason(system: System, row: Row) -> None:
    before = _objects(system)
    answer = system.ask("POST", "/uploads", row.request, caller=row.caller)
    assert answer.status == row.status, answer.body
    assert row.sentence in answer.detail
    assert answer.json["status"] == row.status
    assert answer.json["type"].startswith("urn:simplestreams:problem:")
    assert _objects(system) == before


SHORT_ROWS = [row for row in ROWS if row.body is None and row.name != "endless"]


@pytest.mark.parametrize("row", SHORT_ROWS, ids=lambda row: row.name)
def test_a_bad_file_in_a_batch_is_answered_the_same_and_nothing_is_signed(system: System, row: Row) -> None:
    version, _, file = row.path.rpartition("/")
    good = {"file": "incus.tar.xz", "size": 10}
    bad = {"file": file, "size": 4096, **row.about}
    if row.name == "there already":
        bad["size"] = 5  # with the same size it would count as sent already
    answer = system.ask("POST", "/uploads/batch", {"version": version, "files": [good, bad]}, caller=row.caller)
    assert answer.status == row.status, answer.body
    assert b"url" not in answer.body
    if row.name not in ("no arch", "traversal out of the bucket"):  # a batch names a version: one part less
        assert row.sentence.replace("$.size", "$.files[1].size") in answer.detail.replace("$.files[1].sha", "$.sha")


def test_a_request_without_a_caller_is_not_let_through(system: System) -> None:
    answer = system.ask("POST", "/uploads", {"path": key(), "size": 1}, caller="")
    assert (answer.status, answer.json) == (403, {"message": "Forbidden"})  # API Gateway's own answer


def test_an_oversized_body_is_refused_even_if_the_client_sends_it_all_before_reading(system: System) -> None:
    """API Gateway accepts 10 MB. The local stack must not read more into memory either."""
    body = b'{"path": "' + b"x" * (64 << 20)
    request = urllib.request.Request(f"{system.api_url}/uploads", body, {"X-Local-Caller": "local"})
    context = ssl.create_default_context(cafile=system.ca_file)
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request, context=context, timeout=60)
    assert refused.value.code == 413
    assert system.ask("GET", "/openapi.json").status == 200


def test_a_gigabyte_of_json_is_cut_off_early(system: System) -> None:
    """An endless body is not read endlessly: an answer, if read in time, and then a closed connection."""
    host, port = urlsplit(system.api_url).hostname, urlsplit(system.api_url).port
    assert host
    assert port
    context = ssl.create_default_context(cafile=system.ca_file)
    sent = 0
    with (
        socket.create_connection((host, port), 60) as plain,
        context.wrap_socket(plain, server_hostname=host) as stream,
        contextlib.suppress(OSError),
    ):
        head = f"POST /uploads HTTP/1.1\r\nHost: {host}\r\nX-Local-Caller: local\r\nContent-Length: {1 << 30}\r\n\r\n"
        stream.sendall(head.encode())
        while sent < 1 << 30:
            stream.sendall(bytes(1 << 20))
            sent += 1 << 20
    assert sent < 256 << 20
    assert system.ask("GET", "/openapi.json").status == 200


def _objects(system: System) -> set[tuple[str, str]]:
    found = system.s3.list_objects_v2(Bucket=system.bucket).get("Contents", [])
    parts = system.s3.list_multipart_uploads(Bucket=system.bucket).get("Uploads", [])
    return {(item["Key"], item["ETag"]) for item in found} | {(upload["Key"], upload["UploadId"]) for upload in parts}


@pytest.mark.parametrize("path", ["/uploads", "/uploads/batch"])
def test_a_file_posted_as_a_form_is_answered_with_the_command_that_sends_it(
    system: System, path: str, tmp_path: Path
) -> None:
    (tmp_path / "lxd.tar.xz").write_bytes(images.metadata_tarball())
    command = ["curl", "-sS", "-F", f"upload=@{tmp_path}/lxd.tar.xz", "-H", "X-Local-Caller: local"]
    command += ["--cacert", str(system.ca_file), f"{system.api_url}{path}"]
    answer = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    assert (answer["status"], answer["type"]) == (400, "urn:simplestreams:problem:bad-request")
    assert "scripts/upload --to <os>/<release>/<arch>/<variant> FILE…" in answer["detail"]
