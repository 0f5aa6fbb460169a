"""The screenshots of the page.

`.venv/bin/python -m tests.support.browser.screenshots` makes those in infra/page/screenshots.

The page is shown as if at images.example.net. No server runs: every request is answered from memory.
"""

import json
import sys
from collections import Counter
from dataclasses import dataclass
from datetime import timedelta
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from PIL import Image

from page.build import ARTEFACT, HERE
from tests.support.browser.catalogs import NOW, document, product, realistic
from tests.support.browser.chromium import chromium
from tests.support.browser.site_server import TYPES, Site

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser, Route

ORIGIN = "https://images.example.net"
FOLDER = HERE / "screenshots"
NOBLE = "ubuntu:noble:amd64:default"
UPSTREAM = "images.example.org"
SIGNED_BY = "8d2e4f6a0b1c3d5e7f9081a2b3c4d5e6f7089a1b"


@dataclass(frozen=True, slots=True)
class Screenshot:
    """Width and height in CSS pixels; `query` is the page's."""

    name: str
    scheme: Literal["light", "dark"]
    width: int
    height: int
    query: str = ""
    scale: float = 1


SCREENSHOTS = [
    Screenshot("light", "light", 1280, 860),
    Screenshot("dark", "dark", 1280, 860, "?sort=-state"),
    Screenshot("product-light", "light", 1280, 860, f"?product=images/{NOBLE}"),
    Screenshot("product-dark", "dark", 1280, 860, f"?product=images/{NOBLE}"),
    Screenshot("phone-light", "light", 390, 844, scale=2),
    Screenshot("phone-dark", "dark", 390, 844, f"?product=images/{NOBLE}", scale=2),
]


def content() -> Site:
    daily = product(NOBLE, [timedelta(hours=1)], stream="images-daily", os="Ubuntu", release_title="26.10 daily")
    site = Site(files={"/": ARTEFACT.read_bytes()})
    catalog = realistic()
    for version in catalog["products"][NOBLE]["versions"].values():
        version |= {"mirrored_from": UPSTREAM, "upstream_signed_by": SIGNED_BY}
    site.publish(images=catalog, images_daily=document({NOBLE: daily}))
    compared = {"host": UPSTREAM, "stream": "images", "compared": (NOW - timedelta(minutes=12)).isoformat()}
    site.files["/streams/mirrors.json"] = json.dumps({"format": "mirrors:1.0", "mirrors": [compared]}).encode()
    return site


def with_palette(shot: Image.Image) -> Image.Image:
    """Reduce the image to a palette: a third of the size, with no visible difference.

    Pillow rounds each palette entry. Replace it with the most common colour of its own pixels, so that the
    page's plain areas keep their true colour.
    """
    small = shot.quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    palette = small.getpalette() or []
    pairs = Counter(zip(small.tobytes(), batched(shot.tobytes()), strict=True))
    for (index, colour), _ in reversed(pairs.most_common()):
        palette[3 * index : 3 * index + 3] = colour
    small.putpalette(palette)
    return small


def batched(pixels: bytes) -> "Iterator[tuple[int, int, int]]":
    """The pixels of an RGB image."""
    values = iter(pixels)
    return zip(values, values, values, strict=True)


def take(browser: "Browser", site: Site, screenshot: Screenshot, folder: Path) -> Path:
    """Writes the screenshot as `<name>.png` and returns its path."""

    def answer(route: "Route") -> None:
        path = route.request.url.removeprefix(ORIGIN).split("?")[0]
        if path not in site.files:
            route.fulfill(status=404)
            return
        kind = TYPES.get(path.rsplit(".", 1)[-1], TYPES["html"])
        route.fulfill(body=site.files[path], content_type=kind)

    context = browser.new_context(
        viewport={"width": screenshot.width, "height": screenshot.height},
        color_scheme=screenshot.scheme,
        device_scale_factor=screenshot.scale,
        reduced_motion="reduce",
    )
    context.route("**", answer)
    page = context.new_page()
    page.clock.install(time=NOW)
    page.goto(f"{ORIGIN}/{screenshot.query}")
    page.locator("#rows tr[data-key]").first.wait_for()
    target = folder / f"{screenshot.name}.png"
    with_palette(Image.open(BytesIO(page.screenshot())).convert("RGB")).save(target, optimize=True)
    context.close()
    return target


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    with chromium() as running:
        for wanted in SCREENSHOTS:
            made = take(running, content(), wanted, FOLDER)
            sys.stdout.write(f"{made} {made.stat().st_size // 1024} KiB\n")
