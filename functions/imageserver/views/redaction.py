"""Take tokens out of the edge's access logs.

The path form of a private remote has the token in the path of each request, and a page its browser's Referer. So a log
holds it wherever a client puts it; a line is searched as a whole, whatever its fields and their form.
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
"""Begins what stands in a token's place."""
LABEL_DIGITS: Final = 8
"""Of the sha256 of the token, in hex: tells tokens apart, and leaves 160 of 192 bits unknown."""
FEWEST: Final = 16
"""Characters after the prefix that are redacted. A token with a character too few or too many is nearly one; of one
that is cut to less, 102 bits are unknown."""


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

    Memory is that of one line and of the answer, which is about as large as the log, both compressed.
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
