"""Take tokens out of the edge's access logs.

The path form of a private remote has the token in the path of each request, and from there a browser copies it into the
Referer. A log may therefore hold it in any field, so each line is searched as a whole, whatever its format.
"""

import hashlib
import re
import zlib
from collections.abc import Iterable
from string import ascii_letters, digits
from typing import Final

from imageserver.access_logs.compressed import GZIP, lines_of
from imageserver.views.tokens import PREFIX

LABEL: Final = "token-"
"""The start of the label that replaces a token."""
LABEL_DIGITS: Final = 8
"""How many hex digits of the token's sha256 follow: they distinguish tokens, and leave 160 of 192 bits unknown."""
FEWEST: Final = 16
"""The fewest characters after the prefix that are redacted, so that a token with a missing or extra character is
redacted too. Of one that is cut shorter, at least 102 bits are unknown."""


def _escaped(characters: str) -> str:
    """Match one of these characters, as it is or escaped any number of times: `_`, `%5F`, `%255f`."""
    codes = "|".join(f"{ord(one):02X}" for one in characters)
    return f"(?:[{re.escape(characters)}]|%(?:25)*(?i:{codes}))"


_STRAY: Final = "(?:%(?:25)*(?i:[01][0-9A-F]|20|7F|[89A-F][0-9A-F]))*"
"""Escaped spaces, line ends and whatever else comes with a text that is copied; no key has any of them."""
_TOKEN: Final = re.compile(
    f"{''.join(map(_escaped, PREFIX))}(?:{_STRAY}{_escaped(f'{ascii_letters}{digits}_-')}){{{FEWEST},}}".encode()
)
_ESCAPE: Final = re.compile(rb"%(?:25)*([0-9A-Fa-f]{2})")
_OTHER: Final = re.compile(rb"[^A-Za-z0-9_-]")


def redacted(chunks: Iterable[bytes | memoryview]) -> bytes | None:
    """Return a log with a label in place of each token, None if it has none. Raise DamagedLog.

    Memory holds one line and the result, which is compressed and about as large as the compressed log.
    """
    packer = zlib.compressobj(wbits=GZIP)
    parts: list[bytes] = []
    found = 0
    for line in lines_of(chunks):
        clean, count = _TOKEN.subn(_label, line)
        found += count
        if part := packer.compress(clean + b"\n"):
            parts.append(part)
    return b"".join((*parts, packer.flush())) if found else None


def _label(token: re.Match[bytes]) -> bytes:
    text = _ESCAPE.sub(lambda code: bytes.fromhex(code[1].decode()), token[0])  # at once, however often it is escaped
    return f"{LABEL}{hashlib.sha256(_OTHER.sub(b'', text)).hexdigest()[:LABEL_DIGITS]}".encode()
