"""From `curl -T` to a running container, with the real LXD and Incus. Digests are sha256sum's."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.client_rules import Image, read_catalog, resolve_alias
from tests.support.images import ImageBuilder
from tests.support.processes import need, sha256sum
from tests.support.real_clients import Client, Uploaded, running_daemon
from tests.support.stack import BASE, Stack, local_stack, version_prefix

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("lxd")]

FORMS = ("squashfs", "roottar", "vm", "unified-gz", "unified-xz")
CONTAINERS = tuple(name for name in FORMS if name != "vm")


@pytest.mark.parametrize("form", FORMS)
def test_a_client_lists_and_exports_each_form_with_its_fingerprint(
    listing: Client, forms: dict[str, Uploaded], tmp_path: Path, form: str
) -> None:
    image = forms[form]
    assert image.fingerprint in listing.fingerprints()
    assert f"Fingerprint: {image.fingerprint}" in listing("image", "info", image.alias, *image.options).stdout
    listing("image", "export", image.alias, tmp_path, *image.options)
    assert sorted(sha256sum(list(tmp_path.iterdir()))) == sorted(sha256sum(list(image.files.values())))


def test_the_independent_reader_sees_what_the_real_client_sees(
    listing: Client, stack: Stack, forms: dict[str, Uploaded]
) -> None:
    ours = read_catalog(*stack.catalog(), client="incus" if listing.program == "incus" else "lxd")
    assert len(ours) >= len(forms)
    assert sorted(map(_facts_from_reader, ours), key=str) == sorted(map(_facts_from_client, listing.images()), key=str)


def _facts_from_reader(image: Image) -> dict[str, Any]:
    return {
        "fingerprint": image.fingerprint,
        "aliases": sorted(image.aliases),
        "type": image.type,
        "architecture": image.architecture,
        "size": image.size_bytes,
        "filename": image.filename,
        "properties": image.properties,
        "created": image.created,
        "expires": image.expires,
    }


def _facts_from_client(image: dict[str, Any]) -> dict[str, Any]:
    facts = {name: image[name] for name in ("fingerprint", "type", "architecture", "size", "filename", "properties")}
    facts["aliases"] = sorted(alias["name"] for alias in image["aliases"] or [])
    return {**facts, "created": image["created_at"][:10], "expires": image["expires_at"][:10]}


def test_every_served_file_has_the_size_and_the_digests_that_the_catalog_names(
    stack: Stack, forms: dict[str, Uploaded], image_builder: ImageBuilder, tmp_path: Path
) -> None:
    images = read_catalog(*stack.catalog()) + read_catalog(*stack.catalog(), client="incus")
    assert {image.fingerprint for image in forms.values()} <= {image.fingerprint for image in images}
    for image in images:
        saved = {}
        for role, file in image.files.items():
            saved[role] = tmp_path / role
            status, body = stack.get(file.path)
            saved[role].write_bytes(body)
            assert (status, len(body), sha256sum([saved[role]])) == (200, file.size_bytes, [file.sha256])
        parts = [saved[role] for role in ("meta", "root") if role in saved]
        assert image_builder.sha256(*parts) == image.fingerprint


@pytest.mark.parametrize("form", CONTAINERS)
def test_a_container_is_launched_and_runs_a_command(daemon: Client, forms: dict[str, Uploaded], form: str) -> None:
    daemon("launch", forms[form].alias, "c1")
    assert daemon.marker("c1") == "form"
    assert daemon.fingerprints("local:") == {forms[form].fingerprint}


@pytest.mark.parametrize("form", FORMS)
def test_the_daemon_copies_each_form(daemon: Client, forms: dict[str, Uploaded], form: str) -> None:
    image = forms[form]
    daemon("image", "copy", image.alias, "local:", *image.options)
    (copied,) = daemon.images("local:")
    assert copied["fingerprint"] == image.fingerprint
    assert copied["type"] == ("virtual-machine" if image.is_vm else "container")


def test_files_can_arrive_in_any_order(stack: Stack, image_builder: ImageBuilder, lxc: Client) -> None:
    wanted = {}
    for i, order in enumerate(itertools.permutations(("lxd.tar.xz", "rootfs.squashfs", "SHA256SUMS"))):
        files = image_builder.split_squashfs(f"order{i}")
        sums = image_builder.folder / f"order{i}.sums"
        digests = sha256sum(list(files.values()))
        sums.write_text("".join(f"{digest}  {name}\n" for digest, name in zip(digests, files, strict=True)))
        files["SHA256SUMS"] = sums
        stack.upload(version_prefix(f"order{i}"), {name: files[name] for name in order})
        wanted[f"alpine/order{i}"] = image_builder.sha256(files["lxd.tar.xz"], files["rootfs.squashfs"])
    stack.wait_until_listed(*wanted.values())
    found = {alias["name"]: image["fingerprint"] for image in lxc.images() for alias in image["aliases"] or []}
    assert {alias: found.get(alias) for alias in wanted} == wanted


def test_a_version_is_invisible_until_it_is_complete(stack: Stack, image_builder: ImageBuilder, lxc: Client) -> None:
    part, whole = image_builder.split_squashfs("part"), image_builder.split_squashfs("whole")
    stack.upload(version_prefix("part"), {"rootfs.squashfs": part["rootfs.squashfs"]})
    stack.upload(version_prefix("whole"), whole)
    stack.wait_until_listed(image_builder.sha256(*whole.values()))
    fingerprint = image_builder.sha256(*part.values())
    assert lxc.fingerprints("here:alpine/part") == set()
    stack.upload(version_prefix("part"), {"lxd.tar.xz": part["lxd.tar.xz"]})
    stack.wait_until_listed(fingerprint)
    assert lxc.fingerprints("here:alpine/part") == {fingerprint}


def test_a_bad_upload_is_not_listed_and_affects_no_other_version(
    stack: Stack, image_builder: ImageBuilder, lxc: Client
) -> None:
    bad, good = image_builder.split_squashfs("bad"), image_builder.split_squashfs("good")
    bad["lxd.tar.xz"].write_text("<html>404 Not Found</html>")
    stack.upload(version_prefix("bad"), bad)
    stack.upload(version_prefix("good"), good)
    stack.wait_until_listed(image_builder.sha256(*good.values()))
    assert lxc.fingerprints("here:alpine/good") == {image_builder.sha256(*good.values())}
    assert lxc.fingerprints("here:alpine/bad") == set()


def test_two_streams_are_listed_side_by_side(
    stack: Stack, image_builder: ImageBuilder, lxc: Client, tmp_path: Path
) -> None:
    stable, daily = image_builder.split_squashfs("stable"), image_builder.split_squashfs("daily")
    stack.upload(version_prefix("stable"), stable)
    stack.upload(version_prefix("daily", stream="images-daily"), daily)
    wanted = {image_builder.sha256(*stable.values()), image_builder.sha256(*daily.values())}
    stack.wait_until_listed(*wanted)
    assert wanted <= lxc.fingerprints()
    index, documents = stack.catalog()
    assert {"streams/v1/images.json", "streams/v1/images-daily.json"} <= set(documents), index
    assert version_prefix("daily", stream="images-daily").encode() not in documents["streams/v1/images.json"]
    lxc("image", "export", "here:alpine/daily", tmp_path)
    assert sorted(sha256sum(list(tmp_path.iterdir()))) == sorted(sha256sum(list(daily.values())))


def test_the_newest_version_has_the_alias_and_the_older_one_stays(
    stack: Stack, image_builder: ImageBuilder, lxc: Client
) -> None:
    # The newer one first: the order of arrival must not matter.
    new, old = image_builder.split_squashfs("newer"), image_builder.split_squashfs("older")
    stack.upload(version_prefix("ages"), new)
    stack.upload(version_prefix("ages", BASE), old)
    fingerprints = [image_builder.sha256(*files.values()) for files in (new, old)]
    stack.wait_until_listed(*fingerprints)
    assert f"Fingerprint: {fingerprints[0]}" in lxc("image", "info", "here:alpine/ages").stdout
    assert f"Fingerprint: {fingerprints[1]}" in lxc("image", "info", f"here:{fingerprints[1]}").stdout


def test_one_image_in_two_products_is_listed_once(stack: Stack, image_builder: ImageBuilder, lxc: Client) -> None:
    files, marker = image_builder.split_squashfs("twin"), image_builder.split_squashfs("after-twin")
    stack.upload(version_prefix("twin-b"), files)
    fingerprint = image_builder.sha256(*files.values())
    stack.wait_until_listed(fingerprint)
    stack.upload(version_prefix("twin-a"), files)  # a copy, under a name that sorts first
    stack.upload(version_prefix("twin-c"), marker)
    stack.wait_until_listed(fingerprint, image_builder.sha256(*marker.values()))
    # Listed twice, this fails with "More than one match".
    assert "More than one match" not in lxc("image", "info", f"here:{fingerprint}").stderr
    images = read_catalog(*stack.catalog())
    assert [image.fingerprint for image in images].count(fingerprint) == 1
    assert resolve_alias(images, "alpine/twin-b").fingerprint == fingerprint


def test_an_overwritten_file_is_listed_only_with_its_new_digest(
    stack: Stack, image_builder: ImageBuilder, lxc: Client, tmp_path: Path
) -> None:
    first, second = image_builder.split_squashfs("first"), image_builder.split_squashfs("second")
    stack.upload(version_prefix("again"), first)
    stack.wait_until_listed(image_builder.sha256(*first.values()))
    stack.upload(version_prefix("again"), {"rootfs.squashfs": second["rootfs.squashfs"]}, overwrite=True)
    fingerprint = image_builder.sha256(first["lxd.tar.xz"], second["rootfs.squashfs"])
    stack.wait_until_listed(fingerprint)
    assert lxc.fingerprints("here:alpine/again") == {fingerprint}
    lxc("image", "export", "here:alpine/again", tmp_path)
    assert sha256sum([tmp_path / "rootfs.squashfs"]) == sha256sum([second["rootfs.squashfs"]])


def test_the_daemon_takes_a_delta_when_it_has_the_base(
    stack: Stack, image_builder: ImageBuilder, daemon: Client
) -> None:
    name = f"delta-{daemon.program}"
    base, new = image_builder.split_squashfs(f"{name}-base"), image_builder.split_squashfs(f"{name}-new")
    delta = image_builder.delta(base["rootfs.squashfs"], new["rootfs.squashfs"], BASE)
    stack.upload(version_prefix(name, BASE), base)
    stack.upload(version_prefix(name), {**new, **delta})
    old_print, new_print = (image_builder.sha256(*files.values()) for files in (base, new))
    stack.wait_until_listed(old_print, new_print)
    stack.wait_until(lambda: f"root.delta-{old_print}" in _files(stack, new_print), "the delta in the catalog")
    # Without access to the whole root, only the delta can give that fingerprint.
    with stack.damaged(version_prefix(name) + "rootfs.squashfs", lambda _: None):
        assert "Unable to fetch" in daemon.fails("image", "copy", f"here:{new_print}", "local:")
        daemon("image", "copy", f"here:{old_print}", "local:")
        daemon("image", "copy", f"here:{new_print}", "local:")
    assert daemon.fingerprints("local:") == {old_print, new_print}
    daemon("launch", f"local:{new_print}", "c1")
    assert daemon.marker("c1") == f"{name}-new"


def _files(stack: Stack, fingerprint: str) -> dict[str, Any]:
    return dict(next(i.files for i in read_catalog(*stack.catalog()) if i.fingerprint == fingerprint))


def flip(body: bytes) -> bytes:
    """Return the bytes with one bit of the middle byte flipped."""
    middle = len(body) // 2
    return body[:middle] + bytes([body[middle] ^ 1]) + body[middle + 1 :]


@pytest.mark.parametrize("file", ["lxd.tar.xz", "rootfs.squashfs"])
def test_one_flipped_bit_in_storage_makes_every_client_fail(
    stack: Stack, forms: dict[str, Uploaded], daemon: Client, tmp_path: Path, file: str
) -> None:
    image = forms["squashfs"]
    with stack.damaged(version_prefix(image.name) + file, flip):
        assert "Hash mismatch" in daemon.fails("image", "export", image.alias, tmp_path)
        assert "Hash mismatch" in daemon.fails("image", "copy", image.alias, "local:")
        assert "Hash mismatch" in daemon.fails("launch", image.alias, "c1")
    daemon("image", "copy", image.alias, "local:")
    assert daemon.fingerprints("local:") == {image.fingerprint}


def _replaced(old: str, new: str) -> Callable[[bytes], bytes]:
    def change(body: bytes) -> bytes:
        assert old.encode() in body
        return body.replace(old.encode(), new.encode())

    return change


def test_a_wrong_combined_digest_makes_the_daemon_fail(
    stack: Stack, forms: dict[str, Uploaded], daemon: Client
) -> None:
    image = forms["squashfs"]
    wrong = "0" * 64
    with stack.damaged("streams/v1/images.json", _replaced(image.fingerprint, wrong)):
        complaint = daemon.fails("image", "copy", image.alias, "local:")
    assert f"Image fingerprint doesn't match. Got {image.fingerprint} expected {wrong}" in complaint


def test_the_sample_image_of_a_new_stack_is_listed_exported_and_launched(tmp_path: Path) -> None:
    need("lxd", "lxc", root=True)
    with local_stack() as stack, running_daemon("lxc", stack.ca_file) as lxc:
        lxc.add_remote(stack.base_url)
        (sample,) = stack.wait_until(lambda: read_catalog(*stack.catalog()), "a listed image")
        assert lxc.fingerprints() == {sample.fingerprint}
        lxc("image", "export", "here:hello/world", tmp_path)
        parts = [tmp_path / Path(sample.files[role].path).name for role in ("meta", "root")]
        assert ImageBuilder(tmp_path).sha256(*parts) == sample.fingerprint
        lxc("launch", "here:hello/world", "c1")
        assert "Hello" in lxc("exec", "c1", "--", "/bin/hello").stdout


def test_only_https_is_accepted_by_the_client(stack: Stack, lxc: Client) -> None:
    complaint = lxc.fails("remote", "add", "plain", stack.base_url.replace("https", "http"), "--protocol=simplestreams")
    assert "Only https URLs are supported" in complaint


def test_the_printed_curl_line_works_as_it_stands(stack: Stack, image_builder: ImageBuilder) -> None:
    files = image_builder.split_root_tar("printed")
    for name, path in files.items():
        printed = stack.script("presign", version_prefix("printed") + name).stdout
        (line,) = [line.strip() for line in printed.splitlines() if "| curl " in line]
        stack.shell(line, path.parent)
    stack.wait_until_listed(image_builder.sha256(*files.values()))


def test_the_log_of_the_stack_shows_each_version_and_no_secret(stack: Stack, forms: dict[str, Uploaded]) -> None:
    assert version_prefix("squashfs") in stack.log
    for secret in ("X-Amz-Signature", "X-Amz-Credential"):
        assert secret not in json.dumps(stack.log)
