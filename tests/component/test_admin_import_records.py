"""`admin import` from an operator's old bucket: versions withdrawn in its records are not listed again."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import boto3
import pytest
from click.testing import CliRunner, Result

from cli.admin import arguments, transfer
from cli.admin.__main__ import main
from cli.admin.deployment import Deployment
from cli.admin.errors import FOUND, STORAGE
from imageserver.format.keys import parse_target
from imageserver.operations.prune import Rules, prune
from imageserver.operations.runs import Run
from imageserver.operations.withdraw import restore, withdraw
from imageserver.versions.retention import Rule
from local_stack.credentials import ACCESS_KEY, SECRET_KEY, local_session
from tests.support import images
from tests.support.memory_store import START, Sent, System
from tests.support.servers.s3 import BUCKET, REGION, S3Server, empty, running_s3

pytestmark = pytest.mark.xdist_group("admin-import-records")

OLD = "old-server"
NOBLE = "images/ubuntu/noble/amd64/default"
JAMMY = "images/ubuntu/jammy/amd64/default"
FILES = ("lxd.tar.xz", "rootfs.squashfs")
NEVER: Callable[[float], object] = lambda _: None  # noqa: E731  (a constant with a type)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with running_s3(tmp_path_factory.mktemp("s3")) as running:
        s3 = running.client("s3")
        s3.create_bucket(Bucket=OLD)
        s3.put_bucket_versioning(Bucket=OLD, VersioningConfiguration={"Status": "Enabled"})
        yield running


@pytest.fixture(scope="module")
def session() -> boto3.Session:
    """Return one session for all tests, since it keeps what it has loaded."""
    return local_session(ACCESS_KEY, SECRET_KEY, REGION)


@pytest.fixture
def deployment(server: S3Server, session: boto3.Session, monkeypatch: pytest.MonkeyPatch) -> Iterator[Deployment]:
    """Yield the new server."""
    deployment = Deployment(session, BUCKET, server.endpoint)
    monkeypatch.setattr(arguments, "open_local", lambda _: deployment)
    yield deployment
    empty(deployment.s3, BUCKET, OLD)


class OldServer:
    """An old server that is left behind: how its records were made, and where its objects are now."""

    def __init__(self, kind: str, s3: Any, folder: Path) -> None:
        self.system = System()
        self._kind, self._s3, self._folder = kind, s3, folder
        for product in (NOBLE, JAMMY):
            for day in (1, 2):
                self.system.upload(f"{product}/2026110{day}", images.split_image(seed=f"{product}{day}"))
        self.system.catch_up()

    @property
    def address(self) -> str:
        return {"folder": str(self._folder), "bucket": f"s3://{OLD}", "prefix": f"s3://{OLD}/a/copy/"}[self._kind]

    def withdraw(self, path: str, reason: str = "does not boot") -> None:
        withdraw(self.system.store, parse_target(path), START, 24, NEVER, reason)

    def put(self, key: str, body: bytes) -> None:
        """Put one more object with those of the system."""
        if self._kind == "folder":
            (self._folder / key).parent.mkdir(parents=True, exist_ok=True)
            (self._folder / key).write_bytes(body)
        else:
            self._s3.put_object(Bucket=OLD, Key=f"{'a/copy/' if self._kind == 'prefix' else ''}{key}", Body=body)

    def leave(self) -> None:
        """Copy all objects to where the import reads them."""
        for key, found in self.system.store.objects.items():
            self.put(key, found.body)

    def imported(self, *options: str, code: int = 0) -> Any:
        """Return what `admin import` prints as JSON."""
        done = self.run("--json", "import", self.address, *options)
        assert done.exit_code == code, (done.output, done.exception)
        return json.loads(done.stdout)

    def run(self, *line: str) -> Result:
        return CliRunner().invoke(main, line)


@pytest.fixture(params=["folder", "bucket", "prefix"])
def old(request: pytest.FixtureRequest, deployment: Deployment, tmp_path: Path) -> OldServer:
    return OldServer(request.param, deployment.s3, tmp_path)


def here(deployment: Deployment) -> set[str]:
    """Return the keys of all images on the new server."""
    return {info.key for info in deployment.store.list("images")}


def keys(*paths: str) -> set[str]:
    return {f"{path}/{file}" for path in paths for file in FILES}


def test_a_withdrawn_version_is_skipped_and_the_plan_shows_its_reason_and_time(
    deployment: Deployment, old: OldServer
) -> None:
    old.withdraw(f"{NOBLE}/20261101")
    old.leave()
    plan = old.imported()
    assert (plan["to copy"], plan["left out"]) == (6, [])
    (withdrawn,) = plan["withdrawn"]
    assert (withdrawn["path"], withdrawn["files"]) == (f"{NOBLE}/20261101", 2)
    assert (withdrawn["reason"], withdrawn["since"]) == ("does not boot", START.isoformat())
    done = old.run("import", old.address, "--yes")
    assert done.exit_code == 0, done.output
    sentence = f"{NOBLE}/20261101 (2 files) was withdrawn on the source at {START.isoformat()}: does not boot"
    assert f"stays out: {sentence}" in done.stderr
    assert "2 stay out, withdrawn on the source" in done.stdout
    assert here(deployment) == keys(f"{NOBLE}/20261102", f"{JAMMY}/20261101", f"{JAMMY}/20261102")


def test_a_withdrawn_file_is_skipped_and_the_rest_of_its_version_imported(
    deployment: Deployment, old: OldServer
) -> None:
    old.system.upload(f"{NOBLE}/20261101", {"disk.qcow2": images.qcow2()})
    old.system.catch_up()
    old.withdraw(f"{NOBLE}/20261101/disk.qcow2", "half a disk")
    old.leave()
    assert [one["path"] for one in old.imported("--yes")["withdrawn"]] == [f"{NOBLE}/20261101/disk.qcow2"]
    assert f"{NOBLE}/20261101/disk.qcow2" not in here(deployment)
    assert keys(f"{NOBLE}/20261101") <= here(deployment)


def test_a_withdrawn_product_is_one_line(deployment: Deployment, old: OldServer) -> None:
    old.withdraw(NOBLE, "end of life")
    old.leave()
    (withdrawn,) = old.imported("--yes")["withdrawn"]
    assert (withdrawn["path"], withdrawn["files"], withdrawn["reason"]) == (NOBLE, 4, "end of life")
    assert here(deployment) == keys(f"{JAMMY}/20261101", f"{JAMMY}/20261102")


def test_a_fully_withdrawn_source_is_not_reported_as_empty(deployment: Deployment, old: OldServer) -> None:
    for product in (NOBLE, JAMMY):
        old.withdraw(product)
    old.leave()
    plan = old.imported("--yes")
    assert (plan["copied"], {one["path"] for one in plan["withdrawn"]}) == (0, {NOBLE, JAMMY})
    assert here(deployment) == set()


def test_a_restored_version_is_imported(deployment: Deployment, old: OldServer) -> None:
    old.withdraw(NOBLE)
    restore(old.system.store, parse_target(NOBLE), NEVER)
    old.leave()
    plan = old.imported("--yes")
    assert (plan["copied"], plan["withdrawn"]) == (8, [])


def test_a_version_being_deleted_is_skipped_and_later_uploads_are_imported(
    deployment: Deployment, old: OldServer
) -> None:
    """Its record says final. One of its two files is already deleted, and a new one was uploaded."""
    store = old.system.store
    old.withdraw(f"{NOBLE}/20261101")
    old.system.catch_up()

    def stop(method: str, key: str) -> None:
        if method == "delete" and key.endswith("rootfs.squashfs"):
            raise KeyboardInterrupt

    store.on = stop
    with pytest.raises(KeyboardInterrupt):
        prune(store, Sent(), Rules(Rule(), 24, 0), START + timedelta(days=3), NEVER, Run())
    store.on = lambda *_: None
    old.system.upload(f"{NOBLE}/20261101", {"disk.qcow2": images.qcow2()})
    old.leave()
    (withdrawn,) = old.imported("--yes")["withdrawn"]
    assert (withdrawn["path"], withdrawn["final"]) == (f"{NOBLE}/20261101/rootfs.squashfs", True)
    assert {key for key in here(deployment) if key.startswith(f"{NOBLE}/20261101/")} == {f"{NOBLE}/20261101/disk.qcow2"}
    assert "and is being deleted there" in old.run("import", old.address).stderr


def test_a_new_upload_under_the_name_of_a_withdrawn_file_is_imported(deployment: Deployment, old: OldServer) -> None:
    """The source has not ingested it yet. A file of the same size may be the withdrawn one and is not imported."""
    other, same = f"{NOBLE}/20261101/rootfs.squashfs", f"{NOBLE}/20261102/rootfs.squashfs"
    for key in (other, same):
        old.withdraw(key)
    body = old.system.store.objects[same].body
    old.system.store.put(other, images.squashfs("mended", 9000))
    old.system.store.put(same, body[:-1] + b"x")
    old.leave()
    plan = old.imported("--yes")
    assert [one["path"] for one in plan["withdrawn"]] == [same]
    assert other in here(deployment)
    assert same not in here(deployment)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"{torn", "cannot be read: repair it there with admin rebuild records, then import again"),
        (b'{"schema": 2, "version": 7}', "was written by a newer release: import with that one"),
        (None, "cannot be read: repair it there"),  # a record of another version
    ],
    ids=["torn", "newer", "misplaced"],
)
def test_a_version_with_an_unreadable_record_is_skipped_by_name(
    deployment: Deployment, old: OldServer, body: bytes | None, reason: str
) -> None:
    path = f"{NOBLE}/20261101"
    old.withdraw(path)
    other = old.system.store.objects[f"versions/{JAMMY}/20261101.json"].body
    old.system.store.put(f"versions/{path}.json", other if body is None else body)
    old.leave()
    plan = old.imported("--yes", code=FOUND)
    (sentence,) = plan["left out"]
    assert sentence.startswith(f"{path} (2 files): its record on the source {reason}")
    assert sentence.endswith("it is unknown whether it was withdrawn")
    assert not keys(path) & here(deployment)
    assert plan["copied"] == 6


def test_a_source_without_records_is_imported_whole_with_a_warning(deployment: Deployment, old: OldServer) -> None:
    for key, found in old.system.store.objects.items():
        if key.startswith("images"):
            old.put(key, found.body)
    old.put("versions/notes.json", b"{somebody else's file")
    done = old.run("import", old.address, "--yes")
    assert done.exit_code == 0, done.output
    assert "the source has no records (versions/), so nothing of it counts as withdrawn" in done.stderr
    assert len(here(deployment)) == 8


def test_a_version_without_a_record_is_imported(deployment: Deployment, old: OldServer) -> None:
    """It was uploaded after the source had stopped. The same holds for a version with an empty record and files."""
    fresh, emptied = f"{NOBLE}/20261103", f"{NOBLE}/20261104"
    old.system.upload(emptied, images.split_image(seed="gone"))
    old.system.catch_up()
    for file in FILES:
        old.system.store.remove(f"{emptied}/{file}")
    old.system.ingest(emptied)
    assert b'"empty"' in old.system.store.objects[f"versions/{emptied}.json"].body
    for path in (fresh, emptied):
        old.system.upload(path, images.split_image(seed=path))
    old.leave()
    assert old.imported("--yes")["withdrawn"] == []
    assert keys(fresh, emptied) <= here(deployment)


def test_an_object_refused_by_the_source_is_named_and_retried(deployment: Deployment, old: OldServer) -> None:
    broken = {**images.split_image(seed="3"), "rootfs.squashfs": b"no squashfs at all"}
    old.system.upload(f"{NOBLE}/20261103", broken)
    old.system.catch_up()
    old.leave()
    plan = old.imported("--yes")
    (note,) = plan["notes"]
    assert note.startswith(f"{NOBLE}/20261103/rootfs.squashfs is not listed on the source (rootfs.squashfs ")
    assert note.endswith("; it is checked again here")
    assert f"{NOBLE}/20261103/rootfs.squashfs" in here(deployment)
    assert old.imported("--yes")["notes"] == [], "it is here by now"


def test_a_version_withdrawn_on_the_source_but_present_here_is_named_with_the_withdraw_command(
    deployment: Deployment, old: OldServer
) -> None:
    """It was imported before it was withdrawn, or by a release that did not read the records."""
    old.leave()
    old.imported("--yes")
    old.withdraw(f"{NOBLE}/20261101")
    old.leave()
    plan = old.imported("--yes")
    assert plan["notes"] == [
        f"{key} is on this server already: admin withdraw {key} takes it off"
        for key in sorted(keys(f"{NOBLE}/20261101"))
    ]
    withdraw(deployment.store, parse_target(f"{NOBLE}/20261101"), START, 24, NEVER)
    assert old.imported("--yes")["notes"] == []


def test_a_delete_marker_on_the_source_is_not_a_file(deployment: Deployment) -> None:
    """A withdrawn and deleted file that is kept as an older generation is not imported."""
    for key in keys(f"{NOBLE}/20261101"):
        deployment.s3.put_object(Bucket=OLD, Key=key, Body=b"1")
    deployment.s3.delete_object(Bucket=OLD, Key=f"{NOBLE}/20261101/lxd.tar.xz")
    found = [file.key for file in transfer.bucket(deployment.s3, f"s3://{OLD}")]
    assert found == [f"{NOBLE}/20261101/rootfs.squashfs"]


@pytest.mark.parametrize(
    ("address", "parts"),
    [
        ("s3://old", ("old", "")),
        ("s3://old/", ("old", "")),
        ("s3://old/www", ("old", "www/")),
        ("s3://old//a/b/", ("old", "a/b/")),
    ],
)
def test_an_address_is_a_bucket_and_a_prefix(address: str, parts: tuple[str, str]) -> None:
    assert transfer.address_of(address) == parts


def test_unreadable_records_never_read_as_absent(deployment: Deployment) -> None:
    """A 403 is never taken for empty: otherwise every withdrawn version would be imported."""
    deployment.s3.put_object(Bucket=OLD, Key=f"{NOBLE}/20261101/lxd.tar.xz", Body=b"1")

    def deny(params: Any, **_: Any) -> Any:
        if params["query_string"]["prefix"] != "versions/":
            return None
        answer = {"Error": {"Code": "AccessDenied", "Message": "Access Denied"}, "ResponseMetadata": {}}
        return SimpleNamespace(status_code=403), answer

    deployment.s3.meta.events.register("before-call.s3.ListObjectsV2", deny)
    done = CliRunner().invoke(main, ["import", f"s3://{OLD}", "--yes"])
    deployment.s3.meta.events.unregister("before-call.s3.ListObjectsV2", deny)
    assert done.exit_code == STORAGE, done.output
    assert "AccessDenied" in done.stderr
    assert here(deployment) == set()
