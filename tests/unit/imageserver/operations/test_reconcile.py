"""What reconcile finds and sends: it compares the bucket with the records, and the records with the catalog."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest

from imageserver.format import documents
from imageserver.operations.reconcile import ReconcileServices, reconcile
from imageserver.operations.runs import Run, remember
from imageserver.operations.withdraw import withdraw
from imageserver.site.layout import API_KEY, PAGES, lay_out
from tests.support import images
from tests.support.maintained import DAYS, ID, NOW, PRODUCT, five_versions, no_pause, tidy
from tests.support.memory_store import START, MemoryStore, Sent, System


@pytest.fixture
def system() -> System:
    return five_versions()


def reconciled(store: MemoryStore, dry_run: bool = False) -> tuple[Sent, Run]:
    sent, run = Sent(), Run(dry_run=dry_run)
    reconcile(ReconcileServices(store, sent, ("incus", "lxd")), run)
    return sent, run


def test_reconcile_changes_nothing_on_a_consistent_server(system: System) -> None:
    assert reconciled(system.store) == (Sent(), Run(ended=True, looked_at=6))


def test_reconcile_republishes_a_product_whose_listed_file_is_not_marked_as_served(system: System) -> None:
    root = f"{PRODUCT}/20261105/rootfs.squashfs"
    system.store.put(root, system.store.objects[root].body)  # the same bytes, and digest's event is lost on its way
    system.ingest(f"{PRODUCT}/20261105")
    uploaded = system.store.objects[root].modified
    for since, expected in ((uploaded + timedelta(seconds=1), []), (uploaded, [ID]), (None, [])):
        sent, run = Sent(), Run()
        reconcile(ReconcileServices(system.store, sent, ("incus", "lxd"), tagged_since=since), run)
        assert sent.products == expected
        assert [task.why for task in run.tasks] == [f"the edge may not serve {root}, which is listed"] * len(expected)
    system.publish(ID)
    sent = Sent()
    reconcile(ReconcileServices(system.store, sent, ("incus", "lxd"), tagged_since=START), Run())
    assert sent == Sent()


def test_reconcile_gives_an_empty_server_an_index_and_a_page() -> None:
    store = MemoryStore()
    sent, run = reconciled(store)
    lay_out(store, run)
    assert (sent, [task.path for task in run.tasks]) == (Sent(), [documents.INDEX_KEY, *PAGES, API_KEY])
    assert store.objects[documents.INDEX_KEY].body == b'{"format":"index:1.0","index":{}}'
    again = Run()
    lay_out(store, again)
    assert again.tasks == []


def test_two_concurrent_first_reconciles_lay_out_one_server() -> None:
    """After a first deployment both the deployment's event and the schedule start a run."""
    store = MemoryStore()

    def once(method: str, key: str) -> None:
        if method == "create":
            store.on = lambda *_: None
            lay_out(store, Run())
            reconciled(store)

    store.on = once
    lay_out(store, Run())
    store.on = once
    _, run = reconciled(store)
    remember(store, "reconcile", run)
    assert sorted(store.objects) == [
        "api.html",
        "index.html",
        "maintain/reconcile.json",
        "openapi.json",
        documents.INDEX_KEY,
    ]
    assert store.objects[documents.INDEX_KEY].body == b'{"format":"index:1.0","index":{}}'


def test_a_file_in_a_deeper_folder_is_part_of_its_version(system: System) -> None:
    path = f"{PRODUCT}/20261101"
    system.store.put(f"{path}/logs/build.log", b"x")
    assert reconciled(system.store)[0].paths == [path]
    system.ingest(path)
    assert reconciled(system.store)[0].paths == []


def test_a_product_is_withdrawn_despite_foreign_objects_among_its_records(system: System) -> None:
    system.store.put(f"versions/{PRODUCT}/README", b"somebody's")
    done = withdraw(system.store, ID, NOW, 1, no_pause)
    assert [path.rpartition("/")[2] for path in done.versions] == DAYS


def test_reconcile_resends_whatever_events_missed(system: System) -> None:
    new, changed, emptied, unrecorded = (f"{PRODUCT}/{day}" for day in ("20261122", *DAYS[:3]))
    system.upload(new, images.split_image(seed="new"))
    system.store.put(f"{changed}/rootfs.squashfs", images.squashfs("other"))
    for file in ("lxd.tar.xz", "rootfs.squashfs"):
        system.store.remove(f"{emptied}/{file}")
    system.store.remove(f"versions/{unrecorded}.json")
    sent, _ = reconciled(system.store)
    assert sent.paths == [changed, emptied, unrecorded, new]


def test_a_dry_reconcile_sends_nothing(system: System) -> None:
    system.upload(f"{PRODUCT}/20261122", images.split_image(seed="new"))
    sent, run = reconciled(system.store, dry_run=True)
    assert (sent, len(run.tasks)) == (Sent(), 1)


@pytest.mark.parametrize("damage", ["deleted", "of long ago", "without the product", "index deleted", "index emptied"])
def test_reconcile_renders_a_catalog_that_disagrees_with_its_records(system: System, damage: str) -> None:
    good = system.streams()
    key = documents.products_key("images")
    if damage == "deleted":
        system.store.remove(key)
    elif damage == "index deleted":
        system.store.remove(documents.INDEX_KEY)
    elif damage == "index emptied":
        system.store.put(documents.INDEX_KEY, b'{"format":"index:1.0","index":{}}')
    else:
        document = json.loads(good[key])
        versions = document["products"][ID.name]["versions"]
        versions.pop("20261120")
        if damage == "without the product":
            document["products"] = {}
        system.store.put(key, json.dumps(document).encode())
    sent, _ = reconciled(system.store)
    assert (sent.versions, sent.products) == ([], [ID])
    system.publish(*sent.products)
    assert system.streams() == good


@pytest.mark.parametrize("has_records", [True, False])
def test_reconcile_sends_a_message_and_writes_no_record(system: System, has_records: bool) -> None:
    if has_records:
        system.store.remove(documents.products_key("images"))
    else:
        for key in [key for key in system.store.objects if not key.startswith("streams/")]:
            system.store.remove(key)
    before = dict(system.store.objects)
    system.store.log.clear()
    sent, _ = reconciled(system.store)
    assert sent.products == [ID]
    assert {method for method, _ in system.store.log} <= {"read", "list"}, "a write is a new generation of an object"
    assert system.store.objects == before
    system.publish(*sent.products)
    assert list(system.listed()) == ([ID.name] if has_records else [])
    assert reconciled(system.store)[0] == Sent(), "what was sent has been done"


def test_reconcile_removes_a_product_that_only_the_catalog_lists(system: System) -> None:
    for key in [key for key in system.store.objects if not key.startswith("streams/")]:
        system.store.remove(key)
    sent, _ = reconciled(system.store)
    system.publish(*sent.products)
    assert system.listed() == {}
    assert not [key for key in system.store.objects if key.startswith("versions/")]
    assert tidy(system, NOW) == []


def test_an_upload_during_the_check_of_its_product_is_found_in_the_same_run(system: System) -> None:
    """Records are read before the folders are listed. Otherwise it would wait for the next run."""
    late, listings = f"{PRODUCT}/20261121", []

    def upload_late(method: str, key: str) -> None:
        if method == "list" and key in (ID.records_prefix, f"{PRODUCT}/"):
            listings.append(key)
            if len(listings) == 2:
                system.upload(late, images.split_image(seed=late))

    system.store.on = upload_late
    assert reconciled(system.store)[0].paths == [late]
    assert len(listings) == 2


def test_reconcile_names_an_unreadable_record_and_processes_the_rest(system: System) -> None:
    system.store.put(f"versions/{PRODUCT}/20261101.json", b"{")
    other = "images/debian/12/amd64/default/20261101"
    system.upload(other, images.split_image(seed="debian"))
    sent, run = reconciled(system.store)
    assert sent.paths == [other]
    assert run.unreadable == [f"versions/{PRODUCT}/20261101.json"]


def test_reconcile_names_an_unreadable_record_of_an_empty_folder_too(system: System) -> None:
    key = f"versions/{PRODUCT}/20261102.json"
    system.store.put(key, b"{")
    assert reconciled(system.store)[1].unreadable == [key]


def test_a_product_that_shares_an_image_with_an_unreadable_one_delays_no_other() -> None:
    """Which of the two lists the image is unknown. The third product is not affected."""
    system = System()
    paths = {name: f"images/{name}/1/amd64/default/20261101" for name in ("copy", "owner", "plain")}
    system.upload(paths["owner"], images.split_image(seed="one"))
    system.catch_up()
    for name, seed in (("copy", "one"), ("plain", "two")):
        system.upload(paths[name], images.split_image(seed=seed))
        system.ingest(paths[name])  # and the event of its record is lost
    system.store.put(f"versions/{paths['owner']}.json", b"{")
    sent, run = reconciled(system.store)
    assert [product.path for product in sent.products] == ["images/plain/1/amd64/default"]
    assert run.unreadable == [f"versions/{paths['owner']}.json"]


def test_products_that_share_images_with_an_unreadable_one_are_left_unchanged() -> None:
    system = System()
    paths = {name: f"images/{name}/1/amd64/default/20261101" for name in ("a", "b", "c", "d")}
    both = images.split_image(seed="one") | {"disk.qcow2": images.qcow2("two")}
    system.upload(paths["a"], images.split_image(seed="one"))
    system.catch_up()
    system.upload(paths["b"], both)
    system.upload(paths["c"], {"lxd.tar.xz": both["lxd.tar.xz"], "disk.qcow2": both["disk.qcow2"]})
    system.upload(paths["d"], images.split_image(seed="three"))
    for name in ("b", "c", "d"):
        system.ingest(paths[name])
    system.store.put(f"versions/{paths['a']}.json", b"{")
    sent, _run = reconciled(system.store)
    assert [product.path for product in sent.products][-1] == "images/d/1/amd64/default"
    assert "images/b/1/amd64/default" not in [product.path for product in sent.products]
