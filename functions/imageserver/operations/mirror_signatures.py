"""Read another server's signed documents. A document without a good signature is refused.

`streams/v1/index.json` is read as `index.sjson`, which is clear-signed. A server without it has the signature beside
the document, as `index.json.gpg`.
"""

from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from typing import Final

from imageserver.errors import UpstreamRefused
from imageserver.upstream.port import Document, Reading, Upstream
from imageserver.upstream.signatures import verified

INLINE: Final = "inline"
DETACHED: Final = "detached"
MOST_SIGNED_BYTES: Final = 384 << 20
"""Verifying a document takes four times its size, and the function has 1,769 MB."""
READS: Final = 2
"""How often a document and its detached signature are read: upstream may replace the two between the reads."""


def trusted(upstream: Upstream, keyring: str, now: Callable[[], datetime]) -> Upstream:
    """Return a server whose documents are verified with a mirror's keyring; without one, the server itself."""
    return SignedServer(upstream, keyring, now) if keyring else upstream


class SignedServer:
    """Implements imageserver.upstream.port.Upstream over another one.

    Files need no signature: documents name their sha256. An ETag begins with the form in which the document was found,
    so an unchanged one is one conditional request.
    """

    def __init__(self, upstream: Upstream, keyring: str, now: Callable[[], datetime]) -> None:
        self._upstream, self._keyring, self._now = upstream, keyring, now

    @property
    def part_bytes(self) -> int:
        return self._upstream.part_bytes

    def read(self, path: str, size_bytes: int, seconds: float, start: int = 0, generation: str = "") -> Reading:
        return self._upstream.read(path, size_bytes, seconds, start, generation)

    def document(self, path: str, etag: str = "") -> Document | None:
        form, _, known = etag.partition(" ")
        if form == DETACHED:
            with suppress(UpstreamRefused):  # it may be signed in the other form now
                if self._upstream.document(path, known) is None:
                    return None
        inline = f"{path.removesuffix('.json')}.sjson"
        try:
            found = self._upstream.document(inline, known if form == INLINE else "")
        except UpstreamRefused as missing:
            return self._detached(path, missing)
        return found and self._verified(inline, found, INLINE)

    def _detached(self, path: str, missing: UpstreamRefused) -> Document:
        """Return a document with a detached signature. `missing` says why no clear-signed one was read."""
        for attempt in range(1, READS + 1):
            try:
                found, signature = self._upstream.document(path), self._upstream.document(f"{path}.gpg")
            except UpstreamRefused as error:
                raise UpstreamRefused(
                    f"{path} is not signed ({missing}; {error}), expected a signature, as this mirror has a keyring"
                ) from error
            if found and signature:
                try:
                    return self._verified(path, found, DETACHED, signature.body)
                except UpstreamRefused:
                    if attempt == READS:
                        raise
        raise UpstreamRefused(f"{path} was requested without a condition, and upstream answers that it is unchanged")

    def _verified(self, path: str, found: Document, form: str, signature: bytes | None = None) -> Document:
        if len(found.body) > MOST_SIGNED_BYTES:
            raise UpstreamRefused(
                f"{path} has {len(found.body):,} bytes, expected at most {MOST_SIGNED_BYTES:,} signed"
            )
        try:
            body, signed_by = verified(found.body, self._keyring, self._now(), signature)
        except UpstreamRefused as refusal:
            raise UpstreamRefused(f"{path} {refusal}") from refusal
        return Document(body, f"{form} {found.etag}" if found.etag else "", signed_by)
