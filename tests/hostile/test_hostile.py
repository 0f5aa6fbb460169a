"""Every hostile file is refused with its reason, within limits of time and memory that the kernel enforces."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable

import pytest

from tests.hostile.files import CASES
from tests.support import PROJECT, images
from tests.support.memory_store import System

PATH = "images/ubuntu/noble/amd64/default/20261123_10:00"


@pytest.mark.parametrize("name", CASES)
def test_a_hostile_file_is_refused_with_its_reason_in_bounded_time_and_memory(
    name: str, record_property: Callable[[str, object], None]
) -> None:
    paths = f"{PROJECT / 'functions'}:{PROJECT}"
    command = [sys.executable, "-m", "tests.hostile.measure", name]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=120, env={"PYTHONPATH": paths, "PATH": "/usr/bin"}
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert CASES[name].reason in "\n".join(found["sentences"]), found
    assert found["reasons_without_fault"] == []
    assert all(sentence.isprintable() for sentence in found["sentences"])
    assert found["record_bytes"] < 20_000
    # The kernel counts pages in batches for each thread, so the difference may be negative.
    assert -1 < found["peak_mib"] < 64
    assert found["process_mib"] > 10, "nothing was measured"
    assert found["seconds"] < 30
    # A refused file does not affect the rest of its version: the good root needs a good metadata file, and
    # a list of digests, if there is one, that covers it.
    assert found["state"] == ("invalid" if CASES[name].file in ("lxd.tar.xz", "SHA256SUMS") else "complete")
    whole = f"{found['process_mib']} MiB the whole process"
    record_property("used", f"{found['seconds']} s, {found['peak_mib']} MiB for {found['file_bytes']:,} bytes, {whole}")


def test_a_disk_with_valid_tables_followed_by_noise_is_accepted() -> None:
    """The content of a disk is not read. Clients check its digest, which is correct."""
    system = System()
    disk = images.qcow2("noise", 5000)
    system.upload(PATH, {"lxd.tar.xz": images.metadata_tarball(), "disk.qcow2": disk})
    record = system.ingest(PATH).record
    assert record is not None
    assert record.state == "complete"


NAMES = [
    "rootfs\x1b[2J.squashfs",
    "rootfs\n.squashfs", "root fs.squashfs", "r\u0000.squashfs", "...squashfs", "a+b.squashfs",
    "%2e.squashfs", "a\\b.squashfs", "\u202eexe.squashfs", f"{'x' * 200}.squashfs", "-rf.squashfs",
    ".hidden.squashfs",
    "folder/rootfs.squashfs",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_a_file_with_a_hostile_name_is_never_listed_and_never_printed_raw(name: str) -> None:
    system = System()
    system.upload(PATH, {"lxd.tar.xz": images.metadata_tarball(), name: images.squashfs("evil")})
    system.catch_up()
    assert system.listed() == {}
    record = system.ingest(PATH).record
    assert record is not None
    assert [reason.kind for reason in record.reasons if reason.file == name] == ["error"]
    assert all(reason.sentence.isprintable() for reason in record.reasons)
