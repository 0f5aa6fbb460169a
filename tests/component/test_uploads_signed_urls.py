"""What signed URLs allow, whole and in parts: one upload of one file, and nothing else.

They run against the local stack's S3, and against a real one (versitygw) if the machine has it: whatever that
refuses, the local stack must refuse too.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import pytest

from imageserver.storage.s3 import LISTED_TAG
from local_stack.credentials import ACCESS_KEY, SECRET_KEY
from tests.support import PROJECT, images, upload_api
from tests.support.upload_api import Answer, System, completion, send, sha256

pytestmark = pytest.mark.xdist_group("uploads-bad-input")  # of the fixtures in conftest.py

ROOT = images.squashfs("an upload", 8192)
MISMATCH = "SignatureDoesNotMatch"
Signed = dict[str, Any]


def _without(signed: Signed, header: str) -> dict[str, str]:
    return {name: value for name, value in signed["headers"].items() if name != header}


ABUSES: dict[str, tuple[Callable[[Signed], Answer], int, str]] = {
    "longer than declared": (
        lambda s: send("PUT", s["url"], ROOT + b"x", _without(s, "Content-Length")), 403, MISMATCH),
    "shorter than declared": (
        lambda s: send("PUT", s["url"], ROOT[:-1], _without(s, "Content-Length")), 403, MISMATCH),
    "other bytes than declared": (
        lambda s: send("PUT", s["url"], ROOT[::-1], s["headers"]), 400, "BadDigest"),
    "URL for another key": (
        lambda s: send("PUT", s["url"].replace("rootfs", "disk"), ROOT, s["headers"]), 403, MISMATCH),
    "URL for another method": (
        lambda s: send("DELETE", s["url"], ROOT, s["headers"]), 403, MISMATCH),
    "without the condition": (
        lambda s: send("PUT", s["url"], ROOT, _without(s, "If-None-Match")), 403, MISMATCH),
    "without the lifetime": (
        lambda s: send("PUT", s["url"], ROOT, _without(s, "Cache-Control")), 403, MISMATCH),
    "another lifetime": (
        lambda s: send("PUT", s["url"], ROOT, s["headers"] | {"Cache-Control": "no-store"}), 403, MISMATCH),
    "another condition": (
        lambda s: send("PUT", s["url"], ROOT, s["headers"] | {"If-None-Match": '"x"'}), 403, MISMATCH),
    "as a page": (
        lambda s: send("PUT", s["url"], ROOT, s["headers"] | {"Content-Type": "text/html"}), 403, MISMATCH),
    "another digest": (
        lambda s: send("PUT", s["url"], ROOT, s["headers"] | {"x-amz-checksum-sha256": "x" * 43 + "="}), 403, MISMATCH),
    "public": (
        lambda s: send("PUT", s["url"], ROOT, s["headers"] | {"x-amz-acl": "public-read"}), 403, ""),
    "listed already": (
        lambda s: send("PUT", s["url"], ROOT, s["headers"] | {"x-amz-tagging": urlencode(LISTED_TAG)}), 403, ""),
    "longer life": (
        lambda s: send("PUT", s["url"].replace("Expires=3600", "Expires=360000"), ROOT, s["headers"]), 403, MISMATCH),
    "no signature": (
        lambda s: send("PUT", s["url"].split("?")[0], ROOT, s["headers"]), 403, "AccessDenied"),
}  # fmt: skip


@pytest.mark.parametrize("abuse", ABUSES)
def test_a_url_used_for_another_request_is_refused(system: System, version: str, abuse: str) -> None:
    use, status, code = ABUSES[abuse]
    signed = system.sign(f"{version}/rootfs.squashfs", ROOT, sha256=sha256(ROOT))
    answer = use(signed)
    assert (answer.status, code in answer.body.decode()) == (status, True), answer.body
    assert system.stored(f"{version}/rootfs.squashfs") is None
    assert send("PUT", signed["url"], ROOT, signed["headers"]).status == 200
    assert system.stored(f"{version}/rootfs.squashfs") == ROOT


@pytest.mark.parametrize("multipart", [False, True])
@pytest.mark.parametrize(
    ("file", "lifetime"),
    [("rootfs.squashfs", "public, max-age=31536000, immutable"), ("SHA256SUMS", "public, max-age=30")],
)
def test_a_file_is_stored_with_its_lifetime(
    system: System, version: str, file: str, lifetime: str, multipart: bool
) -> None:
    key = f"{version}/{file}"
    signed = system.sign(key, ROOT, multipart=multipart)
    if multipart:
        etags = {part["number"]: send("PUT", part["url"], ROOT).headers["etag"] for part in signed["parts"]}
        assert _finish(signed, etags).status == 200
    else:
        assert signed["headers"]["Cache-Control"] == lifetime
        assert send("PUT", signed["url"], ROOT, signed["headers"]).status == 200
    assert system.s3.head_object(Bucket=system.bucket, Key=key)["CacheControl"] == lifetime


def test_a_url_works_for_one_upload(system: System, version: str) -> None:
    signed = system.sign(f"{version}/rootfs.squashfs", ROOT)
    assert send("PUT", signed["url"], ROOT, signed["headers"]).status == 200
    again = send("PUT", signed["url"], ROOT[::-1], signed["headers"])
    assert (again.status, b"PreconditionFailed" in again.body) == (412, True)
    assert system.stored(f"{version}/rootfs.squashfs") == ROOT


def test_an_expired_url_is_refused(system: System, version: str) -> None:
    signed = _signed_with_lifetime(system, f"{version}/rootfs.squashfs", 1)
    time.sleep(2.1)
    answer = send("PUT", signed["url"], ROOT, signed["headers"])
    assert answer.status == 403, answer.body
    assert b"expired" in answer.body.lower()
    assert system.stored(f"{version}/rootfs.squashfs") is None


def _signed_with_lifetime(system: System, path: str, seconds: int) -> Signed:
    """Sign like the API, but with a lifetime that a test can wait for."""
    import boto3
    from botocore.config import Config

    from imageserver.storage.presigned import S3Uploads

    client = boto3.client(
        "s3",
        endpoint_url=system.endpoint,
        region_name=upload_api.REGION,
        aws_access_key_id=ACCESS_KEY,
        aws_secret_access_key=SECRET_KEY,
        config=Config(signature_version="s3v4", s3={"addressing_style": "path"}),
    )
    headers = {"Content-Length": str(len(ROOT)), "If-None-Match": "*"}
    url = S3Uploads(client, system.bucket).sign("put_object", path, headers, seconds)
    return {"url": url, "headers": headers}


def test_a_body_that_ends_early_is_not_stored(system: System, version: str) -> None:

    signed = system.sign(f"{version}/rootfs.squashfs", ROOT)
    url = urlsplit(signed["url"])
    head = "".join(f"{name}: {value}\r\n" for name, value in signed["headers"].items())
    with socket.create_connection((url.hostname, url.port), 10) as connection:
        connection.sendall(f"PUT {url.path}?{url.query} HTTP/1.1\r\nHost: {url.netloc}\r\n{head}\r\n".encode())
        connection.sendall(ROOT[:1000])
    time.sleep(0.5)
    assert system.stored(f"{version}/rootfs.squashfs") is None
    assert send("PUT", signed["url"], ROOT, signed["headers"]).status == 200


def test_an_encoded_upload_is_refused_with_its_remedy(system: System, version: str) -> None:
    files = images.split_image(seed="encoded")
    system.put(f"{version}/lxd.tar.xz", files["lxd.tar.xz"])
    root = files["rootfs.squashfs"]
    signed = system.sign(f"{version}/rootfs.squashfs", root)
    send("PUT", signed["url"], root, signed["headers"] | {"Content-Encoding": "gzip"})
    system.ingest(version)
    found = system.status(version)
    assert found["status"] == "invalid"
    assert "was uploaded with `Content-Encoding: gzip`, expected none" in found["reasons"][0]["sentence"]


def test_an_invalid_file_can_be_replaced_once_and_a_published_one_cannot(system: System, version: str) -> None:
    files = images.split_image(seed="mended")
    root = files["rootfs.squashfs"]
    system.put(f"{version}/lxd.tar.xz", files["lxd.tar.xz"])
    system.put(f"{version}/rootfs.squashfs", b"this is no squashfs" * 10)
    system.ingest(version)
    assert system.status(version)["status"] == "invalid"
    signed = system.sign(f"{version}/rootfs.squashfs", root, sha256=sha256(root))
    assert signed["headers"]["If-Match"]
    assert send("PUT", signed["url"], root, signed["headers"]).status == 200
    assert send("PUT", signed["url"], root, signed["headers"]).status == 412
    system.ingest(version)
    assert system.status(version)["status"] == "listed"
    answer = system.ask("POST", "/uploads", {"path": f"{version}/rootfs.squashfs", "size": 4096})
    assert answer.status == 409


def test_two_uploaders_of_one_version_succeed_and_of_one_file_only_the_first(system: System, version: str) -> None:
    files = images.split_image(seed="two uploaders")
    mine = system.sign(f"{version}/lxd.tar.xz", files["lxd.tar.xz"])
    theirs = system.sign(f"{version}/lxd.tar.xz", files["lxd.tar.xz"])
    root = system.sign(f"{version}/rootfs.squashfs", files["rootfs.squashfs"])
    assert send("PUT", root["url"], files["rootfs.squashfs"], root["headers"]).status == 200
    assert send("PUT", theirs["url"], files["lxd.tar.xz"], theirs["headers"]).status == 200
    assert send("PUT", mine["url"], files["lxd.tar.xz"], mine["headers"]).status == 412
    system.ingest(version)
    assert system.status(version)["status"] == "listed"


# ── in parts ─────────────────────────────────────────────────────────────────────────────────────────────────────

MIB = 1 << 20
BIG = images.squashfs("in parts", 33 * MIB)  # three parts of 16, 16 and 1 MiB


def _part(part: Signed) -> bytes:
    start, size = part["offset"], part["size"]
    return BIG[start : start + size]


def _send_parts(signed: Signed, *numbers: int) -> dict[int, str]:
    etags = {}
    for part in signed["parts"]:
        if part["number"] in (numbers or (1, 2, 3)):
            answer = send("PUT", part["url"], _part(part))
            assert answer.status == 200, answer.body
            etags[part["number"]] = answer.headers["etag"]
    return etags


def _finish(signed: Signed, etags: dict[int, str]) -> Answer:
    return send("POST", signed["complete"]["url"], completion(etags), signed["complete"]["headers"])


def test_parts_make_the_file_and_a_second_completion_changes_nothing(system: System, version: str) -> None:
    system.put(f"{version}/lxd.tar.xz", images.metadata_tarball(serial="parts"))
    signed = system.sign(f"{version}/rootfs.squashfs", BIG, multipart=True, sha256=sha256(BIG))
    assert [part["size"] for part in signed["parts"]] == [16 * MIB, 16 * MIB, MIB]
    etags = _send_parts(signed)
    assert _finish(signed, etags).status == 200
    _finish(signed, etags)
    system.ingest(version)
    root = system.status(version)["files"]["rootfs.squashfs"]
    assert (root["size"], root["sha256"]) == (len(BIG), sha256(BIG))
    assert system.status(version)["status"] == "listed"


def test_uploaded_parts_are_not_requested_again(system: System, version: str) -> None:
    path = f"{version}/rootfs.squashfs"
    signed = system.sign(path, BIG, multipart=True)
    sent = _send_parts(signed, 1, 3)
    resumed = system.sign(path, BIG, multipart=True, upload_id=signed["upload_id"])
    assert resumed["upload_id"] == signed["upload_id"]
    assert {part["number"]: part["etag"] for part in resumed["parts"] if "etag" in part} == sent
    assert [part["number"] for part in resumed["parts"] if "url" in part] == [2]
    assert _finish(resumed, sent | _send_parts(resumed, 2)).status == 200
    assert system.stored(path) == BIG


def test_an_unknown_upload_id_starts_a_new_upload(system: System, version: str) -> None:
    other = system.sign(f"{version}/disk.qcow2", BIG, multipart=True)
    # moto finds an upload by its id alone.
    foreign = other["upload_id"] if system.name != "local" else "another"
    for upload_id in ("nonsense", foreign, "../../etc", "x" * 200):
        signed = system.sign(f"{version}/rootfs.squashfs", BIG, multipart=True, upload_id=upload_id)
        assert signed["upload_id"] not in (upload_id, "")
        assert all("url" in part for part in signed["parts"])


def test_a_part_of_another_size_is_refused(system: System, version: str) -> None:
    signed = system.sign(f"{version}/rootfs.squashfs", BIG, multipart=True)
    # A few bytes: a server that answers and hangs up while megabytes still come resets the connection, and the
    # answer may be lost with it (versitygw, 7 of 300 on a busy machine).
    answer = send("PUT", signed["parts"][0]["url"], BIG[:1000])
    assert (answer.status, MISMATCH in answer.body.decode()) == (403, True)


def test_completing_without_a_part_is_refused_and_works_once_it_is_uploaded(system: System, version: str) -> None:
    path = f"{version}/rootfs.squashfs"
    signed = system.sign(path, BIG, multipart=True)
    etags = _send_parts(signed)
    missing = _finish(signed, {n: etag for n, etag in etags.items() if n != 3})
    assert (missing.status, b"InvalidRequest" in missing.body) == (400, True), missing.body
    assert system.stored(path) is None
    assert _finish(signed, etags).status == 200
    assert system.stored(path) == BIG


def test_completing_with_a_part_that_never_came_is_refused(system: System, version: str) -> None:
    signed = system.sign(f"{version}/rootfs.squashfs", BIG, multipart=True)
    etags = _send_parts(signed, 1, 2) | {3: '"d41d8cd98f00b204e9800998ecf8427e"'}
    answer = _finish(signed, etags)
    assert (answer.status, b"InvalidPart" in answer.body) == (400, True), answer.body


def test_completing_over_a_file_uploaded_meanwhile_is_refused(system: System, version: str) -> None:
    path = f"{version}/rootfs.squashfs"
    signed = system.sign(path, BIG, multipart=True)
    etags = _send_parts(signed)
    system.put(path, ROOT)
    assert _finish(signed, etags).status == 412
    assert system.stored(path) == ROOT


def test_completing_without_the_condition_is_refused(system: System, version: str) -> None:
    signed = system.sign(f"{version}/rootfs.squashfs", BIG, multipart=True)
    etags = _send_parts(signed)
    for header in ("If-None-Match", "x-amz-mp-object-size"):
        answer = send("POST", signed["complete"]["url"], completion(etags), _without(signed["complete"], header))
        assert (answer.status, MISMATCH in answer.body.decode()) == (403, True), answer.body


def test_an_invalid_file_can_be_replaced_in_parts_until_it_changes(system: System, version: str) -> None:
    path = f"{version}/rootfs.squashfs"
    system.put(f"{version}/lxd.tar.xz", images.metadata_tarball(serial="replaced in parts"))
    system.put(path, b"this is no squashfs" * 10)
    system.ingest(version)
    signed = system.sign(path, BIG, multipart=True)
    late = system.sign(path, BIG, multipart=True)
    assert _finish(signed, _send_parts(signed)).status == 200
    assert _finish(late, _send_parts(late)).status == 412
    system.ingest(version)
    assert system.status(version)["status"] == "listed"


def test_an_aborted_upload_takes_no_more_parts(system: System, version: str) -> None:
    signed = system.sign(f"{version}/rootfs.squashfs", BIG, multipart=True)
    etags = _send_parts(signed, 1)
    assert send("DELETE", signed["abort"]["url"]).status == 204
    assert _finish(signed, etags).status == 404
    assert system.stored(f"{version}/rootfs.squashfs") is None


def test_parts_with_another_digest_than_declared_are_refused_after_hashing(system: System, version: str) -> None:
    path = f"{version}/rootfs.squashfs"
    system.put(f"{version}/lxd.tar.xz", images.metadata_tarball(serial="wrong digest"))
    signed = system.sign(path, BIG, multipart=True, sha256="b" * 64)
    assert _finish(signed, _send_parts(signed)).status == 200
    system.ingest(version)
    found = system.status(version)
    expected = f"has sha256 {sha256(BIG)}, expected {'b' * 64} as its uploader declared; upload it again"
    assert (found["status"], expected in found["reasons"][0]["sentence"]) == ("invalid", True), found
    time.sleep(1.1)  # S3 has times in seconds, and the same bytes in the same second are the same upload
    again = system.sign(path, BIG, multipart=True, sha256=sha256(BIG))
    assert _finish(again, _send_parts(again)).status == 200
    system.ingest(version)
    assert system.status(version)["status"] == "listed"


# ── by hand ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_curl_lines_of_the_api_page_upload_a_file(system: System, tmp_path: Path) -> None:
    (commands,) = re.findall(r"## With curl alone.*?```sh\n(.*?)```", (PROJECT / "functions/API.md").read_text(), re.S)
    path = "images/ubuntu/noble/amd64/default/20261123_1000"
    assert path in commands
    (tmp_path / "rootfs.squashfs").write_bytes(images.squashfs("by hand"))
    given = {"API": system.api_url, "CURL_CA_BUNDLE": str(system.ca_file), "AWS_REGION": "us-east-1"}
    given |= {"AWS_ACCESS_KEY_ID": "local", "AWS_SECRET_ACCESS_KEY": SECRET_KEY}
    done = subprocess.run(
        ["sh", "-ec", commands], cwd=tmp_path, env={**os.environ, **given}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["files"]["rootfs.squashfs"]["size"] == len(images.squashfs("by hand"))
    assert system.stored(f"{path}/rootfs.squashfs") == images.squashfs("by hand")
    assert (tmp_path / "who").stat().st_mode & 0o077 == 0


def test_this_machine_has_a_real_s3_server() -> None:
    """Report that the rows above had no real server; fail where extras are required and Go can build it."""
    if upload_api.versitygw() is None:
        reason = "NOT TESTED against a real S3 server: go install github.com/versity/versitygw/cmd/versitygw@v1.8.0"
        if os.environ.get("SIMPLESTREAMS_REQUIRE_EXTRAS") == "1" and shutil.which("go"):
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)
