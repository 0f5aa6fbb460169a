"""The members of a tar, read forward with bounded state.

tarfile builds what a header describes before a caller can count it: a sparse map of 9 kB becomes 600 MiB of tuples, and
a header of short pax records takes seconds of work. This module keeps only a long name, a link and a size.
"""

import tarfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

BLOCK: Final = tarfile.BLOCKSIZE
MOST_HEADER_BYTES: Final = 1 << 20
"""Bytes of the headers of one member: its own, long names, pax records and sparse map."""
_MOST_PAX_RECORDS_OF_A_MEMBER: Final = 4  # on average over an archive
_MOST_HEADERS_OF_A_MEMBER: Final = 3  # on average over an archive
_PAX_LENGTH_DIGITS: Final = 8
_LONGEST_NAME: Final = 4096
"""PATH_MAX of Linux: nothing with a longer name can be unpacked, and splitting a name of a MiB is slow."""
_MOST_DIGITS: Final = 18
_PAX_TYPES: Final = (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE)
SPARSE_IS_EXTENDED, SPARSE_MAP_IS_EXTENDED = 482, 504  # offsets of `isextended` in GNU's older sparse headers
_KEPT: Final = frozenset({b"path", b"linkpath", b"size", b"uid", b"gid", b"GNU.sparse.name"})
_WITHOUT_CONTENT: Final = frozenset(
    (tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE)
)


class BadTar(Exception):
    """The bytes are not a valid tar. The message completes "the file …"."""


@dataclass(frozen=True, slots=True)
class Member:
    """One member. `size` is what the tar stores of it; a sparse file is longer once it is unpacked."""

    name: str
    kind: bytes
    size: int
    linkname: str
    is_sparse: bool
    uid: int
    gid: int

    @property
    def is_file(self) -> bool:
        return self.kind in tarfile.REGULAR_TYPES and not self.name.endswith("/")

    @property
    def is_folder(self) -> bool:
        """Whether it is a folder: by its kind, or by the slash at the end of its name, as in old archives."""
        return self.kind == tarfile.DIRTYPE or (self.kind in tarfile.REGULAR_TYPES and self.name.endswith("/"))

    @property
    def is_symbolic_link(self) -> bool:
        return self.kind == tarfile.SYMTYPE

    @property
    def is_hard_link(self) -> bool:
        return self.kind == tarfile.LNKTYPE

    @property
    def is_device(self) -> bool:
        return self.kind in (tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE)


@dataclass(slots=True)
class _Extension:
    """The facts from the extension headers in front of a member. The format allows each kind once."""

    kinds: set[bytes] = field(default_factory=set)
    long_name: bytes = b""
    long_link: bytes = b""
    pax: dict[bytes, bytes] = field(default_factory=dict)


class Members:
    """The members of a tar that arrives in chunks.

    The content of a member is available until the next one is requested.
    """

    def __init__(self, chunks: Iterator[bytes | memoryview], most_members: int) -> None:
        self._chunks = chunks
        self._rest = memoryview(b"")
        self._most_headers = most_members * _MOST_HEADERS_OF_A_MEMBER
        self._most_records = most_members * _MOST_PAX_RECORDS_OF_A_MEMBER
        self._headers = self._records = 0
        self._header_bytes = 0  # of this member
        self._unread = self._padding = 0  # of its content
        self._global: dict[bytes, bytes] = {}
        self.position = 0

    def __iter__(self) -> Iterator[Member]:
        """Yield each member up to the zeros of the end. Raise BadTar."""
        while (member := self._next()) is not None:
            yield member

    def content(self) -> Iterator[memoryview]:
        """Yield the stored content of the last member. It ends early where the tar does."""
        while self._unread and (part := self._part(self._unread)):
            self._unread -= len(part)
            yield part

    def _next(self) -> Member | None:
        left = self._unread + self._padding
        while left:
            if not (part := self._part(left)):
                raise BadTar("is not a valid tarball (unexpected end of data)")
            left -= len(part)
        self._unread = self._padding = self._header_bytes = 0
        extension = _Extension()
        while any(header := self._header(may_end=not extension.kinds)):
            try:
                info = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")  # a single block: nothing can grow
            except (tarfile.HeaderError, ValueError) as error:
                raise BadTar(f"is not a valid tarball ({error})") from error
            if info.size < 0:
                raise BadTar(f"is not a valid tarball (a member of {info.size:,} bytes)")
            if not self._extended(extension, info):
                return self._member(extension, info, header)
        if extension.kinds:
            raise BadTar("is not a valid tarball (a header describes a member that is not there)")
        return None

    def _extended(self, extension: _Extension, info: tarfile.TarInfo) -> bool:
        """Read an extension header; return False if the header is that of a member itself."""
        kind = tarfile.XHDTYPE if info.type in _PAX_TYPES else info.type
        if kind == tarfile.XGLTYPE:
            self._global.update(self._pax(self._header_content(info)))
            return True
        if kind not in (tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK):
            return False
        if kind in extension.kinds:  # tar programs differ in which of the two they believe
            raise BadTar(f"is not a valid tarball (two headers of type {kind.decode()} for one member)")
        extension.kinds.add(kind)
        body = self._header_content(info)
        if kind == tarfile.XHDTYPE:
            extension.pax = self._pax(body)
        elif kind == tarfile.GNUTYPE_LONGNAME:
            extension.long_name = body.split(b"\0", 1)[0]
        else:
            extension.long_link = body.split(b"\0", 1)[0]
        return True

    def _member(self, extension: _Extension, info: tarfile.TarInfo, header: bytes) -> Member:
        pax = {**self._global, **extension.pax}
        is_sparse = info.type == tarfile.GNUTYPE_SPARSE
        goes_on = is_sparse and header[SPARSE_IS_EXTENDED]
        while goes_on:
            goes_on = self._header(may_end=False)[SPARSE_MAP_IS_EXTENDED]
        name = pax.get(b"GNU.sparse.name") or pax.get(b"path") or extension.long_name
        link = pax.get(b"linkpath") or extension.long_link
        if (longest := max(len(name), len(link))) > _LONGEST_NAME:
            raise BadTar(f"has a name of {longest:,} bytes, and none of more than {_LONGEST_NAME:,} can be unpacked")
        size, uid, gid = (_number(pax, field, getattr(info, field)) for field in ("size", "uid", "gid"))
        self._unread = 0 if info.type in _WITHOUT_CONTENT else size
        self._padding = -self._unread % BLOCK
        return Member(
            name=_text(name) if name else info.name,
            kind=info.type,
            size=size,
            linkname=_text(link) if link else info.linkname,
            is_sparse=is_sparse or b"GNU.sparse" in pax,
            uid=uid,
            gid=gid,
        )

    def _pax(self, body: bytes) -> dict[bytes, bytes]:
        """Return the pax records that are kept, each of the form `<its length> <key>=<value>\\n`."""
        kept: dict[bytes, bytes] = {}
        at = 0
        while at < len(body) and body[at]:
            self._records += 1
            if self._records > self._most_records:
                raise BadTar(f"has more than {self._most_records:,} pax records")
            space = body.find(b" ", at, at + _PAX_LENGTH_DIGITS + 1)
            length = body[at:space] if space > at else b""
            end = at + int(length) if length.isdigit() else 0
            equals = body.find(b"=", space, end)
            if equals < 0 or end > len(body) or body[end - 1] != ord("\n"):
                raise BadTar("is not a valid tarball (a malformed pax record)")
            key = body[space + 1 : equals]
            if key in _KEPT:
                kept[key] = body[equals + 1 : end - 1]
            if key.startswith(b"GNU.sparse."):
                kept[b"GNU.sparse"] = b"1"
            at = end
        return kept

    def _header(self, *, may_end: bool) -> bytes:
        self._headers += 1
        if self._headers > self._most_headers:
            raise BadTar(f"has more than {self._most_headers:,} headers")
        header = self._read(BLOCK)
        if len(header) == BLOCK:
            return header
        if may_end and not header and self.position:
            return b""  # its end is checked elsewhere
        raise BadTar("is not a valid tarball (it ends within a header)")

    def _header_content(self, info: tarfile.TarInfo) -> bytes:
        padded = info.size + -info.size % BLOCK
        body = self._read(padded)
        if len(body) < padded:
            raise BadTar("is not a valid tarball (it ends within a header)")
        return body[: info.size]

    def _read(self, size: int) -> bytes:
        """Return `size` bytes of the headers of one member, fewer at the end of the tar."""
        self._header_bytes += size
        if self._header_bytes > MOST_HEADER_BYTES:
            raise BadTar(f"has headers of more than {MOST_HEADER_BYTES:,} bytes for one member")
        parts = []
        while size and (part := self._part(size)):
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    def _part(self, most: int) -> memoryview:
        if not self._rest:
            self._rest = memoryview(next(self._chunks, b""))
        part, self._rest = self._rest[:most], self._rest[most:]
        self.position += len(part)
        return part


def is_header(block: bytes) -> bool:
    """Return whether a tar may begin with this block: a header with the right checksum, or the zeros of the end."""
    with suppress(tarfile.HeaderError, ValueError):
        return not any(block) or bool(tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape"))
    return False


def _number(pax: dict[bytes, bytes], field: str, found: int) -> int:
    """Return a number of a header, which a pax record replaces."""
    digits = pax.get(field.encode())
    if digits is None:
        return found
    if not digits.isdigit() or len(digits) > _MOST_DIGITS:
        raise BadTar(f"is not a valid tarball (a pax {field} that is no number)")
    return int(digits)


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")
