"""A real Chromium, and a site for it. Without one of the two the tests skip and name what is missing."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.browser.catalogs import NOW
from tests.support.browser.chromium import Missing, chromium
from tests.support.browser.site_server import Site, serving
from tests.support.processes import REQUIRE_EXTRAS

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page

WATCH = """
window.violations = [];
document.addEventListener("securitypolicyviolation", (event) =>
  window.violations.push(`${event.violatedDirective} ${event.blockedURI}`));
"""


@pytest.fixture(scope="session")
def browser() -> "Iterator[Browser]":
    try:
        with chromium() as running:
            yield running
    except Missing as missing:
        reason = f"the page was NOT TESTED: {missing}"
        if os.environ.get(REQUIRE_EXTRAS) == "1":
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)


@pytest.fixture
def site() -> Iterator[Site]:
    with serving() as running:
        yield running


@dataclass
class BrowserPage:
    """One page in one browser context, with its errors and its requests."""

    page: "Page"
    context: "BrowserContext"
    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def violations(self) -> list[str]:
        found: list[str] = self.page.evaluate("window.violations")
        return found

    def first_violation(self) -> str:
        """Wait for a violation: some are reported late. Python polls, as the policy forbids a polled expression."""
        for _ in range(100):
            if found := self.violations():
                return found[0]
            self.page.wait_for_timeout(50)
        raise AssertionError("no policy violation was reported within 5 s")

    def rows(self) -> list[str]:
        """Return the titles of the rows in the document, top to bottom."""
        titles: list[str] = self.page.locator("#rows td.image a").all_inner_texts()
        return titles

    def later(self, seconds: int = 31) -> None:
        """Advance the page's clock to its next refresh; 31 s is one refresh interval."""
        self.page.clock.run_for(seconds * 1000)


PageOpener = Callable[..., BrowserPage]


@pytest.fixture
def open_page(browser: "Browser", site: Site) -> Iterator[PageOpener]:
    """Yield a function that opens the page: open_page(query="", url=None, clock=True, **options of the context)."""
    contexts: list[BrowserContext] = []

    def opened(query: str = "", url: str | None = None, *, clock: bool = True, **options: Any) -> BrowserPage:
        options = {
            "viewport": {"width": 1280, "height": 800},
            "permissions": ["clipboard-read", "clipboard-write"],
        } | options
        context = browser.new_context(**options)
        contexts.append(context)
        # Generous, since machines are busy: it measures nothing and only ends an endless wait.
        context.set_default_timeout(30_000)
        context.add_init_script(WATCH)
        page = context.new_page()
        made = BrowserPage(page, context)
        page.on("pageerror", lambda error: made.errors.append(str(error)))
        page.on("request", lambda request: made.requests.append(request.url))
        if clock:
            page.clock.install(time=NOW)
        page.goto((url or site.url) + query)
        page.wait_for_selector("#pulse.good, #pulse.bad")
        return made

    yield opened
    for context in contexts:
        context.close()
