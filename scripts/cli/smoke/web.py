"""Plain HTTP: redirects are not followed, errors are returned as answers, and nothing is decoded implicitly."""

import gzip
import http.client
import ssl
import urllib.request
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from imageserver.remote.connections import NO_TLS, WANTS_TLS, speaks_no_tls, wants_tls

TIMEOUT_S: Final = 30
LARGEST_BODY_BYTES: Final = 512 * 1024 * 1024


@dataclass(frozen=True)
class Answer:
    """One HTTP response; names of `headers` in lower case, `body` as it was transferred."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def document(self) -> bytes:
        """The body as Go's HTTP client returns it, without gzip. Raise ValueError for other encodings and bad gzip."""
        encoding = self.headers.get("content-encoding", "")
        if encoding not in ("", "gzip"):
            raise ValueError(f"the answer has Content-Encoding {encoding}, expected none or gzip")
        try:
            return gzip.decompress(self.body) if encoding else self.body
        except (OSError, EOFError, zlib.error) as error:
            raise ValueError(f"the answer says that it is gzip, and is not: {error}") from error


class _AsItComes(urllib.request.HTTPErrorProcessor):
    """A replacement for urllib's own processor, which follows redirects and raises errors."""

    def http_response(self, request: Any, response: Any) -> Any:  # noqa: ARG002  (urllib calls it by these names)
        return response

    def https_response(self, request: Any, response: Any) -> Any:  # noqa: ARG002  (urllib's signature)
        return response


class Web:
    """An HTTP client. `ca_file` is a private certificate authority; empty: the system's, or SSL_CERT_FILE's."""

    def __init__(self, ca_file: str = "") -> None:
        trust = ssl.create_default_context(cafile=ca_file or None)
        self._opener = urllib.request.build_opener(_AsItComes, urllib.request.HTTPSHandler(context=trust))

    def ask(
        self,
        url: str,
        method: str = "GET",
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> Answer:
        """Return the answer, whatever its status. Raise ConnectionError with the address if there is none.

        The same if the port wants TLS, or speaks none.
        """
        given = {"User-Agent": "simplestreams-smoke", **(headers or {})}
        request = urllib.request.Request(url, body, given, method=method)
        try:
            with self._opener.open(request, timeout=timeout_s) as answer:
                content = answer.read(LARGEST_BODY_BYTES)
                if missing := int(answer.headers.get("content-length", len(content))) - len(content):
                    raise http.client.IncompleteRead(content, missing)
                found = Answer(answer.status, {name.lower(): value for name, value in answer.headers.items()}, content)
        except (OSError, http.client.HTTPException) as error:
            why = f"; {NO_TLS}" if speaks_no_tls(error) else ""
            raise ConnectionError(f"{url.partition('?')[0]} does not answer: {error!r}{why}") from error
        if found.status == 400 and wants_tls(found.body):
            raise ConnectionError(f"{url.partition('?')[0]} answers 400; {WANTS_TLS}")
        return found
