"""One deployment with MirrorSchedule, Deltas and Views on: what only a deployment can show about them.

The emulator starts schedules itself, so the mirror runs as it does in AWS. It does not run the edge's function: its
JavaScript runtime has no module `cloudfront`, and it answers 503 to each request instead. So documents are read from
the bucket here; tests/unit/infra/edge and tests/e2e/test_views.py test the function's text.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edge.embed import FUNCTION
from imageserver.aws.key_values import at_endpoint
from imageserver.views.tokens import RANDOM_BYTES, token_text
from tests.support import images, trees
from tests.support.client_rules import Image
from tests.support.edge_logs import ROOT, line, log
from tests.support.ministack.clone import Clone
from tests.support.ministack.emulator import ACCOUNT, Emulator
from tests.support.ministack.server import Answer, Server, written
from tests.support.servers.upstream import UpstreamServer, upstream

Who = tuple[str, str]
pytestmark = [pytest.mark.xdist_group("ministack"), pytest.mark.timeout(900)]
OLDER, NEWER = "20261121_10:00", "20261122_10:00"
PARAMETERS = {"MirrorSchedule": "rate(1 minute)", "Deltas": "1", "Views": "true"}


class BehindFunction(Server):
    """A stack whose edge has the function. `get` reads the bucket, since this edge cannot answer."""

    def get(self, path: str) -> Answer:
        s3 = self.emulator.client("s3")
        try:
            return Answer(200, s3.get_object(Bucket=self.outputs["BucketName"], Key=path)["Body"].read())
        except s3.exceptions.NoSuchKey:
            return Answer(404, b"")

    def at_edge(self, path: str) -> Answer:
        return super().get(path)

    def image(self, version: str) -> Image | None:
        """Return what clients see of a version, by its path; None if it is not listed."""
        below = (one for one in self.images() if any(f.path.startswith(f"{version}/") for f in one.files.values()))
        return next(below, None)

    def entries(self) -> dict[str, str]:
        """Return the entries of the edge's store."""
        client = at_endpoint(self.emulator.client("cloudfront-keyvaluestore"))
        found = client.list_keys(KvsARN=self.outputs["ViewStoreArn"])["Items"]
        return {entry["Key"]: entry["Value"] for entry in found}


@pytest.fixture(scope="module")
def everything(built: Clone, aws: Emulator, ci: Who) -> Iterator[BehindFunction]:
    """Yield a separate stack with the three parameters, and `ci` as its publisher."""
    stack, config = "images-everything", built.infra / "samconfig.toml"
    before = config.read_text()
    built.set(Publishers=f'{{"arn:aws:iam::{ACCOUNT}:user/ci": ["images*"]}}', **PARAMETERS)
    try:
        built.run(f"sam deploy --stack-name {stack}")
        server = BehindFunction(built, stack)
        server.wait(server.is_laid_out, "an empty catalog")
        yield server
    finally:
        config.write_text(before)
        # It would start a function each minute during all later tests.
        aws.client("scheduler").delete_schedule(Name=Server(built, stack).resources()["MirrorFunctionCompare"])


def test_the_resources_that_the_parameters_add_are_deployed(everything: BehindFunction) -> None:
    added = {
        "MirrorFunction",
        "MirrorFunctionCompare",
        "CopyFunction",
        "CopiesQueue",
        "DeltaFunction",
        "DeltasQueue",
        "RedactFunction",
    }
    assert added | {"ViewFunction", "ViewStore"} <= everything.resources().keys()


def add_version(site: UpstreamServer, version: str, seed: str) -> str:
    """List one more version on another server, for LXD; return its fingerprint."""
    files = images.split_image(seed=seed)
    folder = f"images/alpine/3.22/amd64/default/{version}"
    site.files |= {f"{folder}/{name}": body for name, body in files.items()}
    metadata, root = files["lxd.tar.xz"], files["rootfs.squashfs"]
    items = {
        name: {"ftype": ftype, "path": f"{folder}/{name}", "size": len(files[name]), "sha256": images.sha256_hex(body)}
        for name, ftype, body in (("lxd.tar.xz", "lxd.tar.xz", metadata), ("rootfs.squashfs", "squashfs", root))
    }
    fingerprint = images.sha256_hex(metadata, root)
    items["lxd.tar.xz"]["combined_squashfs_sha256"] = fingerprint
    before = json.loads(site.files.get("streams/v1/images.json", b'{"products": {}}'))["products"]
    versions = before.get("alpine:3.22:amd64:default", {"versions": {}})["versions"]
    product = {"aliases": "alpine/3.22", "arch": "amd64", "os": "Alpine", "release": "3.22", "variant": "default"}
    name = "alpine:3.22:amd64:default"
    products = {name: {**product, "versions": {**versions, version: {"items": items}}}}
    document = {"content_id": "images", "datatype": "image-downloads", "format": "products:1.0", "products": products}
    entry = {"datatype": "image-downloads", "path": "streams/v1/images.json", "products": [name]}
    site.files["streams/v1/images.json"] = json.dumps(document).encode()
    site.files["streams/v1/index.json"] = json.dumps({"format": "index:1.0", "index": {"images": entry}}).encode()
    return fingerprint


def test_the_schedule_copies_new_images_of_a_mirrored_server(everything: BehindFunction) -> None:
    """`mirror add` compares at once. After that only the schedule runs, and the new version is copied."""
    path = "images-mirrored/alpine/3.22/amd64/default"
    with upstream() as site:
        older = add_version(site, OLDER, "older")
        only = ("--only", "alpine", "--into", "images-mirrored", "--allow-private")
        everything.admin("mirror", "add", "site", site.address, *only)
        first = {f"{path}/{OLDER}": older}
        everything.wait(lambda: everything.listed(path) == first or None, "the version that upstream had")
        newer = add_version(site, NEWER, "newer")
        both = first | {f"{path}/{NEWER}": newer}
        everything.wait(lambda: everything.listed(path) == both or None, "the version that came later")
        assert everything.json_of("mirror", "run", "site")["files"] == 0
        everything.admin("mirror", "remove", "site", "--keep-images", "--yes")
    fetched = [one.path for one in site.requests if one.path.endswith("/rootfs.squashfs")]
    assert len(fetched) == len(set(fetched)) == 2, "each file is fetched once"


@trees.needs_real_pairs
def test_the_second_version_of_a_product_ends_in_a_listed_delta(
    everything: BehindFunction, ci: Who, tmp_path: Path
) -> None:
    product = "delta/1/amd64/default"
    for version, root in zip((OLDER, NEWER), trees.pair(tmp_path), strict=True):
        files = {"lxd.tar.xz": images.metadata_tarball(serial=version), "rootfs.squashfs": root}
        everything.upload(ci, product, version, written(tmp_path / version, files))
    delta = f"images/{product}/{NEWER}/rootfs.{OLDER}.vcdiff"

    def listed() -> bool | None:
        image = everything.image(f"images/{product}/{NEWER}")
        return (image is not None and any(file.path == delta for file in image.files.values())) or None

    everything.wait(listed, f"{delta} listed")
    sizes = [len(everything.get(key).body) for key in (delta, f"images/{product}/{NEWER}/rootfs.squashfs")]
    assert sizes[0] * 2 < sizes[1]


def test_a_new_access_log_is_redacted(everything: BehindFunction) -> None:
    token, key = token_text(b"r" * RANDOM_BYTES), "edge/E1.2026-11-28-01.0a1b2c3d.gz"
    bucket, s3 = everything.resources()["LogsBucket"], everything.emulator.client("s3")
    s3.put_object(Bucket=bucket, Key=key, Body=log([line(cs_uri_stem=f"/{token}/{ROOT}"), line()]))

    def redacted() -> str | None:
        text = gzip.decompress(s3.get_object(Bucket=bucket, Key=key)["Body"].read()).decode()
        return None if token in text else text

    text = everything.wait(redacted, "the log without its token")
    assert text.count(f"/{ROOT}\t") == 2


def test_the_function_at_the_edge_is_the_file_that_the_tests_run(everything: BehindFunction) -> None:
    name = f"{everything.stack}-eu-central-1"
    cloudfront = everything.emulator.client("cloudfront")
    assert cloudfront.get_function(Name=name, Stage="LIVE")["FunctionCode"].read().decode() == FUNCTION.read_text()
    found = cloudfront.get_distribution_config(Id=everything.outputs["DistributionId"])["DistributionConfig"]
    associated = found["DefaultCacheBehavior"]["FunctionAssociations"]["Items"]
    assert [(one["EventType"], one["FunctionARN"].rpartition("/")[2]) for one in associated] == [
        ("viewer-request", name)
    ]


def test_a_private_view_is_not_in_the_public_catalog_but_in_the_edges_store(
    everything: BehindFunction, ci: Who, tmp_path: Path
) -> None:
    everything.admin("view", "create", "staging", "--streams", "images-staging", "--private")
    token = everything.json_of("view", "token", "add", "staging", "ci", "--expires", "30d")["token"]
    product = "secret/1/amd64/default"
    everything.upload(ci, f"images-staging/{product}", OLDER, written(tmp_path / "files", images.split_image()))

    def published() -> dict[str, Any] | None:
        found = everything.get("views/staging/streams/v1/images-staging.json")
        return (found.json["products"] if found.status == 200 else None) or None

    assert list(everything.wait(published, "the catalog of the view")) == ["secret:1:amd64:default"]
    assert "images-staging" not in everything.get("streams/v1/index.json").json["index"]

    entries, hashed = everything.entries(), f"token:{hashlib.sha256(token.encode()).hexdigest()}"
    assert json.loads(entries["private"]) == ["images-staging"]
    assert json.loads(entries[hashed])["view"] == "staging"
    assert json.loads(entries[hashed])["until"] > time.time()
    assert token not in json.dumps(entries)
    assert everything.at_edge("streams/v1/index.json").status == 503, "it is the function that answers"
    everything.admin("view", "token", "revoke", "staging", "ci")
    assert hashed not in everything.entries()
