"""What the page must never do: run code from a catalog, call another host, or be inaccessible."""

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from tests.e2e.browser.conftest import BrowserPage, PageOpener
from tests.support.browser.catalogs import document, product, realistic
from tests.support.browser.site_server import INDEX, Site
from tests.support.extras import optional

if TYPE_CHECKING:
    from playwright.sync_api import Page

HOUR = timedelta(hours=1)
NOBLE = "ubuntu:noble:amd64:default"
MARKUP = "<img src=x onerror=window.pwned=1>"
PHONE = {"viewport": {"width": 390, "height": 844}, "device_scale_factor": 2, "has_touch": True, "is_mobile": True}


def hostile() -> dict[str, Any]:
    """Return a product whose every string is an attack."""
    one = product(NOBLE, [HOUR, 2 * HOUR])
    evil = "$(touch /tmp/pwned);'\"`"
    one |= {
        "os": MARKUP,
        "release_title": "</script><script>window.pwned=1</script>",
        "aliases": f"{evil},{MARKUP * 3}",
    }
    one |= {"requirements": {MARKUP: MARKUP}, "support_eol": MARKUP}
    items = one["versions"]["20261123_1100"]["items"]
    items["rootfs.squashfs"]["path"] = "javascript:window.pwned=1"
    items["disk.qcow2"]["path"] = f"//example.org/../../{MARKUP}?a#b"
    return one


def test_a_hostile_catalog_is_shown_as_text(site: Site, open_page: PageOpener) -> None:
    withheld = {NOBLE: [{"alias": MARKUP, "reason": MARKUP}]}
    site.publish(images=document({NOBLE: hostile()}, withheld=withheld, unlisted={NOBLE: {MARKUP: MARKUP}}))
    opened = open_page(f"?product=images/{NOBLE}")
    assert MARKUP in opened.page.locator("#rows a").inner_text()
    assert "</script><script>" in opened.page.locator("#detail h2").inner_text()
    assert opened.page.locator("img, #page script, #detail script").count() == 0
    assert opened.page.evaluate("window.pwned") is None
    assert opened.violations() == []
    assert opened.errors == []


def test_a_hostile_path_links_below_this_server(site: Site, open_page: PageOpener) -> None:
    site.publish(images=document({NOBLE: hostile()}))
    opened = open_page(f"?product=images/{NOBLE}")
    addresses = opened.page.locator("#detail .files a").evaluate_all("(links) => links.map((link) => link.href)")
    assert len(addresses) == 3
    assert [address for address in addresses if not address.startswith(site.url)] == []
    assert [address for address in addresses if "?" in address or "#" in address] == []


def test_a_hostile_alias_is_one_quoted_word_in_a_command(site: Site, open_page: PageOpener) -> None:
    site.publish(images=document({NOBLE: hostile()}))
    opened = open_page(f"?product=images/{NOBLE}")
    line = opened.page.locator("#detail .command code").first.inner_text()
    assert line == "incus launch 'my-images:$(touch /tmp/pwned);'\\''\"`'"


def test_no_command_is_offered_for_an_alias_with_control_characters(site: Site, open_page: PageOpener) -> None:
    site.publish(images=document({NOBLE: product(NOBLE, [HOUR], aliases="a\x1b[2Jb")}))
    opened = open_page(f"?product=images/{NOBLE}")
    assert opened.page.locator("#detail h2").inner_text() == "ubuntu noble"
    assert not any("launch" in line for line in opened.page.locator("#detail .command code").all_text_contents())


@pytest.mark.parametrize("wrong", [None, 7, "text", [], [None], {"a": None}, True])
def test_wrong_types_anywhere_do_not_break_the_others(site: Site, open_page: PageOpener, wrong: Any) -> None:
    fields = ["aliases", "arch", "os", "release_title", "requirements", "support_eol", "versions"]
    products = {
        f"broken:{field}:amd64:default": product(f"b:{field}:amd64:default", [HOUR]) | {field: wrong}
        for field in fields
    }
    half = product("broken:items:amd64:default", [HOUR])
    half["versions"]["20261123_1100"]["items"]["disk.qcow2"] = wrong
    products |= {"broken:whole:amd64:default": wrong, "broken:items:amd64:default": half, NOBLE: product(NOBLE, [HOUR])}
    site.publish(images=document(products, withheld={NOBLE: wrong}, unlisted={"broken:waiting:amd64:default": wrong}))
    opened = open_page(f"?product=images/{NOBLE}")
    assert opened.page.locator("#table").get_attribute("aria-rowcount") == str(len(fields) + 5)
    assert opened.page.locator("#detail h2").inner_text() == "ubuntu noble"
    assert opened.errors == []


def use_each_part(opened: BrowserPage) -> None:
    """Do everything that a visitor can do, once."""
    page = opened.page
    page.locator("#search").fill("ubuntu")
    page.locator("#filter-arch").select_option("arm64")
    page.locator("#states button").first.click()
    page.get_by_role("button", name="Clear").click()
    page.locator("#theme").click()
    page.get_by_role("columnheader", name="Download").get_by_role("button").click()
    page.locator("#rows a").first.click()
    page.locator("#detail summary").first.click()
    page.locator("#detail .copy").first.click()
    opened.later()
    page.locator("#detail-close").click()


def test_a_whole_visit_violates_no_policy_and_asks_no_other_host(site: Site, open_page: PageOpener) -> None:
    site.publish(images=realistic())
    opened = open_page()
    use_each_part(opened)
    assert opened.violations() == []
    assert opened.errors == []
    assert len(opened.requests) > 4
    assert [url for url in opened.requests if not url.startswith((site.url, "data:image/svg+xml"))] == []


@pytest.mark.parametrize(
    ("attack", "directive"),
    [
        ("document.body.append(Object.assign(document.createElement('style'), {textContent: 'a{}'}))", "style-src"),
        ("document.body.append(Object.assign(document.createElement('img'), {src: '/x.png'}))", "img-src"),
        ("document.body.append(Object.assign(document.createElement('iframe'), {src: '/openapi.json'}))", "frame-src"),
        ("fetch('https://example.org/').catch(() => 0)", "connect-src"),
        ("try { document.body.innerHTML = '<b>x</b>' } catch {}", "require-trusted-types-for"),
    ],
)
def test_the_policy_is_in_force(site: Site, open_page: PageOpener, attack: str, directive: str) -> None:
    site.publish()
    opened = open_page()
    opened.page.evaluate(f"() => {{ {attack} }}")
    assert opened.first_violation().startswith(directive)


# For everybody --------------------------------------------------------------------------------------------------------


def serious(page: "Page") -> list[str]:
    """Return axe-core's serious and critical findings, each with the first element concerned."""
    axe = optional("axe_playwright_python.sync_playwright", "browser")
    found = axe.Axe().run(page).response["violations"]
    return [f"{each['id']}: {each['nodes'][0]['html']}" for each in found if each["impact"] in ("serious", "critical")]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("place", ["list", "product", "waiting", "empty", "unreachable", "phone", "phone product"])
def test_axe_finds_nothing_serious(site: Site, open_page: PageOpener, scheme: str, place: str) -> None:
    site.publish(images=document({}) if place == "empty" else realistic())
    if place == "unreachable":
        site.broken[INDEX] = 503
    open_product = {"product": NOBLE, "phone product": NOBLE, "waiting": "nixos:25.11:amd64:default"}.get(place)
    options = PHONE if place.startswith("phone") else {}
    # axe-core is injected into the page as a script, which the page's own policy rightly refuses.
    opened = open_page(
        f"?product=images/{open_product}" if open_product else "", color_scheme=scheme, bypass_csp=True, **options
    )
    assert serious(opened.page) == []


def test_the_page_works_without_a_mouse(site: Site, open_page: PageOpener) -> None:
    site.publish(images=realistic())
    page = open_page().page
    page.keyboard.press("/")
    page.keyboard.type("alpine")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    key = page.locator("#rows tr:has(a:focus)").get_attribute("data-key")
    assert key == page.locator("#rows tr[data-key]").nth(1).get_attribute("data-key")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "detail-title"
    page.keyboard.press("Escape")
    assert page.locator("#detail").is_hidden()
    assert page.locator("#rows tr:has(a:focus)").get_attribute("data-key") == key


def test_rows_have_their_position_in_the_whole_list(site: Site, open_page: PageOpener) -> None:
    site.publish(images=realistic())
    page = open_page().page
    assert page.get_by_role("table", name="Products").get_attribute("aria-rowcount") == "49"
    assert page.locator("#rows tr[data-key]").nth(4).get_attribute("aria-rowindex") == "6"


@pytest.mark.parametrize("query", ["", f"?product=images/{NOBLE}"])
def test_a_phone_never_scrolls_sideways(site: Site, open_page: PageOpener, query: str) -> None:
    site.publish(images=realistic())
    page = open_page(query, **PHONE).page
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    detail = page.locator("#detail")
    assert not detail.is_visible() or detail.evaluate("(panel) => panel.scrollWidth") <= 390


def test_on_a_phone_the_product_covers_the_list(site: Site, open_page: PageOpener) -> None:
    site.publish(images=realistic())
    page = open_page(**PHONE).page
    page.locator("#rows a").first.tap()
    assert page.locator("#detail").bounding_box() == {"x": 0, "y": 0, "width": 390, "height": 844}
    assert page.locator("#page").evaluate("(list) => list.inert")
    page.locator("#detail-close").tap()
    assert not page.locator("#page").evaluate("(list) => list.inert")


def luminance(page: "Page") -> float:
    """Return the luminance of the page's background, 0 to 255."""
    colour: str = page.evaluate("getComputedStyle(document.body).backgroundColor")
    red, green, blue = (float(part) for part in colour.removeprefix("rgb(").removesuffix(")").split(","))
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_colours_follow_the_system_until_the_reader_chooses(site: Site, open_page: PageOpener) -> None:
    site.publish()
    light = open_page(color_scheme="light").page
    dark = open_page(color_scheme="dark").page
    assert luminance(light) > 200
    assert luminance(dark) < 50
    dark.locator("#theme").click()
    assert luminance(dark) > 200
    dark.reload()
    assert luminance(dark) > 200
