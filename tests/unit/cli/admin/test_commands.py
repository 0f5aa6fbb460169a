"""What the commands of `scripts/admin` say and do, over a bucket in memory."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner, Result

from cli.admin import arguments, checks, output
from cli.admin.__main__ import main
from cli.admin.deployment import Deployment, Queue, max_bytes_of
from cli.admin.errors import FOUND
from imageserver.aws import events
from imageserver.errors import InvalidationRefused
from imageserver.format.keys import parse_target, parse_version
from imageserver.operations.withdraw import withdraw
from imageserver.storage.document_cache import DocumentCache
from imageserver.storage.leases import lease
from imageserver.versions import records
from imageserver.versions.assessment import assessed
from tests.support import images
from tests.support.memory_store import START, Sent, System

TINY = "images/tiny/1/amd64/default"
LATER = "2126-01-01T00:00:00+00:00"


class FakeDeployment(Deployment):
    """A server whose bucket is in memory, and whose edge records its calls."""

    def invalidate(self, keys: Any) -> None:
        if self.distribution:
            self.session.extend(("invalidate", key) for key in keys)
        else:
            super().invalidate(keys)


@pytest.fixture
def system() -> System:
    return System()


@pytest.fixture
def server(system: System, monkeypatch: pytest.MonkeyPatch) -> FakeDeployment:
    """Return what every command works on. Its session is the list of calls to the edge."""
    return serve(system, monkeypatch)


def serve(system: System, monkeypatch: pytest.MonkeyPatch, **about: Any) -> FakeDeployment:
    made = FakeDeployment([], "images-1", **about)
    made.__dict__.update(store=system.store, clients=system.clients)
    monkeypatch.setattr(arguments, "open_local", lambda _: made)
    return made


def admin(line: str, code: int = 0) -> Result:
    done = CliRunner().invoke(main, line.split())
    assert done.exit_code == code, (line, done.output, done.exception)
    return done


def json_of(line: str, code: int = 0) -> Any:
    return json.loads(admin(f"--json {line}", code).stdout)


def listed(system: System, path: str, **seed: Any) -> str:
    system.upload(path, images.split_image(**seed))
    system.catch_up()
    return path


def taken(system: System, path: str, reason: str = "does not boot") -> None:
    """Withdraw something with a long grace time."""
    withdraw(system.store, parse_target(path), START, 24 * 36500, lambda _: None, reason)
    system.publish(*system.products())


def test_a_withheld_version_names_the_version_listed_instead(system: System, server: FakeDeployment) -> None:
    listed(system, "images/aaa/1/amd64/default/20261101")
    path = listed(system, f"{TINY}/20261101")  # the same bytes
    reason = "20261101/rootfs.squashfs is the same image as one that aaa:1:amd64:default lists: clients fail when they"
    (row,) = json_of(f"list {path}")
    assert (row["state"], row["listed"]) == ("withheld", False)
    assert row["reasons"][0].startswith(reason)
    assert f"\t{reason}" in admin(f"list {path}").stdout
    assert f"withheld: {reason}" in admin(f"show {path}").stdout
    (known,) = json_of(f"show {path}")
    assert known["withheld"][0]["held_by"] == "aaa:1:amd64:default"
    assert [why["kind"] for why in known["reasons"]] == ["withheld"]


def test_a_version_whose_name_has_another_form_is_shown_with_that_reason(
    system: System, server: FakeDeployment
) -> None:
    for day in (1, 2):
        listed(system, f"{TINY}/2026110{day}", seed=str(day))
    path = listed(system, f"{TINY}/20261103_10:00", seed="3")
    assert "expected YYYYMMDD as most versions" in admin(f"list {path}").stdout
    assert "expected YYYYMMDD as most versions" in json_of(f"list {path}")[0]["reasons"][0]


def test_a_withdrawn_version_is_shown_with_its_reason_and_restore_deadline(
    system: System, server: FakeDeployment
) -> None:
    path = listed(system, f"{TINY}/20261101")
    taken(system, path)
    (row,) = json_of(f"list {path}")
    assert row["withdrawn"]["reason"] == "does not boot"
    until = row["withdrawn"]["delete_after"]
    for line in (f"list {path}", f"show {path}"):
        assert f"is deleted after {until}: does not boot" in admin(line).stdout
    assert f"is deleted after {until}: does not boot" in row["reasons"][0]


def test_a_withdrawn_file_is_shown_with_its_reason_and_restore_deadline(system: System, server: FakeDeployment) -> None:
    path = listed(system, f"{TINY}/20261101")
    taken(system, f"{path}/rootfs.squashfs", "half a root")
    (row,) = json_of(f"list {path}")
    until = row["withdrawn_files"]["rootfs.squashfs"]["delete_after"]
    sentence = f"rootfs.squashfs was withdrawn at {START.isoformat()} and is deleted after {until}: half a root"
    assert [reason for reason in row["reasons"] if "withdrawn" in reason] == [sentence], "once"
    assert sentence in admin(f"list {path}").stdout
    assert f"withdrawn: {sentence}" in admin(f"show {path}").stdout


def test_a_free_text_reason_is_one_line_without_terminal_escapes(system: System, server: FakeDeployment) -> None:
    path = listed(system, f"{TINY}/20261101")
    taken(system, path, "a\nb\t\x1b[2Jc")
    (line,) = admin(f"list {path}").stdout.splitlines()
    assert line.endswith(": a b  [2Jc")
    assert line.count("\t") == 5


def test_piped_output_has_one_untruncated_line_per_version(system: System, server: FakeDeployment) -> None:
    path = f"images/{'long-name-' * 9}/1/amd64/default"
    system.upload(f"{path}/20261101", {"rootfs.squashfs": images.squashfs()})
    listed(system, f"{path}/20261102")
    lines = [line.split("\t") for line in admin("list").stdout.splitlines()]
    assert [line[:4] for line in lines] == [
        [f"{path}/20261101", "incomplete", "no", "1"],
        [f"{path}/20261102", "listed", "yes", "2"],
    ]
    assert "waits for its metadata" in lines[0][5]


def test_a_terminal_shows_each_reason_below_its_version(
    system: System, server: FakeDeployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output, "width", lambda: 80)
    system.upload(f"{TINY}/20261101", {"rootfs.squashfs": images.squashfs()})
    listed(system, f"{TINY}/20261102")
    header, first, *reasons, second = admin("list").stdout.splitlines()
    assert header.split() == ["version", "state", "listed", "files", "size"]
    assert first.split()[:3] == [f"{TINY}/20261101", "incomplete", "no"]
    assert all(line.startswith("    ") and len(line) <= 80 for line in reasons)
    assert "waits for its metadata" in " ".join(" ".join(reasons).split())
    assert second.split()[:3] == [f"{TINY}/20261102", "listed", "yes"]


@pytest.mark.parametrize("line", ["list tiny", "list tiny/1/", "show tiny/1/amd64/default", "verify tiny"])
def test_a_path_without_its_stream_means_images(line: str, system: System, server: FakeDeployment) -> None:
    listed(system, f"{TINY}/20261101")
    assert json_of(line) == json_of(line.replace("tiny", "images/tiny"))


def test_commands_that_change_accept_a_path_without_its_stream(system: System, server: FakeDeployment) -> None:
    path = listed(system, f"{TINY}/20261101")
    short = path.removeprefix("images/")
    assert json_of(f"withdraw {short} --yes")["versions"] == [path]
    assert json_of(f"restore {short}")["versions"] == [path]
    assert json_of(f"rebuild records {short}") == {"would do": []}
    system.store.remove(parse_version(path).record_key)
    assert json_of(f"rebuild records {short} --yes")["done"] == [f"read {path} again: it has no record"]


@pytest.mark.parametrize("command", ["list", "show", "verify", "rebuild records", "undelete", "withdraw", "restore"])
def test_an_empty_path_is_reported_as_empty(
    command: str, system: System, server: FakeDeployment, monkeypatch: Any
) -> None:
    monkeypatch.setattr("cli.admin.recovery.deleted", lambda *_: [])
    listed(system, f"{TINY}/20261101")
    done = admin(f"{command} tin/1/amd64/default", 4)
    assert done.stdout == ""
    assert "images/tin/1/amd64/default" in done.stderr


@pytest.mark.parametrize("command", ["show", "withdraw", "restore"])
@pytest.mark.parametrize("path", ["tiny/1", "images/tiny/1/amd64", f"{TINY}/20261101/a/b"])
def test_a_path_of_another_length_is_refused_with_the_accepted_forms(
    command: str, path: str, server: FakeDeployment
) -> None:
    stderr = admin(f"{command} {path}", 3).stderr
    assert "expected a product (images/<os>/<release>/<arch>/<variant>), a version (…/<version>) or a file" in stderr


def test_rebuild_records_does_not_report_leased_records_as_done(system: System, server: FakeDeployment) -> None:
    path = listed(system, f"{TINY}/20261101")
    version = parse_version(path)
    system.store.remove(version.record_key)
    # the lease of a worker that was just killed
    with lease(system.store, version.lease_key, "another", lambda: START.replace(year=2126), 900, lambda _: None):
        done = admin(f"rebuild records {TINY} --yes", 1)
        assert version.record_key not in system.store.objects
        assert f"not done: another worker reads {path} just now" in done.stderr
        assert "0 steps done" in done.stdout
        assert json_of(f"rebuild records {TINY} --yes", 1)["done"] == []
    assert json_of(f"rebuild records {TINY} --yes")["done"] == [f"read {path} again: it has no record"]


@pytest.mark.parametrize("unreadable", [True, False])
def test_files_of_a_rebuilt_record_are_invalidated_before_they_are_read(
    unreadable: bool, system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(system, monkeypatch, distribution="E123")
    other, path = (listed(system, f"{TINY}/2026110{day}", seed=str(day)) for day in (1, 2))
    system.store.on = lambda method, key: server.session.append((method, key)) if method == "open" else None
    if unreadable:
        system.store.put(f"versions/{path}.json", b"{")
    else:
        system.store.remove(f"versions/{path}.json")
    assert "have the edge invalidate 2 files" in admin("rebuild records").stdout
    assert server.session == []
    admin("rebuild records --yes")
    assert server.session[:2] == [("invalidate", f"{path}/lxd.tar.xz"), ("invalidate", f"{path}/rootfs.squashfs")]
    assert {method for method, _ in server.session[2:]} == {"open"}
    system.upload(other, {"notes.txt": b"one more file"})  # its record is out of date, and knows what it replaced
    del server.session[:]
    admin("rebuild records --yes")
    assert ("invalidate", f"{other}/notes.txt") not in server.session


def test_records_are_rebuilt_with_the_size_limit_of_the_stack(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    assert max_bytes_of({"MaxUploadBytes": "300"}) == 300
    assert max_bytes_of({"MaxUploadBytes": "5.3687091200E10"}) == 53_687_091_200
    assert max_bytes_of({}) > 1 << 60, "nothing times out here"
    path = listed(system, f"{TINY}/20261101")
    system.store.remove(f"versions/{path}.json")
    serve(system, monkeypatch, max_bytes=20)
    admin("rebuild records --yes")
    assert "expected at most 20" in admin(f"list {path}").stdout


def test_without_the_distribution_the_pending_invalidation_is_printed(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = listed(system, f"{TINY}/20261101_10:00")
    withdraw(system.store, parse_version(path), START.replace(year=2020), 24, lambda _: None)
    system.catch_up()
    serve(system, monkeypatch)
    assert "the edge" not in admin("prune --dry-run").stderr
    stderr = admin("prune --yes").stderr
    (line,) = [line for line in stderr.splitlines() if "the edge" in line]
    assert line.startswith("the edge was not asked to invalidate 2 files")
    assert "--stack NAME" in line
    assert line.endswith(f"aws cloudfront create-invalidation --distribution-id ID --paths '/{path}/*'")


def test_the_command_for_the_edge_ends_a_path_before_a_tilde(capsys: pytest.CaptureFixture[str]) -> None:
    deployment = Deployment(None, "images-1", None)
    deployment.invalidate([f"images/a/1.0~rc{number}/amd64/default/20261101/x" for number in (1, 2)])
    deployment.print_pending_invalidations()
    assert capsys.readouterr().err.rstrip().endswith("--paths '/images/a/1.0*'")


def test_a_rebuild_with_a_failing_product_names_it_and_renders_the_others(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = listed(system, f"{TINY}/20261101")
    other = listed(system, "images/aaa/1/amd64/default/20261101", seed="other")
    system.upload(path, {"rootfs.squashfs": images.squashfs("new")})
    system.ingest(path)
    system.upload(f"{other[:-1]}2", images.split_image(seed="another"))
    system.ingest(f"{other[:-1]}2")

    def refuse(_self: Deployment, _keys: Any) -> None:
        raise InvalidationRefused("InvalidArgument")

    serve(system, monkeypatch, distribution="E123")
    monkeypatch.setattr(FakeDeployment, "invalidate", refuse)
    done = admin("rebuild catalog --yes", 1)
    assert "not done: 1 product of images cannot be listed as the records say" in done.stderr
    assert "tiny:1:amd64:default: InvalidArgument" in done.stderr
    assert system.listed()["aaa:1:amd64:default"] == ["20261101", "20261102"]


def test_the_local_stack_needs_no_invalidation(system: System, capsys: pytest.CaptureFixture[str]) -> None:
    for endpoint, lines in (("http://127.0.0.1:9000", 0), (None, 1)):
        deployment = Deployment(None, "images-1", endpoint)
        deployment.invalidate([f"images/{name}/1/amd64/default/20261101/a" for name in "abcdefgh"])
        deployment.print_pending_invalidations()
        output_lines = capsys.readouterr().err.splitlines()
        assert len(output_lines) == lines
    assert output_lines[0].endswith("--paths '/images/*'"), "too many to name each"


def test_the_doctor_hints_at_images_listed_by_another_product(
    system: System, server: FakeDeployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks, "CHECKS", {"withheld": checks.CHECKS["withheld"]})
    listed(system, f"{TINY}/20261101")
    first = listed(system, f"{TINY}/20261102")  # the same image again, in the same product
    assert json_of("doctor") == []
    copy = listed(system, "images/aaa/1/amd64/default/20261123")
    found = json_of("doctor")
    assert {one["hint"] for one in found} == {True}
    assert f"{copy}/rootfs.squashfs is not listed, because {first} has the same image" in {one["what"] for one in found}
    assert {one["remedy"] for one in found} == {f"if that one should not have it: admin withdraw {first}"}
    assert "a copy of this image" in admin(f"show {first}").stdout
    stdout = admin("doctor").stdout
    assert stdout.startswith("withheld: ok; 1 hint\n  hint: ")


def test_the_doctor_names_the_product_even_if_it_no_longer_lists_the_image(system: System) -> None:
    listed(system, f"{TINY}/20261101")
    document = DocumentCache(system.store).products("images")
    assert checks._holder(document, "tiny:1:amd64:default", "0" * 64) == TINY
    assert checks._holder(document, "gone:1:amd64:default", "0" * 64) == "images/gone/1/amd64/default"


def test_a_missing_folder_is_reported(server: FakeDeployment, tmp_path: Path) -> None:
    assert f"there is no folder {tmp_path}/none on this machine" in admin(f"import {tmp_path}/none", 4).stderr
    assert "neither a file below images* nor a catalog" in admin(f"import {tmp_path}", 4).stderr


def test_restore_reports_what_remains_withdrawn_or_is_being_deleted(system: System, server: FakeDeployment) -> None:
    path = listed(system, f"{TINY}/20261101")
    taken(system, path)
    stderr = admin(f"restore {path}/rootfs.squashfs", FOUND).stderr
    assert f"{path} is withdrawn as a whole, until" in stderr
    assert f"`admin restore {path}`" in stderr
    key = f"versions/{path}.json"
    found = records.decode(system.store.objects[key].body, key)
    assert found.withdrawn
    final = msgspec.structs.replace(found, withdrawn=msgspec.structs.replace(found.withdrawn, final=True))
    system.store.put(key, records.encode(assessed(final)))
    for line in (f"restore {path}", f"restore {path}/rootfs.squashfs", f"withdraw {path} --yes"):
        assert "its files are being deleted: `admin prune --yes` ends that" in admin(line, FOUND).stderr


def test_restore_names_each_version_that_is_not_withdrawn(system: System, server: FakeDeployment) -> None:
    there, gone = (listed(system, f"{TINY}/{name}", seed=name) for name in ("20261101", "20261102"))
    taken(system, gone)
    expected = f"{there}: is not withdrawn\n{gone}: on the list again\n"
    assert sorted(admin(f"restore {TINY}").stdout.splitlines()) == sorted(expected.splitlines())
    assert admin(f"restore {gone} --dry-run").stdout == f"{gone}: is not withdrawn\n"


def test_restore_by_a_fingerprint_asks_which_version_if_a_listed_copy_has_it_too(
    system: System, server: FakeDeployment
) -> None:
    gone = listed(system, f"{TINY}/20261101")
    copy = listed(system, "images-daily/tiny/1/amd64/default/20261102")
    name = fingerprint(system, gone)
    taken(system, gone)
    system.publish(*system.products())
    stderr = admin(f"restore {name}", 2).stderr
    assert f"{name} means 2 versions; name one of them: {gone}, {copy}" in stderr


def test_restore_and_reconcile_accept_yes_and_honour_dry_run(
    system: System, server: FakeDeployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = listed(system, f"{TINY}/20261101")
    taken(system, path)
    before = dict(system.store.objects)
    assert json_of(f"restore {path} --dry-run --yes")["dry_run"] is True
    assert system.store.objects == before
    assert json_of(f"restore {path} --yes")["versions"] == [path]
    assert system.store.objects != before
    monkeypatch.setattr(Deployment, "queue", lambda *_: Queue("url", {}, ""))
    monkeypatch.setattr(Deployment, "sqs", None)
    system.catch_up()
    assert json_of("reconcile --yes")["tasks"] == []
    assert json_of("prune --dry-run --yes")["dry_run"] is True


@pytest.mark.parametrize(("deltas", "days"), [(1, 0), (0, 0), (1, 3)], ids=["lost", "switched off", "old"])
def test_reconcile_requests_the_deltas_of_a_recent_version_whose_request_was_lost(
    deltas: int, days: int, system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    system.store.clock = datetime.now(UTC) - timedelta(days=days)
    new = [listed(system, f"{TINY}/{name}", seed=name) for name in ("20261101", "20261102")][1]
    system.catch_up()
    sent: list[dict[str, Any]] = []
    server = serve(system, monkeypatch, stack="images", deltas=deltas)
    server.__dict__.update(sqs=SimpleNamespace(send_message=lambda **message: sent.append(message)), notifier=Sent())
    monkeypatch.setattr(Deployment, "queue_named", lambda _, logical_id: f"https://queue/{logical_id}")
    monkeypatch.setattr(arguments, "open_stack", lambda _: server)
    is_requested = deltas > 0 and days < 2

    assert len(json_of("reconcile --stack images --dry-run")["tasks"]) == is_requested
    assert sent == []
    why = f"{new.rpartition('/')[2]} has no delta from 20261101, and its record does not say why"
    assert [task["why"] for task in json_of("reconcile --stack images")["tasks"]] == [why] * is_requested
    message = {"QueueUrl": "https://queue/DeltasQueue", "MessageBody": events.changed(f"versions/{TINY}/")}
    assert sent == [message] * is_requested


def fingerprint(system: System, path: str, file: str = "rootfs.squashfs") -> str:
    """Return the fingerprint of an image whose metadata and root were uploaded by `listed`."""
    record = json_of(f"show {path}")[0]["record"]
    metadata = record["files"]["lxd.tar.xz"]["sha256"]
    found: str = record["files"][file]["combined"][metadata]
    return found


@pytest.mark.parametrize("written", ["{:.6}", "{:.12}", "{}", "mine:{:.12}"])
@pytest.mark.parametrize("case", [str.lower, str.upper])
def test_one_image_is_shown_withdrawn_verified_and_restored_by_its_fingerprint(
    system: System, server: FakeDeployment, written: str, case: Callable[[str], str]
) -> None:
    path = listed(system, f"{TINY}/20261101")
    other = listed(system, "images/other/1/amd64/default/20261101", seed="other")
    name = written.format(case(fingerprint(system, path)))
    assert [one["version"] for one in json_of(f"show {name}")] == [path]
    assert json_of(f"verify {name}") == {"versions": 1, "bytes": json_of(f"verify {path}")["bytes"], "mismatches": []}
    done = admin(f"withdraw {name} --yes")
    assert done.stderr == f"{name} is {path}\n"
    assert done.stdout.startswith(f"{path}: withdrawn, deleted after ")
    system.publish(*system.products())
    assert [one["version"] for one in json_of(f"show {name}")] == [path], "it is no longer in the catalog"
    assert json_of(f"restore {name}")["versions"] == [path]
    assert system.listed()[other.split("/")[1] + ":1:amd64:default"] == ["20261101"]


def test_a_fingerprint_means_one_file_where_its_version_has_other_images(
    system: System, server: FakeDeployment
) -> None:
    path = f"{TINY}/20261101"
    system.upload(path, {**images.split_image(), "disk.qcow2": images.qcow2()})
    system.catch_up()
    name = fingerprint(system, path, "disk.qcow2")[:12]
    assert json_of(f"withdraw {name} --yes")["files"] == [f"{path}/disk.qcow2"]
    assert json_of(f"show {name}")[0]["version"] == path


def test_an_alias_means_the_newest_version_and_is_refused_where_several_have_it(
    system: System, server: FakeDeployment
) -> None:
    listed(system, f"{TINY}/20261101", seed="old")
    newest = listed(system, f"{TINY}/20261102", seed="new")
    assert [one["version"] for one in json_of("show tiny/1")] == [newest]
    assert [one["version"] for one in json_of("show mine:tiny/1/default")] == [newest]
    assert json_of("verify mine:tiny/1")["versions"] == 1
    arm = listed(system, "images/tiny/1/arm64/default/20261101", arch="arm64", seed="arm")
    done = admin("show tiny/1", 2)
    assert f"tiny/1 means 2 versions; name one of them: {newest}, {arm}" in done.stderr


@pytest.mark.parametrize("stream", ["", "images/"])
def test_a_product_is_found_by_the_name_that_the_page_shows(
    system: System, server: FakeDeployment, stream: str
) -> None:
    path = listed(system, f"{TINY}/20261101")
    name = stream + TINY.removeprefix("images/").replace("/", ":")
    for line in (f"show {name}", f"list {name}"):
        assert [one["version"] for one in json_of(line)] == [path]
    assert json_of(f"verify {name}")["versions"] == 1


def test_an_image_is_listed_by_its_fingerprint_and_by_the_name_that_clients_use(
    system: System, server: FakeDeployment
) -> None:
    path = listed(system, f"{TINY}/20261101")
    listed(system, "images/other/1/amd64/default/20261101", seed="other")
    decade = listed(system, "images/decade/1/amd64/default/20261101", seed="decade")
    for name, version in ((fingerprint(system, path)[:12], path), ("mine:tiny/1", path), ("decade", decade)):
        assert [one["version"] for one in json_of(f"list {name}")] == [version]


def test_a_long_alias_after_a_remote_means_the_newest_version_not_the_product(
    system: System, server: FakeDeployment
) -> None:
    """Without a remote the same text is the path of the product, and all its versions would be withdrawn."""
    listed(system, f"{TINY}/20261101", seed="old")
    newest = listed(system, f"{TINY}/20261102", seed="new")
    assert json_of("withdraw mine:tiny/1/amd64/default --yes")["versions"] == [newest]


@pytest.mark.parametrize("name", ["0123456789ab", "tiny/none", "nothing", "mine:möbel"])
def test_an_unknown_name_is_refused_with_the_accepted_forms(system: System, server: FakeDeployment, name: str) -> None:
    listed(system, f"{TINY}/20261101")
    for command in ("show", "withdraw", "restore"):
        stderr = admin(f"{command} {name}", 3).stderr
        assert f"nothing has the fingerprint or the alias '{name}'; expected a product" in stderr


def test_a_second_withdrawal_reports_that_the_first_stays_in_force(system: System, server: FakeDeployment) -> None:
    path = listed(system, f"{TINY}/20261101")
    taken(system, path, "does not boot")
    done = admin(f"withdraw {path} --reason again --yes")
    assert done.stdout == (
        f'{path}: was withdrawn already on {START.isoformat(timespec="seconds")} because "does not boot"; its date '
        f"and reason stay, and it is deleted after {START + timedelta(days=36500):%Y-%m-%dT%H:%M:%S+00:00}\n"
    )
    assert json_of(f"withdraw {path} --reason again --yes")["already"][path]["reason"] == "does not boot"
