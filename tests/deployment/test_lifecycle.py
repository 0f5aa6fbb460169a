"""A stack's life after its first deployment: failure, change, two stacks at once, deletion, a new start."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import images
from tests.support.ministack.clone import Clone
from tests.support.ministack.emulator import Emulator
from tests.support.ministack.server import Server, written

Who = tuple[str, str]
pytestmark = [pytest.mark.xdist_group("ministack"), pytest.mark.timeout(900)]
VERSION = "20261121_10:00"


def publish(server: Server, ci: Who, folder: Path, product: str) -> None:
    files = images.split_image(seed=f"{server.stack} {product}")
    assert server.upload(ci, product, VERSION, written(folder, files))["status"] == "listed"


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"GeoRestriction": "whitelist"}, "GeoRestriction needs GeoLocations"),
        ({"DomainName": "images.example.org"}, "DomainName needs CertificateArn"),
        ({"HostedZoneId": "Z0123456789ABCDEFGHIJ"}, "HostedZoneId needs DomainName"),
        ({"JwtIssuer": "https://token.example.org"}, "JwtIssuer needs JwtAudience"),
        ({"GeoRestriction": "whitelist", "GeoLocations": "DE, fr"}, "GeoLocations"),
    ],
)
def test_values_that_do_not_go_together_are_refused(server: Server, values: dict[str, str], reason: str) -> None:
    assert reason in server.refusal(**values)
    assert "ROLLBACK" not in server.description["StackStatus"]


def test_a_failed_deployment_is_rolled_back_and_the_server_keeps_working(
    server: Server, built: Clone, aws: Emulator, ci: Who, tmp_path: Path
) -> None:
    somebody = ("222233334444", "secret of the operator")
    aws.client("s3", somebody).create_bucket(
        Bucket="taken-by-somebody-else", CreateBucketConfiguration={"LocationConstraint": "eu-central-1"}
    )
    before = server.resources()
    built.set(BucketName="taken-by-somebody-else")
    try:
        assert "taken-by-somebody-else" in built.run("sam deploy", code=1)
    finally:
        built.set(BucketName="")
    assert server.description["StackStatus"] == "UPDATE_ROLLBACK_COMPLETE"
    assert server.resources() == before
    publish(server, ci, tmp_path / "files", "after-rollback/1/amd64/default")


def test_changed_parameters_reach_the_functions_and_the_schedule(
    server: Server, built: Clone, ci: Who, tmp_path: Path
) -> None:
    product, outputs = "changed/1/amd64/default", dict(server.outputs)
    publish(server, ci, tmp_path / "files", product)
    built.set(AllowOverwrites="true", ReconcileSchedule="rate(1 minute)")
    built.run("sam deploy")
    try:
        assert server.description["StackStatus"] == "UPDATE_COMPLETE"
        assert Server(built, server.stack).outputs == outputs
        assert server.wrong() == []
        server.emulator.client("s3").delete_object(Bucket=server.outputs["BucketName"], Key="openapi.json")
        assert server.get("openapi.json").status == 404
        overwrite_is_listed_and_invalidated(server, ci, tmp_path, product)
        server.wait(lambda: server.get("openapi.json").status == 200 or None, "the scheduled run")
    finally:
        built.set(AllowOverwrites="false", ReconcileSchedule="rate(1 hour)")
        built.run("sam deploy")


def overwrite_is_listed_and_invalidated(server: Server, ci: Who, folder: Path, product: str) -> None:
    version = f"images/{product}/{VERSION}"
    new = images.squashfs("other bytes")
    (folder / "new").write_bytes(new)
    asked = {"path": f"{version}/rootfs.squashfs", "size": len(new)}
    config = server.api(ci, "POST", "/uploads", asked, "--header", "Accept: text/plain")
    assert config.status == 201, config
    (folder / "put").write_bytes(config.body)
    assert server.curl("-K", str(folder / "put"), "-T", str(folder / "new")).status == 200
    fingerprint = images.sha256_hex((folder / "files" / "lxd.tar.xz").read_bytes(), new)
    server.wait(lambda: server.listed(version) == {version: fingerprint} or None, f"{version} with its new bytes")
    assert any(product in path for path in invalidated(server))


def invalidated(server: Server) -> list[str]:
    """Return every invalidated path."""
    cloudfront, distribution = server.emulator.client("cloudfront"), server.outputs["DistributionId"]
    listed = cloudfront.list_invalidations(DistributionId=distribution)["InvalidationList"].get("Items", [])
    batches = [
        cloudfront.get_invalidation(DistributionId=distribution, Id=item["Id"])["Invalidation"]["InvalidationBatch"]
        for item in listed
    ]
    return [path for batch in batches for path in batch["Paths"]["Items"]]


def test_a_second_server_is_independent_and_its_bucket_can_be_adopted_after_deletion(
    server: Server, built: Clone, ci: Who, tmp_path: Path
) -> None:
    """The second server's data outlives it, and a third one starts from that bucket."""
    built.run("sam deploy --stack-name images-two")
    second = Server(built, "images-two")
    second.wait(second.is_laid_out, "an empty catalog")
    publish(second, ci, tmp_path / "two", "second/1/amd64/default")
    assert list(second.listed("images/")) == [f"images/second/1/amd64/default/{VERSION}"]
    assert server.listed("images/second") == {}
    assert second.wrong() == []
    assert second.outputs["Address"] != server.outputs["Address"]

    bucket, logs = (second.resources()[name] for name in ("Bucket", "LogsBucket"))
    listed = second.listed("images/")
    built.run("sam delete --no-prompts --stack-name images-two --region eu-central-1")
    s3 = server.emulator.client("s3")
    assert {bucket, logs} <= {found["Name"] for found in s3.list_buckets()["Buckets"]}
    assert s3.get_bucket_policy(Bucket=bucket)["Policy"]
    assert server.wrong() == [], "the other server has not noticed"

    built.run("sam deploy --stack-name images-three")
    third = Server(built, "images-three")
    third.wait(third.is_laid_out, "an empty catalog")
    third.admin("import", f"s3://{bucket}", "--yes")
    third.wait(lambda: third.listed("images/") == listed or None, "what the kept bucket holds")
    assert third.wrong() == []


def test_a_new_server_cannot_reuse_the_name_of_a_retained_bucket(server: Server, built: Clone) -> None:
    """CloudFormation refuses it and rolls back, and the bucket stays."""
    bucket = server.outputs["BucketName"]
    built.set(BucketName=bucket)
    try:
        assert bucket in built.run("sam deploy --stack-name images-four", code=1)
    finally:
        built.set(BucketName="")
    (four,) = server.emulator.client("cloudformation").describe_stacks(StackName="images-four")["Stacks"]
    assert four["StackStatus"] == "ROLLBACK_COMPLETE"
    assert server.get("streams/v1/index.json").status == 200
