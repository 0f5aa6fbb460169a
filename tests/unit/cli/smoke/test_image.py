"""The image of the smoke test."""

from __future__ import annotations

from cli.smoke import image
from tests.support.smoke_server import (
    NOW,
)


def test_a_version_is_named_after_the_first_free_minute() -> None:
    assert image.build(NOW, (), "x").version.version == "20261125_1806"
    assert image.build(NOW, {"20261125_1806", "20261125_1807"}, "x").version.version == "20261125_1808"
    assert image.build(NOW, {"20261125_18:06"}, "x").version.version == "20261125_18:07"


def test_two_images_of_one_minute_have_two_fingerprints() -> None:
    assert image.build(NOW, (), "x").fingerprint != image.build(NOW, (), "y").fingerprint
