"""Which paths are invalidated with a key: also those under which clients of views request it."""

from __future__ import annotations

from imageserver.format.signed_paths import signed_path
from imageserver.views.addresses import addresses
from tests.support.views import channel, private, view

KEY = "images/ubuntu/noble/amd64/default/20261123_1000/rootfs.squashfs"
OTHER = "images-staging/ubuntu/noble/amd64/default/20261123_1000/rootfs.squashfs"


def test_without_views_the_addresses_are_the_keys() -> None:
    assert addresses([KEY, OTHER], []) == [KEY, OTHER]


def test_a_private_view_has_signed_paths_and_a_public_one_paths_below_its_name() -> None:
    stable, staging = channel(), private()
    assert addresses([KEY, OTHER], [stable, staging]) == [
        KEY,
        OTHER,
        "stable/" + signed_path("stable", stable.secret_bytes, KEY),
        signed_path("staging", staging.secret_bytes, OTHER),
    ]


def test_a_view_without_the_product_adds_no_address() -> None:
    assert addresses([KEY], [view(streams=("images",), only=("debian",)), private()]) == [KEY]
