"""Quote untrusted text in messages, and spell out counts."""

import unicodedata
from typing import Final

_LONGEST: Final = 200


def quoted(text: str, longest: int = _LONGEST) -> str:
    """Return text in quotes as it was typed, truncated to `longest` characters with an ellipsis.

    Characters that a reader would not see, or would mistake for others, are escaped: control and format characters,
    variant forms of an ASCII character, and a letter of another alphabet in a text with Latin letters, because it may
    look like one of them.
    """
    kept = repr(text if len(text) <= longest else f"{text[:longest]}…")
    if kept.isascii():
        return kept
    has_latin = any(character.isascii() and character.isalpha() for character in text)
    return "".join(ascii(c)[1:-1] if c != "…" and _resembles_ascii(c, has_latin) else c for c in kept)


def escaped(text: str, longest: int = _LONGEST) -> str:
    """Return text as `quoted` does, for a place that has marks of its own."""
    return quoted(text, longest)[1:-1]


def _resembles_ascii(character: str, beside_latin: bool) -> bool:
    """Return whether a printable character may be mistaken for an ASCII one."""
    if character.isascii():
        return False
    if unicodedata.normalize("NFKC", character).isascii():
        return True
    return beside_latin and character.isalpha() and not unicodedata.name(character, "").startswith("LATIN ")


def counted(count: int, what: str) -> str:
    """Return a count such as `1 file`, `2,000 files` or `2 mismatches`."""
    ending = "es" if what.endswith("ch") else "s"
    return f"{count:,} {what}{ending if count != 1 else ''}"
