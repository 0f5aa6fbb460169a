"""The bench's own servers: nginx, and its stand-in in Python."""

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
from botocore.httpsession import get_cert_path

from cli.bench.hashing import BASELINES, measure, rows_of
from cli.bench.processes.copy import Fetch
from cli.bench.processes.copy import take as take_copy
from cli.bench.processes.read import Read
from cli.bench.servers import fastest, make_object, nginx_program, own_environment
from tests.support.processes import need
from tests.support.servers.upstream import upstream


@pytest.mark.parametrize(("kind", "size_bytes"), [("nginx", 100_000), ("nginx", 1_000), ("Python", 100_000)])
def test_both_servers_serve_every_reader_the_same_bytes(
    kind: str, size_bytes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind == "Python":
        monkeypatch.setattr("cli.bench.servers.nginx_program", lambda: None)
    else:
        need(nginx_program() or "nginx")
    file, environment = make_object(tmp_path, size_bytes), own_environment(tmp_path)
    body = file.read_bytes() * 3
    with fastest(file, 3 * size_bytes, environment) as server:
        assert server.name == kind
        rows = rows_of("quick", Read("", "bucket", "object", server.address), BASELINES)
        runs = measure(rows, 1, environment, [server.pid])
    assert {run.sha256 for each in runs.values() for _, run in each.taken} == {hashlib.sha256(body).hexdigest()}


def test_each_way_to_copy_reads_the_files_it_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    body = bytes(1000)
    with upstream({f"file-{number}": body for number in range(3)}) as served:
        fetch = Fetch("", served.url, 3, len(body), hashlib.sha256(body).hexdigest())
        monkeypatch.setenv("AWS_CA_BUNDLE", str(get_cert_path(True)))
        for how in ("plain loop", "copy"):
            assert take_copy(replace(fetch, how=how)).wall_s > 0
            with pytest.raises(ValueError, match="expected"):
                take_copy(replace(fetch, how=how, sha256="0" * 64))
        assert served.bytes_sent == {f"file-{number}": 1000 * (4 if number == 0 else 2) for number in range(3)}
