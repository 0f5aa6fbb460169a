"""The page as people use it: what it lists, search, and health."""

import json
import re
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from tests.e2e.browser.conftest import PageOpener
from tests.support.browser.catalogs import NOW, digest, document, many, product, realistic, version_name
from tests.support.browser.site_server import IMAGES, INDEX, UNLISTED, Site

if TYPE_CHECKING:
    from playwright.sync_api import Page

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
NOBLE = "ubuntu:noble:amd64:default"
# How long the browser may take to show the first of 5,000 products on a busy machine. The figure is in infra/page.
FIRST_ROW_MS = 30_000


def clipboard(page: "Page") -> str:
    copied: str = page.evaluate("navigator.clipboard.readText()")
    return copied


def state_of(page: "Page", title: str) -> str:
    return str(page.locator("#rows tr", has_text=title).locator("td.state").inner_text()).strip()


# Fresh ----------------------------------------------------------------------------------------------------------------


def test_an_upload_appears_without_a_reload(site: Site, open_page: PageOpener) -> None:
    products = {NOBLE: product(NOBLE, [HOUR])}
    site.publish(images=document(products))
    opened = open_page()
    opened.page.evaluate("window.sameDocument = true")
    site.publish(
        images=document(products | {"alpine:3.22:arm64:default": product("alpine:3.22:arm64:default", [HOUR])})
    )
    opened.later()
    opened.page.wait_for_selector("#rows tr.fresh")
    assert opened.rows() == ["alpine 3.22", "ubuntu noble"]
    assert opened.page.locator("#rows tr.fresh").count() == 1
    assert "alpine 3.22" in opened.page.locator("#announcer").inner_text()
    assert opened.page.evaluate("window.sameDocument")


def test_an_unchanged_catalog_is_revalidated_without_a_body(site: Site, open_page: PageOpener) -> None:
    site.publish(images=realistic())
    opened = open_page()
    del site.answers[:]
    with opened.page.expect_response(re.compile("images.json")), opened.page.expect_response(re.compile("unlisted")):
        opened.later()
    assert sorted(site.answers) == [(IMAGES, 304), (UNLISTED, 304), (INDEX, 304)]


def test_a_hidden_page_asks_for_nothing_and_catches_up_when_shown(site: Site, open_page: PageOpener) -> None:
    site.publish(images=realistic())
    opened = open_page()
    show = "(state) => { Object.defineProperty(document, 'visibilityState', {value: state, configurable: true});"
    show += "document.dispatchEvent(new Event('visibilitychange')); }"
    opened.page.evaluate(show, "hidden")
    del site.answers[:]
    opened.later(600)
    assert site.answers == []
    with opened.page.expect_response(re.compile("images.json")):
        opened.page.evaluate(show, "visible")
        opened.later(1)


def test_ages_stay_true_without_any_upload(site: Site, open_page: PageOpener) -> None:
    site.publish(images=document({NOBLE: product(NOBLE, [timedelta(minutes=5)])}))
    opened = open_page()
    age = opened.page.locator("#rows td.newest time")
    assert age.inner_text() == "5 minutes ago"
    opened.later(125)
    opened.page.locator("#rows td.newest").get_by_text("7 minutes ago").wait_for()


# Search, filters, order -----------------------------------------------------------------------------------------------


def test_typing_filters_the_list_and_the_address_keeps_the_filter(site: Site, open_page: PageOpener) -> None:
    site.publish(images=realistic())
    opened = open_page()
    opened.page.locator("#search").press_sequentially("noble cloud")
    assert set(opened.rows()) == {"Ubuntu 24.04 LTS"}
    assert opened.page.locator("#matches").inner_text() == "2 of 48 products"
    opened.later(1)
    assert opened.page.url.endswith("?q=noble+cloud")
    opened.page.reload()
    opened.page.wait_for_selector("#rows tr[data-key]")
    assert opened.page.locator("#search").input_value() == "noble cloud"
    assert len(opened.rows()) == 2


@pytest.mark.parametrize("written", ["{}", "mine:{}", "mine:{:.12}"])
@pytest.mark.parametrize("case", [str.lower, str.upper])
def test_a_fingerprint_finds_its_product(
    site: Site, open_page: PageOpener, written: str, case: Callable[[str], str]
) -> None:
    site.publish(images=realistic())
    folder = f"images/debian/trixie/arm64/cloud/{version_name(timedelta(hours=5.1 + 0.4 * 11))}"
    opened = open_page(f"?q={written.format(case(digest(folder, 'disk', 'combined')))}")
    assert opened.rows() == ["Debian 13"]


def test_an_image_is_found_by_the_name_that_clients_use_and_by_its_product(site: Site, open_page: PageOpener) -> None:
    site.publish(images=document({NOBLE: product(NOBLE, [HOUR])}))
    assert open_page("?q=mine:ubuntu/noble").rows() == ["ubuntu noble"]
    assert open_page(f"?q={NOBLE}").rows() == ["ubuntu noble"]
    assert open_page("?q=mine:ubuntu/jammy").rows() == []


@pytest.mark.parametrize(
    ("facet", "value", "expected"),
    [
        ("os", "Debian", 8),
        ("release", "noble", 4),
        ("arch", "arm64", 23),
        ("variant", "openrc", 1),
        ("kind", "vm", 44),
        ("stream", "images", 48),
    ],
)
def test_each_filter_narrows_the_list_and_goes_into_the_address(
    site: Site, open_page: PageOpener, facet: str, value: str, expected: int
) -> None:
    daily = {NOBLE: product(NOBLE, [HOUR], stream="images-daily", kinds="container", os="daily", release="other")}
    site.publish(images=realistic(), images_daily=document(daily))
    opened = open_page()
    opened.page.locator(f"#filter-{facet}").select_option(value)
    opened.later(1)
    assert opened.page.locator("#matches").inner_text() == f"{expected} of 49 products"
    assert opened.page.url.endswith(f"?{facet}={value}")
    opened.page.locator("#clear").click()
    assert opened.page.locator("#table").get_attribute("aria-rowcount") == "50"


def test_an_empty_result_is_stated(site: Site, open_page: PageOpener) -> None:
    site.publish(images=realistic())
    opened = open_page("?q=plan9")
    assert opened.rows() == []
    assert opened.page.locator("#matches").inner_text() == 'Nothing matches "plan9".'


def test_a_column_sorts_both_ways_and_shows_the_order(site: Site, open_page: PageOpener) -> None:
    names = ["debian:9:amd64:default", "debian:10:amd64:default", "alpine:3:amd64:default"]
    site.publish(images=document({name: product(name, [HOUR]) for name in names}))
    opened = open_page()
    header = opened.page.get_by_role("columnheader", name="Image")
    header.get_by_role("button").click()
    assert opened.rows() == ["alpine 3", "debian 9", "debian 10"]
    assert header.get_attribute("aria-sort") == "ascending"
    header.get_by_role("button").click()
    assert opened.rows() == ["debian 10", "debian 9", "alpine 3"]
    assert header.get_attribute("aria-sort") == "descending"
    opened.later(1)
    assert opened.page.url.endswith("?sort=-image")


# Health ---------------------------------------------------------------------------------------------------------------


def test_each_state_has_its_own_badge(site: Site, open_page: PageOpener) -> None:
    products = {
        "a:fresh:amd64:default": product("a:fresh:amd64:default", [HOUR], support_eol="2026-11-23"),
        "b:old:amd64:default": product("b:old:amd64:default", [31 * DAY]),
        "c:ended:amd64:default": product("c:ended:amd64:default", [HOUR], support_eol="2026-11-22"),
        "d:dropped:amd64:default": product("d:dropped:amd64:default", [HOUR], supported=False),
    }
    waiting = {"e:half:amd64:default": {"20261123_1100": "incomplete"}, "f:bad:amd64:default": {"20261123": "invalid"}}
    site.publish(images=document(products, unlisted=waiting))
    opened = open_page()
    states = {title: state_of(opened.page, title) for title in sorted(opened.rows())}
    assert states == {
        "a fresh": "Healthy",
        "b old": "Stale",
        "c ended": "End of life",
        "d dropped": "End of life",
        "e half": "Incomplete",
        "f bad": "Invalid",
    }


def test_the_stale_limit_is_chosen_by_the_reader_and_kept_in_the_address(site: Site, open_page: PageOpener) -> None:
    site.publish(images=document({NOBLE: product(NOBLE, [31 * DAY])}))
    opened = open_page()
    assert state_of(opened.page, "ubuntu noble") == "Stale"
    opened.page.locator("#stale").select_option("90")
    assert state_of(opened.page, "ubuntu noble") == "Healthy"
    opened.later(1)
    assert opened.page.url.endswith("?stale=90")


def test_the_summary_counts_states_and_filters_by_them(site: Site, open_page: PageOpener) -> None:
    site.publish(images=realistic())
    opened = open_page()
    buttons = opened.page.locator("#states button")
    assert buttons.all_inner_texts() == ["34\nHealthy", "4\nStale", "8\nEnd of life", "1\nIncomplete", "1\nInvalid"]
    buttons.filter(has_text="Incomplete").click()
    assert opened.rows() == ["nixos 25.11"]
    pressed = opened.page.locator("#states [aria-pressed=true]")
    assert pressed.inner_text() == "1\nIncomplete"
    pressed.click()
    assert len(opened.rows()) > 10


def test_a_server_with_only_waiting_uploads_is_not_called_empty(site: Site, open_page: PageOpener) -> None:
    site.publish(images=document({}, unlisted={NOBLE: {"20261123_1100": "incomplete"}}))
    opened = open_page()
    assert state_of(opened.page, "ubuntu noble") == "Incomplete"
    assert opened.page.locator("#empty").is_hidden()


def test_a_product_whose_images_are_all_withheld_shows_the_reason(site: Site, open_page: PageOpener) -> None:
    withheld = {
        "version": "20261123_1100",
        "file": "disk.qcow2",
        "reason": "the same image as debian:13:amd64:default",
    }
    others = {"debian:13:amd64:default": product("debian:13:amd64:default", [HOUR])}
    site.publish(images=document(others, withheld={NOBLE: [withheld]}))
    opened = open_page(f"?product=images/{NOBLE}")
    assert state_of(opened.page, "ubuntu noble") == "Withheld"
    detail = opened.page.locator("#detail").inner_text()
    assert "20261123_1100/disk.qcow2 the same image as debian:13:amd64:default" in detail


# One product ----------------------------------------------------------------------------------------------------------


def test_a_product_is_shown_with_every_field(site: Site, open_page: PageOpener) -> None:
    fields = {"requirements": {"secureboot": "false"}, "support_eol": "2029-05-31", "release_codename": "noble"}
    withheld = [{"alias": "ubuntu", "reason": "claimed by ubuntu:jammy:amd64:default"}]
    one = product(NOBLE, [HOUR, DAY, 2 * DAY]) | fields
    waiting = {NOBLE: {"20261123_11:59": "incomplete"}}
    site.publish(images=document({NOBLE: one}, withheld={NOBLE: withheld}, unlisted=waiting))
    opened = open_page()
    opened.page.get_by_role("link", name="ubuntu noble").click()
    assert opened.page.url.endswith(f"?product=images/{NOBLE}")
    text = opened.page.locator("#detail").inner_text()
    folder = f"images/ubuntu/noble/amd64/default/{version_name(HOUR)}"
    for expected in (
        *one["aliases"].split(","),
        version_name(HOUR),
        "secureboot=false",
        "2029-05-31",
        "Container 120 MiB, Virtual machine 310 MiB",
        digest(folder, "squashfs", "combined"),
        digest(folder, "disk", "combined"),
        digest(folder, "metadata"),
        "20261123_11:59 is incomplete",
        "ubuntu claimed by ubuntu:jammy:amd64:default",
    ):
        assert expected in text
    links = opened.page.locator("#detail .files").first.locator("a")
    assert links.all_inner_texts() == ["disk.qcow2", "incus.tar.xz", "rootfs.squashfs"]
    assert links.nth(0).get_attribute("href") == f"{site.url}{folder}/disk.qcow2"


def test_an_older_version_shows_its_files(site: Site, open_page: PageOpener) -> None:
    site.publish(images=document({NOBLE: product(NOBLE, [HOUR, DAY])}))
    opened = open_page(f"?product=images/{NOBLE}")
    older = opened.page.locator("#detail details[data-version]")
    assert older.count() == 1
    older.locator("summary").click()
    older.locator(".files").wait_for()
    assert version_name(DAY) in str(older.locator("a").first.get_attribute("href"))
    assert digest(f"images/ubuntu/noble/amd64/default/{version_name(DAY)}", "disk") in older.inner_text()


def test_a_new_version_updates_the_open_product(site: Site, open_page: PageOpener) -> None:
    site.publish(images=document({NOBLE: product(NOBLE, [DAY])}))
    opened = open_page(f"?product=images/{NOBLE}")
    site.publish(images=document({NOBLE: product(NOBLE, [timedelta(0), DAY])}))
    opened.later()
    opened.page.locator("#detail dl", has_text=version_name(timedelta(0))).wait_for()
    assert opened.page.locator("#detail details[data-version] summary").inner_text().startswith(version_name(DAY))


def test_back_closes_the_product(site: Site, open_page: PageOpener) -> None:
    site.publish(images=realistic())
    opened = open_page("?os=Alpine")
    opened.page.locator("#rows a").first.click()
    assert opened.page.locator("#detail").is_visible()
    opened.page.go_back()
    opened.page.locator("#detail").wait_for(state="hidden")
    assert opened.page.locator("#filter-os").input_value() == "Alpine"


@pytest.mark.parametrize(
    ("what", "expected"),
    [
        ("the incus launch command as a container", "incus launch my-images:ubuntu/noble"),
        ("the lxc launch command as a container", "lxc launch my-images:ubuntu/noble"),
        ("the incus launch command as a virtual machine", "incus launch my-images:ubuntu/noble --vm"),
        ("the lxc launch command as a virtual machine", "lxc launch my-images:ubuntu/noble --vm"),
        ("the incus remote add command", "incus remote add my-images {origin} --protocol=simplestreams"),
        ("the lxc remote add command", "lxc remote add my-images {origin} --protocol=simplestreams"),
    ],
)
def test_copy_buttons_copy_commands_with_this_servers_address(
    site: Site, open_page: PageOpener, what: str, expected: str
) -> None:
    site.publish(images=document({NOBLE: product(NOBLE, [HOUR])}))
    opened = open_page(f"?product=images/{NOBLE}")
    button = opened.page.get_by_role("button", name=f"Copy {what}", exact=True)
    button.click()
    button.get_by_text("Copied").wait_for()
    assert clipboard(opened.page) == expected.format(origin=site.url.rstrip("/"))


def test_the_reader_chooses_the_name_of_the_remote(site: Site, open_page: PageOpener) -> None:
    site.publish(images=document({NOBLE: product(NOBLE, [HOUR])}))
    opened = open_page(f"?product=images/{NOBLE}")
    opened.page.locator("#remote").fill("team")
    opened.page.get_by_role("button", name="Copy the lxc launch command as a container").click()
    opened.page.get_by_text("Copied", exact=True).wait_for()
    assert clipboard(opened.page) == "lxc launch team:ubuntu/noble"


def test_an_alias_shared_by_two_architectures_is_launched_with_the_architecture(
    site: Site, open_page: PageOpener
) -> None:
    names = [NOBLE, "ubuntu:noble:arm64:default"]
    site.publish(images=document({name: product(name, [HOUR]) for name in names}))
    opened = open_page(f"?product=images/{names[1]}")
    assert (
        opened.page.locator("#detail .command code").first.inner_text() == "incus launch my-images:ubuntu/noble/arm64"
    )


def test_a_catalog_for_one_client_offers_commands_for_that_client(site: Site, open_page: PageOpener) -> None:
    one = product(NOBLE, [HOUR], kinds="container")
    for each in one["versions"].values():
        del each["items"]["incus.tar.xz"]
    site.publish(images=document({NOBLE: one}))
    opened = open_page(f"?product=images/{NOBLE}")
    assert [
        line.split(" my-images:")[0] for line in opened.page.locator("#detail .command code").all_text_contents()
    ] == [
        "lxc launch",
        "lxc image copy --mode=relay",
        "sudo sh -c 'rm -rf /var/snap/lxd/common/lxd/cache/*'",
        "sudo sh -c 'rm -rf /var/cache/lxd/*'",
    ]


# Many -----------------------------------------------------------------------------------------------------------------


def test_five_thousand_products_keep_the_document_small(site: Site, open_page: PageOpener) -> None:
    site.publish(images=many(5000))
    opened = open_page()
    opened.page.locator("#rows tr[data-key]").first.wait_for(timeout=FIRST_ROW_MS)
    assert opened.page.locator("#headline").inner_text() == "5,000 products"
    assert opened.page.locator("#rows tr").count() < 60
    opened.page.locator("#rows a").first.focus()
    opened.page.keyboard.press("End")
    last = opened.page.locator("#rows tr[data-key]").last
    assert last.get_attribute("aria-rowindex") == "5001"
    assert opened.page.locator("#rows a:focus").inner_text() == "rockylinux r4999"
    opened.page.locator("#search").fill("r4321")
    assert opened.rows() == ["debian r4321"]


def test_scrolling_draws_the_rows_it_reaches(site: Site, open_page: PageOpener) -> None:
    site.publish(images=many(5000))
    opened = open_page()
    opened.page.evaluate("scrollTo(0, document.body.scrollHeight / 2)")
    opened.page.locator("#rows tr[aria-rowindex='2500']").wait_for()
    assert opened.page.locator("#rows tr").count() < 60


# Empty and unreachable ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("published", [True, False], ids=["empty index", "no index yet"])
def test_an_empty_server_explains_the_first_upload(site: Site, open_page: PageOpener, published: bool) -> None:
    if published:
        site.publish()
    opened = open_page()
    assert opened.page.locator("#headline").inner_text() == "No image here yet"
    guide = opened.page.locator("#empty").inner_text()
    assert "./scripts/upload --to alpine/3.22/amd64/default incus.tar.xz rootfs.squashfs" in guide
    assert "./scripts/presign images/alpine/3.22/amd64/default/20261123_1200/incus.tar.xz" in guide
    assert opened.page.locator("#problems").is_hidden()
    site.publish(images=document({NOBLE: product(NOBLE, [HOUR])}))
    opened.later()
    opened.page.locator("#rows tr[data-key]").wait_for()
    assert opened.page.locator("#empty").is_hidden()


@pytest.mark.parametrize(
    ("status", "reason"),
    [(503, "the server answered 503"), (403, "the server answered 403"), (0, "the server did not answer")],
)
def test_an_unreachable_catalog_is_stated_and_not_shown_as_empty(
    site: Site, open_page: PageOpener, status: int, reason: str
) -> None:
    site.publish(images=realistic())
    site.broken[INDEX] = status
    opened = open_page()
    assert opened.page.locator("#headline").inner_text() == "Catalog unreachable"
    assert f"streams/v1/index.json: {reason}" in opened.page.get_by_role("alert").inner_text()
    assert opened.page.locator("#empty").is_hidden()
    site.broken.clear()
    opened.page.get_by_role("button", name="Try now").click()
    opened.page.locator("#pulse.good").wait_for()
    assert opened.page.locator("#headline").inner_text() == "48 products"
    assert opened.page.locator("#problems").is_hidden()


@pytest.mark.parametrize(
    ("path", "status"),
    [*((path, status) for path in (INDEX, IMAGES) for status in (0, 403, 404, 500)), (UNLISTED, 0), (UNLISTED, 403)],
)
def test_the_last_catalog_stays_when_the_server_stops_answering(
    site: Site, open_page: PageOpener, path: str, status: int
) -> None:
    site.publish(images=document({NOBLE: product(NOBLE, [HOUR])}))
    opened = open_page()
    site.broken[path] = status
    opened.later()
    opened.page.locator("#pulse.bad").wait_for()
    assert opened.rows() == ["ubuntu noble"]
    assert "What was read before is still shown" in opened.page.get_by_role("alert").inner_text()
    site.broken.clear()
    opened.later()
    opened.page.locator("#pulse.good").wait_for()


def test_a_catalog_cut_short_keeps_what_was_read(site: Site, open_page: PageOpener) -> None:
    site.publish(images=document({NOBLE: product(NOBLE, [HOUR])}))
    opened = open_page()
    site.files[IMAGES] = site.files[IMAGES][:-20]
    opened.later()
    opened.page.locator("#pulse.bad").wait_for()
    assert "not JSON" in opened.page.get_by_role("alert").inner_text()
    assert opened.rows() == ["ubuntu noble"]


def test_one_broken_stream_does_not_hide_the_others(site: Site, open_page: PageOpener) -> None:
    daily = {"alpine:edge:amd64:default": product("alpine:edge:amd64:default", [HOUR], stream="images-daily")}
    site.publish(images=document({NOBLE: product(NOBLE, [HOUR])}), images_daily=document(daily))
    site.broken[IMAGES] = 500
    opened = open_page()
    assert opened.rows() == ["alpine edge"]
    assert "streams/v1/images.json" in opened.page.get_by_role("alert").inner_text()


def test_a_failing_server_is_polled_less_often(site: Site, open_page: PageOpener) -> None:
    site.broken[INDEX] = 503
    opened = open_page()
    for wait in (30, 60, 120, 240, 300, 300):
        opened.page.get_by_role("alert").get_by_text(f"The next try is in {wait} seconds").wait_for()
        del site.answers[:]
        opened.later(wait // 2)
        assert site.answers == [], wait
        with opened.page.expect_response(re.compile("index.json")):
            opened.later(wait // 2 + 1)


def test_the_api_link_opens_a_page_for_people(open_page: PageOpener) -> None:
    opened = open_page()
    opened.page.locator("#api").click()
    opened.page.wait_for_url("**/api.html")
    assert opened.page.locator("h1").inner_text() == "The upload API"
    assert "POST /uploads" in opened.page.locator("main").inner_text()
    assert opened.page.evaluate("getComputedStyle(document.querySelector('.api main')).maxWidth") != "none", "styled"
    assert opened.violations() == []


def test_without_javascript_the_page_explains_that_and_shows_how_to_add_the_server(browser: Any, site: Site) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(site.url)
    texts = page.locator("main, noscript").all_inner_texts()
    context.close()
    assert "This page needs JavaScript" in "".join(texts)
    assert "incus remote add my-images" in "".join(texts)


# Other servers --------------------------------------------------------------------------------------------------------


def test_a_mirrored_image_shows_its_server_and_the_time_of_the_last_comparison(
    site: Site, open_page: PageOpener
) -> None:
    mirrored = product(NOBLE, [HOUR, 2 * HOUR])
    for version in mirrored["versions"].values():
        version |= {"mirrored_from": "images.example.net", "upstream_signed_by": "ab" * 20}
    site.publish(images=document({NOBLE: mirrored}))
    compared = (NOW - timedelta(minutes=7)).isoformat()
    one = {"host": "images.example.net", "stream": "images", "compared": compared}
    site.files["/streams/mirrors.json"] = json.dumps({"format": "mirrors:1.0", "mirrors": [one]}).encode()
    opened = open_page(f"?product=images/{NOBLE}")
    about = opened.page.locator("#detail-body dl")
    about.get_by_text("7 minutes ago").wait_for()
    assert "images.example.net, compared 7 minutes ago" in about.inner_text()
    assert "ab" * 20 in about.inner_text()


def test_without_mirrors_the_page_does_not_request_their_status(site: Site, open_page: PageOpener) -> None:
    site.publish(images=document({NOBLE: product(NOBLE, [HOUR])}))
    opened = open_page(f"?product=images/{NOBLE}")
    assert "Comes from" not in opened.page.locator("#detail-body dl").inner_text()
    assert {path for path, _ in site.answers if "mirrors" in path} == set()


def test_a_mirrored_server_without_a_status_is_named_without_a_time(site: Site, open_page: PageOpener) -> None:
    mirrored = product(NOBLE, [HOUR])
    for version in mirrored["versions"].values():
        version["mirrored_from"] = "images.example.net"
    site.publish(images=document({NOBLE: mirrored}))
    opened = open_page(f"?product=images/{NOBLE}")
    assert "images.example.net" in opened.page.locator("#detail-body dl").inner_text()
    assert "compared" not in opened.page.locator("#detail-body dl").inner_text()
    assert opened.page.locator("#problems").inner_text() == ""
