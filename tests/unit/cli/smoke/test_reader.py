"""The reader of the smoke test, compared with the rules of the clients."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from cli.smoke import reader
from tests.support import PROJECT
from tests.support import client_rules as clients

GOLDENS = PROJECT / "tests/unit/imageserver/catalog/goldens"


def test_the_reader_sees_what_the_clients_see() -> None:
    """Compared with the independent reader, which other tests compare with the real clients."""

    documents = {f"streams/v1/{file.name}": file.read_bytes() for file in GOLDENS.glob("*.json")}
    found = reader.read_catalog(lambda path: documents[path])
    assert found
    for client in reader.CLIENTS:
        theirs = clients.read_catalog(documents[reader.INDEX], documents, client)
        expected = {
            (
                one.fingerprint,
                frozenset((f.path, f.size_bytes, f.sha256) for r, f in one.files.items() if "delta" not in r),
            )
            for one in theirs
        }
        ours = [one for one in found if one.client == client]
        assert {(one.fingerprint, frozenset((i.path, i.size, i.sha256) for i in one.items)) for one in ours} == expected


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text.replace('"size":', '"size":"1","x":', 1),
        lambda text: text.replace('"aliases":"', '"aliases":[],"x":"', 1),
        lambda text: text[:-1],
    ],
)
def test_the_reader_fails_where_clients_fail(damage: Callable[[str], str]) -> None:
    golden = (GOLDENS / "images.json").read_text()
    with pytest.raises(reader.NotReadable, match=r"images\.json: no client can read it"):
        reader.read_products(damage(golden).encode(), "streams/v1/images.json")
