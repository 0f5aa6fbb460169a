"""Which names a product may have: those of its path, and others within its rights."""

from __future__ import annotations

import json

import pytest

from imageserver.api import status
from imageserver.catalog.rights import Rights
from imageserver.format.keys import parse_version
from imageserver.storage.document_cache import DocumentCache
from tests.support import images
from tests.support.memory_store import System

TEAM = "images/team-a/tools/amd64/default"
UBUNTU = "images/ubuntu/noble/amd64/default"
VERSION = "20261123_1000"
OPERATOR = {"operator": ["*"]}
TEAM_A = {"a": ["images/team-a/"]}
TEAMS = OPERATOR | TEAM_A | {"ubuntu": ["images/ubuntu/"]}


def upload(system: System, product: str, aliases: list[str], version: str = VERSION) -> None:
    files = images.split_image(seed=product) | {"metadata.json": json.dumps({"aliases": aliases}).encode()}
    system.upload(f"{product}/{version}", files)
    system.catch_up()


def aliases_of(system: System, product: str) -> list[str]:
    stream, _, name = product.partition("/")
    return system.products_document(stream).products[name.replace("/", ":")].aliases.split(",")


@pytest.mark.parametrize(
    ("publishers", "product", "alias", "allowed"),
    [
        ({}, TEAM, "ubuntu/lts", True),  # only the operator can write
        (OPERATOR, TEAM, "ubuntu/lts", True),
        ({"ubuntu": ["images/ubuntu/"]}, TEAM, "ubuntu/lts", True),  # only the operator can write there
        (TEAMS, TEAM, "team-a/latest", True),
        (TEAMS, TEAM, "team-a", True),
        (TEAMS, TEAM, "ubuntu/lts", False),  # the operator's rights do not help team a
        (TEAMS, TEAM, "team-a-b/latest", False),
        (TEAMS, TEAM, "lts", False),
        (TEAMS, UBUNTU, "ubuntu/24.04", True),
        ({"a": ["images/ubuntu/noble"]}, UBUNTU, "ubuntu/24.04", False),
        ({"a": ["images/ubuntu/noble", "alias:ubuntu/24.04"]}, UBUNTU, "ubuntu/24.04", True),
        ({"a": ["images/ubuntu/noble", "alias:ubuntu/*"]}, UBUNTU, "ubuntu/lts", True),
        ({"a": ["images/ubuntu/noble", "alias:lts"]}, UBUNTU, "lts", True),
        ({"a": ["images/ubuntu/noble", "alias:lts"], "b": ["images/ubuntu/"]}, UBUNTU, "lts", False),
        ({"a": ["alias:ubuntu/lts"], **TEAMS}, TEAM, "ubuntu/lts", False),  # a grant to another
        ({"a": ["images-x/"]}, "images-x/a/b/amd64/default", "a/c", True),
        ({"a": ["images-x/a"]}, "images-x/a/b/amd64/default", "ubuntu/lts", False),
        (TEAM_A, "images/team-a/current/amd64/default", "team-a", True),
        ({"a": ["images/ubuntu/current"]}, "images/ubuntu/current/amd64/default", "ubuntu", False),
    ],
)
def test_a_product_has_an_alias_if_each_of_its_publishers_may_write_there_or_was_granted_it(
    publishers: dict[str, list[str]], product: str, alias: str, allowed: bool
) -> None:
    system = System(rights=Rights.parse(json.dumps(publishers)))
    upload(system, product, [alias])
    assert (alias in aliases_of(system, product)) is allowed
    found = status.look(system.store, DocumentCache(system.store), parse_version(f"{product}/{VERSION}"))
    assert found
    assert found.status == "listed"
    reasons = [r for r in found.reasons if f'ask the operator to add "alias:{alias}"' in r.sentence]
    assert bool(reasons) is not allowed


def test_a_refused_alias_is_an_error_of_the_version_that_asks_for_it() -> None:
    system = System(rights=Rights.parse(json.dumps(TEAMS)))
    upload(system, TEAM, ["ubuntu/lts"])
    found = status.look(system.store, DocumentCache(system.store), parse_version(f"{TEAM}/{VERSION}"))
    assert found
    assert [r.kind for r in found.reasons] == ["error"]


@pytest.mark.parametrize("alias", ["0123456789ab", "f" * 64, "abcdef", "ABCDEF012345", "202611231000"])
def test_an_alias_that_clients_would_read_as_a_fingerprint_is_refused(alias: str) -> None:
    system = System()
    upload(system, UBUNTU, [alias])
    assert alias not in aliases_of(system, UBUNTU)
    found = status.look(system.store, DocumentCache(system.store), parse_version(f"{UBUNTU}/{VERSION}"))
    assert found
    assert any(f"the alias {alias} is" in reason.sentence for reason in found.reasons)


def test_no_alias_from_a_path_looks_like_a_fingerprint() -> None:
    """A release named `current` has its os as an alias."""
    system = System()
    upload(system, "images/deadbeefcafe/current/amd64/default", [])
    assert "deadbeefcafe" not in aliases_of(system, "images/deadbeefcafe/current/amd64/default")


@pytest.mark.parametrize("rule", [TEAMS, {}])
def test_folding_another_product_neither_grants_nor_forgets_a_refused_alias(rule: dict[str, list[str]]) -> None:
    system = System(rights=Rights.parse(json.dumps(rule)))
    upload(system, TEAM, ["ubuntu/lts"])
    before = system.products_document()
    upload(system, UBUNTU, [])
    system.publish(parse_version(f"{UBUNTU}/{VERSION}").product)
    after = system.products_document()
    name = "team-a:tools:amd64:default"
    assert (after.products[name], after.withheld.get(name)) == (before.products[name], before.withheld.get(name))


def test_a_new_grant_counts_when_the_product_is_folded_again() -> None:
    system = System(rights=Rights.parse(json.dumps(TEAMS)))
    upload(system, TEAM, ["ubuntu/lts"])
    assert "ubuntu/lts" not in aliases_of(system, TEAM)
    system.rights = Rights.parse(json.dumps(TEAMS | {"a": ["images/team-a/", "alias:ubuntu/lts"]}))
    system.catch_up()
    assert "ubuntu/lts" in aliases_of(system, TEAM)
    assert system.products_document().withheld == {}


@pytest.mark.parametrize("first", [TEAM, "images/ubuntu/lts/amd64/default"])
def test_the_name_of_a_path_belongs_to_its_product_even_if_that_comes_later(first: str) -> None:
    system = System()
    for product in sorted([TEAM, "images/ubuntu/lts/amd64/default"], key=lambda product: product != first):
        upload(system, product, ["ubuntu/lts"])
    assert "ubuntu/lts" not in aliases_of(system, TEAM)
    assert "ubuntu/lts" in aliases_of(system, "images/ubuntu/lts/amd64/default")
