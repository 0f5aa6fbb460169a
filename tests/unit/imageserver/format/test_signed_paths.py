"""The paths of a view's files, compared with values made by openssl."""

import re

from imageserver.format.signed_paths import key_of, signed_path

KEY = "images/ubuntu/noble/amd64/default/20261123_10:00/rootfs.squashfs"
SECRET = bytes(range(32))


def test_a_path_has_the_mac_that_openssl_computes() -> None:
    # printf 'staging\n%s' "$KEY" | openssl dgst -sha256 -mac HMAC -macopt hexkey:000102…1f -binary | base64 | tr +/ -_
    assert signed_path("staging", SECRET, KEY) == f"signed/4xHc8HGZWdvTfyonFC2Tb-/{KEY}"


def test_another_view_another_secret_and_another_file_have_other_macs() -> None:
    macs = {
        signed_path(view, secret, key).split("/")[1]
        for view in ("staging", "stable")
        for secret in (SECRET, bytes(32))
        for key in (KEY, f"{KEY}x")
    }
    assert len(macs) == 8
    assert all(re.fullmatch("[A-Za-z0-9_-]{22}", mac) for mac in macs)


def test_the_key_of_a_path_is_what_was_signed_and_any_other_path_is_a_key() -> None:
    assert key_of(signed_path("staging", SECRET, KEY)) == KEY
    assert key_of(KEY) == KEY
