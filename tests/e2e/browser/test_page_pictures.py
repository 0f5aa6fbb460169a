"""The screenshots can be made again, and are small enough to live in the repository."""

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.extras import optional

optional("PIL", "browser")

# Pillow may be missing.
from tests.support.browser.screenshots import FOLDER, SCREENSHOTS, Screenshot, content, take  # noqa: E402

if TYPE_CHECKING:
    from playwright.sync_api import Browser

MOST_BYTES = 150_000


@pytest.mark.parametrize("screenshot", SCREENSHOTS, ids=lambda screenshot: screenshot.name)
def test_each_picture_can_be_made_again(browser: "Browser", tmp_path: Path, screenshot: Screenshot) -> None:
    made = take(browser, content(), screenshot, tmp_path).read_bytes()
    size = (int.from_bytes(made[16:20], "big"), int.from_bytes(made[20:24], "big"))  # PNG, IHDR
    assert size == (screenshot.width * screenshot.scale, screenshot.height * screenshot.scale)
    assert 20_000 < len(made) < MOST_BYTES


def test_the_committed_pictures_match_the_list() -> None:
    assert sorted(file.stem for file in FOLDER.iterdir()) == sorted(screenshot.name for screenshot in SCREENSHOTS)
    assert [file.name for file in FOLDER.iterdir() if file.stat().st_size > MOST_BYTES] == []
