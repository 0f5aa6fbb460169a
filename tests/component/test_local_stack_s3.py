"""Where the local S3 and SQS differ from plain moto."""

import base64
import hashlib
import http.client
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from botocore.exceptions import ClientError

from local_stack.credentials import ACCESS_KEY, SECRET_KEY, local_session
from local_stack.errors import PortInUse
from local_stack.s3_process import S3Process
from local_stack.servers import LOOPBACK, listen
from tests.support.servers.s3 import BUCKET, S3Server, at_once, running_s3, s3_process

# One worker starts the process for all of them.
pytestmark = pytest.mark.xdist_group("local-stack-s3")

KEY = "images/ubuntu/xenial/amd64/default/20261123_10:00/lxd.tar.xz"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with running_s3(tmp_path_factory.mktemp("s3")) as running:
        yield running


@pytest.fixture
def s3(server: S3Server) -> Iterator[Any]:
    client = server.client("s3")
    yield client
    for listed in client.list_objects_v2(Bucket=BUCKET).get("Contents", []):
        client.delete_object(Bucket=BUCKET, Key=listed["Key"])
    server.events()


def test_aws_settings_of_the_user_do_not_affect_the_local_stack(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """moto asks boto3 for regions, and boto3 looks for the profile that is set."""
    monkeypatch.setenv("AWS_PROFILE", "that-is-not-here")
    with s3_process(tmp_path) as process:
        sqs = local_session(ACCESS_KEY, SECRET_KEY, "us-east-1").client("sqs", endpoint_url=process.endpoint)
        assert sqs.create_queue(QueueName="arrivals")["QueueUrl"].endswith("/arrivals")


def test_the_port_belongs_to_the_process_from_its_start(tmp_path: Path) -> None:
    """A start takes a second. A port that was free before it may be taken by then."""
    listener = listen(0, LOOPBACK[:1])[0]
    port = listener.getsockname()[1]
    process = S3Process(listener, tmp_path / "s3.log")
    try:
        with pytest.raises(PortInUse):
            listen(port)
        assert send(process.endpoint, b"", "GET")[0] == 403  # waits until the process answers
    finally:
        process.stop()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))


def presign(s3: Any, key: str = KEY, **extra: Any) -> str:
    url: str = s3.generate_presigned_url("put_object", {"Bucket": BUCKET, "Key": key, **extra})
    return url


def send(url: str, body: bytes, method: str = "PUT", **headers: str) -> tuple[int, str]:
    """Send a request; return status and body of the answer."""
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(url, body, sent, method=method)
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def stored(s3: Any, key: str = KEY) -> bytes | None:
    try:
        body: bytes = s3.get_object(Bucket=BUCKET, Key=key)["Body"].read()
    except s3.exceptions.NoSuchKey:
        return None
    return body


@pytest.mark.parametrize("content_type", ["application/x-www-form-urlencoded", "multipart/form-data; boundary=x"])
def test_a_form_content_type_does_not_lose_the_body(s3: Any, content_type: str) -> None:
    status, _ = send(presign(s3), b"a=1&b=2", content_type=content_type)
    assert (status, stored(s3)) == (200, b"a=1&b=2")


def test_an_unsigned_request_is_refused(s3: Any, server: S3Server) -> None:
    status, body = send(f"{server.endpoint}/{BUCKET}/{KEY}", b"x")
    assert (status, "<Code>AccessDenied</Code>" in body, stored(s3)) == (403, True, None)
    assert send(f"{server.endpoint}/{BUCKET}/{KEY}", b"", "GET")[0] == 403
    assert send(f"{server.endpoint}/moto-api/reset", b"", "POST")[0] == 403


def test_a_post_to_an_upload_url_is_refused_and_stores_nothing(s3: Any) -> None:
    status, body = send(presign(s3), b"x", "POST")
    assert (status, "<Code>SignatureDoesNotMatch</Code>" in body, stored(s3)) == (403, True, None)


@pytest.mark.parametrize(
    ("header", "digest"), [("x-amz-checksum-sha256", hashlib.sha256), ("content-md5", hashlib.md5)]
)
def test_a_body_that_contradicts_its_checksum_is_refused(s3: Any, header: str, digest: Any) -> None:
    checksum = base64.b64encode(digest(b"right").digest()).decode()
    name = {"x-amz-checksum-sha256": "ChecksumSHA256", "content-md5": "ContentMD5"}[header]
    url = presign(s3, **{name: checksum})
    status, body = send(url, b"wrong", **{header: checksum})
    assert (status, "<Code>BadDigest</Code>" in body, stored(s3)) == (400, True, None)
    assert send(url, b"right", **{header: checksum})[0] == 200
    assert stored(s3) == b"right"


def test_a_body_that_ends_early_stores_nothing(s3: Any, server: S3Server) -> None:
    target = urlsplit(presign(s3))
    with socket.create_connection((target.hostname, target.port)) as connection:
        head = f"PUT {target.path}?{target.query} HTTP/1.1\r\nHost: {target.netloc}\r\nContent-Length: 100\r\n\r\n"
        connection.sendall(head.encode() + b"only this")
        connection.shutdown(socket.SHUT_WR)
        answer = connection.recv(65536)
    assert b"400" in answer.splitlines()[0]
    assert b"IncompleteBody" in answer
    assert stored(s3) is None
    assert server.events() == []


def test_a_body_without_a_length_is_refused(s3: Any) -> None:
    target = urlsplit(presign(s3))
    connection = http.client.HTTPConnection(str(target.hostname), target.port)
    connection.request("PUT", f"{target.path}?{target.query}", body=iter([b"part"]), encode_chunked=True,
                       headers={"Transfer-Encoding": "chunked"})  # fmt: skip
    assert connection.getresponse().status == 411
    assert stored(s3) is None


def test_one_of_many_concurrent_creations_of_a_key_succeeds(s3: Any, server: S3Server) -> None:
    clients = [server.client("s3") for _ in range(8)]
    for attempt in range(5):
        key = f"{KEY}.{attempt}"

        def create(index: int, key: str = key) -> int:
            try:
                clients[index].put_object(Bucket=BUCKET, Key=key, Body=b"%d" % index, IfNoneMatch="*")
            except ClientError as error:
                return int(error.response["ResponseMetadata"]["HTTPStatusCode"])
            return 200

        assert sorted(at_once(8, create)) == [200] + [412] * 7
    assert len(server.events()) == 5


def test_one_of_many_concurrent_replacements_of_a_revision_succeeds(s3: Any, server: S3Server) -> None:
    clients = [server.client("s3") for _ in range(8)]
    etag = s3.put_object(Bucket=BUCKET, Key="streams/v1/images.json", Body=b"0")["ETag"]

    def replace(index: int) -> int:
        try:
            clients[index].put_object(Bucket=BUCKET, Key="streams/v1/images.json", Body=b"x%d" % index, IfMatch=etag)
        except ClientError as error:
            return int(error.response["ResponseMetadata"]["HTTPStatusCode"])
        return 200

    assert sorted(at_once(8, replace)) == [200] + [412] * 7


def test_a_listing_while_keys_arrive_never_fails(s3: Any, server: S3Server) -> None:
    clients = [server.client("s3") for _ in range(4)]

    def work(index: int) -> int:
        for number in range(25):
            if index % 2:
                clients[index].put_object(Bucket=BUCKET, Key=f"images/{index}/{number}", Body=b"x")
            else:
                clients[index].list_objects_v2(Bucket=BUCKET)
        return 0

    assert at_once(4, work) == [0] * 4


def test_every_generation_is_on_one_page_in_the_order_in_which_it_came(s3: Any) -> None:
    keys = ("images-g/a", "images-g/b", "images-g/c")
    for key in keys:
        for body in (b"1", b"2"):
            s3.put_object(Bucket=BUCKET, Key=key, Body=body)
        s3.delete_object(Bucket=BUCKET, Key=key)
    whole = s3.list_object_versions(Bucket=BUCKET, Prefix="images-g/")
    sizes = {"PageSize": 2}
    pages = list(
        s3.get_paginator("list_object_versions").paginate(Bucket=BUCKET, Prefix="images-g/", PaginationConfig=sizes)
    )
    for kind in ("Versions", "DeleteMarkers"):
        assert [one for page in pages for one in page.get(kind, ())] == whole[kind]
    assert [(one["Key"], one["IsLatest"]) for one in whole["DeleteMarkers"]] == [(key, True) for key in keys]
    behind = s3.list_object_versions(Bucket=BUCKET, KeyMarker="images-g/a", Prefix="images-g/")
    assert {one["Key"] for one in behind["Versions"]} == {"images-g/b", "images-g/c"}
    s3.put_object(Bucket=BUCKET, Key="images-g/a", Body=b"1")
    found = s3.list_object_versions(Bucket=BUCKET, Prefix="images-g/a")["Versions"]
    assert [one["IsLatest"] for one in found] == [True, False, False]


def test_deleting_sends_the_events_that_s3_sends(s3: Any, server: S3Server) -> None:
    version = s3.put_object(Bucket=BUCKET, Key=KEY, Body=b"x")["VersionId"]
    marker = s3.delete_object(Bucket=BUCKET, Key=KEY)["VersionId"]
    created, removed = server.events()
    assert created["eventName"] == "ObjectCreated:Put"
    assert removed["eventName"] == "ObjectRemoved:DeleteMarkerCreated"
    # ':' is encoded and '/' is not, as in real events.
    assert created["s3"]["object"]["key"] == KEY.replace(":", "%3A") == removed["s3"]["object"]["key"]
    assert (created["s3"]["object"]["versionId"], removed["s3"]["object"]["versionId"]) == (version, marker)
    assert created["s3"]["object"]["sequencer"] < removed["s3"]["object"]["sequencer"]
    assert "size" not in removed["s3"]["object"]


def test_deleting_many_at_once_sends_an_event_for_each(s3: Any, server: S3Server) -> None:
    keys = [f"{KEY}.{number}" for number in range(3)]
    for key in keys:
        s3.put_object(Bucket=BUCKET, Key=key, Body=b"x")
    server.events()
    s3.delete_objects(Bucket=BUCKET, Delete={"Objects": [{"Key": key} for key in keys]})
    events = server.events()
    assert [event["eventName"] for event in events] == ["ObjectRemoved:DeleteMarkerCreated"] * 3


def test_a_multipart_upload_ends_in_one_whole_object(s3: Any, server: S3Server) -> None:
    parts = [b"a" * (5 * 1024 * 1024), b"b"]
    upload = s3.create_multipart_upload(Bucket=BUCKET, Key=KEY)["UploadId"]
    tags = [
        s3.upload_part(Bucket=BUCKET, Key=KEY, UploadId=upload, PartNumber=number, Body=body)["ETag"]
        for number, body in enumerate(parts, 1)
    ]
    assert stored(s3) is None
    named = [{"PartNumber": number, "ETag": tag} for number, tag in enumerate(tags, 1)]
    s3.complete_multipart_upload(Bucket=BUCKET, Key=KEY, UploadId=upload, MultipartUpload={"Parts": named})
    assert stored(s3) == b"".join(parts)
    assert "ObjectCreated:CompleteMultipartUpload" in {event["eventName"] for event in server.events()}


def test_a_conditional_copy_replaces_nothing(s3: Any) -> None:
    s3.put_object(Bucket=BUCKET, Key=KEY, Body=b"mine")
    about = {"Bucket": BUCKET, "CopySource": {"Bucket": BUCKET, "Key": KEY}, "IfNoneMatch": "*"}
    s3.copy_object(**about, Key=f"{KEY}.new")
    s3.put_object(Bucket=BUCKET, Key=f"{KEY}.new", Body=b"theirs")
    with pytest.raises(ClientError, match="PreconditionFailed"):
        s3.copy_object(**about, Key=f"{KEY}.new")
    assert stored(s3, f"{KEY}.new") == b"theirs"


@pytest.mark.parametrize("asked", ["", "bytes=0-0", "bytes=5000000-5000009", "bytes=-7", "bytes=4999990-9999999"])
def test_a_large_object_is_read_in_any_range(s3: Any, asked: str) -> None:
    body = bytes(range(256)) * 20_000  # 5 MB: above what moto answers by itself
    s3.put_object(Bucket=BUCKET, Key=KEY, Body=body)
    answer = s3.get_object(Bucket=BUCKET, Key=KEY, **({"Range": asked} if asked else {}))
    first, _, last = asked.removeprefix("bytes=").partition("-")
    expected = body[-int(last) :] if asked and not first else body[int(first or 0) : int(last or len(body)) + 1]
    assert answer["Body"].read() == expected


def test_a_large_object_is_read_only_under_its_condition(s3: Any) -> None:
    etag = s3.put_object(Bucket=BUCKET, Key=KEY, Body=b"x" * 5_000_000)["ETag"]
    s3.put_object(Bucket=BUCKET, Key=KEY, Body=b"y" * 5_000_000)
    with pytest.raises(ClientError, match="PreconditionFailed"):
        s3.get_object(Bucket=BUCKET, Key=KEY, IfMatch=etag)


def test_a_message_sent_while_another_is_deleted_is_not_lost(server: S3Server) -> None:
    url, _ = server.make_queue("busy")
    clients = [server.client("sqs") for _ in range(4)]
    taken: list[str] = []

    def work(index: int) -> int:
        if index < 2:
            for number in range(60):
                clients[index].send_message(QueueUrl=url, MessageBody=f"{index} {number}")
            return 0
        give_up = time.monotonic() + 30
        while len(taken) < 120 and time.monotonic() < give_up:
            for message in clients[index].receive_message(QueueUrl=url, MaxNumberOfMessages=10).get("Messages", []):
                clients[index].delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
                taken.append(message["Body"])
        return 0

    at_once(4, work)
    assert sorted(taken) == sorted(f"{index} {number}" for index in range(2) for number in range(60))


def test_a_long_poll_blocks_no_other_request_and_ends_with_the_first_message(server: S3Server) -> None:
    url, _ = server.make_queue("slow")
    poller, sender = server.client("sqs"), server.client("sqs")

    def work(index: int) -> Any:
        if index == 0:
            return poller.receive_message(QueueUrl=url, WaitTimeSeconds=20)["Messages"][0]["Body"]
        return sender.send_message(QueueUrl=url, MessageBody="hello")["MessageId"]

    assert at_once(2, work)[0] == "hello"


@pytest.mark.parametrize("asked", ["All", "ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"])
def test_a_queue_counts_visible_and_in_flight_messages(server: S3Server, asked: str) -> None:
    url, _ = server.make_queue(f"counted-{asked.lower()}")
    sqs = server.client("sqs")
    for number in range(3):
        sqs.send_message(QueueUrl=url, MessageBody=str(number))
    sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=1)
    attributes = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=[asked])["Attributes"]
    counts = {"ApproximateNumberOfMessages": "2", "ApproximateNumberOfMessagesNotVisible": "1"}
    assert attributes.items() >= {name: counts[name] for name in (counts if asked == "All" else [asked])}.items()


def test_a_watcher_sees_each_stored_and_removed_object(s3: Any, server: S3Server) -> None:
    server.watched_events.clear()
    s3.put_object(Bucket=BUCKET, Key=KEY, Body=b"12345")
    s3.delete_object(Bucket=BUCKET, Key=KEY)
    give_up = time.monotonic() + 10
    while len(server.watched_events) < 2 and time.monotonic() < give_up:
        time.sleep(0.01)
    assert [(event["operation"], event["key"], event["size_bytes"]) for event in server.watched_events] == [
        ("stored", KEY, 5),
        ("removed", KEY, 0),
    ]
