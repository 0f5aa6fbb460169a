"""Each form of image that may be uploaded, as the real daemons of both kinds use it once it is listed.

A virtual machine needs vhost_vsock to start, which test machines rarely have. So its image is only copied, which
unpacks nothing. unit/imageserver/inspection/test_qcow2.py tests which disks `qemu-img convert` accepts.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest

from tests.support.client_rules import read_catalog
from tests.support.images import ImageBuilder
from tests.support.listing_faults import faults
from tests.support.memory_store import System
from tests.support.processes import need
from tests.support.real_clients import Client, Uploaded
from tests.support.stack import ARCH, Stack, put, version_prefix

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("lxd")]

SQUASHED = ("gzip", "lz4", "lzo", "xz", "zstd", "lzma")
CONTAINERS: dict[str, tuple[tuple[str, str], tuple[str, str], tuple[str, ...]]] = {
    "tar-plain": (("lxd.tar", "plain"), ("rootfs.tar", "plain"), ()),
    "tar-gz": (("incus.tar.gz", "gz"), ("rootfs.tar.gz", "gz"), ()),
    "tar-zst": (("meta-0123456789ab.tar.zst", "zst"), ("rootfs.tar.zst", "zst"), ()),
    "tar-bz2": (("metadata.tbz2", "bz2"), ("root.tar.bz2", "bz2"), ()),
    "tar-lzma": (("noble-server-cloudimg-amd64-lxd.tar.lzma", "lzma"), ("rootfs.tar.lzma", "lzma"), ()),
    "tar-misnamed": (("lxd.tar.xz", "gz"), ("rootfs.tar.xz", "zst"), ()),
    **{f"squashfs-{how}": (("incus.tar.xz", "xz"), ("x.squashfs", "squashfs"), ("-comp", how)) for how in SQUASHED},
}
UNIFIED = ("plain", "zst", "bz2", "lzma")
DISKS: dict[str, tuple[str, tuple[str, ...]]] = {
    "disk-old": ("disk.qcow2", ("-o", "compat=0.10")),
    "disk-zstd": ("disk-kvm.img", ("-c", "-o", "compression_type=zstd")),
    "disk-extended": ("disk1.img", ("-o", "extended_l2=on")),
    "disk-preallocated": ("uefi1.img", ("-o", "preallocation=metadata")),
}
NAMES = (*CONTAINERS, *(f"unified-{how}" for how in UNIFIED), *DISKS)


@pytest.fixture(scope="session")  # pytest runs this module once for each daemon, with others in between
def every_form(stack: Stack, image_builder: ImageBuilder) -> dict[str, Uploaded]:
    """Return one image of each form, uploaded with curl and listed."""
    need("bzip2", "lzma", "zstd")
    built = {name: image_builder.split(name, *how) for name, how in CONTAINERS.items()}
    built |= {
        name: image_builder.split(name, ("lxd.tar.xz", "xz"), (file, "disk"), how)
        for name, (file, how) in DISKS.items()
    }
    for how in UNIFIED:
        (tarball,) = image_builder.unified(f"unified-{how}", how).values()
        built[f"unified-{how}"] = {"image.tar" if how == "plain" else f"image.tar.{how}": tarball}
    keys = {version_prefix(name) + file: path for name, files in built.items() for file, path in files.items()}
    for path, url in zip(keys.values(), stack.presign(*keys), strict=True):
        put(path, url)
    uploaded = {
        name: Uploaded(name, files, image_builder.sha256(*files.values()), is_vm=name in DISKS)
        for name, files in built.items()
    }
    stack.wait_until_listed(*(image.fingerprint for image in uploaded.values()))
    return uploaded


@pytest.mark.parametrize("name", [name for name in NAMES if name not in DISKS])
def test_a_container_of_each_form_is_launched(daemon: Client, every_form: dict[str, Uploaded], name: str) -> None:
    image = every_form[name]
    daemon("launch", image.alias, "c1")
    assert daemon.marker("c1") == name
    assert daemon.fingerprints("local:") == {image.fingerprint}


@pytest.mark.parametrize("name", DISKS)
def test_a_machine_of_each_form_is_copied(daemon: Client, every_form: dict[str, Uploaded], name: str) -> None:
    image = every_form[name]
    daemon("image", "copy", image.alias, "local:", "--vm")
    (copied,) = daemon.images("local:")
    assert (copied["fingerprint"], copied["type"]) == (image.fingerprint, "virtual-machine")


def test_the_independent_reader_finds_no_fault_in_the_forms_that_the_daemons_use(
    stack: Stack, every_form: dict[str, Uploaded]
) -> None:
    index, documents = stack.catalog()
    assert len(read_catalog(index, documents)) >= len(every_form)

    @cache
    def body(path: str) -> bytes | None:
        status, content = stack.get(path)
        return content if status == 200 else None

    assert faults({"streams/v1/index.json": index, **documents}, body) == []


def test_a_machine_in_one_tarball_is_shown_only_to_incus(
    stack: Stack, image_builder: ImageBuilder, listing: Client
) -> None:
    name = f"machine-{listing.program}"
    files = image_builder.whole_machine(name)
    stack.upload(version_prefix(name), files)
    fingerprint = image_builder.sha256(*files.values())
    stack.wait_until_listed(fingerprint, client="incus-7.3")
    assert (fingerprint in listing.fingerprints()) == (listing.program == "incus")


def test_a_daemon_with_two_bases_gets_the_newest_version_intact(
    stack: Stack, image_builder: ImageBuilder, daemon: Client
) -> None:
    """Incus and LXD 5.0.2 apply every delta that is listed, one after the other."""
    name = f"deltas-{daemon.program}"
    versions = ("20261101_1000", "20261102_1000", "20261103_1000")
    built = [image_builder.split_squashfs(f"{name}-{version}") for version in versions]
    prints = [image_builder.sha256(*files.values()) for files in built]
    for base, files in zip(versions[:2], built[:2], strict=True):
        built[2] |= image_builder.delta(files["rootfs.squashfs"], built[2]["rootfs.squashfs"], base)
    for version, files in zip(versions, built, strict=True):
        stack.upload(version_prefix(name, version), files)
    stack.wait_until_listed(*prints)
    for fingerprint in prints:
        daemon("image", "copy", f"here:{fingerprint}", "local:")
    assert daemon.fingerprints("local:") == set(prints)


def test_an_export_of_a_daemon_is_an_image_again_in_any_compression(
    daemon: Client, every_form: dict[str, Uploaded], tmp_path: Path
) -> None:
    daemon("launch", every_form["tar-plain"].alias, "c1")
    daemon("stop", "--force", "c1")
    for number, how in enumerate(("none", "gzip", "xz", "zstd", "bzip2", "lzma")):
        folder = tmp_path / how
        folder.mkdir()
        daemon("publish", "c1", "--alias", "exported", "--compression", how)
        daemon("image", "export", "exported", f"{folder}/")
        daemon("image", "delete", "exported")
        system = System()
        system.store.chunk = 1 << 20
        files = {path.name: path.read_bytes() for path in folder.iterdir()}
        system.upload(f"images/exported/r{number}/{ARCH}/default/20261123_1000", files)
        system.catch_up()
        bodies = {key: stored.body for key, stored in system.store.objects.items()}
        assert faults(system.streams(), bodies.get) == []
        assert list(system.listed()) == [f"exported:r{number}:{ARCH}:default"], how
