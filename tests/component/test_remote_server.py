"""Another server is read as its own clients would read it, politely, and only where that is allowed."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from imageserver.errors import UpstreamRefused
from imageserver.remote.server import Manners, RemoteServer
from imageserver.upstream.mirrors import Mirror
from imageserver.upstream.port import PART_BYTES, Reading
from tests.support.servers.upstream import UpstreamServer, upstream

QUICK = Manners(pause_s=0.001, longest_pause_s=2)
INDEX = "streams/v1/index.json"
DISK = "images/a/disk.qcow2"
LARGE = random.Random(1).randbytes(3 * PART_BYTES + 5)


@pytest.fixture
def served() -> Iterator[UpstreamServer]:
    with upstream({INDEX: b"{}", DISK: LARGE}) as server:
        yield server


def mirror_of(server: UpstreamServer, *, allow_private: bool = True, hosts: tuple[str, ...] = ()) -> Mirror:
    return Mirror(
        address=server.address, stream="images", only=("all",), allow_private=allow_private, hosts=hosts
    )  # fmt: skip


def remote(server: UpstreamServer, manners: Manners = QUICK, **about: Any) -> RemoteServer:
    return RemoteServer(mirror_of(server, **about), "https://mirror.example.org", manners)


def whole(reading: Reading) -> bytes:
    return b"".join(reading.parts)


def test_a_document_is_read_once_and_then_asked_about(served: UpstreamServer) -> None:
    with closing(remote(served)) as server:
        document = server.document(INDEX)
        assert document
        assert (document.body, document.etag) == (b"{}", served.etag(INDEX))
        assert server.document(INDEX, document.etag) is None
        served.files[INDEX] = b'{"index": {}}'
        changed = server.document(INDEX, document.etag)
        assert changed
        assert changed.body == b'{"index": {}}'
    assert [one.headers["user-agent"] for one in served.requests] == [
        "serverless-simplestreams-mirror (+https://mirror.example.org)"
    ] * 3


def test_a_compressed_document_is_unpacked_within_its_limit(
    served: UpstreamServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    served.encoded = True
    served.files[INDEX] = b" " * (8 << 20)
    document = remote(served).document(INDEX)
    assert document
    assert len(document.body) == 8 << 20
    assert served.bytes_sent[INDEX] < 20_000
    monkeypatch.setattr("imageserver.remote.server.LARGEST_DOCUMENT_BYTES", (8 << 20) - 1)
    with pytest.raises(UpstreamRefused, match="more than 8,388,607 bytes"):
        remote(served).document(INDEX)


def test_a_large_file_comes_over_some_connections_in_its_order(served: UpstreamServer) -> None:
    reading = remote(served).read(DISK, len(LARGE), 60)
    assert (reading.size_bytes, reading.generation) == (len(LARGE), served.etag(DISK))
    parts = list(reading.parts)
    assert [len(part) for part in parts] == [PART_BYTES] * 3 + [5]
    assert b"".join(parts) == LARGE
    assert sorted(one.range for one in served.asked_for(DISK)) == sorted(
        f"bytes={start}-{min(start + PART_BYTES, len(LARGE)) - 1}" for start in range(0, len(LARGE), PART_BYTES)
    )
    assert {one.headers.get("if-range", "") for one in served.asked_for(DISK)} == {"", served.etag(DISK)}
    assert {one.headers["accept-encoding"] for one in served.asked_for(DISK)} == {"identity"}


def test_a_read_goes_on_where_another_one_ended(served: UpstreamServer) -> None:
    reading = remote(served).read(DISK, len(LARGE), 60, 2 * PART_BYTES, served.etag(DISK))
    assert whole(reading) == LARGE[2 * PART_BYTES :]
    assert served.bytes_sent[DISK] == len(LARGE) - 2 * PART_BYTES
