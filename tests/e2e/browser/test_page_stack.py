"""The page on the real local stack: served with its headers, showing a real upload from the real catalog."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from page.build import ARTEFACT
from tests.e2e.browser.conftest import PageOpener
from tests.support.images import split_image

if TYPE_CHECKING:
    from tests.support.stack import Stack

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("lxd")]

PREFIX = "images/alpine/page/amd64/default/20261123_10:00/"
PRODUCT = "alpine:page:amd64:default"
# The page refreshes every 30 s. The rest is time for a busy machine to digest and publish.
REFRESH_MS = 90_000


def written(folder: Path, files: Mapping[str, bytes]) -> dict[str, Path]:
    for name, body in files.items():
        (folder / name).write_bytes(body)
    return {name: folder / name for name in files}


def test_the_stack_serves_this_page(stack: "Stack") -> None:
    stack.wait_until(lambda: stack.get("")[0] == 200, "the page at /")
    page = ARTEFACT.read_text().replace("https://…", stack.base_url.removesuffix("/"))
    assert f"incus remote add my-images {stack.base_url.removesuffix('/')} --protocol=simplestreams" in page
    assert stack.get("")[1] == page.encode()
    assert stack.get("index.html")[1] == page.encode()


def test_an_upload_goes_from_incomplete_to_healthy_without_a_reload(
    stack: "Stack", open_page: PageOpener, tmp_path: Path
) -> None:
    files = written(tmp_path, split_image(seed="page"))
    metadata, root = files.items()
    stack.wait_until(lambda: stack.get("")[0] == 200, "the page at /")
    stack.upload(PREFIX, dict([metadata]))
    stack.wait_until(
        lambda: PRODUCT.encode() in stack.get("streams/v1/images.unlisted.json")[1], "the first file noticed"
    )
    opened = open_page("?q=page", url=f"{stack.base_url}/", clock=False, ignore_https_errors=True)
    state = opened.page.locator(f'#rows tr[data-key="images/{PRODUCT}"] td.state')
    state.get_by_text("Incomplete").wait_for()
    opened.page.evaluate("window.sameDocument = true")
    stack.upload(PREFIX, dict([root]))
    state.get_by_text("Healthy").wait_for(timeout=REFRESH_MS)
    assert opened.page.evaluate("window.sameDocument")
    assert opened.violations() == []
    assert opened.errors == []
    fingerprint = hashlib.sha256(b"".join(file.read_bytes() for file in files.values())).hexdigest()
    opened.page.get_by_role("link", name="alpine page").click()
    assert fingerprint in opened.page.locator("#detail").inner_text()
    origin = stack.base_url.removesuffix("/")
    assert (
        f"incus remote add my-images {origin} --protocol=simplestreams"
        in opened.page.locator("#remote-add").inner_text()
    )


def test_every_link_of_a_product_leads_to_the_bytes_it_names(
    stack: "Stack", open_page: PageOpener, tmp_path: Path
) -> None:
    prefix = PREFIX.replace("/page/", "/links/")
    stack.wait_until(lambda: stack.get("")[0] == 200, "the page at /")
    stack.upload(prefix, written(tmp_path, split_image(seed="links")))
    stack.wait_until(lambda: "alpine:links:amd64:default" in listed(stack), "the product listed")
    opened = open_page(
        "?product=images/alpine:links:amd64:default", url=f"{stack.base_url}/", clock=False, ignore_https_errors=True
    )
    entries = opened.page.locator("#detail .files li")
    assert entries.count() == 2
    for entry in entries.all():
        path = (entry.locator("a").get_attribute("href") or "").removeprefix(f"{stack.base_url}/")
        status, body = stack.get(path)
        assert (status, hashlib.sha256(body).hexdigest()) == (200, entry.locator(".digest").inner_text())


def listed(stack: "Stack") -> list[str]:
    status, index = stack.get("streams/v1/index.json")
    entries = json.loads(index)["index"] if status == 200 else {}
    return [product for entry in entries.values() for product in entry["products"]]
