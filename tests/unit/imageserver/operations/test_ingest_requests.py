"""How many requests to storage one changed version costs: the same for a catalog of any size, as the docs say."""

import re
from collections import Counter

import pytest

from imageserver.format.keys import parse_product, parse_version
from tests.support import PROJECT, images
from tests.support.memory_store import System

PAGE = (PROJECT / "infra/PERFORMANCE.md").read_text()
NEWEST = "20261123_10:00"


def catalog_of(products: int, versions: int) -> tuple[System, str]:
    """Return a published catalog with this many versions per product, one fewer in the middle one, and its path."""
    system = System()
    paths = [f"images/os{number:03d}/r/amd64/default" for number in range(products)]
    changed = paths[products // 2]
    for path in paths:
        for number in range(versions - (path == changed)):
            version = f"{path}/202611{number + 1:02d}_10:00"
            system.upload(version, images.split_image(seed=version))
            system.ingest(version)
    system.publish(*map(parse_product, paths))
    return system, changed


def calls(system: System) -> Counter[str]:
    """Return the storage calls since the last time, by method. The chunks of a body come from ranged GETs."""
    found = Counter(method for method, _ in system.store.log if method != "chunk")
    system.store.log.clear()
    return found


def upload_one_more(system: System, product: str) -> str:
    path = f"{product}/{NEWEST}"
    system.upload(path, {**images.split_image(seed=path), "disk.qcow2": images.qcow2(path)})
    calls(system)
    return path


@pytest.mark.parametrize("versions", [1, 6, 20])
@pytest.mark.parametrize("products", [2, 40])
def test_a_changed_version_costs_the_same_requests_for_any_size_of_catalog(products: int, versions: int) -> None:
    system, product = catalog_of(products, versions)
    path = upload_one_more(system, product)
    assert system.ingest(path).outcome == "recorded"
    # Each open is a HEAD; the ranged GETs of its body come on top, one for each part.
    first = int(versions == 1)  # of its product: no older record says since when it is published
    assert calls(system) == {"read": 4 - first, "list": 4, "create": 2, "delete": 1, "open": 3}
    assert system.ingest(path).outcome == "unchanged"
    assert calls(system) == {"read": 1, "list": 1}, "each further event"
    (done,) = system.publish(parse_version(path))
    assert done.writes == 2 + first  # the document and the feed of its stream, of a first version also the index
    expected = {"read": 5 + versions, "list": 6, "create": 1, "replace": 2 + first, "tag_listed": 3, "delete": 1}
    assert calls(system) == expected
    assert sum(expected.values()) == 18 + versions + first


def test_the_performance_page_states_these_numbers() -> None:
    (row,) = re.findall(r"^\| requests to storage.*$", PAGE, re.MULTILINE)
    assert row.count("32 + V + parts") == 3
    text = " ".join(PAGE.split())
    assert "14 by digest when all three files are already there (4 GET, 4 LIST, 3 HEAD, 2 PUT, 1 DELETE)" in text
    assert "18 + V by publish (5 + V GET, 6 LIST, 3 PUT, 3 PUT of a tag, 1 DELETE)" in text
