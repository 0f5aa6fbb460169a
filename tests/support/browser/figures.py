"""The page's figures: `.venv/bin/python -m tests.support.browser.figures` prints them as JSON.

Time to first row: from the start of navigation until the first row was painted, with the catalog on this machine and
nothing cached. Weight: of index.html as it is, and as gzip sends it.
"""

import gzip
import json
import statistics
import sys
from typing import TYPE_CHECKING

from page.build import ARTEFACT
from tests.support.browser.catalogs import many
from tests.support.browser.chromium import chromium
from tests.support.browser.site_server import IMAGES, Site, serving

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

PRODUCTS = 5000
RUNS = 5
FIRST_ROW_AT = "performance.getEntriesByName('first-row')[0]?.startTime ?? 0"
# From the key press until the list has changed and its layout is done.
TYPED = """() => { const box = document.getElementById("search"); const start = performance.now(); box.value = "r43";
  box.dispatchEvent(new Event("input")); document.body.getBoundingClientRect(); return performance.now() - start; }"""


def measure(browser: "Browser", site: Site) -> tuple[float, float]:
    """Return the milliseconds to the first row, and those from a key press to the filtered list."""
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    page = context.new_page()
    page.goto(site.url)
    first_row = first_row_at(page)
    typed: float = page.evaluate(TYPED)
    context.close()
    return first_row, typed


def first_row_at(page: "Page") -> float:
    for _ in range(600):
        if found := float(page.evaluate(FIRST_ROW_AT)):
            return found
        page.wait_for_timeout(50)
    raise TimeoutError("no row within 30 s")


def main() -> None:
    page = ARTEFACT.read_bytes()
    with chromium() as browser, serving() as site:
        site.publish(images=many(PRODUCTS))
        first_rows, typed = zip(*(measure(browser, site) for _ in range(RUNS)), strict=True)
        figures = {
            "products": PRODUCTS,
            "catalog_bytes": len(site.files[IMAGES]),
            "first_row_ms": {"median": round(statistics.median(first_rows)), "all": [round(ms) for ms in first_rows]},
            "typed_ms": {"median": round(statistics.median(typed), 1), "all": [round(ms, 1) for ms in typed]},
            "page_bytes": len(page),
            "page_gzip_bytes": len(gzip.compress(page, 9)),
        }
    sys.stdout.write(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
