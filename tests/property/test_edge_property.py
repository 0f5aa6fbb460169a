"""The edge caches what it served for a year. Its content never differs from the catalog."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta

import pytest

from imageserver.errors import InvalidationRefused, StorageUnavailable
from imageserver.format import documents
from imageserver.format.keys import parse_product, parse_target
from imageserver.operations.prune import Rules, prune
from imageserver.operations.publish import publish
from imageserver.operations.runs import Run
from imageserver.operations.withdraw import restore, withdraw
from imageserver.versions.retention import Rule
from tests.support import images
from tests.support.memory_store import Sent, System

PRODUCT = parse_product("images/ubuntu/noble/amd64/default")
VERSIONS = [f"{PRODUCT.path}/2026112{day}_10:00" for day in (1, 2)]
FILES = ("lxd.tar.xz", "rootfs.squashfs")
RULES = Rules(Rule(versions=1), grace_hours=1, stale_days=1)
STEPS = 200


def no_pause(_: float) -> None:
    """Do not wait."""


@dataclass
class RandomRun:
    """Publishers and operators act; clients read anything below images* through an edge that caches it forever.

    The edge fails the share `refuses` of the invalidations.
    """

    rng: random.Random
    refuses: float = 0.0
    system: System = field(default_factory=System)
    edge: dict[str, str] = field(default_factory=dict)  # key -> sha256 of what it holds
    invalidated: int = 0
    refused: int = 0

    def invalidate(self, keys: Sequence[str]) -> None:
        if self.rng.random() < self.refuses:
            self.refused += 1
            raise self.rng.choice((StorageUnavailable, InvalidationRefused))("no")
        for key in keys:
            self.invalidated += self.edge.pop(key, "") != ""
        self.read()  # somebody asks again at once

    def read(self) -> None:
        for key, stored in self.system.store.objects.items():
            if key.startswith("images") and stored.is_tagged and self.rng.random() < 0.7:
                self.edge.setdefault(key, images.sha256_hex(stored.body))

    def act(self) -> None:
        path, file = self.rng.choice(VERSIONS), self.rng.choice(FILES)
        now, store = self.system.store.clock, self.system.store
        target = parse_target(self.rng.choice((path, f"{path}/{file}")))
        choice = self.rng.random()
        if choice < 0.5:
            for _ in range(self.rng.choice((1, 1, 2, 3))):
                store.put(f"{path}/{file}", self.content(file))
                self.read()
        elif choice < 0.6 and f"{path}/{file}" in store.objects:
            store.remove(f"{path}/{file}")
        elif choice < 0.7:
            withdraw(store, target, now, 1, no_pause)
        elif choice < 0.8:
            restore(store, target, no_pause)
        else:
            store.clock += timedelta(hours=self.rng.choice((0, 2, 30)))
            run = Run()
            prune(store, Sent(), RULES, store.clock, no_pause, run, self.invalidate)
            assert run.ended

    def content(self, file: str) -> bytes:
        """Return one of a few contents: earlier bytes often return, without having been read in between."""
        build = self.rng.choice("123")
        if self.rng.random() < 0.2:
            return f"nothing that clients know {build}".encode()
        return images.metadata_tarball(serial=build) if file == "lxd.tar.xz" else images.squashfs(build)

    def ingest(self) -> None:
        for version in VERSIONS:
            self.system.ingest(version)
            self.read()
        publish("images", [PRODUCT], replace(self.system.publish_services, invalidate=self.invalidate))

    def check(self) -> int:
        """Check that each cached file is the listed one; return how many there are."""
        held = 0
        for product in self.system.products_document().products.values():
            for version in documents.decode_versions(product).values():
                for item in version.items.values():
                    found = self.edge.get(item.path, item.sha256)
                    assert found == item.sha256, f"the edge holds other bytes than {item.path} is listed with"
                    held += item.path in self.edge
        return held


@pytest.mark.parametrize("refuses", [0.0, 0.5])
@pytest.mark.parametrize("seed", range(1, 11))
def test_the_edge_never_serves_old_bytes_under_a_new_digest(seed: int, refuses: float) -> None:
    random_run = RandomRun(random.Random(f"edge {seed}"), refuses)
    held = 0
    for _ in range(STEPS):
        random_run.act()
        random_run.read()
        random_run.ingest()
        held += random_run.check()
    assert min(held, random_run.invalidated) > 2, "nothing was tried"
    assert bool(random_run.refused) == bool(refuses)
