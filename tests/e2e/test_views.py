"""Private remotes and channels with the real clients and daemons: who sees what, and what the network shows."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
import shlex
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pytest

from imageserver.aws.key_values import KeyValueStore, at_endpoint
from tests.support import documented, edge_views
from tests.support.edge_views import STAGING, basic, signed, token
from tests.support.images import ImageBuilder
from tests.support.processes import need, wait_for
from tests.support.real_clients import Client, client, daemon_of, running_daemon
from tests.support.servers.both_schemes import BothSchemes, both_schemes, outside_address
from tests.support.stack import Stack, local_stack, version_prefix

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("lxd")]

LABEL = "host1"
HOURS = itertools.count()
"""Numbers the added versions, so that each is newer than those before."""
FORMS: Mapping[str, Callable[[str, str], str]] = {
    "login": lambda host, secret: f"https://{LABEL}:{secret}@{host}",
    "path": lambda host, secret: f"https://{host}/{secret}",
}
"""The ways to put a token into a remote's address."""


@dataclass
class Private:
    """A stack with an image of a private and of a public stream, and a view of each; `http` is in front of it."""

    stack: Stack
    store: KeyValueStore
    http: BothSchemes
    private: str
    public: str

    def remote(self, form: str, secret: str = STAGING) -> str:
        return FORMS[form](self.http.address, secret)

    def put_view(self, name: str, streams: Mapping[str, str]) -> None:
        """Write the documents of a view with these streams (name → document), each file with its MAC."""
        index = json.loads(self.stack.get("streams/v1/index.json")[1])
        kept = {name: entry for name, entry in index["index"].items() if name in streams}
        for stream, document in streams.items():
            self.put_products(name, stream, document)
        self._put(f"views/{name}/streams/v1/index.json", index | {"index": kept})

    def put_products(self, name: str, stream: str, document: str) -> None:
        """Write a products document of a view, each file with its MAC."""
        products = json.loads(document)
        for product in products["products"].values():
            for version in product["versions"].values():
                for item in version["items"].values():
                    item["path"] = signed(name, item["path"])
        self._put(f"views/{name}/streams/v1/{stream}.json", products)

    def add_version(self, version: str, files: Mapping[str, Path]) -> None:
        """Upload one more version of the private image, and list it in its view."""
        key = "streams/v1/images-staging.json"

        def document() -> str:
            body = self.stack.s3().get_object(Bucket=self.stack.bucket, Key=key)["Body"].read()
            return str(body.decode())

        self.stack.upload(version_prefix("private", version, "images-staging"), files)
        wait_for(lambda: f'"{version}"' in document(), f"listing of {version}")
        self.hide("images-staging")
        self.put_products("staging", "images-staging", document())

    @contextmanager
    def added_versions_end(self) -> Iterator[None]:
        """Restore the contents of the private view on leaving: other tests know only that image."""
        key = "views/staging/streams/v1/images-staging.json"
        before = self.stack.s3().get_object(Bucket=self.stack.bucket, Key=key)["Body"].read()
        try:
            yield
        finally:
            self._put(key, json.loads(before))

    def hide(self, stream: str) -> None:
        """Take a stream off the public index."""
        index = json.loads(self.stack.get("streams/v1/index.json")[1])
        kept = {name: entry for name, entry in index["index"].items() if name != stream}
        self._put("streams/v1/index.json", index | {"index": kept})

    def _put(self, key: str, document: Any) -> None:
        self.stack.s3().put_object(
            Bucket=self.stack.bucket, Key=key, Body=json.dumps(document), ContentType="application/json"
        )


@pytest.fixture(scope="module")
def server(image_builder: ImageBuilder, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Private]:
    need("curl")
    host = outside_address()
    if not host:
        pytest.skip("NOT TESTED, this machine has only loopback addresses")
    with (
        local_stack("--empty", "--parameter", "Views=true") as stack,
        both_schemes(host, stack.base_url, stack.ca_file, tmp_path_factory.mktemp("views")) as http,
    ):
        found = Private(stack, _store(stack), http, *_upload(stack, image_builder))
        documents = {name: stack.get(f"streams/v1/{name}.json")[1].decode() for name in ("images", "images-staging")}
        found.put_view("staging", {"images-staging": documents["images-staging"]})
        found.put_view("stable", {"images": documents["images"]})
        found.hide("images-staging")
        found.store.change(edge_views.entries(), [])
        yield found


def _upload(stack: Stack, image_builder: ImageBuilder) -> Iterator[str]:
    """Upload an image to the private stream, then to the public one; yield their fingerprints."""
    for stream in ("images-staging", "images"):
        files = image_builder.split_squashfs(f"views {stream}")
        stack.upload(version_prefix("private" if stream != "images" else "public", stream=stream), files)
        fingerprint = image_builder.sha256(*files.values())
        stack.wait_until_listed(fingerprint)
        yield fingerprint


def _store(stack: Stack) -> KeyValueStore:
    made = boto3.client(
        "cloudfront-keyvaluestore",
        endpoint_url=stack.facts["view_store"],
        region_name="us-east-1",
        aws_access_key_id="any",
        aws_secret_access_key="any",
    )
    return KeyValueStore(at_endpoint(made), stack.facts["view_store_arn"])


@pytest.fixture
def revoked(server: Private) -> Iterator[Callable[[], None]]:
    """Yield a function that revokes the token; it is valid again afterwards."""
    entry = f"token:{hashlib.sha256(STAGING.encode()).hexdigest()}"
    yield lambda: server.store.change({}, [entry])
    server.store.change({entry: edge_views.entries()[entry]}, [])


@pytest.fixture(params=["lxc", "incus"])
def listing(request: pytest.FixtureRequest, server: Private, tmp_path: Path) -> Client:
    """Return LXD's client, then Incus's, without a daemon."""
    need(request.param)
    return client(request.param, tmp_path, str(server.http.ca_file))


@pytest.fixture(scope="module", params=["lxc", "incus"])
def host(request: pytest.FixtureRequest, server: Private) -> Iterator[Client]:
    """Yield a real LXD, then a real Incus."""
    need(daemon_of(request.param), request.param, root=True)
    with running_daemon(request.param, str(server.http.ca_file), https_proxy=f"http://{server.http.address}") as talk:
        yield talk


@pytest.mark.parametrize("form", FORMS)
def test_a_token_in_a_remotes_address_opens_its_view_and_no_other(
    server: Private, listing: Client, form: str, tmp_path: Path
) -> None:
    listing.add_remote(server.remote(form))
    assert listing.fingerprints() == {server.private}
    (image,) = listing.images()
    listing("image", "info", f"here:{server.private}")
    listing("image", "export", f"here:{image['fingerprint']}", tmp_path)
    exported = {hashlib.sha256(file.read_bytes()).hexdigest() for file in tmp_path.iterdir() if file.is_file()}
    assert exported
    assert server.public not in listing("image", "list", "here:").stdout


def test_a_remote_without_a_token_sees_only_public_images(server: Private, listing: Client) -> None:
    listing.add_remote(f"https://{server.http.address}")
    assert listing.fingerprints() == {server.public}


def test_a_channel_can_be_added_as_a_remote(server: Private, listing: Client, tmp_path: Path) -> None:
    listing.add_remote(f"https://{server.http.address}/stable")
    assert listing.fingerprints() == {server.public}
    listing("image", "export", f"here:{server.public}", tmp_path / "public")


@pytest.mark.parametrize("form", FORMS)
def test_a_revoked_token_opens_no_catalog_and_no_file_by_a_known_path(
    server: Private, listing: Client, form: str, revoked: Callable[[], None], tmp_path: Path
) -> None:
    listing.add_remote(server.remote(form))
    server.http.requests.clear()
    listing("image", "export", f"here:{server.private}", tmp_path / "before")
    revoked()
    listing.fails("image", "export", f"here:{server.private}", tmp_path / "x")
    # Incus caches a list for an hour; another user of the same host has none.
    (tmp_path / "another").mkdir()
    another = client(listing.program, tmp_path / "another", str(server.http.ca_file))
    another.add_remote(server.remote(form))
    another.fails("image", "list", "here:")
    known = {request.path.removeprefix("/") for request in server.http.requests if "signed/" in request.path}
    assert known
    for path in known:
        assert server.stack.get(path)[0] == (401 if form == "login" else 404)
        assert server.stack.get(path[path.index("images") :])[0] == 404, "the file's own address"


@pytest.mark.parametrize("refuses", [False, True], ids=["redirected", "refused"])
@pytest.mark.parametrize("form", FORMS)
def test_a_daemon_sends_a_token_in_clear_once_for_each_file_unless_http_is_unreachable(
    server: Private, host: Client, form: str, refuses: bool
) -> None:
    """infra/README.md describes it, as measured with LXD 5.0.2 and Incus 6.0.4."""
    server.http.refuses = refuses
    host("remote", "add", "private", server.remote(form), "--protocol", "simplestreams")
    try:
        for proxy, shown in (("", 2), (remedy(host.program), 0)):
            host("config", "set", "core.proxy_http", proxy)
            server.http.requests.clear()
            host("image", "copy", f"private:{server.private}", "local:")
            host("image", "delete", f"local:{server.private}")
            assert len(server.http.leaks(STAGING, basic(STAGING, LABEL))) == shown
            assert len(server.http.clear()) == shown
            # A redirect is followed without the login: one more request for each file, which is refused.
            refused = [
                request.status for request in server.http.requests if not request.clear and request.status != 200
            ]
            assert refused in ([401, 401] if (form, refuses, proxy) == ("login", False, "") else [], [])
    finally:
        host("config", "unset", "core.proxy_http")
        host("remote", "remove", "private")
        server.http.refuses = False


def remedy(program: str) -> str:
    """Return the page's value of core.proxy_http for hosts of this kind."""
    (line,) = (line for line in documented.script("private remotes") if line.startswith(f"{program} config"))
    words = shlex.split(line)
    assert words[1:4] == ["config", "set", "core.proxy_http"]
    return words[4]


def test_a_container_is_launched_and_its_image_keeps_the_address_with_the_token(server: Private, host: Client) -> None:
    """So on a host with a new token, the images that it has need the new address to be updated."""
    for form, name in (("login", "c1"), ("path", "c2")):
        host("remote", "add", "private", server.remote(form), "--protocol", "simplestreams")
        try:
            host("launch", "private:alpine/private", name)
            image = json.loads(host("query", f"/1.0/images/{server.private}").stdout)
            assert image["update_source"]["server"] == server.remote(form)
        finally:
            host("delete", "--force", name, check=False)
            host("image", "delete", f"local:{server.private}", check=False)
            host("remote", "remove", "private")


def forget_listings(host: Client) -> None:
    """Make the daemon forget its cached lists, as after an hour."""
    for file in (host.home / "cache").rglob("*"):
        if file.is_file():
            file.unlink()


def held(host: Client) -> dict[str, str]:
    """Return the images that update themselves: fingerprint -> the address that each is updated from."""
    images = json.loads(host("image", "list", "local:", "--format", "json").stdout)
    return {image["fingerprint"]: image["update_source"]["server"] for image in images if image["auto_update"]}


def moving(address: str) -> list[list[str]]:
    """Return the page's commands that move a host, without the program's name, for this test's remote and image."""
    lines = [line for line in documented.script("private remotes") if line.startswith("lxc ")]
    lines = [line for line in lines if "core.proxy_http" not in line]
    found = [re.sub(r"\bmine\b", "private", line).replace("ubuntu/noble", "alpine/private") for line in lines]
    return [shlex.split(re.sub(r"https://\S+", address, line))[1:] for line in found]


def test_a_host_moved_to_another_token_keeps_updating_its_images(
    server: Private, host: Client, revoked: Callable[[], None], image_builder: ImageBuilder
) -> None:
    """infra/README.md describes it: an image keeps the address that it was copied from, with its token."""
    other = token("t")
    entry = json.dumps({"label": "host1-new", "view": "staging", "until": 0})
    before, after = server.remote("login"), server.remote("login", other)
    copy = ("image", "copy", "private:alpine/private", "local:", "--auto-update", "--copy-aliases")

    def updated(fingerprint: str) -> dict[str, str]:
        """Add a version, refresh the image as the daemon does every six hours, and return what is held then."""
        hour = next(HOURS)
        server.add_version(f"20261125_{hour:02d}:00", image_builder.split_squashfs(f"moved {hour}"))
        forget_listings(host)
        host("image", "refresh", f"local:{fingerprint}")
        return held(host)

    with server.added_versions_end():
        host("remote", "add", "private", before, "--protocol", "simplestreams")
        try:
            forget_listings(host)
            host(*copy)
            ((first, address),) = held(host).items()
            server.store.change({f"token:{hashlib.sha256(other.encode()).hexdigest()}": entry}, [])
            set_url, delete, copy_again, query = moving(after)
            host(*set_url)
            ((second, address),) = updated(first).items()
            assert second != first, "updated, while the old token is valid"
            again = host("image", "copy", "private:alpine/private", "local:", "--auto-update", check=False)
            assert (again.returncode == 0) == (host.program == "lxc"), "Incus refuses it: the alias is there"
            assert held(host) == {second: address} == {second: before}, "a copy of what is there changes nothing"
            revoked()
            assert updated(second) == {second: before}, "not updated, and no command fails"
            host(*(word.replace("FINGERPRINT", second) for word in delete))
            host(*copy_again)
            ((third, address),) = held(host).items()
            assert (third != second, address) == (True, after)
            shown = json.loads(host(*(word.replace("FINGERPRINT", third) for word in query)).stdout)
            assert shown["update_source"]["server"] == after
            ((fourth, address),) = updated(third).items()
            assert (fourth != third, address) == (True, after)
        finally:
            host("image", "delete", *(f"local:{fingerprint}" for fingerprint in held(host)), check=False)
            host("remote", "remove", "private")
