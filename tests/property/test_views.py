"""Whatever happens in any order, a view shows only what it selects: its catalog is a pure function."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
from collections.abc import Iterator
from datetime import datetime, timedelta
from functools import partial
from random import Random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from imageserver.errors import InvalidView
from imageserver.format.keys import parse_version
from imageserver.operations.promotion import promote, shown_by_channels, take_back
from imageserver.operations.prune import Rules, prune
from imageserver.operations.runs import Run
from imageserver.operations.view_documents import change_view, configured
from imageserver.operations.withdraw import restore, withdraw
from imageserver.versions.retention import Rule
from imageserver.views.channels import expired
from tests.support import images
from tests.support.memory_store import Sent, System
from tests.support.views import channel, private, system, view

PUBLIC, PRIVATE = "images", "images-hidden"
PRODUCTS = ("ubuntu/noble/amd64/default", "debian/trixie/amd64/default")
DAYS = ("20261121", "20261122", "20261123")
PATHS = [f"{stream}/{product}/{day}" for stream in (PUBLIC, PRIVATE) for product in PRODUCTS for day in DAYS]
HOUR_S = 3600
KEEP_ONE = Rules(Rule(versions=1), 24, 7)
VIEWS = (
    private("hidden", (PRIVATE,)),
    channel("stable", (PUBLIC,)),
    channel("tested", (PRIVATE,)),
    view("incus", (PUBLIC,), clients="incus"),
    channel("fresh", (PUBLIC,), follows_newest=True, expire_after_s=HOUR_S),
    view("ubuntu", (PUBLIC, PRIVATE), only=("ubuntu",), is_private=True),
)
CHANNELS = ["stable", "tested", "fresh"]
NAMES = [one.name for one in VIEWS]
FILES = {seed: images.split_image(seed=seed) for seed in ("a", "b", "c")}
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("upload"), st.sampled_from(PATHS), st.sampled_from(sorted(FILES))),
        st.tuples(st.sampled_from(["withdraw", "restore", "publish"]), st.sampled_from(PATHS), st.just("")),
        st.tuples(st.sampled_from(["promote", "back"]), st.sampled_from(PATHS), st.sampled_from(CHANNELS)),
        st.tuples(st.sampled_from(["wait", "expire"]), st.sampled_from(PATHS), st.just("fresh")),
    ),
    max_size=25,
)


def pause(_seconds: float) -> None:
    """Do not wait."""


def retain(server: System) -> None:
    """Keep one version of each product, and check that each channel still has its version."""
    views = configured(server.store)
    before = [shown_by_channels(server.store, views.values(), product) for product in server.products()]
    run = Run()
    prune(server.store, Sent(), KEEP_ONE, server.store.clock, pause, run, views=lambda: configured(server.store))
    run.check()
    after = [shown_by_channels(server.store, views.values(), product) for product in server.products()]
    assert after == before, "retention moved a channel"


def happen(server: System, what: str, path: str, about: str) -> None:
    store, version = server.store, parse_version(path)
    match what:
        case "upload" if f"{path}/rootfs.squashfs" not in store.objects:
            server.upload(path, FILES[about])
            server.ingest(path)
        case "withdraw":
            withdraw(store, version, store.clock, 24, pause)
        case "restore":
            restore(store, version, pause)
        case "publish":
            server.publish(version)
        case "wait":
            store.clock += timedelta(minutes=30)
        case "retain":
            retain(server)
        case "expire":
            change_view(store, about, partial(expired, now=store.clock), pause)
        case "promote" | "back":
            try:
                if what == "promote":
                    promote(store, about, version, store.clock, "ann", pause)
                else:
                    take_back(store, about, version.product, store.clock, "ann", pause)
            except InvalidView:
                return


def served(server: System) -> dict[str, bytes]:
    """Return the documents with content: a rebuild makes no empty one and no feed without an entry."""
    empty = (b'"products":{}', b"<updated>1970-01-01T00:00:00Z</updated>", b'"index":{}')
    return {
        key: found.body
        for key, found in server.store.objects.items()
        if key.startswith(("streams/", "views/")) and not any(nothing in found.body for nothing in empty)
    }


def items(key: str, body: bytes) -> Iterator[tuple[str, str]]:
    """Yield version and path of each item of a products document, read as JSON; nothing for another document."""
    products = json.loads(body)["products"] if re.search(r"/images[a-z-]*[.]json$", key) else {}
    for product in products.values():
        for name, version in product["versions"].items():
            yield from ((name, item["path"]) for item in version["items"].values())


def documents_of_views(server: System) -> dict[str, Any]:
    return {name: json.loads(server.store.objects[f"private/views/{name}.json"].body) for name in NAMES}


def uploaded(server: System, version: str) -> list[str]:
    record = json.loads(server.store.objects[f"versions/{version}.json"].body)
    return [facts["modified"] for facts in record["files"].values()]


def check_selection(server: System, after: dict[str, bytes]) -> None:
    """Compare the served documents with only the documents of the views."""
    for key, body in after.items():
        if key.startswith("streams/"):
            assert PRIVATE in key or PRIVATE.encode() not in body, f"{key} tells of a private stream"
            continue
        name = key.split("/")[1]
        document = documents_of_views(server)[name]
        assert document.get("clients") != "incus" or b'lxd.tar.xz":' not in body, f"{key} has items for LXD"
        secret = base64.urlsafe_b64decode(document["secret"] + "=")
        for version, path in items(key, body):
            signed, mac, file = path.split("/", 2)
            expected = hmac.new(secret, f"{name}\n{file}".encode(), hashlib.sha256).digest()
            assert (signed, mac) == ("signed", base64.urlsafe_b64encode(expected).decode()[:22])
            assert file.split("/")[0] in document["streams"], f"{key} shows {file} of another stream"
            assert "only" not in document or file.split("/")[1] == "ubuntu", (
                f"{key} shows {file}, which no filter takes"
            )
            if "channel" in document:
                product = "/".join(file.split("/")[:5])
                promotions = document["channel"].get(product, ())
                if "follows_newest" in document:
                    last = {one["version"]: one for one in promotions}.get(version, {})
                    assert "back_at" not in last, f"{key} shows {file}, which was taken back"
                    since = last.get("at") or max(uploaded(server, file.rpartition("/")[0]))
                    leaves = datetime.fromisoformat(since) + timedelta(seconds=HOUR_S)
                    over = document.get("expired_at")
                    assert not over or leaves > datetime.fromisoformat(over), f"{key} shows {file}, which has left"
                else:
                    standing = [one["version"] for one in promotions if "back_at" not in one]
                    assert version in standing, f"{key} shows {file}, which was not promoted"


@settings(max_examples=60, deadline=None)
@given(steps=STEPS, seed=st.randoms(use_true_random=False))
def test_the_catalogs_of_views_are_a_pure_function_of_records_and_selections(steps: list[Any], seed: Random) -> None:
    server = system(*VIEWS)
    for step in steps:
        happen(server, *step)
    server.publish(*server.products())
    after = served(server)
    check_selection(server, after)
    for key in [key for key in server.store.objects if key.startswith(("streams/", "views/"))]:
        server.store.remove(key)
    products = server.products()
    seed.shuffle(products)
    for product in products:
        server.publish(product)
    server.publish(*products)
    assert served(server) == after


CHANGES = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["promote", "back"]), st.sampled_from(PATHS), st.sampled_from(CHANNELS)),
        st.tuples(st.sampled_from(["withdraw", "restore"]), st.sampled_from(PATHS), st.just("")),
        st.tuples(st.sampled_from(["wait", "expire", "retain"]), st.just(PATHS[0]), st.just("fresh")),
    ),
    max_size=15,
)


@settings(max_examples=40, deadline=None)
@given(changes=CHANGES)
def test_retention_moves_no_channel(changes: list[Any]) -> None:
    server = system(*VIEWS)
    for number, path in enumerate(PATHS):
        server.upload(path, images.split_image(seed=str(number)))
    server.catch_up()
    for change in (*changes, ("retain", PATHS[0], "")):
        happen(server, *change)
        server.publish(*server.products())


def test_the_views_of_this_test_are_not_empty() -> None:
    """Otherwise the tests above would prove nothing."""
    server = system(*VIEWS)
    for path in PATHS:
        happen(server, "upload", path, "a" if PUBLIC + "/" in path else "b")
    for to, stream in (("stable", PUBLIC), ("tested", PRIVATE)):
        happen(server, "promote", f"{stream}/{PRODUCTS[0]}/{DAYS[1]}", to)
    server.publish(*server.products())
    shown = {key for key, body in served(server).items() if key.startswith("views/") and list(items(key, body))}
    assert shown == {
        "views/fresh/streams/v1/images.json",
        "views/hidden/streams/v1/images-hidden.json",
        "views/incus/streams/v1/images.json",
        "views/stable/streams/v1/images.json",
        "views/tested/streams/v1/images-hidden.json",
        "views/ubuntu/streams/v1/images-hidden.json",
        "views/ubuntu/streams/v1/images.json",
    }
