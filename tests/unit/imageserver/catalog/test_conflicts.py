"""What a product learns of others that claim its images and names."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from imageserver.catalog.candidates import Candidate, candidate
from imageserver.catalog.conflicts import shared_with
from imageserver.format import documents
from imageserver.format.documents import Withheld
from imageserver.format.keys import ProductId, parse_product
from imageserver.versions.records import Record
from tests.support import images
from tests.support.memory_store import System

MINE = "alma:9:amd64:default"
PRODUCT = ProductId("images", *MINE.split(":"))
PRINT = "a" * 64


def test_a_product_learns_of_each_copy_of_its_image_and_each_claim_to_its_aliases() -> None:
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
    assert shared_with([document], PRODUCT, [PRINT]) == [
        f"beta:1:amd64:default asks for the alias stable too; it stays with {MINE}",
        "beta:1:amd64:default/20261101/x.squashfs is a copy of this image; it is listed here only",
    ]


def test_a_product_learns_of_claims_by_products_of_other_streams() -> None:
    own, other = documents.decode_products(None, "images"), documents.decode_products(None, "images-x")
    holder = f"images:{MINE}"
    other.withheld[MINE] = (
        Withheld(alias="stable", held_by=MINE, reason="of the product of that name in its own stream"),
        Withheld(alias="stable", held_by=holder, reason="an alias"),
        Withheld(version="20261101", file="x.squashfs", fingerprint=PRINT, held_by=holder, reason="a copy"),
    )
    assert shared_with([other, own], PRODUCT, [PRINT]) == [
        f"images-x:{MINE} asks for the alias stable too; it stays with {MINE}",
        f"images-x:{MINE}/20261101/x.squashfs is a copy of this image; it is listed here only",
    ]


@pytest.mark.parametrize("streams", [("images",), ("images", "images-b")])
def test_a_chain_of_products_that_share_images_is_folded_in_linear_work(
    streams: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each waits for an image of the one before. A fold for each link over all before it would be quadratic."""
    system, length = System(), 40
    metadata = images.metadata_tarball()
    for number in range(length):
        product = f"{streams[number % len(streams)]}/team-a/r{number:02}/amd64/default"
        for version, seed in (("20261120_1000", number), ("20261121_1000", number + 1)):
            files = {"lxd.tar.xz": metadata, "rootfs.squashfs": images.squashfs(seed=str(seed))}
            system.upload(f"{product}/{version}", files)
    system.catch_up()
    first = "images/team-a/r00/amd64/default"
    system.upload(f"{first}/20261122_1000", images.split_image(seed="new"))
    system.ingest(f"{first}/20261122_1000")
    rendered: list[ProductId] = []

    def counted(product: ProductId, versions: Sequence[Record], clients: Sequence[str]) -> Candidate:
        rendered.append(product)
        return candidate(product, versions, clients)

    monkeypatch.setattr("imageserver.catalog.fold.candidate", counted)
    system.publish_once(parse_product(first))
    assert first in {product.path for product in rendered}
    assert len(rendered) <= 3 * length
