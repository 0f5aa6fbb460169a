"""SHA256SUMS in every form that the usual tools write: sha256sum, shasum, BSD's sha256, openssl, signed with gpg."""

import re
from collections.abc import Sequence
from itertools import islice
from typing import Final, NamedTuple

import msgspec

from imageserver.format import file_kinds
from imageserver.format.file_kinds import Role
from imageserver.format.keys import MAX_SEGMENT
from imageserver.format.wording import quoted

_DIGEST: Final = r"(?P<sha256>[0-9A-Fa-f]{64})"
_FORMS: Final = (
    re.compile(rf"(?P<escaped>\\?){_DIGEST}(?: [ *]?|\t+| {{2,}}\*?)(?P<file>\S.*)"),  # sha256sum, shasum
    re.compile(rf"(?P<escaped>\\?)(?i:SHA(?:2-)?256) ?\((?P<file>.+)\) ?= ?{_DIGEST}"),  # sha256sum --tag, BSD, openssl
)
_ESCAPES: Final = {"\\\\": "\\", "\\n": "\n", "\\r": "\r"}
_OTHER_ALGORITHM: Final = re.compile(
    r"\\?(MD[245](-SHA1)?|RMD160|RIPEMD-?160|SHA-?1|SHA(2-)?(224|384|512([/t-]\d+)?)|SHA3-\d+|SHAKE-?\d+|"
    r"BLAKE[23]\w*(-\d+)?|SKEIN\d+|SM3|CKSUM|SIZE) ?\(",
    re.IGNORECASE,
)
_BESIDE: Final = re.compile(r"(\.[/\\]+)*[^/\\]+")
"""Matches a file in the folder of the list: `rootfs.squashfs`, `./rootfs.squashfs`."""
_SIGNED: Final = "-----BEGIN PGP SIGNED MESSAGE-----"
_SIGNATURE: Final = "-----BEGIN PGP SIGNATURE-----"
_NAMED_AT_END: Final = re.compile(r"[\s*(/\\]([^\s*()/\\]+)\)?(?:\s*=.*)?$")
_WORD: Final = re.compile(r"[^\s*()/\\=,;|\"'`{}\[\]<>]+")
_NAME: Final = re.compile(r"[^\s\"'`]+")
"""Matches what may be a file of a version. Blanks or quotes mean that the line holds more than a digest and a name."""
_SOME_DIGEST: Final = re.compile(r"[0-9A-Fa-f]{8}")
_MOST_UNREADABLE: Final = 100
"""Lines that are reported one by one. A file with more unreadable lines confirms nothing."""
_MOST_IMAGES: Final = 1000
"""Names of image files: as many as a version may have. A record keeps all; a file with more confirms nothing."""
_MOST_OTHERS: Final = 100
"""Other names that are kept, to tell what the file is about."""


class _Entry(NamedTuple):
    number: int
    path: str
    sha256: str


class Checksums(msgspec.Struct, frozen=True):
    """The content of a SHA256SUMS: name of a file -> lower-case hex digest.

    `unreadable` maps a file to a sentence about the unreadable line that names it. Nobody knows what the publisher
    meant, so the file is not served. For a line that names no file, the key is the SHA256SUMS itself.
    """

    digests: dict[str, str]
    unreadable: dict[str, str]


def parse_checksums(body: bytes, own_name: str) -> Checksums:
    """Read the file `own_name`; never raise. A second digest for one file makes that line unreadable."""
    entries: list[_Entry] = []
    unreadable: dict[str, str] = {}
    for number, line in _lines(body):
        match = next(filter(None, (form.fullmatch(line) for form in _FORMS)), None)
        path = match["file"] if match else ""
        if match and match["escaped"]:
            path = re.sub(r"\\.", lambda found: _ESCAPES.get(found[0], found[0]), path)
        if match and (_NAME.fullmatch(_base(path)) or not _known(line)):
            entries.append(_Entry(number, path, match["sha256"].lower()))
        elif not _OTHER_ALGORITHM.match(line):
            sentence = f"line {number} is {_short(line)}, expected a sha256, two spaces and a file name"
            unreadable |= dict.fromkeys(_named(line) or (own_name,), sentence)
    sums = _resolved(entries)
    unreadable |= sums.unreadable
    if len(unreadable) > _MOST_UNREADABLE:
        count = (
            f"{len(unreadable):,} of its lines cannot be read, expected a sha256, two spaces and a file name in each"
        )
        return Checksums({}, {own_name: count})
    return _within_limits(Checksums(sums.digests, unreadable), own_name)


def _resolved(entries: Sequence[_Entry]) -> Checksums:
    """Return the digest of each file name.

    A line that names a file beside the list is about that file, and lines with the same name in a folder are about
    others. If all lines with a name give a folder, nobody knows which folder became the version: they must agree.
    """
    beside = {_base(entry.path) for entry in entries if _BESIDE.fullmatch(entry.path)}
    digests: dict[str, str] = {}
    differing: dict[str, str] = {}
    for entry in entries:
        file = _base(entry.path)
        if file in beside and not _BESIDE.fullmatch(entry.path):
            continue
        if digests.setdefault(file, entry.sha256) != entry.sha256:
            differing[file] = f"line {entry.number} gives {_short(file)} another sha256 than an earlier line"
            if file not in beside:
                differing[file] += ", and no line names it without a folder"
    return Checksums(digests, differing)


def _within_limits(sums: Checksums, own_name: str) -> Checksums:
    """Return what a record can keep: no name that is too long for a file, and not too many."""
    images = {file for file in sums.digests if file_kinds.classify(file).role is not Role.OTHER}
    if len(images) > _MOST_IMAGES:
        count = f"it names {len(images):,} image files, expected at most {_MOST_IMAGES:,}, those of this version"
        return Checksums({}, {own_name: count})
    others = (file for file in sums.digests if file not in images and len(file) <= MAX_SEGMENT)
    kept = {*images, *islice(others, _MOST_OTHERS)}
    digests = {file: sha256 for file, sha256 in sums.digests.items() if file in kept}
    return Checksums(digests, {f if len(f) <= MAX_SEGMENT else own_name: why for f, why in sums.unreadable.items()})


def _lines(body: bytes) -> list[tuple[int, str]]:
    """Return number and text of each line with content; of a signed file, only of the signed lines."""
    if body.startswith((b"\xff\xfe", b"\xfe\xff")):
        text = body.decode("utf-16", "replace")
    else:
        text = body.decode("utf-8-sig", "replace")
    separator = "\0" if "\0" in text else "\n"  # sha256sum --zero
    lines = [(number, line.strip("\r\n \t")) for number, line in enumerate(text.split(separator), start=1)]
    signed = next((place for place, (_, line) in enumerate(lines) if line == _SIGNED), None)
    if signed is not None:
        header = next((place for place in range(signed, len(lines)) if not lines[place][1]), signed)
        end = next((place for place in range(header, len(lines)) if lines[place][1] == _SIGNATURE), len(lines))
        lines = [(number, line.removeprefix("- ")) for number, line in lines[header:end]]
    return [(number, line) for number, line in lines if line and not line.startswith("#")]


def _named(line: str) -> tuple[str, ...]:
    """Return the files that a line may be about, wherever they stand in it; if there are none, the name at its end."""
    if known := _known(line):
        return known
    at_end = _NAMED_AT_END.search(f" {line}") if _SOME_DIGEST.search(line) else None
    return (_base(at_end[1]),) if at_end else ()


def _known(line: str) -> tuple[str, ...]:
    """Return each word of a line that is the name of a file of an image."""
    words = (part for word in _WORD.findall(line) for part in (word.strip(":"), *word.split(":")))
    return tuple(dict.fromkeys(word for word in words if file_kinds.classify(word).role is not Role.OTHER))


def _base(file: str) -> str:
    """Return the last part of a path (Windows paths included): the file's name in its version's folder."""
    return re.split(r"[/\\]", file.rstrip("/\\"))[-1]


def _short(text: str) -> str:
    return quoted(text, 80)
