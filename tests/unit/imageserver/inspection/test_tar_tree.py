"""Members that GNU tar 1.34 cannot unpack, and those that it can: each row was tried with it."""

import tarfile

import pytest

from imageserver.inspection.tarball import METADATA_LIMITS, UNIFIED_LIMITS, read_image
from imageserver.inspection.unpacking import UnreadableArchive
from tests.support import images

YAML = ("metadata.yaml", b"architecture: x86_64\n")


def folder(name: str) -> tarfile.TarInfo:
    return images.special(name, tarfile.DIRTYPE)


def link(name: str, target: str) -> tarfile.TarInfo:
    return images.special(name, tarfile.LNKTYPE, target)


def symlink(name: str, target: str) -> tarfile.TarInfo:
    return images.special(name, tarfile.SYMTYPE, target)


def owned(uid: int) -> tarfile.TarInfo:
    info = tarfile.TarInfo("x")
    info.uid = uid
    return info


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([link("templates/a", "templates/b")], "it is a hard link to 'templates/b', expected a file before it"),
        ([link("templates/a", "templates/b"), ("templates/b", b"")], "holds 'templates/a', which tar cannot unpack"),
        ([folder("templates"), link("a", "templates")], "it is a hard link to 'templates'"),
        ([("templates", b""), ("templates/a", b"")], "holds 'templates/a', which tar cannot unpack: 'templates'"),
        ([symlink("a", "b"), ("a/c", b"")], "'a' before it is no folder"),
        ([symlink("a", "metadata.yaml"), ("a/c", b"")], "'a' before it is no folder"),
        ([symlink("a", "a"), ("a/c", b"")], "'a' before it is no folder"),
        ([folder("b"), folder("d"), symlink("d/a", "../b"), ("d/a/c", b"")], "'d/a' before it is no folder"),
        ([("a/b", b""), ("a", b"")], "holds 'a', which tar cannot unpack: a folder with something in it is there"),
        ([("templates/" + "é" * 128, b"")], "its name has more than 255 bytes between slashes"),
        ([owned(1 << 32)], "its owner is 4294967296:0, expected two numbers from 0 to 4294967295"),
        ([("", b"")], "it has no name"),
        ([("a/", b"x"), link("b", "a")], "it is a hard link to 'a'"),
    ],
)
@pytest.mark.parametrize("whole", [True, False])
def test_a_member_that_tar_cannot_unpack_is_refused(
    members: list[tarfile.TarInfo | tuple[str, bytes]], message: str, *, whole: bool
) -> None:
    root = () if whole else (folder("rootfs"), ("rootfs/x", b""))
    with pytest.raises(UnreadableArchive, match="which tar cannot unpack") as reason:
        read_image([images.tar(YAML, *members, *root)], METADATA_LIMITS, whole=whole, most_unpacked=1 << 20)
    assert message in str(reason.value)


@pytest.mark.parametrize(
    "members",
    [
        [("templates/a", b""), link("templates/b", "./templates/a"), link("templates/b", "templates/a")],
        [folder("a"), ("a", b"")],
        [("a", b""), folder("a"), ("a/b", b"")],
        [folder("a/"), ("a/b", b""), folder("a"), ("a/b", b"")],
        [("a", b"1"), ("a", b"2"), symlink("a", "templates")],
        [folder("b"), symlink("a", "./b"), ("a/c", b""), link("d", "b/c"), link("e", "a/c")],
        [folder("b/c"), symlink("b/a", "c"), symlink("a", "b/a"), ("a/x", b""), link("y", "b/c/x")],
        [folder("b"), symlink("a", "b"), ("a/c", b""), ("a", b"")],
        [(f"{'f' * 255}/{'g' * 255}", b"")],
        [("/".join("d" * 65), b""), link("a", "b")],  # no longer checked
        [folder("./"), folder(".")],
        [owned((1 << 32) - 1)],
    ],
)
def test_a_member_that_tar_can_unpack_is_accepted(members: list[tarfile.TarInfo | tuple[str, bytes]]) -> None:
    assert read_image([images.tar(YAML, *members)], METADATA_LIMITS, whole=True).content == "metadata"


def test_a_hard_link_below_rootfs_is_not_followed() -> None:
    body = images.tar(YAML, ("rootfs/a", b""), link("rootfs/b", "rootfs/z"), link("templates", "rootfs/a"))
    assert read_image([body], UNIFIED_LIMITS, whole=False, most_unpacked=1 << 20).content == "container"


def test_a_metadata_yaml_whose_name_ends_with_a_slash_is_a_folder() -> None:
    with pytest.raises(UnreadableArchive, match=r"metadata\.yaml that is not a regular file"):
        read_image([images.tar(("metadata.yaml/", YAML[1]))], METADATA_LIMITS, whole=True)
