"""The adapter of the edge's store: how it reads and changes entries, and what errors mean."""

from __future__ import annotations

from typing import Any

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError, MissingDependencyException

from imageserver.aws.key_values import KeyValueStore
from imageserver.errors import CatalogBusy, StorageDenied, StorageUnavailable

ARN = "arn:aws:cloudfront::111122223333:key-value-store/x"


class Client:
    """A store with pages of two entries. Each change raises the next of `errors`."""

    def __init__(self, entries: dict[str, str], *errors: Exception) -> None:
        self.entries, self.errors = entries, list(errors)
        self.changes: list[dict[str, Any]] = []

    def describe_key_value_store(self, KvsARN: str) -> dict[str, str]:
        assert KvsARN == ARN
        return {"ETag": f"E{len(self.changes)}"}

    def list_keys(self, KvsARN: str, MaxResults: int, NextToken: str = "0") -> dict[str, Any]:
        assert (KvsARN, MaxResults) == (ARN, 50)
        start = int(NextToken)
        items = [{"Key": key, "Value": value} for key, value in sorted(self.entries.items())[start : start + 2]]
        return {"Items": items} | ({"NextToken": str(start + 2)} if start + 2 < len(self.entries) else {})

    def update_keys(self, KvsARN: str, IfMatch: str, **change: Any) -> dict[str, str]:
        assert KvsARN == ARN
        if self.errors:
            raise self.errors.pop(0)
        assert IfMatch == f"E{len(self.changes)}"
        self.changes.append(change)
        for entry in change.get("Deletes", ()):
            del self.entries[entry["Key"]]
        self.entries |= {entry["Key"]: entry["Value"] for entry in change.get("Puts", ())}
        return {"ETag": f"E{len(self.changes)}"}


def store(client: Client, pauses: list[float] | None = None) -> KeyValueStore:
    made: Any = client
    return KeyValueStore(made, ARN, (pauses if pauses is not None else []).append)


def refusal(code: str) -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": "no"}}, "UpdateKeys")


def test_all_pages_are_read() -> None:
    entries = {f"view:v{number}": str(number) for number in range(5)}
    assert store(Client(dict(entries))).read() == entries


def test_entries_that_are_already_right_are_not_changed() -> None:
    client = Client({"a": "1", "b": "2"})
    store(client).change({"a": "1"}, ["c"])
    assert client.changes == []


def test_a_change_is_one_call_and_deletes_come_before_puts() -> None:
    client = Client({"a": "1", "b": "2"})
    store(client).change({"a": "3", "c": "4"}, ["b", "gone"])
    assert client.changes == [
        {"Deletes": [{"Key": "b"}], "Puts": [{"Key": "a", "Value": "3"}, {"Key": "c", "Value": "4"}]}
    ]


def test_a_key_that_is_put_is_not_deleted_in_the_same_change() -> None:
    client = Client({"a": "1"})
    store(client).change({"a": "2"}, ["a"])
    assert client.entries == {"a": "2"}


def test_many_entries_are_changed_fifty_at_a_time_over_the_revision_of_the_call_before() -> None:
    client = Client({f"old{number}": "" for number in range(30)})
    store(client).change({f"new{number:03}": "x" for number in range(100)}, list(client.entries))
    assert [len(c.get("Puts", ())) + len(c.get("Deletes", ())) for c in client.changes] == [50, 50, 30]
    assert len(client.changes[0]["Deletes"]) == 30
    assert len(client.entries) == 100


def test_a_lost_race_restarts_from_fresh_reads() -> None:
    client, pauses = Client({"a": "1"}, refusal("ConflictException"), refusal("ConflictException")), list[float]()
    store(client, pauses).change({"a": "2"}, [])
    assert client.entries == {"a": "2"}
    assert pauses == [0.2, 0.4]


def test_a_change_gives_up_after_five_lost_races() -> None:
    client = Client({}, *[refusal("ConflictException")] * 5)
    with pytest.raises(CatalogBusy, match=r"5 times another change .* try again"):
        store(client).change({"a": "2"}, [])
    assert client.changes == []


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (refusal("AccessDeniedException"), StorageDenied, "needs cloudfront-keyvaluestore:DescribeKeyValueStore"),
        (refusal("ResourceNotFoundException"), StorageDenied, ARN),
        (refusal("InternalServerException"), StorageUnavailable, "did not answer"),
        (EndpointConnectionError(endpoint_url="https://x"), StorageUnavailable, "did not answer"),
        (MissingDependencyException(msg="x"), StorageDenied, "pip install awscrt"),
    ],
)
def test_an_error_names_who_can_act(error: Exception, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        store(Client({}, error)).change({"a": "1"}, [])


@pytest.mark.parametrize(
    ("key", "value"), [("k" * 513, ""), ("k", "v" * 1025), ("\u00e4" * 257, ""), ("k", "\u00e4" * 513)]
)
def test_entries_that_the_store_cannot_hold_are_refused_before_anything_changes(key: str, value: str) -> None:
    client = Client({"old": "1"})
    with pytest.raises(ValueError, match="takes 512 and 1,024"):
        store(client).change({key: value}, ["old"])
    assert client.entries == {"old": "1"}


def test_entries_at_the_limits_of_the_store_are_accepted() -> None:
    client = Client({})
    store(client).change({"k" * 512: "v" * 1024}, [])
    assert client.entries == {"k" * 512: "v" * 1024}
