"""Paths that prove that a view lists a file: `signed/<mac>/<key>`.

The edge verifies the mac with the key of the requested view, so it needs no look-up to know whether the view has the
file. In the public catalog the path of a file is its key.
"""

import hmac
from base64 import urlsafe_b64encode
from typing import Final

SIGNED: Final = "signed/"
MAC_CHARACTERS: Final = 22
"""132 bits of the mac: too many to guess, and short enough to keep paths readable."""


def signed_path(view: str, secret: bytes, key: str) -> str:
    """Return the path of a file in the documents of a view, signed with the view's `secret`."""
    mac = hmac.digest(secret, f"{view}\n{key}".encode(), "sha256")
    return f"{SIGNED}{urlsafe_b64encode(mac)[:MAC_CHARACTERS].decode()}/{key}"


def key_of(path: str) -> str:
    """Return the key of the object that a path of any catalog names."""
    return path.split("/", 2)[2] if path.startswith(SIGNED) else path
