"""What `scripts/admin view` and `promote` say and do, over a bucket and an edge's store in memory."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from cli.admin import arguments
from cli.admin.__main__ import main
from cli.admin.deployment import Deployment
from cli.admin.errors import FOUND, NOTHING, STORAGE
from cli.admin.token_use import LocalLog
from imageserver.errors import StorageUnavailable
from imageserver.format import documents
from imageserver.format.keys import ProductId, parse_version
from imageserver.operations.view_documents import change_view, configured, view_of
from imageserver.views.channels import expired
from tests.support import images
from tests.support.memory_store import MemoryKeyValues, System
from tests.support.views import post

USAGE = 2
NOBLE = "ubuntu/noble/amd64/default"
NAME = "ubuntu:noble:amd64:default"
OLD, NEW = "20261122_1000", "20261123_1000"
STAGING = "view create staging --streams images-staging --private"
STABLE = "view create stable --channel --streams images"


@dataclass
class World:
    """The server, its edge's entries, and a deployment over both."""

    system: System = field(default_factory=lambda: System(views=True))
    edge: MemoryKeyValues = field(default_factory=MemoryKeyValues)
    deployment: Deployment = field(
        default_factory=lambda: Deployment([], "images-1", edge="https://here.example.org", view_store_arn="arn:store")
    )

    def upload(self, *paths: str) -> None:
        for path in paths:
            self.system.upload(path, images.split_image(seed=path))
            self.system.ingest(path)
            self.system.publish(parse_version(path))

    def admin(self, line: str, code: int = 0) -> Result:
        done = CliRunner().invoke(main, line.split())
        assert done.exit_code == code, (line, done.output, done.exception)
        return done

    def json_of(self, line: str, code: int = 0) -> Any:
        return json.loads(self.admin(f"--json {line}", code).stdout)

    @property
    def index(self) -> list[str]:
        return sorted(documents.decode_index(self.system.streams().get(documents.INDEX_KEY)).index)


class Queue:
    """Publishes at once whatever is sent."""

    def __init__(self, system: System) -> None:
        self.system = system

    def product_changed(self, product: ProductId) -> None:
        self.system.publish(product)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    made = World()
    made.deployment.__dict__.update(
        store=made.system.store, view_store=made.edge, notifier=Queue(made.system), operator="ann"
    )
    monkeypatch.setattr(arguments, "open_local", lambda _: made.deployment)
    return made


def killed(call: str) -> Any:
    def on(method: str, *_: str) -> None:
        if method == call:
            raise KeyboardInterrupt

    return on


def test_one_command_gives_a_private_remote_and_another_revokes_it(world: World) -> None:
    world.admin(STAGING)
    world.upload(f"images-staging/{NOBLE}/{NEW}")
    made = world.json_of("view token add staging ann")
    assert world.index == []
    assert world.system.listed("images-staging", "staging") == {NAME: [NEW]}
    hashed = hashlib.sha256(made["token"].encode()).hexdigest()
    assert world.edge.entries.keys() == {"view:staging", "private", f"token:{hashed}"}
    assert world.edge.entries["private"] == '["images-staging"]'
    world.admin("view token revoke staging ann")
    assert world.edge.entries.keys() == {"view:staging", "private"}


def test_a_token_is_shown_once_with_the_lines_that_add_the_remote(world: World) -> None:
    world.admin(STAGING)
    shown = world.admin("view token add staging ann --expires never").stdout
    (token,) = set(re.findall(r"sst_[\w-]{32}", shown))
    assert f"lxc remote add staging https://ann:{token}@here.example.org --protocol simplestreams" in shown
    assert f"incus remote add staging https://ann:{token}@here.example.org --protocol simplestreams" in shown
    assert f"https://here.example.org/{token}" in shown
    assert "never expires" in shown
    others = (world.admin(line).stdout for line in ("view show staging", "view token list staging", "--json view list"))
    everything = "".join(others) + "".join(map(str, world.system.store.objects.values())) + str(world.edge.entries)
    assert token not in everything
    assert "token ann: made on" in world.admin("view show staging").stdout


def test_the_last_use_of_each_token_is_listed_with_its_count(world: World, tmp_path: Path) -> None:
    world.admin(STAGING)
    for label in ("ann", "bob"):
        world.admin(f"view token add staging {label}")
    log, now = tmp_path / "log", datetime.now(UTC) + timedelta(seconds=2)
    log.write_text(
        "".join(f'{now.isoformat()} {{"view":"staging","label":"{who}"}}\n' for who in ("ann", "ann", "eve"))
    )
    world.deployment.__dict__["edge_log"] = LocalLog(log)
    shown = world.admin("view token list staging").stdout
    assert f"used 2 times in 30 days, last on {now.isoformat(timespec='seconds')}" in shown
    assert re.search(r"token bob: .*, not used in 1 day$", world.admin("view token list staging --days 1").stdout, re.M)
    ann, bob = world.json_of("view token list staging")
    assert (ann["uses"], ann["last_use"]) == (2, now.isoformat(timespec="seconds"))
    assert (bob["label"], bob["uses"], bob["last_use"]) == ("bob", 0, None)


def test_an_unreadable_log_is_reported_and_the_list_still_printed(world: World, tmp_path: Path) -> None:
    world.admin(STAGING)
    world.admin("view token add staging ann")
    for log, why in ((LocalLog(tmp_path / "none"), "none cannot be read"), (None, "use --stack NAME")):
        world.deployment.__dict__["edge_log"] = log
        listed = world.admin("view token list staging")
        assert "token ann: made on" in listed.stdout
        assert "used" not in listed.stdout
        assert "last uses are unknown: " in listed.stderr
        assert why in listed.stderr
        (ann,) = world.json_of("view token list staging")
        assert (ann["uses"], ann["last_use"]) == (None, None)


def test_the_json_of_a_view_holds_no_secret(world: World) -> None:
    world.admin(STAGING)
    world.admin("view token add staging ann")
    secret = configured(world.system.store)["staging"].secret
    (view,) = world.json_of("view list")
    assert secret not in str(view)
    assert view["tokens"][0].keys() == {"label", "created", "until"}
    assert (view["is_private"], view["address"], view["private_streams"]) == (True, "", ["images-staging"])


def test_a_tested_image_moves_from_daily_to_stable_in_one_command_and_back_in_another(world: World) -> None:
    world.admin(STABLE)
    world.upload(f"images/{NOBLE}/{OLD}", f"images/{NOBLE}/{NEW}")
    assert "stable shows images/ubuntu/noble/amd64/default/20261122_1000, before: nothing" in (
        world.admin(f"promote {NOBLE}/{OLD} --to stable").stdout
    )
    assert world.json_of(f"promote {NOBLE}/{NEW} --to stable") == {
        "channel": "stable",
        "product": f"images/{NOBLE}",
        "before": OLD,
        "after": NEW,
    }
    assert world.system.listed(view="stable") == {NAME: [NEW]}
    world.admin(f"promote {NOBLE} --to stable --back")
    assert world.system.listed(view="stable") == {NAME: [OLD]}
    shown = world.admin("view show stable").stdout
    assert re.search(rf"{NOBLE}/{NEW}: promoted on \S+ by ann, taken back on \S+ by ann", shown)


def test_going_back_from_a_version_twice_goes_back_once(world: World) -> None:
    world.admin(STABLE)
    world.upload(f"images/{NOBLE}/{OLD}", f"images/{NOBLE}/{NEW}")
    for version in (OLD, NEW):
        world.admin(f"promote {NOBLE}/{version} --to stable")
    assert world.json_of(f"promote {NOBLE}/{NEW} --to stable --back")["after"] == OLD
    assert world.json_of(f"promote {NOBLE}/{NEW} --to stable --back")["after"] == OLD
    world.admin(f"promote {NOBLE}/{NEW} --to stable")
    output = world.admin(f"promote {NOBLE}/{OLD} --to stable --back", FOUND).stderr
    assert f"shows {NEW} of images/{NOBLE}, expected {OLD}; nothing was taken back" in output


def test_a_version_is_promoted_by_its_fingerprint(world: World) -> None:
    world.admin(STABLE)
    world.upload(f"images/{NOBLE}/{NEW}")
    (fingerprint,) = documents.images(documents.versions_of(world.system.products_document(), NAME)[NEW])
    world.admin(f"promote {fingerprint[:12]} --to stable")
    assert world.system.listed(view="stable") == {NAME: [NEW]}


def test_a_channel_that_follows_the_newest_shows_when_each_version_came_and_when_it_leaves(world: World) -> None:
    world.admin("view create testing --channel --newest --expire-after 14d --streams images")
    world.upload(f"images/{NOBLE}/{OLD}", f"images/{NOBLE}/{NEW}")
    assert world.system.listed(view="testing") == {NAME: [NEW]}
    shown = world.admin("view show testing").stdout.splitlines()
    assert "  shows the newest version of each product, but for what was taken back" in shown
    assert "  a version leaves it after 14 days" in shown
    dates = re.fullmatch(rf"  images/{NOBLE}/{NEW}: came on (\S+), leaves on (\S+)", shown[-1])
    assert dates
    assert datetime.fromisoformat(dates[2]) - datetime.fromisoformat(dates[1]) == timedelta(days=14)
    world.admin(f"promote {NOBLE} --to testing --back")
    assert world.system.listed(view="testing") == {NAME: [OLD]}
    assert "taken back on" in world.admin("view show testing").stdout
    assert world.json_of("view show testing")["expire_after_s"] == 14 * 24 * 3600


def test_a_channel_with_an_expiry_shows_which_versions_left_it(world: World) -> None:
    world.admin(f"{STABLE} --expire-after 36h")
    world.upload(f"images/{NOBLE}/{NEW}")
    world.admin(f"promote {NOBLE}/{NEW} --to stable")
    assert "a version leaves it after 36 hours" in world.admin("view show stable").stdout
    later = datetime.now(UTC) + timedelta(hours=37)
    change_view(world.system.store, "stable", partial(expired, now=later), lambda _: None)
    assert re.search(rf"{NOBLE}/{NEW}: promoted on \S+ by ann, left on ", world.admin("view show stable").stdout)


def test_a_longer_expiry_brings_back_a_version_that_had_left(world: World) -> None:
    world.admin(f"{STABLE} --expire-after 36h")
    world.upload(f"images/{NOBLE}/{NEW}")
    world.admin(f"promote {NOBLE}/{NEW} --to stable")
    later = datetime.now(UTC) + timedelta(hours=37)
    change_view(world.system.store, "stable", partial(expired, now=later), lambda _: None)
    world.system.publish(*world.system.products())
    assert world.system.listed(view="stable") == {}
    assert "a version leaves it after 2 days" in world.admin("view expire stable 2d").stdout
    assert world.system.listed(view="stable") == {NAME: [NEW]}
    assert "a version leaves it never" in world.admin("view expire stable never").stdout
    assert world.json_of("view expire stable 1d")["expire_after_s"] == 24 * 3600
    assert world.system.listed(view="stable") == {}


@pytest.mark.parametrize(
    ("line", "code", "message"),
    [
        ("view expire staging 14d", USAGE, "has an expiry and is not a channel"),
        ("view expire stable 0d", USAGE, "expected hours or days, such as 36h or 14d, or never"),
        ("view expire daily 14d", NOTHING, "there is no view daily"),
        (f"promote {NOBLE}/{NEW} --to testing", FOUND, "testing follows the newest version of each product by itself"),
        (f"promote {NOBLE} --to stable", USAGE, "name the version that stable is to show"),
        (f"promote {NOBLE}/20261101_1000 --to stable", FOUND, "there is no images/"),
        (f"promote {NOBLE}/{NEW} --to daily", FOUND, "there is no view 'daily'"),
        (f"promote {NOBLE}/{NEW} --to staging", FOUND, "the view staging is not a channel"),
        (f"promote {NOBLE} --to stable --back", FOUND, "the channel stable shows nothing of"),
    ],
)
def test_promote_names_whatever_it_cannot_promote(world: World, line: str, code: int, message: str) -> None:
    world.admin(STABLE)
    world.admin(STAGING)
    world.admin("view create testing --channel --newest --streams images")
    world.upload(f"images/{NOBLE}/{NEW}")
    assert message in world.admin(line, code).stderr


def test_withdrawing_a_version_shown_by_a_channel_prints_where_the_channel_goes_back_to(world: World) -> None:
    world.admin(STABLE)
    for version in (OLD, NEW):
        world.upload(f"images/{NOBLE}/{version}")
        world.admin(f"promote {NOBLE}/{version} --to stable")
    assert "goes back" not in world.admin(f"withdraw {NOBLE}/{NEW}").stderr
    output = world.admin(f"withdraw {NOBLE}/{NEW} --yes").stderr
    assert f"the channel stable goes back from {NEW}: it shows images/{NOBLE}/{OLD}" in output
    output = world.admin(f"withdraw {NOBLE}/{OLD} --yes").stderr
    assert f"the channel stable goes back from {OLD}: it shows nothing of images/{NOBLE}" in output


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("view create Stable --channel --streams images", "expected 1 to 63 of a-z"),
        ("view create stable --channel", "Missing option '--streams'"),
        ("view create stable --channel --streams daily", "expected `images` or `images-`"),
        ("view create stable --streams images --only ubuntu,size<=1GB", "a view selects products"),
        ("view create beta --streams images --newest", "follows the newest version and is not a channel"),
        ("view create beta --streams images --expire-after 14d", "has an expiry and is not a channel"),
        ("view create beta --channel --streams images --expire-after 2w", "expected hours or days, such as 36h or 14d"),
        (f"{STABLE} --expire-after 14d", "there is a view stable that selects something else"),
        (f"{STAGING} --only ubuntu", "there is a view staging that selects something else"),
        ("view token add stable ann", "it needs no token"),
        ("view token add staging Ann", "the label 'Ann' has other characters"),
        ("view token add staging bob", "has a token bob"),
        ("view token add staging eve --expires 2d", "'2d' is not one of"),
    ],
)
def test_an_invalid_view_is_refused_with_the_reason_and_not_written(world: World, line: str, message: str) -> None:
    for made in (STAGING, STABLE, "view token add staging bob"):
        world.admin(made)
    before = {key: found.body for key, found in world.system.store.objects.items()}
    assert message in world.admin(line, USAGE).stderr
    assert {key: found.body for key, found in world.system.store.objects.items()} == before


def test_a_public_stream_is_hidden_only_on_explicit_request(world: World) -> None:
    world.upload(f"images-staging/{NOBLE}/{OLD}", f"images/{NOBLE}/{NEW}")
    assert "images-staging is listed for everybody" in world.admin(STAGING, USAGE).stderr
    assert world.index == ["images", "images-staging"]
    world.admin(f"{STAGING} --hide")
    assert world.index == ["images"]
    assert "ubuntu/noble" in world.system.products_document().products[NAME].aliases


def test_who_makes_a_private_channel_of_a_public_stream_is_told_that_it_stays_public(world: World) -> None:
    output = world.admin("view create beta --private --channel --streams images-staging").stderr
    assert "everybody still sees images-staging, as a channel makes no stream private" in output
    world.admin(STAGING)
    again = world.admin("view create gamma --private --channel --streams images-staging")
    assert "everybody" not in again.stderr


def test_a_stream_is_shown_in_a_private_view_and_stays_public(world: World) -> None:
    world.upload(f"images/{NOBLE}/{NEW}")
    world.admin("view create partner --streams images-partner --with images --private")
    assert world.edge.entries["private"] == '["images-partner"]'
    assert world.index == ["images"]
    assert world.system.listed("images", "partner") == {NAME: [NEW]}


def test_a_view_for_one_kind_of_client_lists_its_items_and_names_the_kind(world: World) -> None:
    world.upload(f"images/{NOBLE}/{NEW}")
    world.admin("view create incus-only --streams images --clients incus")
    (product,) = world.system.products_document(view="incus-only").products.values()
    assert "lxd.tar.xz" not in documents.decode_versions(product)[NEW].items
    assert "of images, for incus alone, made on" in world.admin("view show incus-only").stdout
    assert world.json_of("view show incus-only")["clients"] == "incus"
    again = world.admin("view create incus-only --streams images", USAGE).stderr
    assert "there is a view incus-only that selects something else" in again


def test_a_view_without_products_has_an_index_that_clients_can_read(world: World) -> None:
    world.admin(STABLE)
    index = world.system.store.objects["views/stable/streams/v1/index.json"].body
    assert json.loads(index) == {"format": "index:1.0", "index": {}}


def test_a_server_without_views_at_its_edge_names_the_parameter_to_deploy(world: World) -> None:
    world.deployment.__dict__["view_store"] = None
    for line, code in ((STAGING, USAGE), (STABLE, USAGE), ("view sync", NOTHING)):
        assert "deploy it with the parameter Views=true" in world.admin(line, code).stderr
    assert not world.system.store.objects


@pytest.mark.parametrize("call", ["create", "read", "change"])
def test_a_killed_creation_is_finished_by_the_same_command(world: World, call: str) -> None:
    world.upload(f"images-staging/{NOBLE}/{NEW}")
    where = world.system.store if call == "create" else world.edge
    where.on = killed(call)
    with pytest.raises(click.Abort):
        main([*STAGING.split(), "--hide"], standalone_mode=False)
    where.on = lambda *_: None
    world.admin(f"{STAGING} --hide")
    assert world.edge.entries.keys() == {"view:staging", "private"}
    assert world.index == []
    assert world.system.listed("images-staging", "staging") == {NAME: [NEW]}


def kill_a_revocation(world: World) -> None:
    """Revoke the only token of staging, and die before the edge is updated."""
    world.admin(STAGING)
    world.admin("view token add staging ann")
    world.edge.on = killed("change")
    with pytest.raises(click.Abort):
        main(["view", "token", "revoke", "staging", "ann"], standalone_mode=False)
    world.edge.on = lambda _: None


def test_a_killed_revocation_is_finished_by_sync(world: World) -> None:
    kill_a_revocation(world)
    assert world.admin("view sync").stdout == "entries of the edge: 0 written, 1 deleted\n"
    assert not [key for key in world.edge.entries if key.startswith("token:")]
    assert world.json_of("view sync") == {"put": [], "deleted": []}


def test_a_token_that_could_not_be_sent_to_the_edge_is_made_by_the_same_command(world: World) -> None:
    world.admin(STAGING)

    def away(method: str) -> None:
        if method == "change":
            raise StorageUnavailable("arn:store did not answer")

    world.edge.on = away
    assert "did not answer" in world.admin("view token add staging ann", STORAGE).stderr
    world.edge.on = lambda _: None
    assert "sst_" in world.admin("view token add staging ann").stdout
    assert len([key for key in world.edge.entries if key.startswith("token:")]) == 1


def test_a_revocation_that_was_killed_is_ended_by_the_same_command(world: World) -> None:
    kill_a_revocation(world)
    world.admin("view token revoke staging ann", NOTHING)
    assert not [key for key in world.edge.entries if key.startswith("token:")]


def test_a_view_whose_private_streams_the_edge_cannot_hold_is_not_made_and_tokens_can_still_be_revoked(
    world: World,
) -> None:
    world.admin(STAGING)
    world.admin("view token add staging ann")
    streams = ",".join(f"images-{'x' * 60}{n}" for n in range(20))
    assert "make fewer streams private" in world.admin(f"view create wide --private --streams {streams}", USAGE).stderr
    assert configured(world.system.store).keys() == {"staging"}
    world.admin("view token revoke staging ann")
    assert not [key for key in world.edge.entries if key.startswith("token:")]


def test_access_ends_though_the_document_of_another_view_cannot_be_read(world: World) -> None:
    world.admin(STAGING)
    world.admin(STABLE)
    for label in ("ann", "bob"):
        world.admin(f"view token add staging {label}")
    good = world.system.store.objects["private/views/stable.json"].body
    world.system.store.put("private/views/stable.json", b"{")
    assert "stable.json cannot be read" in world.admin("view token revoke staging ann", STORAGE).stderr
    assert len([key for key in world.edge.entries if key.startswith("token:")]) == 1
    world.system.store.put("private/views/stable.json", good)
    world.admin("view sync")
    assert world.edge.entries.keys() > {"view:staging", "view:stable"}


def test_removing_a_view_needs_yes_and_deletes_everything_of_the_view(world: World) -> None:
    world.admin(STAGING)
    world.admin("view token add staging ann")
    assert "would be removed; add --yes" in world.admin("view remove staging").stdout
    assert view_of(world.system.store, "staging")
    world.admin("view remove staging --yes")
    assert world.edge.entries == {}
    assert [key for key in world.system.store.objects if "views/" in key] == []
    assert "there is no view staging" in world.admin("view remove staging --yes", NOTHING).stderr


def test_a_private_stream_becomes_public_only_on_explicit_request(world: World) -> None:
    world.admin(STAGING)
    world.upload(f"images-staging/{NOBLE}/{NEW}")
    assert "images-staging would be public without staging" in world.admin("view remove staging --yes", FOUND).stderr
    assert world.index == []
    world.admin("view remove staging --make-public --yes")
    assert world.index == ["images-staging"]


def test_a_private_stream_whose_versions_are_withdrawn_is_not_public_before_they_are_deleted(world: World) -> None:
    world.admin(STAGING)
    world.upload(f"images-staging/{NOBLE}/{NEW}")
    world.admin(f"withdraw images-staging/{NOBLE}/{NEW} --yes")
    world.system.publish(parse_version(f"images-staging/{NOBLE}/{NEW}"))
    assert world.system.listed("images-staging", "staging") == {}
    assert "wait until it is deleted" in world.admin("view remove staging --yes", FOUND).stderr
    for key in [key for key in world.system.store.objects if key.startswith("images-staging/")]:
        world.system.store.remove(key)
    world.admin("view remove staging --yes")


def test_a_channel_that_alone_shows_a_version_is_not_removed(world: World) -> None:
    world.admin(STAGING)
    world.admin("view create stable --channel --streams images-staging")
    world.admin("view create beta --channel --streams images")
    for stream, channel in (("images-staging", "stable"), ("images", "beta")):
        world.upload(f"{stream}/{NOBLE}/{NEW}")
        world.admin(f"promote {stream}/{NOBLE}/{NEW} --to {channel}")
    world.admin("view remove beta --yes")
    world.admin("view remove stable")  # staging shows the version too
    world.admin("view remove staging --make-public --anyway --yes")
    world.admin(STAGING + " --hide")
    world.system.store.remove("views/staging/streams/v1/images-staging.json")
    output = world.admin("view remove stable --yes", FOUND).stderr
    assert f"nothing but stable shows images-staging/{NOBLE}/{NEW}; add --anyway" in output
    world.admin("view remove stable --anyway --yes")
    assert view_of(world.system.store, "stable") is None


@pytest.mark.parametrize(
    "line", ["view show no", "view token list no", "view token add no a", "view token revoke no a"]
)
def test_an_unknown_view_is_reported_by_name(world: World, line: str) -> None:
    assert "there is no view no" in world.admin(line, NOTHING).stderr


def test_a_server_without_views_lists_none(world: World) -> None:
    assert "there is no view" in world.admin("view list").stderr
    assert world.json_of("view list") == []
    world.admin(STABLE)
    world.admin(STAGING)
    assert world.admin("view list").stdout.splitlines() == [
        "stable\tpublic channel\timages\thttps://here.example.org/stable/\t",
        "staging\tprivate view\timages-staging\t0 tokens\t",
    ]


def test_a_channel_names_its_required_check_and_takes_a_version_that_passed(world: World) -> None:
    world.upload(f"images/{NOBLE}/{OLD}", f"images/{NOBLE}/{NEW}")
    world.admin(f"{STABLE} --require boots")
    assert "requires the checks boots" in world.admin("view show stable").stdout
    refused = world.admin(f"promote images/{NOBLE}/{NEW} --to stable", FOUND)
    assert "the check boots has no result" in refused.output
    post(world.system, f"images/{NOBLE}/{NEW}", "boots")
    world.admin(f"promote images/{NOBLE}/{NEW} --to stable")
    output = world.admin(f"show images/{NOBLE}/{NEW}").stdout
    assert re.search(r"check boots: passed on .*, posted by ci\n", output)
    assert re.search(r"stable: promoted on .* by ", output)
    assert "check boots" not in world.admin(f"show images/{NOBLE}/{OLD}").stdout


def test_changing_required_checks_leaves_the_versions_that_a_channel_shows(world: World) -> None:
    world.upload(f"images/{NOBLE}/{OLD}", f"images/{NOBLE}/{NEW}")
    world.admin(STABLE)
    world.admin(f"promote images/{NOBLE}/{OLD} --to stable")
    assert "stable requires the checks boots, scan" in world.admin("view require stable boots scan boots").stdout
    assert "the check boots has no result" in world.admin(f"promote images/{NOBLE}/{NEW} --to stable", FOUND).output
    (shown,) = world.json_of("view show stable")["channel"][f"images/{NOBLE}"]
    assert shown["version"] == OLD
    assert world.json_of("view require stable --none")["name"] == "stable"
    world.admin(f"promote images/{NOBLE}/{NEW} --to stable")


@pytest.mark.parametrize(
    ("line", "code", "message"),
    [
        ("view require stable", USAGE, "name the checks, or give --none"),
        ("view require stable boots --none", USAGE, "name the checks, or give --none"),
        ("view require stable Boots", USAGE, "requires the check 'Boots'"),
        ("view require staging boots", USAGE, "requires checks and is not a channel"),
        ("view require none boots", NOTHING, "there is no view none"),
        (f"promote {NOBLE} --to stable --back --require boots", USAGE, "--back asks for no check"),
    ],
)
def test_a_check_that_cannot_be_required_is_refused(world: World, line: str, code: int, message: str) -> None:
    world.upload(f"images/{NOBLE}/{NEW}")
    world.admin(STABLE)
    world.admin(STAGING)
    assert message in world.admin(line, code).output
