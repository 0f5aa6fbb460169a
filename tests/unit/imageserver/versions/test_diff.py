"""The new files of a version: a listing compared with its record."""

from __future__ import annotations

from msgspec.structs import replace

from imageserver.format.keys import parse_version
from imageserver.storage.listing import listed
from imageserver.versions import diff, records
from tests.support import images
from tests.support.memory_store import System

PATH = "images/ubuntu/noble/amd64/default/20261123_10:00"


def test_bytes_deleted_and_uploaded_again_within_a_second_are_another_upload() -> None:
    system, version = System(), parse_version(PATH)
    system.upload(PATH, images.split_image())
    system.ingest(PATH)
    record = records.decode(system.store.objects[version.record_key].body, version.record_key)
    there = listed(system.store, version)
    assert diff.outdated(record, there) == ""
    again = {**there, "lxd.tar.xz": replace(there["lxd.tar.xz"], version_id="another")}
    assert diff.outdated(record, again) == "an object changed"
    known = diff.known({}, record, again)["lxd.tar.xz"]
    assert known == replace(record.files["lxd.tar.xz"], version_id="another"), "nothing has to be read again"


def test_a_withdrawn_file_uploaded_again_within_a_second_is_no_longer_withdrawn() -> None:
    system, version = System(), parse_version(PATH)
    system.upload(PATH, images.split_image())
    there = listed(system.store, version)
    withdrawal = records.Withdrawal("2026-11-23T10:00:00+00:00", "2026-11-24T10:00:00+00:00")
    facts = replace(there["lxd.tar.xz"], withdrawn=withdrawal)
    record = records.Record(version=PATH, files={**there, "lxd.tar.xz": facts})
    assert diff.known({}, record, there)["lxd.tar.xz"].withdrawn == withdrawal
    again = {**there, "lxd.tar.xz": replace(there["lxd.tar.xz"], version_id="another")}
    assert diff.known({}, record, again)["lxd.tar.xz"].withdrawn is None


def test_a_record_of_an_older_release_gets_the_id_of_its_known_upload() -> None:
    system, version = System(), parse_version(PATH)
    system.upload(PATH, images.split_image())
    there = listed(system.store, version)
    old = {file: replace(facts, version_id="", sha256="a" * 64) for file, facts in there.items()}
    record = records.Record(version=PATH, files=old)
    assert diff.known({}, record, there)["lxd.tar.xz"] == replace(there["lxd.tar.xz"], sha256="a" * 64)
    assert old["lxd.tar.xz"].is_same_upload(there["lxd.tar.xz"])
