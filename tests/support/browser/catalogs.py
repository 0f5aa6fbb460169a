"""Catalogs for the page's tests, in the form that the server publishes them. No clock: every version has a name."""

import hashlib
from datetime import UTC, datetime, timedelta
from typing import Any

Json = dict[str, Any]

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
MIB = 1024 * 1024


def digest(*parts: object) -> str:
    """Return a digest that looks real and depends only on its arguments."""
    return hashlib.sha256("/".join(map(str, parts)).encode()).hexdigest()


def version_name(age: timedelta) -> str:
    """Return the name of a version published that long before NOW."""
    return (NOW - age).strftime("%Y%m%d_%H%M")


def version(folder: str, kinds: str = "container vm", container_mib: int = 120, vm_mib: int = 310) -> Json:
    """Return one version with items for both clients. `kinds` holds "container", "vm" or both."""
    metadata: Json = {"path": f"{folder}/incus.tar.xz", "size": 688, "sha256": digest(folder, "metadata")}
    items: Json = {}
    if "container" in kinds:
        metadata["combined_squashfs_sha256"] = digest(folder, "squashfs", "combined")
        items["rootfs.squashfs"] = {
            "ftype": "squashfs",
            "path": f"{folder}/rootfs.squashfs",
            "size": container_mib * MIB,
            "sha256": digest(folder, "squashfs"),
        }
    if "vm" in kinds:
        metadata["combined_disk-kvm-img_sha256"] = digest(folder, "disk", "combined")
        items["disk.qcow2"] = {
            "ftype": "disk-kvm.img",
            "path": f"{folder}/disk.qcow2",
            "size": vm_mib * MIB,
            "sha256": digest(folder, "disk"),
        }
    for client in ("incus", "lxd"):
        items[f"{client}.tar.xz"] = {"ftype": f"{client}.tar.xz", **metadata}
    return {"items": items}


def aliases(os: str, release: str, arch: str, variant: str) -> str:
    own = [f"{os}/{release}/{arch}/{variant}", f"{os}/{release}/{variant}"]
    return ",".join([*own, f"{os}/{release}"] if variant == "default" else own)


def product(
    name: str,
    ages: list[timedelta],
    *,
    stream: str = "images",
    kinds: str = "container vm",
    mib: tuple[int, int] = (120, 310),
    **fields: Any,
) -> Json:
    """Return the product `os:release:arch:variant` with one version per age. `fields` replace or add product fields."""
    os, release, arch, variant = name.split(":")
    folder = f"{stream}/{os}/{release}/{arch}/{variant}"
    names = [version_name(age) for age in ages]
    return {
        "aliases": aliases(os, release, arch, variant),
        "arch": arch,
        "os": os,
        "release": release,
        "release_title": release,
        "variant": variant,
        "requirements": {},
        "versions": {each: version(f"{folder}/{each}", kinds, *mib) for each in names},
        **fields,
    }


def document(products: Json, *, withheld: Json | None = None, unlisted: Json | None = None) -> Json:
    """Return a products document. `unlisted` is published with it, as by the server."""
    ours = {"withheld": withheld} if withheld else {}
    waiting = {"unlisted": unlisted} if unlisted else {}
    return {"content_id": "images", "datatype": "image-downloads", "products": products, **ours, **waiting}


def many(count: int) -> Json:
    """Return a products document with `count` products of three versions each."""
    products = {}
    for number in range(count):
        os = ("alpine", "debian", "fedora", "ubuntu", "rockylinux")[number % 5]
        arch = ("amd64", "arm64")[number % 2]
        name = f"{os}:r{number}:{arch}:default"
        ages = [timedelta(minutes=number + 1440 * back) for back in range(3)]
        products[name] = product(name, ages, mib=(100 + number % 300, 250 + number % 500))
    return document(products)


# release, title, MiB of the container and the disk, hours since the newest version, extra fields
_SYSTEMS: list[tuple[str, str, str, tuple[int, int], float, Json]] = [
    ("Alpine", "3.22", "3.22", (3, 92), 2.2, {"support_eol": "2027-05-01"}),
    ("Alpine", "3.21", "3.21", (3, 90), 2.3, {"support_eol": "2026-11-01"}),
    ("Debian", "trixie", "13", (98, 342), 5.1, {"release_codename": "trixie", "support_eol": "2030-06-30"}),
    ("Debian", "bookworm", "12", (92, 331), 5.4, {"release_codename": "bookworm", "support_eol": "2028-06-30"}),
    ("Fedora", "43", "43", (104, 402), 9.8, {"support_eol": "2026-12-02"}),
    ("Ubuntu", "noble", "24.04 LTS", (231, 548), 0.07, {"release_codename": "noble", "support_eol": "2029-05-31"}),
    ("Ubuntu", "jammy", "22.04 LTS", (212, 512), 6.5, {"release_codename": "jammy", "support_eol": "2027-06-01"}),
    ("Ubuntu", "xenial", "16.04 LTS", (151, 322), 26000, {"release_codename": "xenial", "support_eol": "2021-04-30"}),
    ("RockyLinux", "9", "9", (118, 612), 30.5, {"support_eol": "2032-05-31"}),
    ("Archlinux", "current", "current", (182, 498), 12.2, {"requirements": {"secureboot": "false"}}),
    ("openSUSE", "15.6", "Leap 15.6", (51, 280), 1090, {"support_eol": "2027-04-30"}),
    ("OpenWrt", "24.10", "24.10", (4, 0), 55, {}),
]


def realistic() -> Json:
    """Return the catalog of the screenshots: what a team that builds its own images might have."""
    products: Json = {}
    for system, release, title, mib, hours, extra in _SYSTEMS:
        for arch in ("amd64", "arm64"):
            for variant in ("default", "cloud") if mib[1] else ("default",):
                name = f"{system.lower()}:{release}:{arch}:{variant}"
                shift = 0.4 * len(products) if hours > 1 else (0 if arch == "amd64" and variant == "default" else 0.3)
                ages = [timedelta(hours=hours + shift + 24 * back) for back in range(5)]
                fields = {"os": system, "release_title": title, **extra}
                products[name] = product(name, ages, kinds="container vm" if mib[1] else "container", mib=mib, **fields)
    waiting = {
        "nixos:25.11:amd64:default": {version_name(timedelta(minutes=11)): "incomplete"},
        "gentoo:current:amd64:openrc": {version_name(timedelta(hours=3)): "invalid"},
        "ubuntu:noble:amd64:default": {version_name(timedelta(minutes=1)): "incomplete"},
    }
    return document(products, unlisted=waiting)
