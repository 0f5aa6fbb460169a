"""Paths that prove that a view lists a file: `signed/<mac>/<key>`.

The edge compares the mac with the key of the view that a request is for, so it asks nobody whether the view has the
file. Files of the catalog that everybody reads have their key for a path.
"""

import hmac
from base64 import urlsafe_b64encode
from typing import Final

SIGNED: Final = "signed/"
MAC_CHARACTERS: Final = 22
"""132 bits of the mac: nobody guesses one, and the path of a file stays short enough to read."""


def signed_path(view: str, secret: bytes, key: str) -> str:
    """Return the path of a file in the documents of a view; `secret` is the view's own."""
    mac = hmac.digest(secret, f"{view}\n{key}".encode(), "sha256")
    return f"{SIGNED}{urlsafe_b64encode(mac)[:MAC_CHARACTERS].decode()}/{key}"


def key_of(path: str) -> str:
    """Return the key of the object that a path of any catalog names."""
    return path.split("/", 2)[2] if path.startswith(SIGNED) else path
