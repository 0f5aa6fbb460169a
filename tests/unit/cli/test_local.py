"""The commands that `scripts/local` prints as next steps."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

from cli.local import instructions, main
from local_stack.certificates import ensure_certificates
from local_stack.stack import Options
from local_stack.state import Stack

URL = "https://localhost:8443"


def printed(sample: bool = True, **parameters: str) -> list[str]:
    """Return the printed lines without leading spaces."""
    local: Any = SimpleNamespace(
        stack=Stack(URL, "/s/ca.pem", "http://x", "b", "us-east-1", 1, f"{URL}/api", "AK", "SK")
    )
    return [
        line.strip() for line in instructions(local, Options(0, Path("/s"), parameters), sample=sample).splitlines()
    ]


@pytest.mark.parametrize(
    ("clients", "programs", "caches"),
    [
        ("both", {"lxc", "incus"}, "/var/snap/lxd/common/lxd/cache/* /var/cache/lxd/* /var/cache/incus/*"),
        ("lxd", {"lxc"}, "/var/snap/lxd/common/lxd/cache/* /var/cache/lxd/*"),
        ("incus", {"incus"}, "/var/cache/incus/*"),
    ],
)
def test_only_commands_for_the_served_clients_are_printed(clients: str, programs: set[str], caches: str) -> None:
    lines = printed(Clients=clients)
    assert {line.split()[0] for line in lines if " remote add mine " in line} == programs
    assert f"sudo sh -c 'rm -rf {caches}'" in lines


def test_in_a_shell_with_a_proxy_the_lines_of_curl_go_past_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    plain = [line for line in printed() if line.startswith("curl")]
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example:3128")
    past = [line for line in printed() if line.startswith("curl")]
    assert past == [line.replace("curl ", "curl --noproxy '*' ", 1) for line in plain]
    assert len(past) == 2


def test_without_a_sample_no_launch_command_is_printed() -> None:
    assert any("launch mine:hello/world" in line for line in printed())
    assert not any("hello/world" in line for line in printed(sample=False))


@pytest.mark.parametrize("below", ["", "deeper/still"])
def test_a_state_folder_that_cannot_be_made_is_named(tmp_path: Path, below: str) -> None:
    nowhere = tmp_path / "nowhere"
    nowhere.symlink_to("/proc/nobody")
    done = CliRunner().invoke(main, ["--port", "0", "--state-dir", str(nowhere / below)])
    assert (done.exit_code, done.stderr.count("\n")) == (1, 1), done.output
    assert done.stderr.startswith(f"local: {nowhere}")
    assert "cannot be used (" in done.stderr
    assert "another --state-dir" in done.stderr


def test_an_authority_that_was_cut_short_is_made_again(tmp_path: Path) -> None:
    made = ensure_certificates(tmp_path)
    for file in (made.ca_file, made.chain_file):
        whole = file.read_bytes()
        file.write_bytes(whole[:100])
        ensure_certificates(tmp_path)
        assert len(file.read_bytes()) > 100
