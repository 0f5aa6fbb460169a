"""`scripts/admin` against a running local stack: each procedure of the runbook, from damage to repair.

Tests act like an operator: they run the printed commands and read the result as clients do.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import boto3
import pytest
from click.testing import CliRunner

from cli.admin.__main__ import main as admin_main
from cli.admin.errors import NOTHING
from tests.support import PROJECT, images, trees
from tests.support.client_rules import read_catalog
from tests.support.stack import Stack, local_stack

pytestmark = [pytest.mark.timeout(300), pytest.mark.xdist_group("admin")]


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with local_stack("--empty", "--parameter", "DigestTimeout=15", "--parameter", "PublishTimeout=15") as running:
        yield running


@pytest.fixture
def product(request: pytest.FixtureRequest) -> str:
    """Return a separate product for each test."""
    name = re.sub("[^a-z]+", "-", request.node.name)[5:60].strip("-")
    return f"images/{name}/1/amd64/default"


def admin(stack: Stack, *arguments: str, code: int = 0) -> str:
    """Run `scripts/admin`, which must end with this code."""
    command = (str(PROJECT / "scripts/admin"), "--state-dir", str(stack.folder / "state"), *arguments)
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == code, f"{arguments}: exit {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout


def json_of(stack: Stack, *arguments: str, code: int = 0) -> Any:
    return json.loads(admin(stack, "--json", *arguments, code=code))


def known(stack: Stack, path: str) -> bool:
    """Return whether `admin list` knows anything at or below a path. In this process: waits call it again and again."""
    done = CliRunner().invoke(admin_main, ["--state-dir", str(stack.folder / "state"), "list", path])
    assert done.exit_code in (0, NOTHING), done.output
    return done.exit_code == 0


def upload(stack: Stack, path: str, files: Mapping[str, bytes], listed: bool = True) -> None:
    for name, body in files.items():
        stack.s3().put_object(Bucket=stack.bucket, Key=f"{path}/{name}", Body=body)
    if listed:
        wait_listed(stack, path)


def wait_listed(stack: Stack, path: str, listed: bool = True) -> None:
    stack.wait_until(lambda: (path in paths(stack)) == listed or None, f"{path} {'' if listed else 'not '}listed", 60)


def paths(stack: Stack) -> set[str]:
    found = read_catalog(*stack.catalog())
    return {download.path.rpartition("/")[0] for image in found for download in image.files.values()}


def sqs(stack: Stack) -> Any:
    facts = stack.facts
    session = boto3.Session(facts["access_key_id"], facts["secret_access_key"], region_name=facts["region"])
    return session.client("sqs", endpoint_url=facts["s3_endpoint"])


def queue_url(stack: Stack, name: str) -> str:
    urls: list[str] = sqs(stack).list_queues()["QueueUrls"]
    return next(url for url in urls if name in url)


def test_list_and_show_give_each_version_its_state_and_reason(stack: Stack, product: str) -> None:
    upload(stack, f"{product}/20261101", images.split_image(seed=product))
    upload(stack, f"{product}/20261102", {"rootfs.squashfs": images.squashfs()}, listed=False)
    stack.wait_until(lambda: known(stack, f"{product}/20261102") or None, "the second version recorded", 60)
    first, second = json_of(stack, "list", product)
    assert (first["state"], first["listed"], first["files"]) == ("listed", True, 2)
    assert (second["state"], second["listed"]) == ("incomplete", False)
    assert "waits for its metadata" in second["reasons"][0]
    assert [row["version"] for row in json_of(stack, "list", product, "--unlisted")] == [f"{product}/20261102"]
    assert f"{product}/20261101" in admin(stack, "list", product.removeprefix("images/"))
    shown = admin(stack, "show", f"{product}/20261101")
    assert images.sha256_hex(images.split_image(seed=product)["rootfs.squashfs"]) in shown
    assert admin(stack, "show", f"{product}/20261103", code=4) == ""
    admin(stack, "show", "images/a b", code=3)


def test_verify_names_every_file_that_differs_from_the_catalog(stack: Stack, product: str) -> None:
    path = f"{product}/20261101"
    files = images.split_image(seed=product)
    upload(stack, path, files)
    assert json_of(stack, "verify", product) == {
        "versions": 1, "bytes": sum(map(len, files.values())), "mismatches": []
    }  # fmt: skip
    assert json_of(stack, "verify", product, "--through-edge")["mismatches"] == []
    with stack.damaged(f"{path}/rootfs.squashfs", lambda body: body[:-1] + bytes([body[-1] ^ 1])):
        wrong = json_of(stack, "verify", product, code=1)["mismatches"]
        assert {one["path"] for one in wrong} == {f"{path}/rootfs.squashfs"}
        assert any("has sha256" in one["what"] for one in wrong)
        assert any("combined_squashfs_sha256" in one["what"] for one in wrong)
        assert "the catalog says" in admin(stack, "verify", product, "--through-edge", code=1)
    with stack.damaged(f"{path}/lxd.tar.xz", lambda _: None):
        wrong = json_of(stack, "verify", product, code=1)["mismatches"]
        assert [one["what"] for one in wrong if one["path"].endswith("lxd.tar.xz")] == ["there is no such object"]
    admin(stack, "verify", f"{product}/2026110", code=4)
    upload(stack, f"{product}/20261102", images.split_image(seed=f"{product} again"))  # so that there are at least two
    assert "sample of 1 of" in _stderr(stack, "verify", "--sample", "1", "--seed", "3")


def _stderr(stack: Stack, *arguments: str) -> str:
    command = (str(PROJECT / "scripts/admin"), "--state-dir", str(stack.folder / "state"), *arguments)
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120).stderr


def test_a_deleted_catalog_is_rebuilt_byte_for_byte(stack: Stack, product: str) -> None:
    upload(stack, f"{product}/20261101", images.split_image(seed=product))
    before = stack.catalog()
    for key in ("index.json", "images.json"):
        stack.s3().delete_object(Bucket=stack.bucket, Key=f"streams/v1/{key}")
    assert "add --yes" in admin(stack, "rebuild", "catalog")
    assert stack.get("streams/v1/index.json")[0] == 404
    admin(stack, "rebuild", "catalog", "--yes")
    assert stack.wait_until(lambda: stack.catalog() if stack.catalog()[1] else None, "the catalog", 60) == before


def test_the_doctor_reports_a_damaged_catalog_and_rebuild_repairs_it(stack: Stack, product: str) -> None:
    upload(stack, f"{product}/20261101", images.split_image(seed=product))
    before = stack.catalog()
    stack.s3().put_object(Bucket=stack.bucket, Key="streams/v1/images.json", Body=b'{"products": [')
    found = [one for one in json_of(stack, "doctor", code=1) if "is not a document of ours" in one["what"]]
    assert {one["remedy"] for one in found} == {"admin rebuild catalog --yes"}
    assert "delete streams/v1/images.json" in admin(stack, "rebuild", "catalog", "--yes")
    stack.wait_until(lambda: stack.catalog() == before or None, "the catalog as it was", 60)


def test_rebuild_restores_lost_and_unreadable_records_from_the_images(stack: Stack, product: str) -> None:
    lost, unreadable = (f"{product}/2026110{day}" for day in (1, 2))
    for path in (lost, unreadable):
        upload(stack, path, images.split_image(seed=path))
    before = stack.catalog()
    with stack.without_events():
        stack.s3().delete_object(Bucket=stack.bucket, Key=f"versions/{lost}.json")
        stack.s3().put_object(Bucket=stack.bucket, Key=f"versions/{unreadable}.json", Body=b"{")
    found = json_of(stack, "doctor", code=1)
    assert any(f"versions/{unreadable}.json" in one["what"] for one in found)
    plan = json_of(stack, "rebuild", "records", product)["would do"]
    assert len(plan) == 3
    admin(stack, "rebuild", "records", product, "--yes")
    assert [row["state"] for row in json_of(stack, "list", product)] == ["listed", "listed"]
    stack.wait_until(lambda: stack.catalog() == before or None, "the catalog as it was", 60)


def test_undelete_restores_an_object_from_its_noncurrent_version(stack: Stack, product: str) -> None:
    path = f"{product}/20261101"
    upload(stack, path, images.split_image(seed=product))
    stack.s3().delete_object(Bucket=stack.bucket, Key=f"{path}/rootfs.squashfs")
    wait_listed(stack, path, listed=False)
    assert "bring back" in admin(stack, "undelete", path)
    admin(stack, "undelete", path, "--yes")
    wait_listed(stack, path)
    assert json_of(stack, "verify", product)["mismatches"] == []
    admin(stack, "undelete", path, code=4)
    admin(stack, "undelete", "streams/v1/images.json", "--yes", code=2)


def test_reconcile_finds_uploads_whose_events_were_lost(stack: Stack, product: str) -> None:
    path = f"{product}/20261101"
    with stack.without_events():
        upload(stack, path, images.split_image(seed=product), listed=False)
    assert any(path in task["path"] for task in json_of(stack, "reconcile", "--dry-run")["tasks"])
    assert path not in paths(stack)
    admin(stack, "reconcile")
    wait_listed(stack, path)


def test_withdraw_delists_at_once_and_restore_lists_again(stack: Stack, product: str) -> None:
    path = f"{product}/20261101"
    upload(stack, path, images.split_image(seed=product))
    assert f"{path}: would be withdrawn, deleted after" in admin(stack, "withdraw", path)
    assert path in paths(stack)
    assert "deleted after" in admin(stack, "withdraw", path, "--reason", "does not boot", "--yes")
    wait_listed(stack, path, listed=False)
    assert stack.get(f"{path}/rootfs.squashfs")[0] == 200  # clients may still believe an older catalog
    assert f"{path}: would be on the list again" in admin(stack, "restore", path, "--dry-run")
    assert path not in paths(stack)
    admin(stack, "restore", path)
    wait_listed(stack, path)
    admin(stack, "withdraw", f"{product}/20261109", "--yes", code=4)


def test_undelete_brings_back_a_withdrawn_version_that_was_deleted(stack: Stack, product: str) -> None:
    path = f"{product}/20261101"
    upload(stack, path, images.split_image(seed=product))
    admin(stack, "withdraw", path, "--yes")
    wait_listed(stack, path, listed=False)
    record = json.loads(stack.s3().get_object(Bucket=stack.bucket, Key=f"versions/{path}.json")["Body"].read())
    record["withdrawn"]["delete_after"] = record["withdrawn"]["since"]  # the grace time has passed
    stack.s3().put_object(Bucket=stack.bucket, Key=f"versions/{path}.json", Body=json.dumps(record).encode())
    assert f"delete: {path}" in admin(stack, "prune", "--yes")
    assert stack.get(f"{path}/rootfs.squashfs")[0] == 404
    stack.wait_until(lambda: not known(stack, path) or None, "nothing known of it", 60)
    admin(stack, "restore", path, code=4)
    admin(stack, "undelete", path, "--yes")
    wait_listed(stack, path)
    assert json_of(stack, "verify", path)["mismatches"] == []


def test_prune_prints_what_it_deletes_and_why_and_deletes_only_with_yes(stack: Stack, product: str) -> None:
    for day in (1, 2, 3):
        upload(stack, f"{product}/2026110{day}", images.split_image(seed=f"{product}{day}"))
    tasks = [t for t in json_of(stack, "prune", "--keep-versions", "2")["tasks"] if product in t["path"]]
    assert [(t["what"], t["path"]) for t in tasks] == [("withdraw", f"{product}/20261101")]
    assert "2 newer versions are there, and 2 are kept" in tasks[0]["why"]
    assert f"{product}/20261101" in paths(stack)
    admin(stack, "prune", "--keep-versions", "2", "--yes")
    wait_listed(stack, f"{product}/20261101", listed=False)


@trees.needs_real_pairs
def test_admin_makes_a_delta_once(stack: Stack, product: str, tmp_path: Path) -> None:
    old, new = f"{product}/20261101", f"{product}/20261102"
    for path, root in zip((old, new), trees.pair(tmp_path), strict=True):
        files = {"lxd.tar.xz": images.metadata_tarball(description=product), "rootfs.squashfs": root}
        for name, body in files.items():
            stack.s3().put_object(Bucket=stack.bucket, Key=f"{path}/{name}", Body=body)
        wait_listed(stack, path)
    admin(stack, "delta", old, code=4)
    admin(stack, "delta", f"{new}/rootfs.squashfs", code=2)
    (made,) = json_of(stack, "delta", product)
    assert (made["version"], made["base"], made["outcome"]) == (new, "20261101", "made")
    assert 0 < made["size_bytes"] < made["saved_bytes"]
    delta = f"{new}/rootfs.20261101.vcdiff"
    stack.wait_until(lambda: delta in str(stack.catalog()), "the delta in the catalog")
    again = f"{new} from 20261101: skipped: rootfs.20261101.vcdiff is there already"
    assert again in admin(stack, "delta", new)


@trees.needs_real_pairs
def test_a_delta_that_is_not_worthwhile_ends_admin_with_1(stack: Stack, product: str) -> None:
    for version in ("20261101", "20261102"):
        for name, body in images.split_image(seed=f"{product} {version}").items():
            stack.s3().put_object(Bucket=stack.bucket, Key=f"{product}/{version}/{name}", Body=body)
        wait_listed(stack, f"{product}/{version}")
    for _ in range(2):
        assert "dropped: the delta is not below half" in admin(stack, "delta", product, code=1)


def test_dead_letters_of_a_bad_deployment_are_redriven_and_processed(stack: Stack, product: str) -> None:
    """The release that could not ingest this version is gone. Its event is among the dead letters."""
    path = f"{product}/20261101"
    with stack.without_events():
        upload(stack, path, images.split_image(seed=product), listed=False)
    event = {"Records": [{"eventName": "ObjectCreated:Put", "s3": {"object": {"key": f"{path}/lxd.tar.xz"}}}]}
    sqs(stack).send_message(QueueUrl=queue_url(stack, "ArrivalsDead"), MessageBody=json.dumps(event))
    assert any("dead letter" in one["what"] for one in json_of(stack, "doctor", code=1))
    (shown,) = json_of(stack, "redrive", "arrivals")
    assert (shown["keys"], shown["done"]) == ([f"{path}/lxd.tar.xz"], "")
    assert "has no record: every try failed" in shown["diagnosis"]
    (sent,) = json_of(stack, "redrive", "arrivals", "--yes")
    assert (sent["keys"], sent["done"]) == (shown["keys"], "sent back")
    wait_listed(stack, path)
    assert json_of(stack, "redrive") == []


def test_redrive_shows_failed_runs_of_maintain_with_their_replacement_and_removes_them(stack: Stack) -> None:
    run = {
        "requestContext": {"condition": "RetriesExhausted"},
        "requestPayload": {"task": "prune", "dry_run": False},
        "responsePayload": {"errorType": "StorageDenied", "errorMessage": "PutObject: 403"},
    }
    never_started = {"task": "reconcile", "dry_run": False}
    about = {"ERROR_CODE": {"DataType": "String", "StringValue": "TooManyRequestsException"}}
    url = queue_url(stack, "MaintainDead")
    sqs(stack).send_message(QueueUrl=url, MessageBody=json.dumps(run))
    sqs(stack).send_message(QueueUrl=url, MessageBody=json.dumps(never_started), MessageAttributes=about)
    found = [one for one in json_of(stack, "doctor", code=1) if "dead letters of maintain" in one["what"]]
    assert [one["remedy"].split(" shows")[0] for one in found] == ["admin redrive maintain"]
    for _ in range(2):  # showing leaves it in the queue
        diagnoses = sorted(letter["diagnosis"] for letter in json_of(stack, "redrive", "maintain"))
        assert diagnoses[0].startswith("prune failed: StorageDenied: PutObject: 403.")
        assert "right now: admin prune --yes" in diagnoses[0]
        assert diagnoses[1].startswith("reconcile failed: TooManyRequestsException.")
        assert "right now: admin reconcile" in diagnoses[1]
    assert "removed" in admin(stack, "redrive", "maintain", "--yes")
    assert json_of(stack, "redrive", "maintain") == []


def test_redrive_does_not_resend_a_message_that_no_release_can_read(stack: Stack) -> None:
    sqs(stack).send_message(QueueUrl=queue_url(stack, "ChangesDead"), MessageBody="no event")
    (letter,) = json_of(stack, "redrive", "changes", "--yes")
    assert (letter["keys"], letter["done"]) == ([], "removed")
    assert "no release can read it" in letter["diagnosis"]
    assert json_of(stack, "redrive", "changes") == []


def test_import_adopts_a_tree_of_the_current_layout_and_copies_nothing_twice(
    stack: Stack, product: str, tmp_path: Path
) -> None:
    path = f"{product}/20261101_10:00"
    for name, body in images.split_image(seed=product).items():
        target = tmp_path / path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(body)
    (tmp_path / "streams/v1").mkdir(parents=True)
    (tmp_path / "streams/v1/index.json").write_text("{}")
    assert json_of(stack, "import", str(tmp_path))["to copy"] == 2
    assert json_of(stack, "import", str(tmp_path), "--yes")["copied"] == 2
    wait_listed(stack, path)
    again = json_of(stack, "import", str(tmp_path), "--yes")
    assert (again["copied"], again["already there"], again["left out"]) == (0, 2, [])
    (tmp_path / "images/wrong.txt").write_text("x")
    whole = (tmp_path / path / "rootfs.squashfs").read_bytes()
    (tmp_path / path / "rootfs.squashfs").write_bytes(whole[:-1] + b"x")
    left_out = json_of(stack, "import", str(tmp_path), "--yes", code=1)["left out"]
    assert ["images/wrong.txt" in left_out[0], "the same size and sha256" in left_out[1]] == [True, True]
    assert stack.get(f"{path}/rootfs.squashfs") == (200, whole)


@pytest.mark.parametrize("folder", ["", "no-such-folder", "streams"])
def test_import_refuses_a_tree_without_images(stack: Stack, tmp_path: Path, folder: str) -> None:
    (tmp_path / "streams/images/ubuntu").mkdir(parents=True)
    (tmp_path / "streams/v1").mkdir()
    (tmp_path / "streams/v1/index.json").write_text("{}")
    assert admin(stack, "import", str(tmp_path / folder), "--yes", code=4) == ""


def test_import_adopts_another_bucket(stack: Stack, product: str) -> None:
    s3, path = stack.s3(), f"{product}/20261101"
    s3.create_bucket(Bucket="old-server")
    for name, body in images.split_image(seed=product).items():
        s3.put_object(Bucket="old-server", Key=f"www/{path}/{name}", Body=body)
    assert json_of(stack, "import", "s3://old-server/www", "--yes")["copied"] == 2
    wait_listed(stack, path)


def test_the_doctor_finds_missing_notifications(stack: Stack) -> None:
    with stack.without_events():
        found = json_of(stack, "doctor", code=1)
    assert {one["check"] for one in found} >= {"wiring"}
    assert any("uploads stay unseen" in one["what"] for one in found)
    assert all(one["remedy"] for one in found)


def test_help_names_every_command_and_the_meaning_of_exit_codes(stack: Stack) -> None:
    text = admin(stack, "--help")
    commands = {"list", "show", "verify", "rebuild", "reconcile", "prune", "withdraw", "restore", "undelete", "redrive"}
    commands |= {"doctor", "import"}
    assert all(re.search(rf"^  {command} ", text, re.MULTILINE) for command in commands)
    assert "6 no local stack is running" in " ".join(text.split())


def test_without_a_stack_admin_prints_how_to_start_one(tmp_path: Path) -> None:
    command = (str(PROJECT / "scripts/admin"), "--state-dir", str(tmp_path), "list")
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (6, "")
    assert "start ./scripts/local" in done.stderr
