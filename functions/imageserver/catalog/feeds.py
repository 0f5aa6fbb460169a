"""Render a stream's Atom feed of its newest versions. A pure function of the products document.

A version's time is the one in its name, so the same document gives the same bytes. Links are relative to the feed,
which does not know the server's address.
"""

import re
from functools import lru_cache
from heapq import nlargest
from typing import Final
from uuid import NAMESPACE_URL, uuid5
from xml.etree import ElementTree as ET

from imageserver.format import documents
from imageserver.format.documents import Products
from imageserver.format.keys import version_moment

ENTRIES: Final = 50
_MINUTE_DIGITS: Final = len("YYYYMMDDHHMM")
_ONLY_DIGITS: Final = {ord(separator): None for separator in "_:"}
_NOT_XML: Final = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that XML 1.0 cannot represent; publishers choose titles and aliases."""


def feed_key(stream: str) -> str:
    """Return the key of a stream's feed."""
    return f"streams/v1/{stream}.atom"


def render_feed(document: Products, server: str) -> bytes:
    """Return the feed of a stream; `server` is a name that no other server has, for the feed's id."""
    stream = document.content_id
    # A version's time is a string of digits here, and its items stay undecoded: parsing a hundred thousand dates would
    # take longer than all other work of publish.
    products = document.products.items()
    newest = nlargest(
        ENTRIES, ((_digits(version), name, version) for name, one in products for version in one.versions)
    )
    feed = ET.Element("feed", xmlns="http://www.w3.org/2005/Atom")
    _text(feed, "title", f"New images in {stream}")
    _text(feed, "id", uuid5(NAMESPACE_URL, f"{server}/{feed_key(stream)}").urn)
    _text(feed, "updated", _time(newest[0][2] if newest else ""))
    ET.SubElement(feed, "link", rel="self", href=f"{stream}.atom")
    ET.SubElement(feed, "link", rel="alternate", href="../../")
    _text(ET.SubElement(feed, "author"), "name", server)
    for _, name, version in newest:
        product, product_path = document.products[name], f"{stream}/{name}"
        images = documents.images(documents.decode_version(product, version))
        entry = ET.SubElement(feed, "entry")
        _text(entry, "title", f"{product.os} {product.release_title} {product.arch} {product.variant}, {version}")
        # The id contains the fingerprints: other bytes under the same name make another entry.
        _text(entry, "id", uuid5(NAMESPACE_URL, "\n".join((product_path, version, *sorted(images)))).urn)
        _text(entry, "updated", _time(version))
        ET.SubElement(entry, "link", rel="alternate", href=f"../../?product={product_path}")
        fingerprints = ", ".join(f"{fingerprint} ({file})" for fingerprint, file in sorted(images.items()))
        _text(entry, "summary", f"Aliases: {product.aliases or 'none'}. Fingerprints: {fingerprints}.")
    body: bytes = ET.tostring(feed, encoding="utf-8", xml_declaration=True)
    return body


@lru_cache(4096)  # many products have versions of one name
def _digits(version: str) -> str:
    return version.partition(".")[0].translate(_ONLY_DIGITS).ljust(_MINUTE_DIGITS, "0")


def _text(parent: ET.Element, tag: str, text: str) -> None:
    ET.SubElement(parent, tag).text = _NOT_XML.sub("\ufffd", text)


def _time(version: str) -> str:
    """Return the time of a version in RFC 3339's form; a feed without entries has not changed since the epoch."""
    return f"{version_moment(version).isoformat()}Z" if version else "1970-01-01T00:00:00Z"
