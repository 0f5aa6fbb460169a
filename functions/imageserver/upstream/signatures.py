"""Verify what another server signed, with the keys that an operator named. Pure.

A document is clear-signed (`index.sjson`), or has a detached signature (`index.json.gpg`). Of a clear-signed document,
only what the signature covers is returned. Sequoia decides which algorithms are strong enough today.
"""

from base64 import b64decode, b64encode
from collections.abc import Sequence
from datetime import datetime

from pysequoia import Cert, Sig, verify

from imageserver.errors import InvalidMirror, UpstreamRefused

_EXPORT = "write one with `gpg --export FINGERPRINT >keyring.gpg`"


def encode_keyring(keyring: bytes) -> str:
    """Return what `gpg --export` wrote, armored or not, in the form that a mirror keeps. Raise InvalidMirror."""
    encoded = b64encode(keyring).decode()
    fingerprints(encoded)
    return encoded


def fingerprints(keyring: str) -> tuple[str, ...]:
    """Return the fingerprints of the keys of a mirror's keyring, in lower-case hex. Raise InvalidMirror."""
    return tuple(key.fingerprint for key in _keys(keyring))


def verified(document: bytes, keyring: str, now: datetime, signature: bytes | None = None) -> tuple[bytes, str]:
    """Return what was signed, and the fingerprint of the key that signed it.

    Without a detached `signature` the document is clear-signed. An expired or revoked key does not count.
    Raise UpstreamRefused, completing "<document> …"; InvalidMirror for a keyring without keys.
    """
    keys = _keys(keyring)
    good = [key for key in keys if not key.is_revoked and (key.expiration is None or key.expiration > now)]
    if not good:
        raise UpstreamRefused(
            "cannot be verified: every key of this mirror's keyring has expired or is revoked "
            f"({_named(keys)}); name a newer keyring (admin mirror add --replace --keyring)"
        )
    try:
        detached = None if signature is None else Sig.from_bytes(signature)
        found = verify(bytes=document, store=lambda _: good, signature=detached)
    except BaseException as error:
        if not isinstance(error, RuntimeError) and type(error).__name__ != "PanicException":  # Rust's is no Exception
            raise
        raise UpstreamRefused(
            f"has no good signature of {_named(good)} ({str(error).partition(chr(10))[0]}): somebody changed it, or "
            "upstream signs with a new key"
        ) from error
    signers = [one.certificate for one in found.valid_sigs]
    if not signers or found.bytes is None:
        raise UpstreamRefused(f"has no good signature of {_named(good)}")
    return found.bytes, signers[0]


def _keys(keyring: str) -> list[Cert]:
    try:
        keys = list(Cert.split_bytes(b64decode(keyring, validate=True)))
    except (RuntimeError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise InvalidMirror(f"its keyring cannot be read ({reason}), expected OpenPGP keys; {_EXPORT}") from error
    if not keys:
        raise InvalidMirror(f"its keyring has no key, expected at least one; {_EXPORT}")
    return keys


def _named(keys: Sequence[Cert]) -> str:
    return " or ".join(key.fingerprint for key in keys)
