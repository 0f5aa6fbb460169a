"""The table of architectures against the names in the clients' own sources."""

from pathlib import Path

import pytest

from imageserver.format import architectures
from imageserver.format.keys import parse_product, parse_version
from imageserver.versions.assessment import new_record
from imageserver.versions.records import FileFacts

SOURCES = Path(__file__).parent / "client_sources"


def names_of(client: str) -> dict[str, str]:
    """Return every name that a client knows, with the kernel's name that it stands for."""
    lines = (SOURCES / f"{client}_architectures.txt").read_text().splitlines()
    rows = [line.split() for line in lines if not line.startswith("#")]
    return {name: kernel for kernel, *aliases in rows for name in (*aliases, kernel)}


LXD, INCUS = names_of("lxd"), names_of("incus")


def test_the_table_is_the_union_of_the_architectures_that_clients_know() -> None:
    assert {name: architectures.canonical(name) for name in architectures.KNOWN} == LXD | INCUS


def test_an_architecture_names_the_clients_that_do_not_know_it() -> None:
    for name in architectures.KNOWN:
        assert ("every LXD" in architectures.SKIPPED_BY.get(name, "")) == (name not in LXD), name
        assert ("every Incus" in architectures.SKIPPED_BY.get(name, "")) == (name not in INCUS), name


@pytest.mark.parametrize(
    ("name", "skipped"),
    [
        ("amd64v3", "every Incus, and LXD before 5.21.5 and 6.7, skip this product: they do not know"),
        ("x86_64_v1", "every LXD, and Incus before 6.0.6 and 6.18, skip this product"),
        ("x86_64_v4", "every LXD, and Incus before 6.0.6 and 6.18, skip this product"),
        ("loong64", "LXD before 5.0.3 skip this product"),
        ("mips64le", "LXD before 5.0.3 skip this product"),
        ("amd64", ""),
        ("riscv64", ""),
    ],
)
def test_a_version_names_the_clients_that_skip_its_architecture(name: str, skipped: str) -> None:
    version = parse_version(f"images/ubuntu/noble/{name}/default/20261123_1000")
    record = new_record(version, {"lxd.tar.xz": FileFacts(etag="e", size_bytes=1, modified="")}, None)
    warnings = [reason.sentence for reason in record.reasons if reason.kind == "warning"]
    assert [skipped in sentence for sentence in warnings] == ([True] if skipped else [])


@pytest.mark.parametrize("name", ["amd64v2", "x86_64_v5", "x86_64_v", "x86_64-v3", "AMD64V3"])
def test_a_name_unknown_to_every_client_is_not_an_architecture(name: str) -> None:
    assert architectures.canonical(name) is None


@pytest.mark.parametrize(
    ("name", "level"), [("amd64", 0), ("x86_64", 0), ("amd64v3", 3), ("x86_64_v2", 2), ("arm64", 0)]
)
def test_a_name_gives_its_instruction_set_level(name: str, level: int) -> None:
    assert architectures.level(name) == level


def test_the_baseline_keeps_the_alias_that_a_higher_level_asks_for_too() -> None:
    assert parse_product("images/ubuntu/noble/amd64v3/default").path_aliases[-1] == "ubuntu/noble"
