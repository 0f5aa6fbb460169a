"""`scripts/upload` on a network that breaks: connections that end, and an API that does not answer."""

from __future__ import annotations

import json
import re
import subprocess
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.support import images, upload_api
from tests.support.processes import need
from tests.support.servers.breaking_network import BreakingNetwork
from tests.support.servers.recording_api import RecordingApi, upload
from tests.support.upload_script import SCRIPT, environment, programs

MIB = 1 << 20


def large(path: Path, mib: int) -> Path:
    with path.open("wb") as out:
        out.write(images.squashfs(path.name, MIB))
        for number in range(1, mib):
            out.write(images.filler(f"{path.name} {number}", MIB))
    return path


def test_broken_connections_cost_only_the_parts_in_transit(tmp_path: Path) -> None:
    need("curl")
    root = large(tmp_path / "rootfs.squashfs", 100)  # seven parts
    metadata = tmp_path / "lxd.tar.xz"
    metadata.write_bytes(images.metadata_tarball(serial="broken"))
    networks: list[BreakingNetwork] = []

    def over_a_breaking_network(port: int) -> int:
        networks.append(BreakingNetwork(("127.0.0.1", port), MIB))
        return networks[0].port

    with upload_api.system("local", tmp_path / "system", way=over_a_breaking_network) as system:
        done = subprocess.run(
            (SCRIPT, "--to", "network/broken/amd64/default", "--version", "20261123_10:00", "--wait", "0", "--json",
             metadata, root),
            env=environment(tmp_path, SIMPLESTREAMS_API=system.api_url, CURL_CA_BUNDLE=str(system.ca_file)),
            capture_output=True, text=True, check=False, timeout=250,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        (network,) = networks
        cuts, bytes_up = network.cuts, network.bytes_up
        size = root.stat().st_size
        assert json.loads(done.stdout)["sent_bytes"] == size + metadata.stat().st_size
        assert cuts >= 3
        # Bytes on each connection until it was cut, plus headers and the functions' own requests.
        assert size < bytes_up < size + cuts * (MIB + 65536) + MIB
        version = "images/network/broken/amd64/default/20261123_10:00"
        assert system.stored(f"{version}/rootfs.squashfs") == root.read_bytes()


def test_an_unreachable_api_is_reported_in_the_words_of_curl(listener: ThreadingHTTPServer, tmp_path: Path) -> None:
    listener.server_close()
    done = upload(listener, tmp_path, PATH=programs(tmp_path, sleep="exit 0"))
    api = f"http://127.0.0.1:{listener.server_address[1]}"
    assert done.returncode == 1
    assert re.fullmatch(rf"upload: the API at {api} does not answer: curl: \(7\) [^\n>]*\n", done.stderr), done.stderr


@pytest.mark.parametrize("why", ["certificate is not yet valid", "certificate has expired"])
def test_a_certificate_of_another_time_is_a_matter_of_the_clock(
    listener: ThreadingHTTPServer, tmp_path: Path, why: str
) -> None:
    curl = f"echo 'curl: (60) SSL certificate problem: {why}' >&2; exit 60"
    done = upload(listener, tmp_path, PATH=programs(tmp_path, curl=curl))
    assert (done.returncode, "CURL_CA_BUNDLE" in done.stderr) == (1, False)
    assert re.search(rf"{why}; look at the clock of this machine \(\d{{4}}-\S+Z\) first\n$", done.stderr), done.stderr


def test_a_busy_api_is_reported_in_the_words_of_its_answer(listener: ThreadingHTTPServer, tmp_path: Path) -> None:
    RecordingApi.answers["/uploads/batch"] = (503, "problem busy\ndetail storage is busy\n")
    done = upload(listener, tmp_path, PATH=programs(tmp_path, sleep="exit 0"))
    api = f"http://127.0.0.1:{listener.server_address[1]}"
    assert (done.returncode, done.stderr) == (1, f"upload: the API at {api} answers 503: storage is busy\n")
