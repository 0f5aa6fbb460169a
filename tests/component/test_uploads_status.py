"""The status of versions over HTTP, and their withdrawal: answers, refusals, and that nothing is lost."""

from __future__ import annotations

import datetime
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.support import images, upload_api
from tests.support.upload_api import PATH, PRODUCT, System

pytestmark = pytest.mark.xdist_group("uploads-bad-input")  # of the fixtures in conftest.py


def _publish(system: System, version: str) -> None:
    for name, content in images.split_image(seed=version).items():
        system.put(f"{version}/{name}", content)
    system.ingest(version)
    assert system.status(version)["status"] == "listed"


def test_a_version_is_withdrawn_and_restored(system: System, version: str) -> None:
    _publish(system, version)
    answer = system.ask("DELETE", f"/{version}")
    assert (answer.status, answer.json["versions"]) == (202, [version])
    system.ingest(version)
    grace = datetime.datetime.fromisoformat(answer.json["delete_after"]) - datetime.datetime.now(datetime.UTC)
    assert datetime.timedelta(hours=23) < grace <= datetime.timedelta(hours=24)
    assert system.status(version)["status"] == "withdrawn"
    assert system.ask("DELETE", f"/{version}").json == answer.json
    refused = system.ask("POST", "/uploads", {"path": f"{version}/disk.qcow2", "size": 10})
    assert (refused.status, "is withdrawn and will be deleted after" in refused.detail) == (409, True)
    restored = system.ask("PATCH", f"/versions/{version}", {"withdrawn": False})
    assert (restored.status, restored.json["versions"]) == (200, [version])
    system.ingest(version)
    assert system.status(version)["status"] == "listed"


REFUSED_DELETES = [
    ("/images/test", "local", 422, "has 2 parts between slashes, expected 5 for a product, 6 for a version or 7 for a"),
    ("/images/test/none/amd64/default", "local", 404, "there is nothing at images/test/none/amd64/default"),
    ("/streams/v1/images.json", "local", 422, "has 3 parts between slashes"),
    (f"/{PATH}", "team-a", 403, "may not write to"),
    (f"/{PRODUCT}", "stranger", 403, "may not write to"),
]


@pytest.mark.parametrize(("path", "caller", "status", "sentence"), REFUSED_DELETES)
def test_a_refused_withdrawal_gives_its_reason(
    system: System, path: str, caller: str, status: int, sentence: str
) -> None:
    answer = system.ask("DELETE", path, caller=caller)
    assert (answer.status, sentence in answer.detail) == (status, True), answer.body
    assert "upload" not in answer.detail + answer.json["title"]
    assert system.status(PATH)["status"] == "listed"


def test_only_callers_with_the_right_to_upload_can_read_a_status(system: System) -> None:
    assert system.ask("GET", f"/versions/{PATH}", caller="team-a").status == 403
    assert system.ask("GET", f"/versions/{PATH}", caller="stranger").status == 403


def test_a_status_has_an_etag_and_a_tilde_stands_for_a_colon(system: System) -> None:
    answer = system.ask("GET", f"/versions/{PATH.replace(':', '~')}")
    assert (answer.status, answer.json["path"]) == (200, PATH)
    same = system.ask("GET", f"/versions/{PATH}", headers={"If-None-Match": answer.headers["etag"]})
    assert (same.status, same.body) == (304, b"")


def test_a_status_is_found_by_fingerprint_and_by_alias(system: System) -> None:
    known = system.ask("GET", f"/versions/{PATH}").json
    (fingerprint,) = known["fingerprints"]
    names = (fingerprint, fingerprint[:12], fingerprint.upper(), f"mine:{fingerprint[:12]}", known["aliases"][-1])
    for name in (*names, f"mine:{known['aliases'][-1]}"):
        answer = system.ask("GET", f"/versions/{name}")
        assert (answer.status, answer.json["path"]) == (200, PATH), answer.body
        assert system.ask("GET", f"/versions/{name}", caller="team-a").status == 403


@pytest.mark.parametrize("name", ["0123456789ab", "f" * 64, "ubuntu/none", "x"])
def test_the_status_of_a_name_that_no_listed_image_has_is_404(system: System, name: str) -> None:
    answer = system.ask("GET", f"/versions/{name}")
    assert (answer.status, "no listed image has the fingerprint or the alias" in answer.detail) == (404, True)


def test_a_tilde_in_a_release_name_is_kept(system: System) -> None:
    path = "images/test/12.1~rc1/amd64/default/20261123_10:00"
    system.put(f"{path}/lxd.tar.xz", images.metadata_tarball(serial="release candidate"))
    answer = system.ask("GET", f"/versions/{path.replace(':', '~')}")
    assert (answer.status, answer.json["path"]) == (200, path)
    assert system.ask("DELETE", f"/{path}/lxd.tar.xz").status == 202


def test_a_pending_status_has_retry_after_and_a_terminal_one_does_not(system: System, version: str) -> None:
    system.put(f"{version}/lxd.tar.xz", images.metadata_tarball(serial="again"))
    answer = system.ask("GET", f"/versions/{version}?wait=1")
    assert (answer.status, answer.headers["retry-after"]) == (200, "1")
    arrived = datetime.datetime.fromisoformat(answer.json["files"]["lxd.tar.xz"]["uploaded_at"])
    assert abs(datetime.datetime.now(datetime.UTC) - arrived) < datetime.timedelta(minutes=5)
    same = system.ask("GET", f"/versions/{version}", headers={"If-None-Match": answer.headers["etag"]})
    assert (same.status, same.headers["retry-after"]) == (304, "1")
    assert "retry-after" not in system.ask("GET", f"/versions/{PATH}").headers


@pytest.mark.parametrize("wait", ["x", "-1", "1e3", "99999", "٣"])
def test_a_wait_that_is_not_a_number_of_seconds_is_refused(system: System, wait: str) -> None:

    answer = system.ask("GET", f"/versions/{PATH}?wait={quote(wait)}")
    assert (answer.status, "expected whole seconds" in answer.detail) == (400, True)


def test_the_status_of_an_unknown_version_is_404(system: System, version: str) -> None:
    answer = system.ask("GET", f"/versions/{version}")
    assert (answer.status, f"there is nothing at {version}" in answer.detail) == (404, True)


def test_the_description_is_public(system: System) -> None:
    answer = system.ask("GET", "/openapi.json", caller="")
    assert (answer.status, answer.json["openapi"]) == (200, "3.1.0")


def test_deletes_are_off_by_default(tmp_path: Path) -> None:
    with upload_api.system("local", tmp_path) as running:
        answer = running.ask("DELETE", f"/{PATH}")
        assert (answer.status, "the parameter AllowDeletes" in answer.detail) == (403, True)


def test_with_overwrites_enabled_new_content_replaces_the_old(tmp_path: Path) -> None:
    with upload_api.system("local", tmp_path, AllowOverwrites="true") as running:
        _publish(running, PATH)
        old = running.status(PATH)["fingerprints"]
        running.put(f"{PATH}/rootfs.squashfs", images.squashfs("new"))
        running.ingest(PATH)
        assert running.status(PATH)["status"] == "listed"
        assert running.status(PATH)["fingerprints"] != old
