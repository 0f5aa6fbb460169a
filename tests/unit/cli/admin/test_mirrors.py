"""What `scripts/admin mirror` prints and does, over a bucket and another server in memory."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from cli.admin import arguments, mirrors
from cli.admin.__main__ import main
from cli.admin.deployment import Deployment
from cli.admin.errors import NOTHING, STORAGE
from imageserver.format.keys import parse_version
from imageserver.operations.mirror_documents import configured, note_refusal, state_of
from imageserver.operations.promotion import promote
from imageserver.operations.view_documents import create_view
from imageserver.upstream import messages
from imageserver.upstream.messages import MirrorMessage
from imageserver.upstream.mirrors import PUBLIC_KEY, Mirror
from imageserver.views.view import View
from tests.support import images
from tests.support.gpg import gpg
from tests.support.memory_store import System
from tests.support.memory_upstream import MemoryUpstream
from tests.support.views import channel, private, view

USAGE = 2
TINY = "images/tiny/1/amd64/default/20261101_1000"
ADD = "mirror add site https://images.example.org"


@dataclass
class World:
    """The server, another one that it may mirror, and the requested copies."""

    system: System = field(default_factory=System)
    upstream: MemoryUpstream = field(default_factory=MemoryUpstream)
    asked: list[MirrorMessage] = field(default_factory=list)
    deployment: Deployment = field(default_factory=lambda: Deployment([], "images-1", edge="https://here.example.org"))

    def publish(self, path: str = TINY) -> None:
        origin = System()
        origin.upload(path, images.split_image(seed=path))
        origin.catch_up()
        self.upstream.files |= {key: found.body for key, found in origin.store.objects.items()}

    def admin(self, line: str, code: int = 0) -> Result:
        done = CliRunner().invoke(main, line.split())
        assert done.exit_code == code, (line, done.output, done.exception)
        return done

    def json_of(self, line: str, code: int = 0) -> Any:
        return json.loads(self.admin(f"--json {line}", code).stdout)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    made = World()
    made.deployment.__dict__.update(store=made.system.store, sqs=None, copies_queue="copies")
    monkeypatch.setattr(arguments, "open_local", lambda _: made.deployment)
    monkeypatch.setattr(mirrors, "RemoteServer", lambda *_, **_more: made.upstream)
    monkeypatch.setattr(mirrors, "send_all", lambda _sqs, _url, bodies: made.asked.extend(map(messages.decode, bodies)))
    return made


def test_one_command_follows_a_server_and_asks_for_its_images(world: World) -> None:
    world.publish()
    done = world.admin(f"{ADD} --only all --keep 2 --into images-site --grace-days 3 --host cdn.example.org")
    assert "selected: 1 version of 1 product; missing: 2 files" in done.stdout
    assert configured(world.system.store) == {
        "site": Mirror(
            address="https://images.example.org",
            stream="images-site",
            only=("all",),
            keep=2,
            grace_days=3,
            hosts=("cdn.example.org",),
        )
    }
    assert {(one.mirror, one.key) for one in world.asked} == {
        ("site", f"images-site/tiny/1/amd64/default/20261101_1000/{file}")
        for file in ("incus.tar.xz", "rootfs.squashfs")
    }


def make(world: World, *views: View) -> None:
    for one in views:
        create_view(world.system.store, one)


FRESH = channel("fresh", ("images-fresh",), follows_newest=True)


def test_new_versions_enter_a_channel_in_place_of_the_public_list(world: World) -> None:
    make(world, FRESH, private("candidates", ("images-fresh",)))
    world.publish()
    world.admin(f"{ADD} --only all --channel fresh")
    assert configured(world.system.store)["site"].stream == "images-fresh"
    assert all(one.key.startswith("images-fresh/") for one in world.asked)
    assert "shown in: candidates, fresh (the newest)\n" in world.admin("mirror show site").stdout
    assert world.json_of("mirror show site")["shown"] == {
        "is_public": False,
        "views": ["candidates", "fresh"],
        "newest": ["fresh"],
    }
    assert PUBLIC_KEY not in world.system.store.objects


def test_show_names_every_view_that_shows_the_stream_of_a_mirror(world: World) -> None:
    world.publish()
    world.admin(f"{ADD} --only all")
    assert "shown in" not in world.admin("mirror show site").stdout
    make(world, view("ubuntu", ("images",)))
    assert "shown in: the public catalog, ubuntu\n" in world.admin("mirror show site").stdout


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--channel beta", "there is no channel beta: ./scripts/admin view create beta --channel --newest --streams"),
        ("--channel stable", "stable shows what is promoted to it and nothing by itself"),
        ("--channel both", "the channel both shows images-fresh and images-hidden: choose one with --into"),
        ("--channel fresh --into images", "the channel fresh does not show images, expected images-fresh"),
        ("--channel fresh", "images-fresh is in the public catalog, so the images would be public"),
    ],
)
def test_a_channel_that_cannot_show_the_mirrored_images_is_refused_and_nothing_is_written(
    world: World, options: str, message: str
) -> None:
    both = channel("both", ("images-fresh", "images-hidden"), follows_newest=True)
    make(world, FRESH, both, channel("stable"), private("candidates", ("images-hidden",)))
    world.publish()
    before = dict(world.system.store.objects)
    assert message in world.admin(f"{ADD} --only all {options}", USAGE).stderr
    assert (world.system.store.objects, world.asked) == (before, [])


def test_removing_a_mirror_with_its_images_names_each_channel_that_goes_back(world: World) -> None:
    make(world, channel())
    world.publish()
    world.admin(f"{ADD} --only all")
    world.system.upload(TINY, images.split_image(seed=TINY))
    world.system.catch_up()
    promote(world.system.store, "stable", parse_version(TINY), world.system.store.clock, "ann", lambda _: None)
    output = world.admin("mirror remove site --withdraw-images --yes").stderr
    assert f"the channel stable goes back from 20261101_1000: it shows nothing of {TINY.rpartition('/')[0]}" in output


def test_a_dry_run_prints_what_would_be_copied_and_its_price_and_writes_nothing(world: World) -> None:
    world.publish()
    world.upstream.files[f"{TINY}/rootfs.squashfs"] += b""
    report = world.json_of(f"{ADD} --only all --dry-run")
    assert (report["products"], report["versions"], report["files"]) == (1, 1, 2)
    assert report["bytes"] == sum(len(body) for key, body in world.upstream.files.items() if key.startswith("images/"))
    assert report["dollars_a_month"] == pytest.approx(report["bytes"] / 1e9 * 0.023)
    assert not world.system.store.objects
    assert not world.asked


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("mirror add Site https://images.example.org --only all", "expected 1 to 63 of a-z"),
        (f"{ADD}", "Missing option '--only'"),
        (f"{ADD} --only ubuntu,colour=red", "the term 'colour=red'"),
        (f"{ADD} --only all --into streams", "expected `images` or `images-`"),
        ("mirror add site http://10.0.0.1 --only all", "expected https"),
    ],
)
def test_an_invalid_mirror_is_refused_by_name_and_not_written(world: World, line: str, message: str) -> None:
    world.publish()
    assert message in world.admin(line, USAGE).stderr
    assert not world.system.store.objects


def test_a_server_without_images_is_not_followed(world: World) -> None:
    assert "upstream answers 404" in world.admin(f"{ADD} --only all", STORAGE).stderr
    assert not world.system.store.objects


def test_a_server_that_cannot_copy_names_the_parameter_to_deploy(world: World) -> None:
    world.publish()
    world.deployment.__dict__["copies_queue"] = ""
    assert "deploy it with MirrorSchedule" in world.admin(f"{ADD} --only all", NOTHING).stderr
    assert not world.system.store.objects
    world.admin(f"{ADD} --only all --dry-run")


def test_a_mirror_is_changed_only_with_replace(world: World) -> None:
    world.publish()
    world.admin(f"{ADD} --only all")
    assert "change it with --replace" in world.admin(f"{ADD} --only debian", USAGE).stderr
    changed = world.admin(f"{ADD} --only debian --replace")
    assert "selected: 0 versions of 0 products; nothing is missing" in changed.stdout
    assert configured(world.system.store)["site"].only == ("debian",)


def test_list_and_show_name_missing_files_and_the_reason(world: World) -> None:
    assert "no server is followed" in world.admin("mirror list").stderr
    world.publish()
    world.admin(f"{ADD} --only all")
    (row,) = world.json_of("mirror list")
    assert (row["name"], row["state"], row["missing"], row["error"]) == ("site", "2 files missing", 2, "")
    key = f"{TINY}/rootfs.squashfs"
    note_refusal(world.system.store, "site", key, "has 3 bytes", world.system.store.clock, lambda _: None)
    note_refusal(
        world.system.store, "site", "images/long/gone", "has 3 bytes", world.system.store.clock, lambda _: None
    )
    shown = world.json_of("mirror show site")
    assert shown["refused"] == {key: "has 3 bytes"}
    assert f"missing: {key}, asked for on" in world.admin("mirror show site").stdout
    assert world.admin("mirror list").stdout.startswith("site\t2 files missing\t0 h 0 min\timages\t")


@pytest.mark.parametrize("line", ["mirror show nobody", "mirror run nobody", "mirror remove nobody --keep-images"])
def test_an_unknown_mirror_is_reported_by_name(world: World, line: str) -> None:
    assert "there is no mirror nobody" in world.admin(line, NOTHING).stderr


def test_run_gives_the_reason_for_a_refused_upstream_until_an_operator_accepts_it(world: World) -> None:
    world.publish()
    world.publish("images/tiny/1/amd64/default/20261102_1000")
    world.publish("images/other/1/amd64/default/20261102_1000")
    world.admin(f"{ADD} --only all")
    world.upstream.files = {}
    world.publish()
    origin_of_three = world.upstream.files.pop("streams/v1/images.json")
    world.upstream.files["streams/v1/images.json"] = origin_of_three.replace(b'"20261101_1000"', b'"x"')
    done = world.admin("mirror run site", STORAGE)
    assert "upstream lists no image" in done.stdout
    assert world.json_of("mirror list")[0]["state"] == "failed"


def test_remove_reports_whether_the_images_stay(world: World) -> None:
    world.publish()
    world.admin(f"{ADD} --only all")
    assert "--keep-images or --withdraw-images" in world.admin("mirror remove site --yes", USAGE).stderr
    assert "would be removed; add --yes" in world.admin("mirror remove site --withdraw-images").stdout
    assert list(configured(world.system.store)) == ["site"]


@pytest.mark.parametrize(("option", "stays"), [("--keep-images", True), ("--withdraw-images", False)])
def test_images_of_a_removed_mirror_are_kept_or_withdrawn(world: World, option: str, stays: bool) -> None:
    world.publish()
    world.admin(f"{ADD} --only all")
    for one in world.asked:
        world.system.store.put(one.key, world.upstream.files[one.path])
    local = "images/local/1/amd64/default/20261101_1000"
    world.system.upload(local, images.split_image(seed="local"))
    world.system.catch_up()
    report = world.json_of(f"mirror remove site {option} --yes")
    assert report["versions"] == [TINY]
    world.system.catch_up()
    assert ("tiny:1:amd64:default" in world.system.listed()) is stays
    assert "local:1:amd64:default" in world.system.listed()
    assert configured(world.system.store) == {}
    assert state_of(world.system.store, "site").held == {}


def test_a_failed_removal_can_be_repeated(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.publish()
    world.admin(f"{ADD} --only all")

    def broken(*_: object) -> None:
        raise ConnectionError("broken off")

    with monkeypatch.context() as patch:
        patch.setattr(mirrors, "forget", broken)
        world.admin("mirror remove site --withdraw-images --yes", STORAGE)
    assert world.json_of("mirror remove site --withdraw-images --yes")["versions"] == [TINY]
    assert state_of(world.system.store, "site").held == {}


def test_a_keyring_is_kept_shown_and_not_lost_by_accident(world: World, tmp_path: Path) -> None:
    world.publish()
    with gpg() as keys:
        keys.make_key("good")
        ring = tmp_path / "keyring.gpg"
        ring.write_bytes(keys.keyring("good"))
        for name in ("index", "images"):
            path = f"streams/v1/{name}"
            world.upstream.files[f"{path}.sjson"] = keys.clear_sign("good", world.upstream.files.pop(f"{path}.json"))
        (fingerprint,) = keys.fingerprints("good")
    world.admin(f"{ADD} --only all --keyring {ring}")
    assert {one.signed_by for one in world.asked} == {fingerprint}
    assert world.json_of("mirror show site")["keys"] == [fingerprint]
    assert f"signed by: {fingerprint}\n" in world.admin("mirror show site").stdout
    refused = world.admin(f"{ADD} --only all --replace", USAGE)
    assert "name its --keyring again, or say --unsigned" in refused.output
    world.admin(f"{ADD} --only all --replace --keyring {ring}")
    world.publish()
    world.admin(f"{ADD} --only all --replace --unsigned")
    assert configured(world.system.store)["site"].keyring == ""


def test_a_keyring_without_a_key_is_refused_with_the_command_that_writes_one(world: World, tmp_path: Path) -> None:
    world.publish()
    ring = tmp_path / "keyring.gpg"
    ring.write_bytes(b"no key")
    done = world.admin(f"{ADD} --only all --keyring {ring}", USAGE)
    assert "gpg --export FINGERPRINT" in done.output
    assert configured(world.system.store) == {}


def test_an_unsigned_upstream_is_not_followed_with_a_keyring(world: World, tmp_path: Path) -> None:
    world.publish()
    with gpg() as keys:
        keys.make_key("good")
        ring = tmp_path / "keyring.gpg"
        ring.write_bytes(keys.keyring("good"))
    done = world.admin(f"{ADD} --only all --keyring {ring}", STORAGE)
    assert "is not signed" in done.output
    assert configured(world.system.store) == {}


def test_connections_and_bytes_per_second_can_be_set_within_limits(world: World) -> None:
    world.publish()
    world.admin(f"{ADD} --only all --connections 2 --bytes-per-s 5000000")
    found = configured(world.system.store)["site"]
    assert (found.connections, found.bytes_per_s) == (2, 5_000_000)
    report = world.json_of("mirror show site")
    assert (report["connections"], report["bytes_per_s"]) == (2, 5_000_000)
    world.admin(f"{ADD} --only all --connections 9", USAGE)
    world.admin(f"{ADD} --only all --bytes-per-s 99999", USAGE)


def test_show_counts_the_versions_listed_now_not_at_the_last_comparison(world: World) -> None:
    world.publish()
    world.admin(f"{ADD} --only all")
    assert "listed now: 0 of the 1 version that it holds" in world.admin("mirror show site").stdout
    for one in world.asked:
        world.system.store.put(one.key, world.upstream.files[one.path])
    world.system.catch_up()
    assert "listed now: 1 of the 1 version that it holds" in world.admin("mirror show site").stdout
    report = world.json_of("mirror show site")
    assert (report["listed"], report["held"], report["missing"]) == (1, 1, 2)


def test_a_file_above_the_limit_of_the_stack_is_left_out_of_the_plan(world: World) -> None:
    world.publish()
    world.deployment.__dict__["max_bytes"] = 1
    report = world.json_of(f"{ADD} --only all --dry-run")
    assert (report["files"], report["left_out_total"]) == (0, 2)
    assert all("expected at most 1 (MaxUploadBytes)" in sentence for sentence in report["left_out"])
