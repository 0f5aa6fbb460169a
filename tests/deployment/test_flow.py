"""From a deployment to what clients list, with the actions of an operator and a publisher."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support import PROJECT, images
from tests.support.ministack.emulator import OPERATOR
from tests.support.ministack.server import Server, written
from tests.support.processes import need

VERSIONS = tuple(f"2026112{day}_10:00" for day in range(1, 5))
Who = tuple[str, str]
pytestmark = [pytest.mark.xdist_group("ministack"), pytest.mark.timeout(900)]


@pytest.fixture
def product(request: pytest.FixtureRequest) -> str:
    """Return a separate product for each test, without its stream."""
    name = request.node.name.removeprefix("test_").partition("[")[0].replace("_", "-")[:40].strip("-")
    return f"{name}/1/amd64/default"


def published(server: Server, ci: Who, folder: Path, product: str, version: str, seed: str = "") -> str:
    """Upload a version with the script; return the fingerprint of its two files."""
    files = images.split_image(seed=f"{product} {version} {seed}")
    report = server.upload(ci, product, version, written(folder / f"{version}{seed}", files))
    assert report["status"] == "listed", report
    return images.sha256_hex(files["lxd.tar.xz"], files["rootfs.squashfs"])


def test_every_resource_of_the_template_is_deployed(
    server: Server, first_deployment: str, record_property: Callable[[str, object], None]
) -> None:
    assert "Successfully created/updated stack - simplestreams" in first_deployment
    assert server.description["StackStatus"] == "UPDATE_COMPLETE"
    resources = server.resources()
    assert {"Bucket", "Distribution", "UploadsApi", "DigestFunction", "MaintainFunctionReconcile"} <= resources.keys()
    record_property("resources deployed", len(resources))
    assert server.outputs["RemoteAdd"].endswith(f"{server.outputs['Address']} --protocol simplestreams")


def test_the_doctor_finds_nothing_wrong(server: Server) -> None:
    assert server.json_of("doctor") == []


@pytest.mark.parametrize("program", ["lxc", "incus"])
def test_the_real_clients_list_and_fetch_what_the_script_uploaded(
    server: Server, ci: Who, product: str, tmp_path: Path, program: str
) -> None:
    need(program)
    product = product.replace("/1/", f"/{program}/")
    fingerprint = published(server, ci, tmp_path, product, VERSIONS[0])
    alias = "/".join(product.split("/")[:2])
    with server.client(program) as client:
        assert fingerprint in client.fingerprints()
        assert fingerprint in client("image", "info", f"here:{alias}").stdout
        (tmp_path / "back").mkdir()
        client("image", "export", f"here:{alias}", tmp_path / "back")
    fetched = [hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted((tmp_path / "back").iterdir())]
    sent = [hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted((tmp_path / VERSIONS[0]).iterdir())]
    assert fetched == sent


def test_curl_alone_publishes_and_a_url_allows_one_upload_of_one_size(
    server: Server, ci: Who, product: str, tmp_path: Path
) -> None:
    """As in the README: request a curl config, upload, read the status. The emulator checks signatures."""
    version = f"images/{product}/{VERSIONS[0]}"
    files = images.split_image(seed=product)
    folder = written(tmp_path / "files", files)
    for name, body in files.items():
        asked = {"path": f"{version}/{name}", "size": len(body), "multipart": False}
        config = server.api(ci, "POST", "/uploads", asked, "--header", "Accept: text/plain")
        assert config.status == 201, config
        (tmp_path / "put").write_bytes(config.body)
        longer = written(tmp_path / f"longer-{name}", {name: body + b"!"})
        assert server.curl("-K", str(tmp_path / "put"), "-T", str(longer / name)).status == 403, "another size"
        assert server.curl("-K", str(tmp_path / "put"), "-T", str(folder / name)).status == 200
        assert server.curl("-K", str(tmp_path / "put"), "-T", str(folder / name)).status == 412, "the second use"
    path = f"/versions/{version.replace(':', '~')}"

    def state() -> bool | None:
        return server.api(ci, "GET", f"{path}?wait=5").json["status"] == "listed" or None

    server.wait(state, f"{version} listed")
    assert server.listed(f"images/{product}") == {version: images.sha256_hex(*files.values())}


def test_strangers_have_no_access(server: Server, ci: Who, product: str) -> None:
    asked = {"path": f"images/{product}/{VERSIONS[0]}/rootfs.squashfs", "size": 4096}
    assert server.api(None, "POST", "/uploads", asked).status == 403
    assert server.api((ci[0], "another secret"), "POST", "/uploads", asked).status == 403
    assert server.api(None, "GET", "/openapi.json").status == 200
    bucket = server.emulator.client("s3", ci)
    with pytest.raises(bucket.exceptions.ClientError, match="AccessDenied"):
        bucket.list_objects_v2(Bucket=server.outputs["BucketName"])


def test_the_edge_serves_only_the_catalog_and_the_images(server: Server, ci: Who, product: str, tmp_path: Path) -> None:
    published(server, ci, tmp_path, product, VERSIONS[0])
    version = f"{product}/{VERSIONS[0]}"
    keys = [f"versions/images/{version}.json", "maintain/reconcile.json"]
    stored = server.emulator.client("s3")
    for key in keys:
        stored.head_object(Bucket=server.outputs["BucketName"], Key=key)
    missing = ["streams/v1/nothing.json", f"images/{version}/nothing"]
    statuses = {path: server.get(path).status for path in [f"images/{version}/rootfs.squashfs", "", *missing, *keys]}
    assert list(statuses.values()) == [200, 200, 404, 403, 403, 403], statuses  # no upload is listed without its files
    plain = server.outputs["Address"].replace("https://", "http://")
    assert server.curl(f"{plain}/streams/v1/index.json").status == 301


def test_a_function_has_only_the_rights_of_its_role(server: Server) -> None:
    """The emulator enforces the roles. Otherwise every test here would pass with any role."""
    iam, role = server.emulator.client("iam"), {"RoleName": server.resources()["MaintainRole"]}
    policy = iam.get_role_policy(PolicyName="maintain", **role)
    iam.delete_role_policy(PolicyName="maintain", **role)
    try:
        with pytest.raises(AssertionError, match="AccessDenied"):
            server.invoke("MaintainFunction", {"task": "reconcile", "dry_run": True})
    finally:
        iam.put_role_policy(PolicyName="maintain", PolicyDocument=json.dumps(policy["PolicyDocument"]), **role)
    server.invoke("MaintainFunction", {"task": "reconcile", "dry_run": True})


def test_a_refused_upload_gives_its_reason(server: Server, ci: Who, product: str, tmp_path: Path) -> None:
    files = images.split_image(arch="arm64", seed=product)  # in a folder for amd64
    folder = written(tmp_path / "files", files)
    command = ["scripts/upload", "--to", product, "--version", VERSIONS[0], "--json", str(folder)]
    done = server.run([str(server.clone.folder / command[0]), *command[1:]], ci)
    assert done.returncode == 3, done.stdout + done.stderr
    assert "aarch64" in json.loads(done.stdout)["reasons"][0]
    assert server.listed(f"images/{product}") == {}


def test_a_withdrawn_version_is_unlisted_until_it_is_restored(
    server: Server, ci: Who, product: str, tmp_path: Path
) -> None:
    fingerprint = published(server, ci, tmp_path, product, VERSIONS[0])
    version = f"images/{product}/{VERSIONS[0]}"
    server.admin("withdraw", version, "--reason", "does not boot", "--yes")
    server.wait(lambda: server.listed(version) == {} or None, f"{version} off the list")
    assert server.get(f"{version}/rootfs.squashfs").status == 200, "clients believe a catalog for an hour"
    server.admin("restore", version, "--yes")
    server.wait(lambda: server.listed(version) == {version: fingerprint} or None, f"{version} on the list again")
    deleted = server.api(ci, "DELETE", f"/{version.replace(':', '~')}")
    assert deleted.status in (200, 202), deleted
    server.wait(lambda: server.listed(version) == {} or None, f"{version} off the list again")


def test_retention_keeps_the_newest_versions(server: Server, ci: Who, product: str, tmp_path: Path) -> None:
    """By the product's own rule, which maintain applies when its schedule starts it."""
    rule = {"metadata.json": json.dumps({"retain_versions": 2}).encode()}
    for version in VERSIONS:
        files = images.split_image(seed=f"{product} {version}") | (rule if version == VERSIONS[-1] else {})
        server.upload(ci, product, version, written(tmp_path / version, files))
    server.invoke("MaintainFunction", {"task": "prune", "dry_run": False})
    kept = {f"images/{product}/{version}" for version in VERSIONS[-2:]}
    server.wait(lambda: server.listed(f"images/{product}").keys() == kept or None, "two versions")
    shown = server.json_of("list", f"images/{product}")
    assert [row["state"] for row in shown if row["version"] not in kept] == ["withdrawn", "withdrawn"]
    assert server.json_of("prune") is not None


def test_a_broken_message_becomes_a_dead_letter_with_a_remedy(server: Server, product: str) -> None:
    sqs = server.emulator.client("sqs")
    resources = server.resources()
    arrivals, dead = resources["ArrivalsQueue"], resources["ArrivalsDeadLetters"]
    usual = sqs.get_queue_attributes(QueueUrl=arrivals, AttributeNames=["RedrivePolicy"])["Attributes"]["RedrivePolicy"]
    server.wait(lambda: _waiting(sqs, arrivals) == 0 or None, "no message of another test that is tried again")
    # One try instead of five, between which a message is hidden ever longer: half an hour in total.
    once = json.dumps(json.loads(usual) | {"maxReceiveCount": 1})
    sqs.set_queue_attributes(QueueUrl=arrivals, Attributes={"RedrivePolicy": once})
    try:
        sqs.send_message(QueueUrl=arrivals, MessageBody="not a notification")
        server.wait(lambda: _waiting(sqs, dead) == 1 or None, "a dead letter")
    finally:
        sqs.set_queue_attributes(QueueUrl=arrivals, Attributes={"RedrivePolicy": usual})
    # And a readable one, as left by an outage.
    s3 = {"bucket": {"name": server.outputs["BucketName"]}, "object": {"key": f"images/{product}/20261121/x"}}
    sqs.send_message(QueueUrl=dead, MessageBody=json.dumps({"Records": [{"s3": s3}]}))
    assert server.wrong() == ["2 dead letters of images*"]
    assert "not a notification" in server.admin("redrive", "arrivals")
    server.admin("redrive", "arrivals", "--yes")
    assert _waiting(sqs, dead) == 0
    server.wait(lambda: _waiting(sqs, arrivals) == 0 or None, "what was sent back is done")
    assert server.wrong() == []


def _waiting(sqs: object, url: str) -> int:
    names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
    # boto3's client has no static type here.
    attributes = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=names)["Attributes"]  # type: ignore[attr-defined]
    return sum(int(attributes[name]) for name in names)


def test_every_file_at_the_edge_matches_the_catalog(server: Server, ci: Who, product: str, tmp_path: Path) -> None:
    published(server, ci, tmp_path, product, VERSIONS[0])
    report = server.json_of("verify", f"images/{product}", "--through-edge")
    assert (report["versions"], report["mismatches"]) == (1, [])


def test_an_operators_smoke_test_passes_and_leaves_nothing_behind(server: Server) -> None:
    command = [str(PROJECT / "scripts/smoke"), "--stack", server.stack, "--json"]
    done = server.run(command, OPERATOR)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)["ok"]
    assert server.listed("images-smoke/") == {}


def test_no_request_went_to_an_outside_host(server: Server) -> None:
    """In all earlier tests no tool and no function tried to reach AWS itself or any other host."""
    assert server.emulator.names.refused == []
