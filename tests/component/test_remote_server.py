"""Another server is read like by its own clients, politely, and only if its address is allowed."""

from __future__ import annotations

import gzip
import random
import socket
import ssl
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import replace
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
import trustme

from imageserver.errors import UpstreamChanged, UpstreamRefused, UpstreamUnavailable
from imageserver.remote.connections import RESOLVED_S, Connections
from imageserver.remote.server import RemoteServer, RequestLimits
from imageserver.upstream.mirrors import Mirror
from imageserver.upstream.port import Reading
from tests.support.processes import free_port
from tests.support.servers.upstream import Fault, UpstreamServer, upstream

PART = 1 << 20
QUICK = RequestLimits(part_bytes=PART, pause_s=0.001, longest_pause_s=2)
CONNECTIONS = 4
INDEX = "streams/v1/index.json"
DISK = "images/a/disk.qcow2"
LARGE = random.Random(1).randbytes(7 * PART + 5)


@pytest.fixture
def served() -> Iterator[UpstreamServer]:
    with upstream({INDEX: b"{}", DISK: LARGE}) as server:
        yield server


def remote(server: UpstreamServer, limits: RequestLimits = QUICK, **about: Any) -> RemoteServer:
    mirror = Mirror(**{"address": server.address, "stream": "images", "only": ("all",), "allow_private": True, **about})
    return RemoteServer(mirror, "https://mirror.example.org", limits)


def read(server: UpstreamServer, seconds: float = 60, start: int = 0, generation: str = "", **about: Any) -> Reading:
    return remote(server, **about).read(DISK, len(LARGE), seconds, start, generation)


def whole(reading: Reading) -> bytes:
    return b"".join(reading.parts)


# ── documents ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_document_is_read_once_and_then_revalidated(served: UpstreamServer) -> None:
    server = remote(served)
    document = server.document(INDEX)
    assert document
    assert (document.body, document.etag) == (b"{}", served.etag(INDEX))
    assert server.document(INDEX, document.etag) is None
    served.files[INDEX] = b'{"index": {}}'
    changed = server.document(INDEX, document.etag)
    assert changed
    assert changed.body == b'{"index": {}}'
    server.close()


def test_a_request_names_the_server_and_a_contact(served: UpstreamServer) -> None:
    remote(served).document(INDEX)
    assert [one.headers["user-agent"] for one in served.requests] == [
        "serverless-simplestreams-mirror (+https://mirror.example.org)"
    ]


def test_a_path_is_resolved_below_the_address(served: UpstreamServer) -> None:
    served.files["to ken/v1/a b.json"] = b"[]"
    found = remote(served, address=f"{served.address}to%20ken/").document("/v1/a b.json")
    assert found
    assert found.body == b"[]"
    assert served.requests[-1].path == "/to%20ken/v1/a%20b.json"


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


def test_a_compression_bomb_takes_no_more_memory_than_the_limit(
    served: UpstreamServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """1 GiB in 1 MB, and compressed twice in 5 kB: a limit on received bytes would let both pass."""
    monkeypatch.setattr("imageserver.remote.server.LARGEST_DOCUMENT_BYTES", 8 << 20)
    bomb = gzip.compress(bytes(1 << 30), 1)
    for encoding, body in (("gzip", bomb), ("gzip, gzip", gzip.compress(bomb))):
        served.files[INDEX] = body
        served.faults[INDEX] = [Fault(headers={"Content-Encoding": encoding})]
        tracemalloc.start()
        with pytest.raises(UpstreamRefused, match="more than 8,388,608 bytes"):
            remote(served).document(INDEX)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 40 << 20, encoding


@pytest.mark.parametrize(("status", "message"), [(404, "answers 404"), (403, "answers 403"), (304, "answers 304")])
def test_an_unavailable_document_is_refused_by_name(served: UpstreamServer, status: int, message: str) -> None:
    served.faults[INDEX] = [Fault(status)]
    with pytest.raises(UpstreamRefused, match=f"127.0.0.1 {message} for {INDEX}"):
        remote(served).document(INDEX)


@pytest.mark.parametrize("fault", [Fault(500), Fault(503), Fault(429), Fault(cut_after=1)], ids=str)
def test_a_transient_fault_is_retried(served: UpstreamServer, fault: Fault) -> None:
    served.faults[INDEX] = [fault] * (QUICK.tries - 1)
    assert remote(served).document(INDEX)
    assert len(served.requests) == QUICK.tries


@pytest.mark.parametrize(
    "fault", [Fault(502), Fault(cut_after=1), Fault(headers={"Content-Encoding": "gzip"})], ids=str
)
def test_a_persistent_fault_is_left_to_a_later_run(served: UpstreamServer, fault: Fault) -> None:
    served.faults[INDEX] = [fault] * QUICK.tries
    with pytest.raises(UpstreamUnavailable, match=f"{INDEX} could not be read from 127.0.0.1 in 5 tries") as failure:
        remote(served).document(INDEX)
    assert failure.value.retry_after_s == 0


@pytest.mark.parametrize("form", ["1", lambda: formatdate(time.time() + 2, usegmt=True)], ids=["seconds", "date"])
def test_a_short_retry_after_is_obeyed(served: UpstreamServer, form: str | Callable[[], str]) -> None:
    served.faults[INDEX] = [Fault(429, {"Retry-After": form if isinstance(form, str) else form()})]
    began = time.monotonic()
    assert remote(served).document(INDEX)
    assert time.monotonic() - began >= 0.9


def test_a_long_retry_after_is_left_to_a_later_run(served: UpstreamServer) -> None:
    served.faults[INDEX] = [Fault(503, {"Retry-After": "600"})]
    with pytest.raises(UpstreamUnavailable) as failure:
        remote(served).document(INDEX)
    assert (failure.value.retry_after_s, len(served.requests)) == (600, 1)


@pytest.mark.parametrize("after", ["soon", "9" * 5000, "Mon, 16 Nov 99999 13:32:02 GMT"], ids=["word", "long", "far"])
def test_an_unreadable_retry_after_is_ignored(served: UpstreamServer, after: str) -> None:
    served.faults[INDEX] = [Fault(503, {"Retry-After": after})]
    assert remote(served).document(INDEX)


def test_a_document_that_arrives_too_slowly_is_given_up(served: UpstreamServer) -> None:
    served.files[INDEX] = bytes(4 << 20)
    served.bytes_per_s = 4 << 20
    with pytest.raises(UpstreamUnavailable, match="took longer than 0 s"):
        remote(served, replace(QUICK, document_s=0.2)).document(INDEX)


def test_an_address_without_a_server_is_left_to_a_later_run(served: UpstreamServer) -> None:
    with pytest.raises(UpstreamUnavailable, match=r"could not be read from 127\.0\.0\.1"):
        remote(served, address=f"http://127.0.0.1:{free_port()}/").document(INDEX)


# ── files ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_large_file_is_read_in_order_over_several_connections(served: UpstreamServer) -> None:
    reading = read(served)
    assert (reading.size_bytes, reading.generation) == (len(LARGE), served.etag(DISK))
    parts = list(reading.parts)
    assert [len(part) for part in parts] == [PART] * 7 + [5]
    assert b"".join(parts) == LARGE
    ranges = [f"bytes={start}-{min(start + PART, len(LARGE)) - 1}" for start in range(0, len(LARGE), PART)]
    assert sorted(one.range for one in served.asked_for(DISK)) == sorted(ranges)
    assert [one.headers.get("if-range", "") for one in served.asked_for(DISK)] == ["", *[served.etag(DISK)] * 7]
    assert {one.headers["accept-encoding"] for one in served.asked_for(DISK)} == {"identity"}


def test_the_number_of_connections_to_one_server_is_limited(served: UpstreamServer) -> None:
    """The first part uses one connection. Four more may open before that one is returned."""
    served.bytes_per_s = 20 << 20
    assert whole(read(served)) == LARGE
    assert served.most_connections <= CONNECTIONS + 1


def test_a_slow_server_is_read_over_one_connection(served: UpstreamServer) -> None:
    """Several would share its rate, and no part would finish."""
    served.bytes_per_s = 10 << 20
    assert whole(remote(served, replace(QUICK, part_s=0.15)).read(DISK, len(LARGE), 60)) == LARGE
    assert served.most_connections <= 2


def test_a_mirror_sets_its_connections_and_its_rate(served: UpstreamServer) -> None:
    assert whole(read(served, connections=1)) == LARGE
    assert served.most_connections == 1
    began = time.monotonic()
    assert whole(read(served, bytes_per_s=4 * PART)) == LARGE
    assert time.monotonic() - began >= 7 / 4


def test_a_read_continues_where_another_one_ended(served: UpstreamServer) -> None:
    assert whole(read(served, start=2 * PART, generation=served.etag(DISK))) == LARGE[2 * PART :]
    assert served.bytes_sent[DISK] == len(LARGE) - 2 * PART


def test_a_broken_part_is_resumed_where_it_broke(served: UpstreamServer) -> None:
    served.faults[DISK] = [Fault(), Fault(cut_after=700_000), Fault(500), Fault(cut_after=0)]
    assert whole(read(served)) == LARGE
    assert served.bytes_sent[DISK] == len(LARGE)


def test_a_part_that_always_breaks_is_left_to_a_later_run(served: UpstreamServer) -> None:
    served.faults[DISK] = [Fault(), *[Fault(cut_after=10)] * 100]
    with pytest.raises(UpstreamUnavailable, match="could not be read"):
        whole(read(served))


def test_a_server_without_ranges_is_read_over_one_connection(served: UpstreamServer) -> None:
    served.ranges = False
    reading = read(served)
    assert (reading.generation, whole(reading)) == ("", LARGE)
    assert len(served.requests) == 1


def test_a_file_without_ranges_that_breaks_is_left_to_a_later_run(served: UpstreamServer) -> None:
    served.ranges = False
    served.faults[DISK] = [Fault(cut_after=3 * PART)]
    with pytest.raises(UpstreamUnavailable, match="broke off after"):
        whole(read(served))


def test_a_server_without_etag_or_date_is_read_in_one_response(served: UpstreamServer) -> None:
    """Ranges from two responses could belong to two files."""
    served.etags = served.dates = False
    reading = read(served)
    assert (reading.generation, whole(reading)) == ("", LARGE)
    assert [one.range for one in served.asked_for(DISK)] == [f"bytes=0-{PART - 1}", ""]


def test_a_date_identifies_a_generation_if_no_strong_etag_does(served: UpstreamServer) -> None:
    served.faults[DISK] = [Fault(headers={"ETag": 'W/"weak"'}) for _ in range(8)]
    reading = read(served)
    assert (reading.generation, whole(reading)) == ("Mon, 23 Nov 2026 10:00:00 GMT", LARGE)


def test_a_file_that_changes_while_it_is_read_is_noticed(served: UpstreamServer) -> None:
    reading = read(served)
    first = next(reading.parts)
    served.files[DISK] = bytes(len(LARGE))
    found = [first]
    with pytest.raises(UpstreamChanged, match="changed upstream while it was read"):
        found.extend(reading.parts)
    assert LARGE.startswith(b"".join(found))


@pytest.mark.parametrize("ranges", [True, False])
def test_a_file_that_changed_between_two_reads_is_noticed(served: UpstreamServer, ranges: bool) -> None:
    served.ranges = ranges
    with pytest.raises(UpstreamChanged):
        read(served, start=PART, generation='"another"')


def test_a_server_that_ignores_if_range_mixes_nothing(served: UpstreamServer) -> None:
    served.faults[DISK] = [Fault(), *[Fault(headers={"ETag": '"other"'}, ignore_if_range=True)] * 7]
    with pytest.raises(UpstreamChanged):
        whole(read(served))


@pytest.mark.parametrize(
    "range_",
    ["bytes 1-1048576/7340037", "bytes 0-1048575/*", "none", "bytes 0-1048575/99", f"bytes 0-1048575/{'9' * 5000}"],
    ids=lambda range_: range_[:30],
)
def test_a_range_that_was_not_asked_for_is_refused(served: UpstreamServer, range_: str) -> None:
    served.faults[DISK] = [Fault(headers={"Content-Range": range_})]
    with pytest.raises(UpstreamRefused, match="expected"):
        read(served)


@pytest.mark.parametrize("ranges", [True, False])
def test_a_size_other_than_in_the_catalog_is_refused(served: UpstreamServer, ranges: bool) -> None:
    served.ranges = ranges
    with pytest.raises(UpstreamRefused, match=r"has 7,340,037 bytes, expected 7,340,038 as upstream's catalog says"):
        remote(served).read(DISK, len(LARGE) + 1, 60)


def test_an_empty_file_is_refused(served: UpstreamServer) -> None:
    served.files[DISK] = b""
    with pytest.raises(UpstreamRefused, match="is empty upstream"):
        read(served)


def test_a_size_may_be_learned_from_the_answer(served: UpstreamServer) -> None:
    for served.ranges in (True, False):
        reading = remote(served).read(DISK, 0, 60)
        assert (reading.size_bytes, whole(reading)) == (len(LARGE), LARGE)


def test_a_body_without_a_length_must_have_the_size_in_the_catalog(served: UpstreamServer) -> None:
    served.ranges = served.lengths = False
    assert whole(read(served)) == LARGE
    with pytest.raises(UpstreamRefused, match="has more bytes than 7,340,036"):
        whole(remote(served).read(DISK, len(LARGE) - 1, 60))
    with pytest.raises(UpstreamUnavailable, match="broke off"):
        whole(remote(served).read(DISK, len(LARGE) + 1, 60))
    with pytest.raises(UpstreamRefused, match="says neither"):
        remote(served).read(DISK, 0, 60)


@pytest.mark.parametrize("ranges", [True, False])
def test_a_read_ends_when_its_time_is_over(served: UpstreamServer, ranges: bool) -> None:
    served.ranges = ranges
    served.bytes_per_s = PART  # for each connection: one part alone in the first second, then at most one over each
    began = time.monotonic()
    found = whole(read(served, seconds=2))
    assert time.monotonic() - began < 30  # only a bound: the bytes that it left say when it ended
    assert len(found) % PART == 0
    assert 0 < len(found) < len(LARGE)
    assert LARGE.startswith(found)


def test_a_read_that_is_closed_leaves_no_thread(served: UpstreamServer) -> None:
    served.bytes_per_s = PART // 20  # a part that is awaited takes 20 seconds
    before = threading.active_count()
    served.faults[DISK] = [Fault(unpaced=True)]
    reading = read(served)
    next(reading.parts)
    began = time.monotonic()
    reading.parts.close()
    assert time.monotonic() - began < 10
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("upstream")]
    assert threading.active_count() <= before + 5  # those of the server, which has not noticed yet


def test_an_answer_after_a_read_was_closed_is_not_read(served: UpstreamServer) -> None:
    served.bytes_per_s = PART // 20
    served.faults[DISK] = [Fault(unpaced=True), *[Fault(pause_s=0.5)] * 10]
    reading = read(served)
    next(reading.parts)
    time.sleep(0.2)  # others have sent requests and wait for the responses
    began = time.monotonic()
    reading.parts.close()
    assert time.monotonic() - began < 10


def test_parts_are_read_ahead_within_the_limit_of_the_formula(served: UpstreamServer) -> None:
    served.files[DISK] = random.Random(2).randbytes(20 * PART)
    reading = remote(served).read(DISK, 20 * PART, 60)
    next(reading.parts)
    time.sleep(0.5)
    assert served.bytes_sent[DISK] <= (CONNECTIONS + 2) * PART
    reading.parts.close()


# ── where connections lead ──────────────────────────────────────────────────────────────────────────────────────────


def test_a_private_address_is_refused_unless_it_is_allowed(served: UpstreamServer) -> None:
    with pytest.raises(UpstreamRefused, match=r"127\.0\.0\.1, which is not on the public internet"):
        remote(served, allow_private=False).document(INDEX)
    assert served.requests == []


@pytest.mark.parametrize("location", ["/moved.json", "{address}moved.json", "moved2.json"])
def test_a_redirect_on_the_same_host_is_followed(served: UpstreamServer, location: str) -> None:
    served.files |= {"moved.json": b"[1]", "streams/v1/moved2.json": b"[1]"}
    served.faults[INDEX] = [Fault(302, {"Location": location.format(address=served.address)})]
    document = remote(served).document(INDEX)
    assert document
    assert document.body == b"[1]"


def test_a_redirect_to_another_host_is_followed_where_it_is_configured(served: UpstreamServer) -> None:
    with upstream({"x": LARGE}) as other:
        location = other.address.replace("127.0.0.1", "localhost")
        served.faults[DISK] = [Fault(307, {"Location": f"{location}x"})] * 20
        with pytest.raises(UpstreamRefused, match="redirects to 'localhost', expected 127"):
            read(served)
        assert whole(read(served, hosts=("localhost",))) == LARGE
        assert {one.headers["host"] for one in other.requests} == {location.split("/")[2]}


def test_redirects_that_never_end_are_refused(served: UpstreamServer) -> None:
    served.faults[INDEX] = [Fault(301, {"Location": f"/{INDEX}"})] * 10
    with pytest.raises(UpstreamRefused, match="redirects more than 5 times"):
        remote(served).document(INDEX)


def test_each_hop_is_checked_as_the_first_address_is(served: UpstreamServer) -> None:
    """A public host may redirect to a configured name that resolves to a private network."""
    names = {"public.example": "127.0.0.1", "inside.example": "127.0.0.1"}
    connections = _connections(names, public=["127.0.0.1"])
    served.faults[INDEX] = [Fault(302, {"Location": f"http://inside.example:{_port(served)}/x"})]
    names["inside.example"] = "10.0.0.8"
    with pytest.raises(UpstreamRefused, match=r"inside.example has the address 10\.0\.0\.8"):
        connections.get(f"http://public.example:{_port(served)}/{INDEX}", {})


def test_a_request_goes_to_the_address_that_was_checked(served: UpstreamServer) -> None:
    """This prevents DNS rebinding."""
    names = {"public.example": "127.0.0.1"}
    connections = _connections(names, public=["127.0.0.1"])
    url = f"http://public.example:{_port(served)}/{INDEX}"
    assert connections.get(url, {}).data == b"{}"
    names["public.example"] = "127.0.0.2"
    assert connections.get(url, {}).data == b"{}"
    assert served.requests[-1].headers["host"] == f"public.example:{_port(served)}"


def test_a_name_is_resolved_and_checked_again_after_a_while(served: UpstreamServer) -> None:
    names, now = {"public.example": "127.0.0.1"}, [0.0]
    connections = _connections(names, public=["127.0.0.1"], clock=lambda: now[0])
    url = f"http://public.example:{_port(served)}/{INDEX}"
    assert connections.get(url, {}).data == b"{}"
    now[0] = RESOLVED_S
    assert connections.get(url, {}).data == b"{}"
    assert served.most_connections == 1, "the connection to an address that the name still has is kept"
    names["public.example"] = "10.0.0.8"
    assert connections.get(url, {}).data == b"{}"
    now[0] = 2 * RESOLVED_S
    with pytest.raises(UpstreamRefused, match=r"10\.0\.0\.8"):
        connections.get(url, {})


def test_a_name_with_one_private_address_is_refused(served: UpstreamServer) -> None:
    connections = _connections({"public.example": "127.0.0.1 169.254.169.254"}, public=["127.0.0.1"])
    with pytest.raises(UpstreamRefused, match=r"169\.254\.169\.254"):
        connections.get(f"http://public.example:{_port(served)}/{INDEX}", {})


def test_another_address_of_the_name_is_tried_if_one_refuses_the_connection(served: UpstreamServer) -> None:
    connections = _connections({"public.example": "127.0.0.9 127.0.0.1"}, public=["127.0.0.1", "127.0.0.9"])
    assert connections.get(f"http://public.example:{_port(served)}/{INDEX}", {}).data == b"{}"


def test_a_name_that_does_not_resolve_is_left_to_a_later_run(served: UpstreamServer) -> None:
    with pytest.raises(UpstreamUnavailable, match=r"the name no\.example cannot be resolved"):
        _connections({}, public=[]).get("http://no.example/", {})


_PUBLIC: list[str] = []


@pytest.fixture(autouse=True)
def _some_addresses_count_as_public(monkeypatch: pytest.MonkeyPatch) -> None:
    from imageserver.upstream import addresses

    _PUBLIC.clear()
    monkeypatch.setattr(
        "imageserver.remote.connections.is_public", lambda address: address in _PUBLIC or addresses.is_public(address)
    )


def _connections(names: dict[str, str], public: list[str], clock: Callable[[], float] = time.monotonic) -> Connections:
    """Return connections for all of these names, where some addresses count as public."""
    _PUBLIC.extend(public)

    def resolve(host: str, port: int, **_: Any) -> list[tuple[Any, ...]]:
        if host not in names:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in names[host].split()]

    return Connections({"public.example", "inside.example", "no.example"}, False, 4, resolve=resolve, clock=clock)


@pytest.mark.parametrize(
    ("name", "asked"), [("b\u00fccher.example", "xn--bcher-kva.example"), ("\u4f8b\u3048.jp", "xn--r8jz45g.jp")]
)
def test_a_host_with_other_letters_is_named_as_in_dns(served: UpstreamServer, name: str, asked: str) -> None:
    port = _port(served)

    def resolve(_host: str, _port: int, **_: Any) -> list[tuple[Any, ...]]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    mirror = Mirror(address=f"http://{name}:{port}/", stream="images", only=("all",), allow_private=True)
    server = RemoteServer(mirror, "c", QUICK, Connections({name}, True, 1, resolve=resolve))
    assert server.document(INDEX)
    assert served.requests[-1].headers["host"] == f"{asked}:{port}"
    server.close()


def _port(server: UpstreamServer) -> int:
    return int(server.url.rpartition(":")[2])


# ── TLS ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("name", "trusted", "works"),
    [("localhost", True, True), ("localhost", False, False), ("other.example", True, False)],
)
def test_a_certificate_is_verified_against_the_name(name: str, trusted: bool, works: bool) -> None:
    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)
    trust = ssl.create_default_context()
    if trusted:
        authority.configure_trust(trust)
    with upstream({INDEX: b"{}", DISK: LARGE}, tls=context) as served:
        mirror = Mirror(address=f"https://localhost:{_port(served)}/", stream="images", only=("all",))
        connections = Connections({"localhost"}, True, 4, trust)
        patient = replace(QUICK, pause_s=1e6)  # no retry: the answer would be the same
        server = RemoteServer(mirror, "ops@example.org", patient, connections)
        if works:
            assert server.document(INDEX)
            assert whole(server.read(DISK, len(LARGE), 60)) == LARGE
        else:
            with pytest.raises(UpstreamRefused, match=r"cannot be verified \(.*the PEM file in AWS_CA"):
                server.document(INDEX)
            with pytest.raises(UpstreamUnavailable, match="cannot be verified"):
                server.read(DISK, len(LARGE), 60)


@pytest.mark.parametrize("variable", ["AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE"])
def test_the_authorities_of_the_aws_clients_are_trusted_too(
    variable: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("AWS_CA_BUNDLE", raising=False)
    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    monkeypatch.setenv(variable, str(tmp_path / "ca.pem"))
    with upstream({INDEX: b"{}"}, tls=context) as served:
        assert remote(served, address=f"https://localhost:{_port(served)}/").document(INDEX)
