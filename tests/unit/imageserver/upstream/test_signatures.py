"""Documents signed by real gpg: only good signatures count."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from imageserver.errors import InvalidMirror, UpstreamRefused
from imageserver.upstream.signatures import encode_keyring, fingerprints, verified
from tests.support.gpg import Gpg, gpg

DOCUMENT = b'{"index": {},\n "dashes": "- -",\n- not JSON, and dashes at the start\n'


@pytest.fixture(scope="module")
def keys() -> Iterator[Gpg]:
    with gpg() as made:
        for name in ("good", "other"):
            made.make_key(name)
        made.make_key("old", "1d", at="20200101T000000")
        made.make_key("revoked")
        made.revoke("revoked")
        yield made


def check(keys: Gpg, document: bytes, *names: str, signature: bytes | None = None) -> tuple[bytes, str]:
    return verified(document, encode_keyring(keys.keyring(*names)), datetime.now(UTC), signature)


def test_a_clear_signed_document_yields_its_signed_text(keys: Gpg) -> None:
    body, signed_by = check(keys, keys.clear_sign("good", DOCUMENT), "good", "other")
    assert body.rstrip(b"\n") == DOCUMENT.rstrip(b"\n")
    assert [signed_by] == keys.fingerprints("good")


@pytest.mark.parametrize("armor", [False, True])
def test_a_detached_signature_covers_all_bytes_of_its_document(keys: Gpg, armor: bool) -> None:
    signature = keys.sign("good", DOCUMENT, armor=armor)
    assert check(keys, DOCUMENT, "good", signature=signature) == (DOCUMENT, *keys.fingerprints("good"))
    with pytest.raises(UpstreamRefused, match="no good signature"):
        check(keys, DOCUMENT + b" ", "good", signature=signature)


def test_only_text_inside_the_signature_counts(keys: Gpg) -> None:
    signed = keys.clear_sign("good", DOCUMENT)
    for around in (b'{"evil": 1}\n' + signed, signed + b'{"evil": 1}\n', signed + signed.replace(b"index", b"evil!")):
        assert b"evil" not in check(keys, around, "good")[0]


def test_a_changed_document_has_no_good_signature(keys: Gpg) -> None:
    signed = keys.clear_sign("good", DOCUMENT)
    with pytest.raises(UpstreamRefused, match="no good signature") as refused:
        check(keys, signed.replace(b"index", b"jndex"), "good")
    assert keys.fingerprints("good")[0] in str(refused.value)
    assert "Stack backtrace" not in str(refused.value)


@pytest.mark.parametrize(
    "body", [b"", DOCUMENT, b"-----BEGIN PGP SIGNED MESSAGE-----\n", b"\x00" * 99, b"-----BEGIN PGP SIGNATURE-----\n\n"]
)
def test_an_unsigned_document_is_refused(keys: Gpg, body: bytes) -> None:
    with pytest.raises(UpstreamRefused):
        check(keys, body, "good")
    with pytest.raises(UpstreamRefused):
        check(keys, DOCUMENT, "good", signature=body)


def test_a_signature_by_an_unknown_key_is_refused(keys: Gpg) -> None:
    with pytest.raises(UpstreamRefused, match="no good signature"):
        check(keys, keys.clear_sign("other", DOCUMENT), "good")
    with pytest.raises(UpstreamRefused, match="no good signature"):
        check(keys, DOCUMENT, "good", signature=keys.sign("other", DOCUMENT))


def test_a_signature_by_an_expired_key_is_refused_even_if_made_before_its_expiry(keys: Gpg) -> None:
    signed = keys.clear_sign("old", DOCUMENT, at="20200101T120000")
    with pytest.raises(UpstreamRefused, match="no good signature"):
        check(keys, signed, "good", "old")
    with pytest.raises(UpstreamRefused, match="every key of this mirror's keyring has expired"):
        check(keys, signed, "old")
    ring = encode_keyring(keys.keyring("old"))
    then = datetime(2020, 1, 1, 12, tzinfo=UTC)
    assert [verified(signed, ring, then)[1]] == keys.fingerprints("old")
    with pytest.raises(UpstreamRefused):
        verified(signed, ring, datetime(2020, 1, 2, tzinfo=UTC))
    assert verified(signed, ring, datetime(2020, 1, 2, tzinfo=UTC) - timedelta(seconds=1))


def test_a_signature_from_the_future_or_with_an_obsolete_algorithm_is_refused(keys: Gpg) -> None:
    for signed in (
        keys.clear_sign("good", DOCUMENT, at="20400101T000000"),
        keys.clear_sign("good", DOCUMENT, "--digest-algo", "SHA1"),
    ):
        with pytest.raises(UpstreamRefused, match="no good signature"):
            check(keys, signed, "good")


def test_a_signature_by_a_revoked_key_is_refused(keys: Gpg) -> None:
    with pytest.raises(UpstreamRefused, match=r"expired or is revoked \([0-9a-f]{40}\)"):
        check(keys, DOCUMENT, "revoked")


def test_a_keyring_names_its_keys_armored_or_not(keys: Gpg) -> None:
    names = ("good", "other")
    for ring in (
        keys.keyring(*names),
        keys.keyring(*names, armor=True),
    ):
        assert sorted(fingerprints(encode_keyring(ring))) == sorted(keys.fingerprints(*names))


@pytest.mark.parametrize("ring", [b"", b"no keys", b"\x99\x01", b"-----BEGIN PGP PUBLIC KEY BLOCK-----\n"])
def test_a_keyring_without_keys_is_refused_with_the_command_that_writes_one(ring: bytes) -> None:
    with pytest.raises(InvalidMirror, match="gpg --export FINGERPRINT"):
        encode_keyring(ring)
    with pytest.raises(InvalidMirror, match="gpg --export FINGERPRINT"):
        verified(DOCUMENT, b64encode(ring).decode(), datetime.now(UTC))


def test_a_keyring_that_is_not_base64_is_refused() -> None:
    with pytest.raises(InvalidMirror, match="its keyring cannot be read"):
        fingerprints("no base64!")
