"""The content of a tarball and the files next to it decide what it is. An incomplete root is refused."""

import bz2
import json
import lzma
import sys
import tarfile
from collections.abc import Callable

import pytest

from imageserver.inspection import ending, tarball
from imageserver.inspection.unpacking import UnreadableArchive
from imageserver.versions import records
from imageserver.versions.records import Record
from tests.support import images
from tests.support.images import special
from tests.support.memory_store import System

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

PATH = "images/ubuntu/noble/amd64/default/20261123_10:00"
YAML = images.metadata_yaml()
META = images.tarball({"metadata.yaml": YAML, "templates/hosts.tpl": b"x"})
ROOT = {"rootfs.squashfs": images.squashfs()}
VM = images.tarball({"metadata.yaml": YAML, "rootfs.img": images.qcow2()})


def tar(*members: tarfile.TarInfo | tuple[str, bytes]) -> bytes:
    return images.tar(("metadata.yaml", YAML), *members)


FOLDER, LINK, HARD = tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE


def ingested(files: dict[str, bytes], clients: tuple[str, ...] = ("incus", "lxd")) -> tuple[System, Record]:
    system = System(clients=clients)
    system.upload(PATH, files)
    system.catch_up()
    record = system.ingest(PATH).record
    assert record is not None
    return system, record


def listed_ftypes(system: System) -> list[str]:
    return sorted(item["ftype"] for item in items(system))


def items(system: System) -> list[dict[str, str]]:
    document = json.loads(system.streams().get("streams/v1/images.json", b'{"products": {}}'))
    versions = [version for product in document["products"].values() for version in product["versions"].values()]
    return [item for version in versions for item in version["items"].values()]


METADATA_NAMES = ["meta-0123abcd.tar.xz", "incus.tar.gz", "noble-lxd.tar.xz", "metadata.tar.xz", "lxd_combined.tar.gz",
                  "anything.tar", "lxd.tgz", "meta.txz"]  # fmt: skip


@pytest.mark.parametrize("name", METADATA_NAMES)
@pytest.mark.parametrize("root", ["rootfs.squashfs", "rootfs.tar.xz", "disk.qcow2"])
def test_a_metadata_tarball_of_any_name_serves_the_root_of_its_version(name: str, root: str) -> None:
    body = {"rootfs.squashfs": images.squashfs(), "rootfs.tar.xz": images.root_tarball(), "disk.qcow2": images.qcow2()}
    _, record = ingested({name: META, root: body[root]})
    assert (record.state, record.reasons) == ("complete", ())
    assert record.files[root].combined == {images.sha256_hex(META): images.sha256_hex(META, body[root])}


ALONE = dict.fromkeys(METADATA_NAMES, "incomplete") | {"lxd_combined.tar.gz": "invalid", "anything.tar": "invalid"}


@pytest.mark.parametrize(("name", "state"), ALONE.items())
def test_a_metadata_tarball_alone_is_not_listed_and_the_reason_asks_for_its_root(name: str, state: str) -> None:
    system, record = ingested({name: META})
    assert system.listed() == {}
    assert record.state == state
    (reason,) = [reason for reason in record.reasons if "upload its root beside it" in reason.sentence]
    assert reason.sentence.startswith(f"{name} is a metadata tarball")
    # Waiting for a publisher names no file: no request is held, and no upload waits, until the file comes.
    assert (reason.kind, reason.file) == (("waiting", "") if state == "incomplete" else ("error", name))


def test_a_root_whose_metadata_is_refused_is_not_awaited() -> None:
    """Otherwise the upload script would wait until its timeout, although nothing is under way."""
    _, record = ingested({"lxd.tar.xz": images.metadata_tarball("arm64"), "rootfs.squashfs": images.squashfs()})
    assert record.state == "invalid"
    assert [reason.kind for reason in record.reasons if reason.file == "rootfs.squashfs"] == ["warning"]


CONTENTS = {
    "a file in rootfs": (tar(("rootfs/etc/x", b"x")), "container", ""),
    "a file in ./rootfs": (tar(("./rootfs/etc/x", b"x")), "container", ""),
    "an empty folder in rootfs": (tar(special("rootfs", FOLDER), special("rootfs/dev", FOLDER)), "container", ""),
    "a link in rootfs that leads outside": (tar(special("rootfs/bin", LINK, "/usr/bin")), "container", ""),
    "a device in rootfs": (tar(special("rootfs/dev/null", tarfile.CHRTYPE)), "container", ""),
    "a disk": (VM, "virtual-machine", ""),
    "a disk under ./": (tar(("./rootfs.img", images.qcow2())), "virtual-machine", ""),
    "an empty rootfs": (tar(special("rootfs", FOLDER)), "metadata", ""),
    "an empty ./rootfs/": (tar(special("./rootfs/", FOLDER)), "metadata", ""),
    "another kind of root": (tar(("rootfs.qcow2", b"x")), "metadata", ""),
    "a rootfs deeper down": (tar(("x/rootfs/etc", b"x")), "metadata", ""),
    "rootfs is a link": (tar(special("rootfs", LINK, "other")), "", "holds a rootfs that is not a folder"),
    "rootfs is a hard link": (tar(special("rootfs", HARD, "other")), "", "holds a rootfs that is not a folder"),
    "rootfs is a file": (tar(("rootfs", b"x")), "", "holds a rootfs that is not a folder"),
    "the disk is empty": (tar(("rootfs.img", b"")), "", "holds a rootfs.img that is no disk"),
    "the disk is a link": (tar(special("rootfs.img", LINK, "x")), "", "holds a rootfs.img that is no disk"),
    "a device": (tar(special("templates/x", tarfile.CHRTYPE)), "", "which is a device or a pipe"),
    "a block device": (tar(special("x", tarfile.BLKTYPE)), "", "which is a device or a pipe"),
    "a pipe": (tar(special("x", tarfile.FIFOTYPE)), "", "which is a device or a pipe"),
    "a path outside": (tar(("templates/../../x", b"x")), "", "names inside the tarball's own folder"),
    "an absolute path": (tar(("/etc/x", b"x")), "", "names inside the tarball's own folder"),
    "a link outside": (tar(special("templates/x", LINK, "../../x")), "", "leads out of the tarball's own folder"),
    "an absolute link": (tar(special("x", LINK, "/etc/shadow")), "", "leads out of the tarball's own folder"),
    "a hard link outside": (tar(special("x", HARD, "../x")), "", "leads out of the tarball's own folder"),
    "a link inside": (tar(special("templates/x", LINK, "../metadata.yaml")), "metadata", ""),
}


@pytest.mark.parametrize(("body", "content", "refusal"), CONTENTS.values(), ids=CONTENTS.keys())
@pytest.mark.parametrize("compression", ["plain", "gz", "xz"])
def test_the_content_of_a_tarball_is_a_fact_of_its_record(
    body: bytes, content: str, refusal: str, compression: str
) -> None:
    _, record = ingested({"u.tar.gz": images.compress(body, compression)})
    facts = record.files["u.tar.gz"]
    assert (facts.content, bool(facts.sha256)) == (content, not refusal)
    assert refusal in facts.refusal


NEEDS = YAML + b"templates: {/etc/hosts: {when: [create], template: hosts.tpl}}\n"
UNUSED = YAML + b"templates: {/etc/hosts: {when: [], template: hosts.tpl}}\n"
TREE, DISK, TEMPLATE = {"rootfs/etc/x": b"x"}, {"rootfs.img": images.qcow2()}, {"templates/hosts.tpl": b"x"}
MISSING = "names the template 'hosts.tpl', expected a file templates/hosts.tpl in the same tarball, which has none"
TEMPLATES = {
    "behind the root, as the daemons write it": ({"metadata.yaml": NEEDS, **TREE, **TEMPLATE}, ""),
    "in front of all": ({**TEMPLATE, **TREE, "metadata.yaml": NEEDS}, ""),
    "between metadata and root": ({"metadata.yaml": NEEDS, **TEMPLATE, **TREE}, ""),
    "under ./": ({"./metadata.yaml": NEEDS, "./rootfs/etc/x": b"", "./templates/hosts.tpl": b"x"}, ""),
    "behind a disk": ({"metadata.yaml": NEEDS, **DISK, **TEMPLATE}, ""),
    "nowhere": ({"metadata.yaml": NEEDS, **TREE}, MISSING),
    "nowhere in a machine": ({"metadata.yaml": NEEDS, **DISK}, MISSING),
    "in the root's own folder": ({"metadata.yaml": NEEDS, **TREE, "rootfs/templates/hosts.tpl": b"x"}, MISSING),
    "under another name": ({"metadata.yaml": NEEDS, **TREE, "templates/hostname.tpl": b"x"}, MISSING),
    "a folder": ({"metadata.yaml": NEEDS, **TREE, "templates/hosts.tpl/x": b"x"}, MISSING),
    "with a comment that is not closed": (
        {"metadata.yaml": NEEDS, **TREE, "templates/hosts.tpl": b"echo ${#hosts[@]}\n"},
        "names the template 'hosts.tpl', which opens '{#hosts[@]}' in line 1, expected #} behind it in the same line",
    ),
    "the same, and nothing applies it": ({"metadata.yaml": UNUSED, **TREE, "templates/hosts.tpl": b"{#"}, ""),
    "the same behind the bytes that are read": (
        {"metadata.yaml": NEEDS, **TREE, "templates/hosts.tpl": bytes(1 << 20) + b"{#"},
        "",
    ),
    "nowhere, and nothing applies it": ({"metadata.yaml": UNUSED, **TREE}, ""),
}


@pytest.mark.parametrize(("members", "refusal"), TEMPLATES.values(), ids=TEMPLATES.keys())
@pytest.mark.parametrize("compression", ["plain", "gz", "xz", "zst"])
def test_a_unified_image_without_a_template_that_it_applies_is_refused(
    members: dict[str, bytes], refusal: str, compression: str
) -> None:
    _, record = ingested({"u.tar.gz": images.compress(images.tarball(members), compression)})
    facts = record.files["u.tar.gz"]
    assert (bool(facts.sha256), facts.warnings) == (not refusal, ())
    assert refusal in facts.refusal


def test_the_last_of_two_metadata_yaml_decides_which_templates_a_unified_image_needs() -> None:
    for first, last, refusal in ((NEEDS, UNUSED, ""), (UNUSED, NEEDS, MISSING)):
        body = tar(("metadata.yaml", first), ("metadata.yaml", last), ("rootfs/x", b""))
        assert refusal in ingested({"u.tar.gz": body})[1].files["u.tar.gz"].refusal


BEHIND: dict[str, tuple[tarfile.TarInfo | tuple[str, bytes], str]] = {
    "metadata of another machine": (("metadata.yaml", images.metadata_yaml("arm64")), "says `architecture: aarch64`"),
    "metadata that is no YAML": (("metadata.yaml", b"["), "is not YAML"),
    "metadata that needs a template": (("metadata.yaml", NEEDS), MISSING),
    "a name that leads out": (("../x", b"x"), "expected names inside the tarball's own folder"),
    "a device": (special("x", tarfile.CHRTYPE), "which is a device or a pipe"),
    "a link that leads out": (special("x", LINK, "/etc/shadow"), "a link that leads out of the tarball's own folder"),
    "a disk that is none": (("rootfs.img", b"x"), "a qcow2 header alone has 72"),
}


@pytest.mark.parametrize(("behind", "refusal"), BEHIND.values(), ids=BEHIND.keys())
def test_what_lies_behind_the_root_of_a_whole_image_counts_as_what_lies_in_front(
    behind: tarfile.TarInfo | tuple[str, bytes], refusal: str
) -> None:
    """Both are unpacked, and of two files of one name the last one stays."""
    root = next(iter((DISK if "a qcow2" in refusal else TREE).items()))
    for members in ((("metadata.yaml", YAML), root, behind), (root, ("metadata.yaml", YAML), behind)):
        _, record = ingested({"u.tar.gz": images.compress(images.tar(*members), "gz")})
        assert refusal in record.files["u.tar.gz"].refusal


def test_metadata_behind_the_root_mends_that_in_front_of_it() -> None:
    wrong = ("metadata.yaml", images.metadata_yaml("arm64"))
    _, record = ingested({"u.tar.gz": images.tar(wrong, ("rootfs/x", b"x"), ("metadata.yaml", YAML))})
    assert (record.state, record.reasons) == ("complete", ())


def test_a_template_too_far_into_the_archive_is_not_looked_for_and_that_is_reported(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tarball, "MOST_FOR_TEMPLATES", 100_000)
    large = {"metadata.yaml": NEEDS, **TREE, "rootfs/large": bytes(200_000), **TEMPLATE}
    _, record = ingested({"u.tar.gz": images.compress(images.tarball(large), "xz")})
    assert record.state == "complete"
    assert "not all templates that its metadata.yaml names are in the first" in record.reasons[0].sentence


def test_a_tarball_of_endless_metadata_or_templates_is_refused() -> None:
    again = [("metadata.yaml", YAML)] * 10
    assert "more than 10 files metadata.yaml" in ingested({"u.tar": tar(*again)})[1].files["u.tar"].refusal
    disks = [("rootfs.img", images.qcow2())] * 11
    assert "more than 10 files rootfs.img" in ingested({"u.tar": tar(*disks)})[1].files["u.tar"].refusal
    many = [(f"templates/{number}", b"") for number in range(10_001)]
    assert "10,000" in ingested({"u.tar": tar(*many)})[1].files["u.tar"].refusal


@pytest.mark.parametrize("body", [images.unified_tarball(), images.compress(VM, "gz")], ids=["container", "machine"])
def test_a_unified_image_named_like_metadata_is_refused(body: bytes) -> None:
    _, record = ingested({"lxd.tar.xz": body, **ROOT})
    assert "is a whole image and not metadata" in record.files["lxd.tar.xz"].refusal
    assert [reason.file for reason in record.reasons] == ["lxd.tar.xz", "rootfs.squashfs"], "the unread root is named"


def sparse_disk(form: str, disk: bytes) -> bytes:
    """A tar of a disk with a hole of a MiB behind it, as `tar -S --format=gnu` or `--format=posix` writes it."""
    info = tarfile.TarInfo("rootfs.img")
    body, map_of_disk = disk + bytes(-len(disk) % 512), b"1\n0\n%d\n" % len(disk)
    if form == "posix":
        info.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "rootfs.img"}
        body = map_of_disk.ljust(512, b"\0") + body
        info.size = len(body)
        return info.tobuf(tarfile.PAX_FORMAT) + body + META
    info.type, info.size = tarfile.GNUTYPE_SPARSE, len(disk)
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[386:410] = b"%011o\0%011o\0" % (0, len(disk))
    header[483:495] = b"%011o\0" % (len(disk) + (1 << 20))
    header[148:156] = b"%06o\0 " % (sum(header[:148]) + 8 * 32 + sum(header[156:]))
    return bytes(header) + body + META


@pytest.mark.parametrize("form", ["gnu", "posix"])
def test_the_header_of_a_disk_that_is_stored_without_its_holes_is_checked(form: str) -> None:
    for disk, refusal in (
        (images.qcow2("s", 3000), ""),
        (images.qcow2_header(version=3) + bytes(2000), ""),
        (images.qcow2_header(backing=300, backing_bytes=5) + bytes(2000), "needs a backing file"),
        (images.qcow2_header(version=3, incompatible=4) + bytes(2000), "keeps its data in another file"),
        (images.qcow2_header(encryption=2) + bytes(2000), "is encrypted"),
        (b"\x7fELF" * 1000, "is not a qcow2 disk"),
    ):
        _, record = ingested({"u.tar": sparse_disk(form, disk)})
        facts = record.files["u.tar"]
        assert refusal in facts.refusal
        assert (facts.content, bool(facts.refusal)) == ("" if refusal else "virtual-machine", bool(refusal)), (
            facts.refusal
        )


@pytest.mark.parametrize("name", ["\x1b[2J", "it's $(reboot)", "x" * 3000])
def test_a_name_in_a_tarball_is_escaped_and_stands_in_no_command_that_it_changes(name: str) -> None:
    files = {
        "lxd.tar.xz": images.tarball({f"rootfs/{name}": b"x"}),
        "u.tar": images.tarball({f"{name}/metadata.yaml": YAML}),
    }
    for reason in ingested(files)[1].reasons:
        assert reason.sentence.isprintable()
        assert len(reason.sentence) < 600
        assert 'tar -C "' not in reason.sentence


def test_the_second_of_two_metadata_tarballs_for_one_client_is_refused() -> None:
    _, record = ingested({"lxd.tar.xz": images.metadata_tarball(), "meta-a.tar": META, **ROOT})
    assert record.state == "complete"
    assert [r.sentence.split(",")[0] for r in record.reasons] == [
        "meta-a.tar is a second metadata tarball beside lxd.tar.xz"
    ]


def test_a_root_is_hashed_with_a_few_metadata_tarballs_and_the_others_are_refused() -> None:
    metadata = {f"meta-{n:02}.tar": images.metadata_tarball(compression="plain", serial=str(n)) for n in range(20)}
    _, record = ingested({"incus.tar.xz": images.metadata_tarball(), **metadata, **ROOT, "other.tar": META})
    assert record.state == "complete"
    assert len(record.files["rootfs.squashfs"].combined) == 8
    refused = {file: facts.fault for file, facts in record.files.items() if facts.refusal}
    assert refused == dict.fromkeys((*(f"meta-{n:02}.tar" for n in range(7, 20)), "other.tar"), "second")
    assert "meta-07.tar is one more metadata tarball beside 8 others" in "".join(r.sentence for r in record.reasons)


def test_metadata_under_two_names_is_not_refused_for_their_number() -> None:
    _, record = ingested({**{f"meta-{n:02}.tar": META for n in range(20)}, **ROOT})
    assert (record.state, len(record.files["rootfs.squashfs"].combined)) == ("complete", 1)
    assert not any(facts.refusal for facts in record.files.values())


def test_metadata_named_after_incus_serves_incus_and_the_other_serves_lxd() -> None:
    system, record = ingested({"lxd.tar.xz": images.metadata_tarball(), "incus.tar": META, **ROOT})
    assert record.reasons == ()
    paths = {item["ftype"]: item["path"].rpartition("/")[2] for item in items(system)}
    assert (paths["lxd.tar.xz"], paths["incus.tar.xz"]) == ("lxd.tar.xz", "incus.tar")


def test_a_root_without_metadata_next_to_a_unified_image_is_named() -> None:
    _, record = ingested({"u.tar.gz": images.unified_tarball(), **ROOT})
    assert record.state == "complete"
    assert [(r.file, r.kind) for r in record.reasons] == [("rootfs.squashfs", "warning")]


@pytest.mark.parametrize(
    ("root", "unified", "listed"),
    [
        ("rootfs.squashfs", images.unified_tarball(), False),
        ("rootfs.tar.xz", images.unified_tarball(), False),
        ("disk.qcow2", images.unified_tarball(), True),
        ("disk.qcow2", VM, False),
        ("rootfs.squashfs", VM, False),
    ],
    ids=["squashfs", "tar", "disk", "disk, whole machine", "squashfs, whole machine"],
)
def test_a_version_lists_one_image_of_each_type(root: str, unified: bytes, listed: bool) -> None:
    system, record = ingested({**images.split_image(root=root), "u.tar.gz": unified})
    assert record.state == "complete"
    assert ("incus_combined.tar.gz" in listed_ftypes(system)) == listed
    withheld = [r for r in record.reasons if "u.tar.gz is not listed beside" in r.sentence]
    assert [(r.file, r.kind) for r in withheld] == ([] if listed else [("u.tar.gz", "warning")])


@pytest.mark.parametrize("clients", [("incus", "lxd"), ("incus",), ("lxd",)])
def test_a_unified_virtual_machine_is_listed_only_for_incus(clients: tuple[str, ...]) -> None:
    system, record = ingested({"vm.tar.gz": VM}, clients)
    wanted = [("incus_combined.tar.gz", "virtual-machine")] if "incus" in clients else []
    assert [(item["ftype"], item.get("combined_type")) for item in items(system)] == wanted
    assert any("only Incus 7.1 and newer" in reason.sentence for reason in record.reasons)


def test_a_record_of_an_older_release_lists_its_unified_tarball_as_before() -> None:
    _, record = ingested({"u.tar.gz": images.unified_tarball()})
    body = records.encode(record).replace(b'"content":"container",', b"")
    assert b'"content"' not in body
    assert records.decode(body, f"versions/{PATH}.json").files["u.tar.gz"].content == ""


PLAIN = images.tarball({"etc/x": images.filler("x", 40_000), "etc/y": images.filler("y", 3000)})
PACKED = {
    "plain": PLAIN,
    "xz": images.compress(PLAIN, "xz"),
    "gz": images.compress(PLAIN, "gz"),
    "zst": images.compress(PLAIN, "zst"),
    "bz2": bz2.compress(PLAIN),
    "lzma": lzma.compress(PLAIN, format=lzma.FORMAT_ALONE),
}


def problem(body: bytes, chunk: int = 1000) -> str:
    chunks = iter([body[start : start + chunk] for start in range(0, len(body), chunk)])
    try:
        passed = b"".join(bytes(part) for part in ending.checked(chunks, body[:512], len(body)))
    except UnreadableArchive as reason:
        return str(reason)
    assert passed == body
    return ""


@pytest.mark.parametrize("how", PACKED)
def test_a_complete_tarball_passes_with_any_chunk_sizes(how: str) -> None:
    assert [problem(PACKED[how], chunk) for chunk in (1, 13, 999, 1 << 20)] == [""] * 4


@pytest.mark.parametrize("how", ["xz", "gz", "zst", "bz2"])
def test_concatenated_streams_pass_and_the_last_must_be_complete(how: str) -> None:
    assert problem(PACKED[how] * 2) == ""
    assert "cut short" in problem(PACKED[how] * 2 + PACKED[how][:-20])


@pytest.mark.parametrize("how", PACKED)
@pytest.mark.parametrize("missing", [1, 4, 9, 100, 20_000])
def test_a_truncated_tarball_is_refused(how: str, missing: int) -> None:
    body = PACKED[how][: -missing if how != "plain" else -10240 - missing]
    assert "cut short" in problem(body)
    assert "cut short" in problem(body, 7)


# zstd.compress() leaves out the checksum that the command writes.
CHECKSUM: dict[int, int] = {zstd.CompressionParameter.checksum_flag: 1}
CHECKED: dict[str, Callable[[bytes], bytes]] = {
    "xz": lzma.compress,
    "gz": lambda plain: images.compress(plain, "gz"),
    "zst": lambda plain: zstd.compress(plain, options=CHECKSUM),
    "bz2": bz2.compress,
}


@pytest.mark.parametrize("how", CHECKED)
@pytest.mark.parametrize("name", ["lxd.tar.xz", "rootfs.tar.xz", "u.tar.gz"])
def test_damage_in_the_middle_is_found(name: str, how: str) -> None:
    member = "templates/x" if name == "lxd.tar.xz" else "rootfs/x" if name == "u.tar.gz" else "bin/x"
    yaml = {} if name == "rootfs.tar.xz" else {"metadata.yaml": YAML}
    body = bytearray(CHECKED[how](images.tarball({**yaml, member: images.filler("x", 1_200_000)})))
    body[1_000_000] ^= 1  # in the second block of bzip2, which has a checksum at the end of each
    _, record = ingested({"lxd.tar.xz": images.metadata_tarball(), name: bytes(body)})
    assert "is damaged" in record.files[name].refusal


@pytest.mark.parametrize("how", ["xz", "gz", "zst", "bz2", "lzma"])
@pytest.mark.parametrize("name", ["lxd.tar.xz", "rootfs.tar.xz", "u.tar.gz"])
@pytest.mark.parametrize("left", [0.5, 0.99])
def test_a_tar_truncated_before_compression_is_refused(name: str, how: str, left: float) -> None:
    """The compressed data is correct, but an instance made from it lacks files."""
    member = "templates/x" if name == "lxd.tar.xz" else "rootfs/x" if name == "u.tar.gz" else "bin/x"
    yaml = {} if name == "rootfs.tar.xz" else {"metadata.yaml": YAML}
    plain = images.tarball({**yaml, f"{member}1": images.filler("x", 100_000), f"{member}2": bytes(100_000)})
    body = images.compress(plain[: int(len(plain.rstrip(b"\0")) * left) // 512 * 512 + 100], how)
    _, record = ingested({"lxd.tar.xz": images.metadata_tarball(), name: body})
    refusal = record.files[name].refusal
    assert "cut short" in refusal or "unexpected end of data" in refusal, refusal


@pytest.mark.parametrize("stream", [images.compress(b"", "gz"), images.compress(b"", "zst")], ids=["gz", "zst"])
def test_a_root_of_empty_streams_is_refused_before_it_takes_long(stream: bytes) -> None:
    assert "more than 10,000 compressed streams" in problem(stream * 20_000, 1 << 20)


@pytest.mark.parametrize("how", ["gz", "zst"])
def test_a_root_of_streams_of_a_few_kilobytes_passes(how: str) -> None:
    """pzstd, pigz and bgzip write many of them."""
    assert problem(images.compress(PLAIN[:8192], how) * 10_500 + PACKED[how], 1 << 20) == ""


NO_TAR = "is cut short: it ends in the middle of its own structure"  # the frame can be unpacked and is empty


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (b"\x00\x88", NO_TAR),  # 2^27
        (b"\x00\x89", "needs a window of 150,994,944 bytes"),
        (b"\x00\xa8", "needs a window of 2,147,483,648 bytes"),  # zstd --long=31 on a pipe
        (b"\xa0\x00\x00\x00\x08", NO_TAR),  # one segment of 2^27
        (b"\xa0\x01\x00\x00\x08", "needs a window of 134,217,729 bytes"),
        (b"\xa1\x07\x01\x00\x00\x08", "needs a window of 134,217,729 bytes"),  # with a dictionary's number
    ],
)
def test_zstd_that_needs_more_memory_than_the_zstd_command_allows_is_refused(frame: bytes, message: str) -> None:
    assert message in problem(b"\x28\xb5\x2f\xfd" + frame + b"\1\0\0", 3)


def test_lzma_that_needs_more_memory_than_available_is_not_called_damaged() -> None:
    body = lzma.compress(PLAIN, format=lzma.FORMAT_ALONE)
    assert problem(body[:1] + (1 << 30).to_bytes(4, "little") + body[5:]) == ""


@pytest.mark.parametrize("name", ["rootfs.tar.xz", "u.tar.gz"])
@pytest.mark.parametrize("compression", ["xz", "gz", "zst", "plain"])
def test_a_truncated_root_and_a_truncated_unified_tarball_are_refused(name: str, compression: str) -> None:
    filler = images.filler("x", 50_000)
    members = {"bin/x": filler} if name == "rootfs.tar.xz" else {"metadata.yaml": YAML, "rootfs/x": filler}
    body = images.compress(images.tarball(members), compression)
    _, record = ingested({"lxd.tar.xz": images.metadata_tarball(), name: body[:-20_000]})
    assert "is cut short" in record.files[name].refusal
