"""What a product is told of others that asked for what it has."""

from __future__ import annotations

from imageserver.catalog.conflicts import shared_with
from imageserver.format import documents
from imageserver.format.documents import Withheld

MINE = "alma:9:amd64:default"
PRINT = "a" * 64


def test_a_product_is_told_of_each_copy_of_its_image_and_each_claim_to_its_aliases() -> None:
    document = documents.decode_products(None, "images")
    document.withheld.update(
        {
            "beta:1:amd64:default": (
                Withheld(alias="stable", held_by="other:1:amd64:default", reason="of somebody else"),
                Withheld(alias="stable", held_by=MINE, reason="an alias"),
                Withheld(version="20261101", file="x.squashfs", fingerprint=PRINT, held_by=MINE, reason="a copy"),
                Withheld(version="20261101", file="y.squashfs", fingerprint="b" * 64, held_by=MINE, reason="no copy"),
            )
        }
    )
    assert shared_with(document, MINE, [PRINT]) == [
        f"beta:1:amd64:default asks for the alias stable too; it stays with {MINE}",
        "beta:1:amd64:default/20261101/x.squashfs is a copy of this image; it is listed here only",
    ]
