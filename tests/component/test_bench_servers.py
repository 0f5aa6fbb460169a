"""The bench's own servers: nginx, and the one in Python that stands in for it."""

import hashlib
from pathlib import Path

import pytest

from cli.bench.hashing import BASELINES, measure, rows_of
from cli.bench.processes.read import Read
from cli.bench.servers import fastest, make_object, nginx_program, own_environment
from tests.support.processes import need


@pytest.mark.parametrize("kind", ["nginx", "Python"])
def test_both_servers_serve_every_reader_the_same_bytes(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind == "Python":
        monkeypatch.setattr("cli.bench.servers.nginx_program", lambda: None)
    else:
        need(nginx_program() or "nginx")
    file, environment = make_object(tmp_path, 100_000), own_environment(tmp_path)
    body = file.read_bytes() * 3
    with fastest(file, 300_000, environment) as server:
        assert server.name == kind
        rows = rows_of("quick", Read("", "bucket", "object", server.address), BASELINES)
        runs = measure(rows, 1, environment, [server.pid])
    assert {run.sha256 for each in runs.values() for _, run in each.taken} == {hashlib.sha256(body).hexdigest()}
