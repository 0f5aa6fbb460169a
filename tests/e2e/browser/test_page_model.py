"""The page's pure functions, each called in the browser through its module."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from page.build import SOURCE
from tests.support.browser.site_server import Site

if TYPE_CHECKING:
    from playwright.sync_api import Browser

CALL = "async ([module, name, values]) => (await import(`/source/${module}.js`))[name](...values)"


@pytest.fixture
def call(browser: "Browser", site: Site) -> Iterator[Callable[..., Any]]:
    """Yield a function call("module", "function", *arguments), which returns the result as JSON."""
    site.files |= {f"/source/{file.name}": file.read_bytes() for file in SOURCE.glob("*.js")}
    site.files["/blank.html"] = b"<!doctype html><title>blank</title>"
    page = browser.new_page()
    page.goto(f"{site.url}blank.html")
    yield lambda module, name, *values: page.evaluate(CALL, [module, name, values])
    page.close()


@pytest.mark.parametrize(
    ("name", "milliseconds"),
    [
        ("20261123_10:05", 1_795_428_300_000),
        ("20261123_1005", 1_795_428_300_000),
        ("202611231005", 1_795_428_300_000),
        ("20261123", 1_795_392_000_000),
        ("20240229", 1_709_164_800_000),
        ("20261123.1", 1_795_392_000_000),
        ("20261123.12", 1_795_392_000_000),
        ("20261123.", None),
        ("20261123_1005.1", None),
        ("20230229", None),
        ("20261301", None),
        ("20261123_24:00", None),
        ("20261123_10:60", None),
        ("2026112", None),
        ("20261123-10:05", None),
        ("v20261123", None),
        ("", None),
    ],
)
def test_a_version_name_is_a_moment_or_nothing(call: Callable[..., Any], name: str, milliseconds: int | None) -> None:
    assert call("model", "versionTime", name) == milliseconds


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (10_239, "10 KiB"), (3 * 1024**2, "3.0 MiB"), (2**40, "1.0 TiB")],
)
def test_sizes_are_in_binary_units(call: Callable[..., Any], size_bytes: int, text: str) -> None:
    assert call("model", "size", size_bytes) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(20, "just now"), (60, "1 minute ago"), (7199, "1 hour ago"), (86_400, "1 day ago"), (-172_800, "in 2 days")],
)
def test_ages_are_rounded_down(call: Callable[..., Any], seconds: int, text: str) -> None:
    assert call("model", "age", 1_000_000_000_000, 1_000_000_000_000 + seconds * 1000) == text


@pytest.mark.parametrize(
    ("path", "address"),
    [
        ("images/a/20261123_10:05/x.img", "https://h/images/a/20261123_10:05/x.img"),
        ("//evil.example/x", "https://h/evil.example/x"),
        ("../../secret", "https://h/secret"),
        ("javascript:alert(1)", "https://h/javascript:alert(1)"),
        ("a?b#c%2f\\d", "https://h/a%3Fb%23c%252f%5Cd"),
        ("https://evil.example/", "https://h/https:/evil.example"),
    ],
)
def test_an_address_is_below_that_of_the_page(call: Callable[..., Any], path: str, address: str) -> None:
    assert call("catalog", "address", "https://h/", path) == address


@pytest.mark.parametrize(
    ("hostname", "name"),
    [
        ("d111abc.cloudfront.net", "d111abc"),
        ("images.example.net", "example"),
        ("www.images.example.net", "example"),
        ("localhost", "my-images"),
        ("192.0.2.7", "my-images"),
    ],
)
def test_a_remote_is_named_after_the_server_but_never_like_a_built_in_one(
    call: Callable[..., Any], hostname: str, name: str
) -> None:
    assert call("commands", "remoteName", hostname) == name


@pytest.mark.parametrize(
    "search",
    [
        "",
        "?q=a+b",
        "?os=Debian&arch=arm64",
        "?sort=-image",
        "?stale=90",
        "?product=images/a:b:c:d",
        "?state=eol&q=x%26y",
    ],
)
def test_a_query_survives_the_address_bar(call: Callable[..., Any], search: str) -> None:
    written = call("query", "formatQuery", call("query", "parseQuery", search))
    assert call("query", "parseQuery", written) == call("query", "parseQuery", search)
    assert len(written) == len(search)


@pytest.mark.parametrize("search", ["?sort=constructor", "?sort=--image", "?stale=-1", "?stale=x", "?unknown=1"])
def test_nonsense_in_the_address_bar_reads_as_the_default(call: Callable[..., Any], search: str) -> None:
    assert call("query", "parseQuery", search) == call("query", "parseQuery", "")


def test_the_holder_of_a_name_learns_of_claims_from_every_stream(call: Callable[..., Any]) -> None:
    products: list[dict[str, Any]] = [
        {"key": f"{stream}/a:1:amd64:default", "stream": stream, "name": "a:1:amd64:default", "shared": [], "raw": raw}
        for stream, raw in (
            ("images", [{}, []]),
            ("images-x", [{}, [{"alias": "a/1", "held_by": "images:a:1:amd64:default"}, {"held_by": 7}]]),
        )
    ]
    holder, other = call("model", "share", products)
    assert holder["shared"] == [{"what": "a/1", "why": "images-x:a:1:amd64:default also claims this alias"}]
    assert other["shared"] == []
