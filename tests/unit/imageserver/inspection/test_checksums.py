"""SHA256SUMS: every form of a line, and the effect of a wrong list on its version."""

import hashlib

import pytest

from imageserver.inspection.checksums import parse_checksums
from imageserver.versions import records
from imageserver.versions.records import Record
from tests.support import images
from tests.support.memory_store import System

SUM = "0123456789abcdef" * 4
OTHER = "f" * 64
PATH = "images/ubuntu/noble/amd64/default/20261123_1000"


def digests(body: bytes) -> dict[str, str]:
    sums = parse_checksums(body, "SHA256SUMS")
    assert sums.unreadable == {}
    return sums.digests


@pytest.mark.parametrize(
    "line",
    [
        f"{SUM}  rootfs.squashfs",  # sha256sum, shasum
        f"{SUM} *rootfs.squashfs",  # sha256sum --binary
        f"{SUM} rootfs.squashfs",  # sha256 -r of BSD, many scripts
        f"{SUM}\trootfs.squashfs",
        f"{SUM}   *rootfs.squashfs",
        f"{SUM.upper()}  rootfs.squashfs",
        f"{SUM}  ./rootfs.squashfs",
        f"{SUM}  build/out/rootfs.squashfs",
        f"{SUM}  /srv/build/rootfs.squashfs",
        f"{SUM} *C:\\build\\rootfs.squashfs",
        f"\\{SUM}  dir\\\\name/rootfs.squashfs",
        f"\\{SUM}  dir\\nname/rootfs.squashfs",
        f"SHA256 (rootfs.squashfs) = {SUM}",  # sha256sum --tag, sha256 of BSD
        f"SHA256 (build/rootfs.squashfs) = {SUM}",
        f"\\SHA256 (a\\\\b/rootfs.squashfs) = {SUM}",
        f"SHA256(rootfs.squashfs)= {SUM}",  # openssl dgst
        f"SHA2-256(rootfs.squashfs)= {SUM.upper()}",  # openssl 3
        f"sha256 (rootfs.squashfs) = {SUM}",
        f"  {SUM}  rootfs.squashfs  ",
    ],
)
@pytest.mark.parametrize("ending", [b"\n", b"\r\n", b"", b"\n\n", b"\0"])
@pytest.mark.parametrize("begin", [b"", b"\xef\xbb\xbf", b"# made by build\n"])
def test_every_form_of_a_line_is_read_and_matched_by_the_last_part(line: str, ending: bytes, begin: bytes) -> None:
    if not (ending == b"\0" and b"\n" in begin):
        assert digests(begin + line.encode() + ending) == {"rootfs.squashfs": SUM}


def test_utf_16_is_read() -> None:
    assert digests(f"{SUM}  rootfs.squashfs\r\n".encode("utf-16")) == {"rootfs.squashfs": SUM}


def test_the_text_of_a_signed_list_is_read() -> None:
    body = f"""-----BEGIN PGP SIGNED MESSAGE-----
Hash: SHA512

{SUM}  rootfs.squashfs
- {OTHER}  -dashed.squashfs
-----BEGIN PGP SIGNATURE-----

iQIzBAEBCgAdFiEE0123456789abcdef0123456789abcdef
=abcd
-----END PGP SIGNATURE-----
"""
    assert digests(body.encode()) == {"rootfs.squashfs": SUM, "-dashed.squashfs": OTHER}


@pytest.mark.parametrize(
    "other",
    [
        "MD5 (rootfs.squashfs) = 0", "SHA512 (rootfs.squashfs) = 0", "SHA1(rootfs.squashfs)= 0",
        "SHA2-512(rootfs.squashfs)= 0", "SHA2-512/256(rootfs.squashfs)= 0", "RIPEMD-160(rootfs.squashfs)= 0",
        "SHAKE-128(rootfs.squashfs)= 0", "SM3 (rootfs.squashfs) = 0", "BLAKE2b-256 (rootfs.squashfs) = 0",
        "BLAKE2S-256(rootfs.squashfs)= 0", "BLAKE3 (rootfs.squashfs) = 0", "SHA3-256(rootfs.squashfs)= 0",
        "SHA512t256 (rootfs.squashfs) = 0", "Skein256 (rootfs.squashfs) = 0",  # FreeBSD
        "SHA512/256 (rootfs.squashfs) = 0", "SIZE (rootfs.squashfs) = 4096",  # OpenBSD, distinfo of ports
        "\\MD5 (a\\\\b/rootfs.squashfs) = 0", "sha512 (rootfs.squashfs) = 0",
    ],
)  # fmt: skip
def test_lines_of_other_algorithms_are_ignored(other: str) -> None:
    assert digests(f"{other}\nSHA256 (rootfs.squashfs) = {SUM}\n".encode()) == {"rootfs.squashfs": SUM}


@pytest.mark.parametrize(
    ("line", "file"),
    [
        (f"{SUM[:-1]}  rootfs.squashfs", "rootfs.squashfs"),
        (f"{SUM}0  rootfs.squashfs", "rootfs.squashfs"),
        (f"{'g' + SUM[1:]}  build/rootfs.squashfs", "rootfs.squashfs"),
        (f"{SUM[:32]}  rootfs.squashfs", "rootfs.squashfs"),  # an MD5
        (f"SHA256 (rootfs.squashfs) = {SUM[:-2]}", "rootfs.squashfs"),
        (f"{SUM}rootfs.squashfs", f"{SUM}rootfs.squashfs"),
        ("<html>not found</html>", "SHA256SUMS"),
        (SUM, SUM),
        (f"{SUM}  rootfs.squashfs\n{OTHER}  ./rootfs.squashfs", "rootfs.squashfs"),
        (f"{SUM}  vm/rootfs.squashfs\n{OTHER}  container/rootfs.squashfs", "rootfs.squashfs"),
    ],
)
def test_an_unreadable_line_is_attributed_to_the_file_it_names(line: str, file: str) -> None:
    assert list(parse_checksums(line.encode(), "SHA256SUMS").unreadable) == [file]


@pytest.mark.parametrize(
    "beside",
    [
        f"{SUM}  rootfs.squashfs", f"{SUM}  ./rootfs.squashfs", f"{SUM} *rootfs.squashfs", f"{SUM} *./rootfs.squashfs",
        f"{SUM} *.\\rootfs.squashfs", f"SHA256 (rootfs.squashfs) = {SUM}", f"SHA256 (./rootfs.squashfs) = {SUM}",
        f"{SUM}  .//rootfs.squashfs", f"{SUM}  ././rootfs.squashfs",
    ],
)  # fmt: skip
@pytest.mark.parametrize(
    "elsewhere",
    ["vm/rootfs.squashfs", "./vm/rootfs.squashfs", "/srv/rootfs.squashfs", "../rootfs.squashfs", "vm\\rootfs.squashfs"],
)
def test_a_line_that_names_a_file_beside_the_list_counts_before_lines_that_give_a_folder(
    beside: str, elsewhere: str
) -> None:
    other = f"{OTHER}  {elsewhere}"
    for lines in ([beside, other], [other, beside], [other, beside, f"{'e' * 64}  x/rootfs.squashfs"]):
        assert digests("\n".join(lines).encode()) == {"rootfs.squashfs": SUM}


def test_lines_that_all_give_a_folder_count_if_they_agree() -> None:
    lines = [f"{SUM}  vm/rootfs.squashfs", f"{SUM}  container/rootfs.squashfs"]
    assert digests("\n".join(lines).encode()) == {"rootfs.squashfs": SUM}
    sums = parse_checksums("\n".join([*lines, f"{OTHER}  x/rootfs.squashfs"]).encode(), "SHA256SUMS")
    assert sums.unreadable == {
        "rootfs.squashfs": "line 3 gives 'rootfs.squashfs' another sha256 than an earlier line, and no line names it "
        "without a folder"
    }


def test_an_unreadable_line_refuses_its_file_beside_a_readable_one() -> None:
    sums = parse_checksums(f"{SUM}  rootfs.squashfs\n{SUM[1:]}  vm/rootfs.squashfs\n".encode(), "SHA256SUMS")
    assert list(sums.unreadable) == ["rootfs.squashfs"]


def test_a_list_full_of_unreadable_lines_confirms_nothing() -> None:
    body = "".join(f"{SUM}  f{n}\n{SUM[:-1]}  g{n}\n" for n in range(200)).encode()
    assert parse_checksums(body, "SHA256SUMS").digests == {}


def test_a_record_keeps_the_names_of_images_and_some_others() -> None:
    """A list of a whole mirror is a megabyte, and a product may have a thousand versions with it."""
    others, images_there = [f"{n}.deb" for n in range(900)], [f"{n}.squashfs" for n in range(1000)]
    body = "".join(f"{SUM}  pool/{file}\n" for file in (*others, *images_there))
    assert list(digests(body.encode())) == others[:100] + images_there
    more = parse_checksums(f"{body}{SUM}  one-more.squashfs\n".encode(), "SHA256SUMS")
    assert (more.digests, list(more.unreadable)) == ({}, ["SHA256SUMS"])


@pytest.fixture
def system() -> System:
    return System()


def uploaded(system: System, sums: str, files: dict[str, bytes] | None = None) -> Record:
    system.upload(PATH, {**(files or images.split_image()), "SHA256SUMS": sums.encode()})
    system.ingest(PATH)
    key = f"versions/{PATH}.json"
    return records.decode(system.store.objects[key].body, key)


def reasons_of(record: Record, kind: str) -> list[tuple[str, str]]:
    return [(reason.file, reason.sentence) for reason in record.reasons if reason.kind == kind]


def right(files: dict[str, bytes], prefix: str = "") -> str:
    return "".join(f"{hashlib.sha256(body).hexdigest()}  {prefix}{file}\n" for file, body in files.items())


@pytest.mark.parametrize("prefix", ["", "./", "build/"])
def test_correct_digests_confirm_a_version_without_a_message(system: System, prefix: str) -> None:
    record = uploaded(system, right(images.split_image(), prefix))
    assert (record.state, record.reasons) == ("complete", ())


@pytest.mark.parametrize(
    "line", [f"{SUM}  build/rootfs.squashfs", f"{SUM} rootfs.squashfs", f"SHA256 (rootfs.squashfs) = {SUM}"]
)
def test_a_wrong_digest_in_any_form_refuses_its_file(system: System, line: str) -> None:
    record = uploaded(system, line)
    assert record.state == "invalid"
    ((file, sentence),) = reasons_of(record, "error")
    assert file == "rootfs.squashfs"
    assert f"expected {SUM} as SHA256SUMS says" in sentence


@pytest.mark.parametrize(
    "sums",
    [
        f"{SUM}  other.squashfs",
        "nonsense",
        f"{SUM}  -",
        "\n# nothing\n",
        f"{SUM}  SHA256SUMS",
        SUM,
        f"{SUM}rootfs.squashfs",
    ],
)
def test_a_list_that_covers_no_file_refuses_the_version(system: System, sums: str) -> None:
    record = uploaded(system, sums)
    assert record.state == "invalid"
    assert any(
        "covers no file of" in sentence and "rootfs.squashfs" in sentence for _, sentence in reasons_of(record, "error")
    )


def test_a_list_alone_or_before_its_files_is_not_a_fault(system: System) -> None:
    files = images.split_image()
    record = uploaded(system, right({"rootfs.squashfs": files["rootfs.squashfs"]}), {"lxd.tar.xz": files["lxd.tar.xz"]})
    assert record.state == "incomplete"
    assert reasons_of(record, "error") == []


def test_each_root_that_a_list_omits_is_reported(system: System) -> None:
    files = images.split_image() | {"disk.qcow2": images.qcow2()}
    record = uploaded(system, right({"rootfs.squashfs": files["rootfs.squashfs"]}), files)
    assert record.state == "complete"
    assert reasons_of(record, "warning") == [
        ("disk.qcow2", "disk.qcow2 is not in SHA256SUMS: its digest was not verified")
    ]


def test_an_unreadable_line_refuses_the_file_it_names(system: System) -> None:
    files = images.split_image()
    record = uploaded(system, right({"lxd.tar.xz": files["lxd.tar.xz"]}) + f"{SUM[:-1]}  rootfs.squashfs\n", files)
    assert record.state == "invalid"
    assert reasons_of(record, "error")[0][0] == "rootfs.squashfs"


@pytest.mark.parametrize(
    "line",
    [
        f"{SUM},rootfs.squashfs", f"rootfs.squashfs;{SUM}", f"rootfs.squashfs={SUM}", f"rootfs.squashfs:{SUM}",
        f"rootfs.squashfs|{SUM}", f'{{"file":"rootfs.squashfs","sha256":"{SUM}"}}', f"4096,{SUM},/srv/rootfs.squashfs",
        f"<td>rootfs.squashfs</td><td>{SUM}</td>", f"sha256:{SUM}:rootfs.squashfs", f"[rootfs.squashfs]({SUM})",
    ],
)  # fmt: skip
def test_an_unreadable_line_of_any_shape_refuses_the_file_it_names(system: System, line: str) -> None:
    files = images.split_image()
    record = uploaded(system, right({"lxd.tar.xz": files["lxd.tar.xz"]}) + line + "\n", files)
    assert (record.state, reasons_of(record, "error")[0][0]) == ("invalid", "rootfs.squashfs")


@pytest.mark.parametrize(("prefix", "other"), [("", "./"), ("", ""), ("amd64/", "arm64/")])
@pytest.mark.parametrize("first", ["right", "wrong"])
def test_two_digests_of_one_file_are_reported_in_either_order(
    system: System, first: str, prefix: str, other: str
) -> None:
    files = images.split_image()
    lines = [right(files, prefix), f"{SUM}  {other}rootfs.squashfs\n"]
    record = uploaded(system, "".join(lines if first == "right" else lines[::-1]), files)
    ((file, sentence),) = reasons_of(record, "error")
    assert file == "rootfs.squashfs"
    assert "gives 'rootfs.squashfs' another sha256 than an earlier line" in sentence


def test_a_list_of_a_tree_confirms_the_files_beside_it_and_refuses_a_wrong_one(system: System) -> None:
    files = images.split_image()
    vm = f"{SUM}  vm/lxd.tar.xz\n{SUM}  vm/rootfs.squashfs\n"
    record = uploaded(system, vm + right(files), files)
    assert (record.state, record.reasons) == ("complete", ())
    wrong = right({"lxd.tar.xz": files["lxd.tar.xz"]}) + f"{SUM}  rootfs.squashfs\n" + right(files, "vm/")
    ((file, sentence),) = reasons_of(uploaded(System(), wrong, files), "error")
    assert (file, f"expected {SUM} as SHA256SUMS says" in sentence) == ("rootfs.squashfs", True)


def test_a_name_with_control_or_bidirectional_characters_is_escaped(system: System) -> None:
    record = uploaded(system, f"{SUM}  \u200brootfs.squashfs\n{SUM}  \x1b[2Jx\n")
    ((_, sentence),) = reasons_of(record, "error")
    assert "it names '\\x1b[2Jx', '\\u200brootfs.squashfs', expected" in sentence


def test_a_line_about_an_absent_file_is_reported_and_the_others_apply(system: System) -> None:
    record = uploaded(system, right(images.split_image()) + "nonsense\n")
    assert record.state == "complete"
    assert reasons_of(record, "error") == []
    assert reasons_of(record, "warning") == [
        (
            "SHA256SUMS",
            "SHA256SUMS: line 3 is 'nonsense', expected a sha256, two spaces and a file name; the line is ignored",
        )
    ]


def test_a_list_that_an_older_release_read_is_read_again(system: System) -> None:
    record = uploaded(system, f"SHA256 (rootfs.squashfs) = {SUM}")
    key = f"versions/{PATH}.json"
    body = (
        system.store.objects[key]
        .body.replace(b'"unreadable":{},', b"")
        .replace(f'"rootfs.squashfs":"{SUM}"'.encode(), b"")
    )
    assert body != system.store.objects[key].body
    system.store.objects[key].body = body
    system.ingest(PATH)
    assert records.decode(system.store.objects[key].body, key).files["SHA256SUMS"].unreadable == {}
    assert record.state == "invalid"
