"""The S3 adapter with a server: conditional writes, pinned reads, and the meaning of each refusal."""

from __future__ import annotations

import hashlib
import itertools
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, tzinfo
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from botocore.config import Config
from botocore.stub import ANY

from imageserver.errors import ObjectChanged, StorageDenied, StorageUnavailable, UploadHidden
from imageserver.format import caching, documents
from imageserver.format.file_kinds import ALL_CLIENTS
from imageserver.format.keys import parse_product, parse_version
from imageserver.operations.ingest import IngestServices, ingest
from imageserver.operations.publish import PublishServices, publish
from imageserver.storage import s3
from imageserver.storage.port import KeyHistory, ObjectInfo
from imageserver.storage.ranged_reader import hash_fan
from imageserver.storage.s3 import S3Store
from imageserver.versions import records
from local_stack.credentials import ACCESS_KEY, SECRET_KEY
from tests.support import images
from tests.support.memory_store import START
from tests.support.processes import free_port
from tests.support.servers.s3 import s3_process
from tests.support.stubs import stubbed

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

# Their fixtures last for the module: one worker, so that they are made once.
pytestmark = pytest.mark.xdist_group("s3-store")

NUMBERS = itertools.count(1)


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Yield the address of the local stack's S3: moto with atomic conditional writes."""
    with s3_process(tmp_path_factory.mktemp("s3")) as server:
        yield server.endpoint


@pytest.fixture
def client(endpoint: str) -> S3Client:
    config = Config(signature_version="s3v4", retries={"total_max_attempts": 1}, s3={"addressing_style": "path"})
    return boto3.client(
        "s3", endpoint_url=endpoint, region_name="us-east-1", config=config,
        aws_access_key_id=ACCESS_KEY, aws_secret_access_key=SECRET_KEY,
    )  # fmt: skip


@pytest.fixture
def store(client: S3Client) -> S3Store:
    bucket = f"bucket-{next(NUMBERS)}"
    client.create_bucket(Bucket=bucket)
    client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    return S3Store(client, bucket)


def test_only_a_missing_key_reads_as_none(store: S3Store) -> None:
    assert store.read("nothing") is None


def test_create_and_replace_are_conditional(store: S3Store) -> None:
    assert store.create("streams/v1/a.json", b"1")
    assert not store.create("streams/v1/a.json", b"2")
    seen = store.read("streams/v1/a.json")
    assert seen
    assert seen.body == b"1"
    assert store.replace("streams/v1/a.json", b"2", seen.revision)
    assert not store.replace("streams/v1/a.json", b"3", seen.revision)
    assert not store.replace("streams/v1/missing.json", b"3", seen.revision)
    now = store.read("streams/v1/a.json")
    assert now
    assert now.body == b"2"


def test_an_object_is_dated_by_the_clock_of_the_store(store: S3Store, monkeypatch: pytest.MonkeyPatch) -> None:
    class HoursAhead(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> HoursAhead:
            return cls.fromtimestamp(datetime.now(UTC).timestamp() + 5 * 3600, tz)

    store.create("leases/dated", b"1")
    monkeypatch.setattr(s3, "datetime", HoursAhead)
    seen = store.read("leases/dated")
    assert seen
    assert -2 < seen.age_s < 60  # S3 dates in whole seconds


def test_delete_is_conditional(store: S3Store) -> None:
    store.create("leases/a", b"1")
    seen = store.read("leases/a")
    assert seen
    assert not store.delete("leases/a", '"0123456789abcdef0123456789abcdef"')
    assert store.read("leases/a")
    assert store.delete("leases/a", seen.revision)
    assert store.read("leases/a") is None


def test_earlier_generations_of_an_object_are_read_newest_first(store: S3Store) -> None:
    for body in (b"1", b"2", b"3"):
        seen = store.read("versions/a")
        assert store.replace("versions/a", body, seen.revision) if seen else store.create("versions/a", body)
    assert store.create("versions/a.b", b"another key with that beginning")
    assert list(store.earlier("versions/a")) == [b"2", b"1"]
    seen = store.read("versions/a")
    assert seen
    assert store.delete("versions/a", seen.revision)
    assert list(store.earlier("versions/a")) == [b"3", b"2", b"1"]
    assert list(store.earlier("versions/none")) == []


def test_an_upload_hidden_by_a_delete_is_copied_back_unchanged_except_for_its_tags(
    store: S3Store, client: S3Client
) -> None:
    about: Any = {"Bucket": store._bucket, "Key": "images/a"}
    for body, tag in ((b"first", "n=1"), (b"second", "n=2")):
        client.put_object(**about, Body=body, Tagging=tag, CacheControl="public", Metadata={"sha256": "abc"})
    client.put_object(Bucket=store._bucket, Key="images/a.b", Body=b"another key with that beginning")
    seen = store.history("images/a")
    assert [upload.size_bytes for upload in seen.uploads] == [6, 5]
    assert not seen.is_deleted
    assert not store.bring_back(seen.uploads[1]), "another one is there"
    assert store.delete("images/a", seen.uploads[0].etag)
    hidden = store.history("images/a")
    assert (hidden.uploads, hidden.is_deleted) == (seen.uploads, True)
    assert store.bring_back(seen.uploads[0])
    head = client.head_object(**about)
    assert (head["ETag"], head["CacheControl"]) == (seen.uploads[0].etag, "public")
    assert head["Metadata"] == {"sha256": "abc"}
    assert client.get_object_tagging(**about)["TagSet"] == []
    assert [upload.size_bytes for upload in store.history("images/a").uploads] == [6, 6, 5]
    assert store.history("images/none") == KeyHistory()


def test_one_upload_of_a_key_is_tagged_and_no_later_one(store: S3Store, client: S3Client) -> None:
    about: Any = {"Bucket": store._bucket, "Key": "images/a"}
    first, second = (client.put_object(**about, Body=body)["VersionId"] for body in (b"1", b"2"))
    assert store.tag_listed("images/a", first)
    assert not store.is_tagged("images/a")
    assert store.tag_listed("images/a", second)
    assert store.is_tagged("images/a")
    client.put_object(**about, Body=b"3", Tagging="listed=false")
    assert not store.is_tagged("images/a")
    marker = client.delete_object(**about)["VersionId"]
    assert not store.is_tagged("images/a")
    assert not store.tag_listed("images/a", marker)
    client.delete_object(**about, VersionId=first)
    assert not store.tag_listed("images/a", first)
    assert not store.tag_listed("images/none", second)


def test_an_upload_too_large_for_one_copy_is_refused_with_the_command_that_restores_it(store: S3Store) -> None:
    large = ObjectInfo("images/a", (5 << 30) + 1, "e", START.isoformat(), "v1")
    with pytest.raises(UploadHidden, match="admin undelete images/a"):
        store.bring_back(large)


def test_documents_carry_json_and_a_short_lifetime_and_records_neither(store: S3Store, client: S3Client) -> None:
    store.create("streams/v1/a.json", b"{}")
    store.create("versions/a.json", b"{}")
    served = client.head_object(Bucket=store._bucket, Key="streams/v1/a.json")
    assert served["ContentType"] == "application/json"
    assert served["CacheControl"] == "public, max-age=30"  # the edge would act on stale-while-revalidate itself
    assert "CacheControl" not in client.head_object(Bucket=store._bucket, Key="versions/a.json")


def test_a_listing_is_sorted_and_empty_for_an_unknown_prefix(store: S3Store) -> None:
    keys = [f"versions/{number}" for number in range(5)]
    for key in reversed(keys):
        store.create(key, b"x")
    assert [info.key for info in store.list("versions/")] == keys
    assert list(store.list("nothing/")) == []


def test_a_listing_spans_pages(store: S3Store, client: S3Client) -> None:
    def page(key: str) -> dict[str, object]:
        return {"Contents": [{"Key": key, "Size": 1, "ETag": "e", "LastModified": START}]}

    with stubbed(client) as stub:
        first = {"IsTruncated": True, "NextContinuationToken": "more"}
        stub.add_response("list_objects_v2", page("a") | first, {"Bucket": ANY, "Prefix": "p", "StartAfter": ""})
        stub.add_response(
            "list_objects_v2", page("b"), {"Bucket": ANY, "Prefix": "p", "StartAfter": "", "ContinuationToken": "more"}
        )
        assert [info.key for info in store.list("p")] == ["a", "b"]


def test_a_listing_of_images_distinguishes_uploads_of_equal_bytes(store: S3Store, client: S3Client) -> None:
    ids = [
        client.put_object(Bucket=store._bucket, Key="images/a", Body=body)["VersionId"] for body in (b"1", b"2", b"1")
    ]
    for key in ("images/b", "images/c", "images-x/a"):
        client.put_object(Bucket=store._bucket, Key=key, Body=b"1")
    client.delete_object(Bucket=store._bucket, Key="images/b")
    assert [(info.key, info.version_id) for info in store.list("images/a")] == [("images/a", ids[2])]
    assert [info.key for info in store.list("images")] == ["images-x/a", "images/a", "images/c"]
    assert [info.key for info in store.list("images", "images/a")] == ["images/c"]
    assert len({info.version_id for info in store.list("images")}) == 3


def test_a_listing_of_images_spans_pages_that_end_among_the_uploads_of_one_key(
    store: S3Store, client: S3Client
) -> None:
    def page(*uploads: tuple[str, bool]) -> Any:
        about = {"Size": 1, "ETag": "e", "LastModified": START}
        versions = [{"Key": key, "VersionId": f"{key}{newest}", "IsLatest": newest, **about} for key, newest in uploads]
        return {"Versions": versions, "DeleteMarkers": [{"Key": "images/z", "VersionId": "m", "IsLatest": True}]}

    with stubbed(client) as stub:
        next_page = {"IsTruncated": True, "NextKeyMarker": "images/b", "NextVersionIdMarker": "images/bTrue"}
        asked = {"Bucket": ANY, "Prefix": "images", "KeyMarker": "images/a"}
        stub.add_response("list_object_versions", page(("images/a", True), ("images/b", True)) | next_page, asked)
        more = asked | {"KeyMarker": "images/b", "VersionIdMarker": "images/bTrue"}
        stub.add_response("list_object_versions", page(("images/b", False), ("images/c", True)), more)
        assert [info.key for info in store.list("images", "images/a")] == ["images/b", "images/c"]


@pytest.mark.parametrize("size", [0, 1, 5_000_000, 20_000_003])
def test_a_pinned_read_gives_every_byte(store: S3Store, client: S3Client, size: int) -> None:
    body = images.filler("x", size)
    etag = client.put_object(Bucket=store._bucket, Key="images/x", Body=body)["ETag"]
    opened = store.open("images/x", etag)
    assert opened.size_bytes == size
    assert b"".join(bytes(chunk) for chunk in opened.chunks) == body


def test_a_read_of_another_generation_is_refused(store: S3Store, client: S3Client) -> None:
    etag = client.put_object(Bucket=store._bucket, Key="images/x", Body=b"old")["ETag"]
    opened = store.open("images/x", etag)
    client.put_object(Bucket=store._bucket, Key="images/x", Body=b"new")
    with pytest.raises(ObjectChanged):
        list(opened.chunks)
    with pytest.raises(ObjectChanged):
        store.open("images/x", etag)
    client.delete_object(Bucket=store._bucket, Key="images/x")
    with pytest.raises(ObjectChanged):
        store.open("images/x", etag)


def test_content_encoding_is_reported(store: S3Store, client: S3Client) -> None:
    etag = client.put_object(Bucket=store._bucket, Key="images/x", Body=b"old", ContentEncoding="gzip")["ETag"]
    assert store.open("images/x", etag).content_encoding == "gzip"


@pytest.mark.parametrize(
    ("code", "status", "error"),
    [
        ("AccessDenied", 403, StorageDenied),
        ("SlowDown", 503, StorageUnavailable),
        ("InternalError", 500, StorageUnavailable),
        ("NoSuchBucket", 404, StorageUnavailable),
    ],
)
def test_any_other_error_is_raised_and_never_taken_for_absence(
    store: S3Store, client: S3Client, code: str, status: int, error: type[Exception]
) -> None:
    for method, call in (
        ("get_object", lambda: store.read("k")),
        ("put_object", lambda: store.create("k", b"")),
        ("put_object", lambda: store.replace("k", b"", "r")),
        ("list_objects_v2", lambda: list(store.list("k"))),
        ("list_object_versions", lambda: list(store.list("images/k"))),
        ("list_object_versions", lambda: store.history("k")),
        ("put_object_tagging", lambda: store.tag_listed("k", "v")),
        ("get_object_tagging", lambda: store.is_tagged("k")),
        ("copy_object", lambda: store.bring_back(ObjectInfo("k", 1, "e", "", "v"))),
        ("head_object", lambda: store.open("k", "e")),
    ):
        with stubbed(client) as stub:
            stub.add_client_error(method, code, "no", status)
            with pytest.raises(error, match=code):
                call()


def test_a_conflict_of_conditional_writes_is_a_lost_race(store: S3Store, client: S3Client) -> None:
    """S3 answers 409 then. No server here does, so this one is stubbed."""
    with stubbed(client) as stub:
        expected = {"Bucket": ANY, "Key": ANY, "Body": ANY, "ContentType": ANY, "IfMatch": "r"}
        stub.add_client_error("put_object", "ConditionalRequestConflict", "again", 409, expected_params=expected)
        assert not store.replace("versions/k", b"", "r")


def test_an_unreachable_endpoint_is_unavailable() -> None:
    config = Config(retries={"total_max_attempts": 1}, connect_timeout=1)
    client = boto3.client(
        "s3", endpoint_url=f"http://127.0.0.1:{free_port()}", region_name="us-east-1", config=config,
        aws_access_key_id="x", aws_secret_access_key="x",
    )  # fmt: skip
    with pytest.raises(StorageUnavailable, match="no answer about k"):
        S3Store(client, "b").read("k")


def test_two_concurrent_publishers_lose_no_update(store: S3Store, client: S3Client) -> None:
    """Two threads ingest and publish twelve products one by one into one catalog."""
    paths = [f"images/os{number}/r/amd64/default/20261123_10:00" for number in range(12)]
    services = IngestServices(
        store, lambda: START, lambda seconds: threading.Event().wait(seconds), 1 << 40, 900, hash_fan
    )
    for number, path in enumerate(paths):
        for name, body in images.split_image(seed=str(number)).items():
            client.put_object(Bucket=store._bucket, Key=f"{path}/{name}", Body=body)
    lost = []

    def work(mine: list[str]) -> None:
        for path in mine:
            version = parse_version(path)
            ingest(version, services)
            done = publish(
                "images", [version.product], PublishServices(store, ALL_CLIENTS, services.now, services.pause)
            )
            lost.append(done.lost_races)

    threads = [threading.Thread(target=work, args=(paths[start::2],)) for start in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(lost) == 12
    products = store.read("streams/v1/images.json")
    index = store.read("streams/v1/index.json")
    assert products
    assert index
    names = sorted(parse_product(path.rsplit("/", 1)[0]).name for path in paths)
    assert sorted(documents.decode_products(products.body, "images").products) == names
    assert documents.decode_index(index.body).index["images"].products == names


FILE = "images/ubuntu/noble/amd64/default/20261123/disk1.img"
MIB = 1 << 20


def test_a_file_is_made_once_as_a_publisher_would_make_it(store: S3Store, client: S3Client) -> None:
    sha256 = hashlib.sha256(b"root").hexdigest()
    assert store.create_file(FILE, b"root", sha256)
    assert not store.create_file(FILE, b"root", sha256)
    head = client.head_object(Bucket=store._bucket, Key=FILE)
    assert (head["ContentType"], head["Metadata"]) == ("application/octet-stream", {"sha256": sha256})
    assert head["CacheControl"] == caching.IMMUTABLE
    opened = store.open(FILE, head["ETag"])
    assert (opened.declared_sha256, opened.origin) == (sha256, "")


def test_a_copy_keeps_its_origin_however_it_was_made(store: S3Store, client: S3Client) -> None:
    origin = records.encode_origin(records.Origin("bücher.example.org", signed_by="ab" * 20))
    assert store.create_file(FILE, b"root", hashlib.sha256(b"root").hexdigest(), origin)
    upload_id = store.begin(f"{FILE}2", "", origin)
    assert store.complete(f"{FILE}2", upload_id, [store.put_part(f"{FILE}2", upload_id, 1, b"root") or ""])
    for key in (FILE, f"{FILE}2"):
        etag = client.head_object(Bucket=store._bucket, Key=key)["ETag"]
        assert store.open(key, etag).origin == origin


def test_a_file_with_another_checksum_is_not_made(store: S3Store) -> None:
    with pytest.raises(StorageUnavailable, match=r"BadDigest|checksum|InvalidRequest"):
        store.create_file(FILE, b"other", hashlib.sha256(b"root").hexdigest())
    assert store.read(FILE) is None


def test_a_multipart_file_exists_once_it_is_completed(store: S3Store) -> None:
    parts = [bytes([number]) * 5 * MIB for number in range(2)] + [b"end"]
    upload_id = store.begin(FILE, hashlib.sha256(b"".join(parts)).hexdigest())
    etags = [store.put_part(FILE, upload_id, number, part) or "" for number, part in enumerate(parts, 1)]
    assert store.read(FILE) is None
    assert not store.complete(FILE, upload_id, [*etags[:2], '"00000000000000000000000000000000"'])
    assert store.read(FILE) is None
    assert store.complete(FILE, upload_id, etags)
    seen = store.read(FILE)
    assert seen
    assert seen.body == b"".join(parts)


def test_parts_do_not_replace_a_file_uploaded_meanwhile(store: S3Store) -> None:
    upload_id = store.begin(FILE, "")
    etags = [store.put_part(FILE, upload_id, 1, b"mirrored") or ""]
    assert store.create_file(FILE, b"uploaded", hashlib.sha256(b"uploaded").hexdigest())
    assert not store.complete(FILE, upload_id, etags)
    seen = store.read(FILE)
    assert seen
    assert seen.body == b"uploaded"
    store.abort(FILE, upload_id)


def test_an_abandoned_multipart_upload_takes_no_more_parts(store: S3Store) -> None:
    upload_id = store.begin(FILE, "")
    etag = store.put_part(FILE, upload_id, 1, b"part")
    assert etag
    store.abort(FILE, upload_id)
    store.abort(FILE, upload_id)
    assert store.put_part(FILE, upload_id, 2, b"part") is None
    assert not store.complete(FILE, upload_id, [etag])
