"""Another server's signed documents: with a clear signature, or a detached one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime

import pytest

from imageserver.errors import UpstreamRefused, UpstreamUnavailable
from imageserver.operations import mirror_signatures
from imageserver.operations.mirror_signatures import SignedServer, trusted
from imageserver.upstream.signatures import encode_keyring
from tests.support.gpg import Gpg, gpg
from tests.support.memory_upstream import MemoryUpstream

INDEX = "streams/v1/index.json"
SIGNED = "streams/v1/index.sjson"
BODY = b'{"index": {}}\n'


@dataclass
class World:
    keys: Gpg
    upstream: MemoryUpstream = field(default_factory=MemoryUpstream)
    asked: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.upstream.on = lambda _, path: self.asked.append(path)
        keyring = encode_keyring(self.keys.keyring("good"))
        self.server = SignedServer(self.upstream, keyring, lambda: datetime.now(UTC))

    def has_inline(self, body: bytes = BODY, name: str = "good") -> None:
        self.upstream.files[SIGNED] = self.keys.clear_sign(name, body)

    def has_detached(self, body: bytes = BODY, name: str = "good") -> None:
        self.upstream.files |= {INDEX: body, f"{INDEX}.gpg": self.keys.sign(name, body)}


@pytest.fixture(scope="module")
def keys() -> Iterator[Gpg]:
    with gpg() as made:
        made.make_key("good")
        made.make_key("other")
        yield made


@pytest.fixture
def world(keys: Gpg) -> World:
    return World(keys)


FORMS: list[Callable[[World], None]] = [World.has_inline, World.has_detached]


def test_a_mirror_without_a_keyring_reads_as_before(world: World) -> None:
    assert trusted(world.upstream, "", lambda: datetime.now(UTC)) is world.upstream


@pytest.mark.parametrize("signed", FORMS)
def test_a_signed_document_is_read_and_unchanged_costs_one_request(
    world: World, signed: Callable[[World], None]
) -> None:
    signed(world)
    found = world.server.document(INDEX)
    assert found
    assert found.body.rstrip() == BODY.rstrip()
    assert [found.signed_by] == world.keys.fingerprints("good")
    world.asked.clear()
    assert world.server.document(INDEX, found.etag) is None
    assert len(world.asked) == 1


@pytest.mark.parametrize("signed", FORMS)
@pytest.mark.parametrize("then", FORMS)
def test_a_document_that_changed_is_verified_again_whatever_its_form(
    world: World, signed: Callable[..., None], then: Callable[..., None]
) -> None:
    signed(world)
    first = world.server.document(INDEX)
    assert first
    world.upstream.files.clear()
    then(world, b'{"index": {"changed": {}}}\n')
    found = world.server.document(INDEX, first.etag)
    assert found
    assert b"changed" in found.body


def test_an_etag_from_before_the_keyring_is_not_used(world: World) -> None:
    world.has_detached()
    plain = world.upstream.document(INDEX)
    assert plain
    found = world.server.document(INDEX, plain.etag)
    assert found
    assert found.signed_by


@pytest.mark.parametrize("signed", FORMS)
def test_a_document_signed_by_somebody_else_is_refused_by_name(world: World, signed: Callable[..., None]) -> None:
    signed(world, BODY, "other")
    with pytest.raises(UpstreamRefused, match=r"streams/v1/index\.s?json has no good signature of [0-9a-f]{40}"):
        world.server.document(INDEX)


def test_a_bad_document_is_refused_although_a_good_one_exists_too(world: World) -> None:
    world.has_detached()
    world.has_inline(name="other")
    with pytest.raises(UpstreamRefused, match="no good signature"):
        world.server.document(INDEX)


def test_an_unsigned_document_is_refused_with_the_places_searched_for_signatures(world: World) -> None:
    world.upstream.files[INDEX] = BODY
    with pytest.raises(UpstreamRefused) as refused:
        world.server.document(INDEX)
    assert "streams/v1/index.json is not signed" in str(refused.value)
    assert "index.sjson" in str(refused.value)
    assert "index.json.gpg" in str(refused.value)


def test_a_document_written_during_the_read_is_read_again(world: World) -> None:
    world.has_detached()

    def written(_: str, path: str) -> None:
        if path == f"{INDEX}.gpg" and not world.asked.count(path):
            world.has_detached(b'{"index": {"new": {}}}\n')
        world.asked.append(path)

    world.upstream.on = written
    found = world.server.document(INDEX)
    assert found
    assert b"new" in found.body


def test_a_document_that_would_not_fit_into_memory_twice_is_refused(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.has_detached()
    monkeypatch.setattr(mirror_signatures, "MOST_SIGNED_BYTES", len(BODY))
    assert world.server.document(INDEX)
    monkeypatch.setattr(mirror_signatures, "MOST_SIGNED_BYTES", len(BODY) - 1)
    with pytest.raises(UpstreamRefused, match="expected at most 13 signed"):
        world.server.document(INDEX)


def test_an_unresponsive_server_is_tried_again_later(world: World) -> None:
    def down(_: str, path: str) -> None:
        raise UpstreamUnavailable(f"{path}: no answer")

    world.upstream.on = down
    with pytest.raises(UpstreamUnavailable):
        world.server.document(INDEX)


def test_files_are_read_as_they_are(world: World) -> None:
    world.upstream.files["disk"] = b"bytes"
    assert b"".join(world.server.read("disk", 5, 60).parts) == b"bytes"
    assert world.server.part_bytes == world.upstream.part_bytes
