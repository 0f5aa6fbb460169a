"""`admin import` and `admin undelete` create and never replace, even if somebody else writes to S3 meanwhile."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import boto3
import pytest

from cli.admin import import_plan, recovery, transfer
from cli.admin.deployment import Deployment
from cli.admin.import_plan import Plan, carry_out
from imageserver.format.caching import BRIEF, IMMUTABLE
from imageserver.format.keys import parse_version
from imageserver.operations.ingest import IngestServices, ingest
from imageserver.operations.prune import Rules, prune
from imageserver.operations.runs import Run
from imageserver.operations.withdraw import withdraw
from imageserver.storage.ranged_reader import hash_fan
from imageserver.upstream.mapping import LeftOut
from imageserver.versions.retention import Rule
from local_stack.credentials import ACCESS_KEY, SECRET_KEY
from tests.support import images
from tests.support.memory_store import START, Sent
from tests.support.servers.s3 import BUCKET, REGION, S3Server, empty, running_s3

pytestmark = pytest.mark.xdist_group("admin-import")

PRODUCT = "images/ubuntu/noble/amd64/default"
PATH = f"{PRODUCT}/20261101"
OTHER = "old-server"
PART = 5 << 20
"""The smallest part size of S3: the same code with less to send."""


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "PART", PART)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with running_s3(tmp_path_factory.mktemp("s3")) as running:
        running.client("s3").create_bucket(Bucket=OTHER)
        yield running


@pytest.fixture
def deployment(server: S3Server) -> Iterator[Deployment]:
    session = boto3.Session(ACCESS_KEY, SECRET_KEY, region_name=REGION)
    deployment = Deployment(session, BUCKET, server.endpoint)
    yield deployment
    empty(deployment.s3, BUCKET, OTHER)
    server.events()


class Tree:
    """A source of images: a folder, or another bucket."""

    def __init__(self, kind: str, deployment: Deployment, folder: Path) -> None:
        self.kind, self._s3, self._folder = kind, deployment.s3, folder

    def put(self, key: str, body: bytes) -> None:
        if self.kind == "bucket":
            self._s3.put_object(Bucket=OTHER, Key=f"www/{key}", Body=body)
            return
        (self._folder / key).parent.mkdir(parents=True, exist_ok=True)
        (self._folder / key).write_bytes(body)

    def files(self) -> Iterator[transfer.File | LeftOut]:
        return (
            transfer.bucket(self._s3, f"s3://{OTHER}/www") if self.kind == "bucket" else transfer.folder(self._folder)
        )


@pytest.fixture(params=["folder", "bucket"])
def tree(request: pytest.FixtureRequest, deployment: Deployment, tmp_path: Path) -> Tree:
    return Tree(request.param, deployment, tmp_path)


def imported(deployment: Deployment, tree: Tree) -> Plan:
    return carry_out(deployment, import_plan.plan(deployment, tree.files()), lambda _: None)


def keys(plan: Plan) -> tuple[list[str], list[str]]:
    return [file.key for file in plan.files], [file.key for file in plan.already]


def stored(deployment: Deployment, key: str) -> bytes:
    body: bytes = deployment.s3.get_object(Bucket=BUCKET, Key=key)["Body"].read()
    return body


def ingested(deployment: Deployment, path: str = PATH) -> None:
    """Let digest read the files, so that a record has their sha256."""
    ingest(parse_version(path), IngestServices(deployment.store, lambda: START, lambda _: None, 1 << 40, 900, hash_fan))


@pytest.mark.parametrize("is_read", [False, True])
@pytest.mark.parametrize("size", [1000, PART + 5], ids=["small", "in parts"])
def test_import_names_a_file_of_equal_size_and_other_content(
    deployment: Deployment, tree: Tree, size: int, is_read: bool
) -> None:
    key = f"{PATH}/rootfs.squashfs"
    body = images.squashfs() + bytes(size)
    tree.put(key, body)
    assert keys(imported(deployment, tree)) == ([key], [])
    if is_read:
        deployment.s3.put_object(Bucket=BUCKET, Key=f"{PATH}/lxd.tar.xz", Body=images.metadata_tarball())
        ingested(deployment)
    assert keys(imported(deployment, tree)) == ([], [key])
    tree.put(key, body[:-1] + b"x")
    again = imported(deployment, tree)
    assert keys(again) == ([], [])
    (sentence,) = again.taken
    known = hashlib.sha256(body).hexdigest()
    assert (f"the same size and sha256 {known}" if is_read else "it was not compared") in sentence
    assert stored(deployment, key) == body


def test_an_object_with_a_foreign_etag_is_compared_by_its_digest(deployment: Deployment, tree: Tree) -> None:
    """Its ETag does not help: it was uploaded in parts of another size."""
    files = images.split_image()
    for name, body in files.items():
        tree.put(f"{PATH}/{name}", body)
        upload = deployment.s3.create_multipart_upload(Bucket=BUCKET, Key=f"{PATH}/{name}")["UploadId"]
        about = {"Bucket": BUCKET, "Key": f"{PATH}/{name}", "UploadId": upload}
        etag = deployment.s3.upload_part(**about, PartNumber=1, Body=body)["ETag"]
        deployment.s3.complete_multipart_upload(**about, MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": etag}]})
    assert len(imported(deployment, tree).taken) == len(files), "nobody has read them yet, and that is said"
    ingested(deployment)
    again = imported(deployment, tree)
    assert (len(again.already), again.taken) == (len(files), [])


@pytest.mark.parametrize("size", [1000, PART + 5], ids=["small", "in parts"])
def test_import_never_replaces_a_concurrent_upload(deployment: Deployment, tree: Tree, size: int) -> None:
    same, other = f"{PATH}/a.squashfs", f"{PATH}/b.squashfs"
    for key in (same, other):
        tree.put(key, key.encode() + bytes(size))
    todo = import_plan.plan(deployment, tree.files())
    assert len(todo.files) == 2
    imported(deployment, tree)
    deployment.s3.put_object(Bucket=BUCKET, Key=other, Body=b"theirs")
    done = carry_out(deployment, todo, lambda _: None)
    assert keys(done) == ([], [same])
    assert done.taken == [f"{other} is there with 6 bytes, here it has {len(other) + size:,}"]
    assert stored(deployment, other) == b"theirs"
    assert "Uploads" not in deployment.s3.list_multipart_uploads(Bucket=BUCKET), "nothing is left half sent"


def test_an_interrupted_import_resumes_where_it_stopped(
    deployment: Deployment, tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    bodies = {f"{PRODUCT}/2026110{day}/{name}": body for day in (1, 2, 3)
              for name, body in images.split_image(seed=str(day)).items()}  # fmt: skip
    for key, body in bodies.items():
        tree.put(key, body)
    todo, create, left = import_plan.plan(deployment, tree.files()), transfer.create, [3]

    def breaking(deployment: Deployment, file: transfer.File, advance: Any) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise ConnectionError("the wire was cut")
        create(deployment, file, advance)

    monkeypatch.setattr(import_plan, "create", breaking)
    with pytest.raises(ConnectionError):
        carry_out(deployment, todo, lambda _: None)
    monkeypatch.setattr(import_plan, "create", create)
    again = imported(deployment, tree)
    assert (len(again.files), len(again.already), again.taken) == (3, 3, [])
    assert {key: stored(deployment, key) for key in bodies} == bodies


def test_an_interrupted_multipart_copy_leaves_no_object(deployment: Deployment, tmp_path: Path) -> None:
    key = f"{PATH}/disk.qcow2"
    tree = Tree("folder", deployment, tmp_path)
    tree.put(key, b"x" * (PART + 5))

    def cut(_count: int) -> None:
        raise ConnectionError("the wire was cut")

    with pytest.raises(ConnectionError):
        carry_out(deployment, import_plan.plan(deployment, tree.files()), cut)
    assert deployment.s3.list_objects_v2(Bucket=BUCKET, Prefix=key)["KeyCount"] == 0
    assert keys(imported(deployment, tree)) == ([key], [])


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("streams/v1/images.json", "admin rebuild catalog"),
        ("versions/images/ubuntu", "admin rebuild records"),
        ("", "expected images/"),
        ("/", "expected images/"),
    ],
)
def test_undelete_refuses_derived_documents_and_names_the_rebuild(path: str, message: str) -> None:
    with pytest.raises(Exception, match=message):
        recovery.check_path(path)


def test_undelete_restores_only_objects_below_the_path(deployment: Deployment) -> None:
    for name in ("20261101/a", "20261101_10:00/a", "20261101x", "2026110"):
        deployment.s3.put_object(Bucket=BUCKET, Key=f"{PRODUCT}/{name}", Body=b"1")
        deployment.s3.delete_object(Bucket=BUCKET, Key=f"{PRODUCT}/{name}")
    for path in (PATH, f"{PATH}/", f"{PATH}/a"):
        assert [file.key for file in recovery.deleted(deployment, path)] == [f"{PATH}/a"]


def test_undelete_names_what_maintain_is_about_to_delete(deployment: Deployment) -> None:
    for name, body in images.split_image().items():
        deployment.s3.put_object(Bucket=BUCKET, Key=f"{PATH}/{name}", Body=body)
    ingested(deployment)
    version = parse_version(PATH)
    now, never = START + timedelta(hours=2), lambda _: None
    withdraw(deployment.store, version, START, 1, never)
    deployment.s3.delete_object(Bucket=BUCKET, Key=f"{PATH}/lxd.tar.xz")
    found = recovery.deleted(deployment, PATH)
    assert recovery.being_deleted(deployment, found) == [], "it is withdrawn, and nobody deletes it yet"
    # One file is not the upload in its record: the deletion does not end.
    deployment.s3.put_object(Bucket=BUCKET, Key=f"{PATH}/rootfs.squashfs", Body=b"another")
    prune(deployment.store, Sent(), Rules(Rule(), 1, 0), now, never, Run())
    assert recovery.being_deleted(deployment, recovery.deleted(deployment, PATH)) == [PATH]


@pytest.mark.parametrize("size", [1000, PART + 5], ids=["small", "in parts"])
def test_undelete_restores_a_file_unchanged_and_replaces_nothing(deployment: Deployment, size: int) -> None:
    mine, theirs = f"{PATH}/a.squashfs", f"{PATH}/b.squashfs"
    about: dict[str, Any] = {"ContentType": "application/octet-stream", "Metadata": {"sha256": "41ab"}}
    for key in (mine, theirs):
        deployment.s3.put_object(Bucket=BUCKET, Key=key, Body=bytes(size), **about)
        deployment.s3.delete_object(Bucket=BUCKET, Key=key)
    found = recovery.deleted(deployment, PATH)
    deployment.s3.put_object(Bucket=BUCKET, Key=theirs, Body=b"again")
    assert recovery.bring_back(deployment, found, lambda _: None) == [theirs]
    assert stored(deployment, theirs) == b"again"
    head = deployment.s3.head_object(Bucket=BUCKET, Key=mine)
    assert (head["ContentLength"], {name: head[name] for name in about}) == (size, about)
    assert head["CacheControl"] == IMMUTABLE, "which an older release had not stored"


@pytest.mark.parametrize(("file", "lifetime"), [("rootfs.squashfs", IMMUTABLE), ("metadata.json", BRIEF)])
def test_undelete_keeps_the_lifetime_of_a_file(deployment: Deployment, file: str, lifetime: str) -> None:
    deployment.s3.put_object(Bucket=BUCKET, Key=f"{PATH}/{file}", Body=b"{}", CacheControl=lifetime)
    deployment.s3.delete_object(Bucket=BUCKET, Key=f"{PATH}/{file}")
    assert recovery.bring_back(deployment, recovery.deleted(deployment, PATH), lambda _: None) == []
    assert deployment.s3.head_object(Bucket=BUCKET, Key=f"{PATH}/{file}")["CacheControl"] == lifetime


@pytest.mark.parametrize("size", [1000, PART + 5], ids=["small", "in parts"])
def test_imported_objects_carry_their_lifetime(deployment: Deployment, tree: Tree, size: int) -> None:
    tree.put(f"{PATH}/rootfs.squashfs", bytes(size))
    tree.put(f"{PATH}/SHA256SUMS", bytes(size))
    imported(deployment, tree)
    for file, lifetime in (("rootfs.squashfs", IMMUTABLE), ("SHA256SUMS", BRIEF)):
        assert deployment.s3.head_object(Bucket=BUCKET, Key=f"{PATH}/{file}")["CacheControl"] == lifetime
