"""The two forms of a message, and texts that are neither."""

from __future__ import annotations

import json

import pytest

from imageserver.aws import events
from imageserver.errors import InvalidUpload
from imageserver.format.keys import parse_product, parse_version, product_of_records, version_of
from tests.support.messages import s3_event

PRODUCT = parse_product("images/ubuntu/noble/amd64/default")
VERSION = parse_version(f"{PRODUCT.path}/20261123_10:00")


def test_a_message_of_s3_names_the_key_as_it_was_uploaded() -> None:
    key = f"{VERSION.prefix}a b+c.tar.xz"
    assert events.keys(s3_event(key)) == [key]


def test_a_message_of_this_server_names_a_version_or_a_product() -> None:
    (folder,), (records,) = (events.keys(events.changed(p)) for p in (VERSION.prefix, PRODUCT.records_prefix))
    assert version_of(folder) == VERSION
    assert product_of_records(records) == PRODUCT


def test_a_record_and_the_prefix_of_its_product_name_the_same_product() -> None:
    assert product_of_records(VERSION.record_key) == product_of_records(PRODUCT.records_prefix) == PRODUCT


@pytest.mark.parametrize("key", ["versions/", "versions/images/", f"{PRODUCT.path}/", "versions/images/ubuntu/README"])
def test_a_key_outside_every_product_is_refused(key: str) -> None:
    with pytest.raises(InvalidUpload):
        product_of_records(key)


def test_the_test_event_of_s3_and_an_empty_message_are_about_nothing() -> None:
    assert events.keys('{"Service": "Amazon S3", "Event": "s3:TestEvent"}') == []
    assert events.keys('{"Records": []}') == []


@pytest.mark.parametrize(
    "message",
    [
        {"changed": "versions/images/ubuntu/noble/amd64/default"},  # a prefix ends with a slash
        {"changed": "streams/v1/"},
        {"changed": ""},
        {"changed": "versions/images/\n"},
        {"changed": ["versions/images/ubuntu/noble/amd64/default/"]},
        {"changed": None},
        {"changed": "images/a/", "why": "a field that no release knows"},
        {"changed": "images/a/", "Records": []},
        {"changes": "images/a/"},
        {},
        {"Records": [{"s3": {}}]},
        [],
        None,
    ],
)
def test_any_other_message_is_unreadable(message: object) -> None:
    with pytest.raises(events.UnreadableEvent, match=r"expected an S3 event notification or \{.changed.*found"):
        events.keys(json.dumps(message))


@pytest.mark.parametrize("body", ["no event", "[" * 100_000, '{"Records":' * 100_000], ids=["text", "list", "object"])
def test_a_message_that_is_not_json_is_unreadable(body: str) -> None:
    with pytest.raises(events.UnreadableEvent):
        events.keys(body)
