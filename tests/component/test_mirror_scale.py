"""A mirrored server with a million products is planned within the function's memory and time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# The heavy tests are two groups that take equally long: xdist queues a long test behind another while a worker is idle.
pytestmark = [pytest.mark.heavy, pytest.mark.xdist_group("kill"), pytest.mark.timeout(900)]

PRODUCTS = 1_000_000
OSES = 1_000
FUNCTION_MIB = 1_769
RUN_S = 900
"""The longest run of a function, with about one CPU."""

PLAN = """
import json, sys, time
from datetime import UTC, datetime
from pathlib import Path
from cli.bench.processes.copy import Sink
from cli.bench.processes.plan import STREAM, OneDocument
from cli.bench.processes.read import peak_mib
from imageserver.operations.mirror_compare import Comparer, Reader
from imageserver.operations.runs import Run
from imageserver.upstream.mirrors import Mirror, MirrorState

mirror, run = Mirror(address="https://images.example.org", stream=STREAM, only=("os007:r0003",), keep=2), Run()
comparer = Comparer("up", mirror, MirrorState(), (), Sink(), run, datetime.now(UTC))
found = comparer.compare(Reader(OneDocument(Path(sys.argv[1]))), accept=False)
run.check()
keys = sorted(str(wanted.key) for wanted in found.missing)
print(json.dumps({"keys": keys, "cpu_s": time.process_time(), "peak_mib": peak_mib()}))
"""


def document() -> Iterator[str]:
    """Yield a products document of 250 MB. Each product has one version with one image."""
    yield '{"content_id":"images","format":"products:1.0","products":{'
    for number in range(PRODUCTS):
        os_, release = f"os{number % OSES:03d}", f"r{number // OSES:04d}"
        item = f'"ftype":"incus_combined.tar.gz","path":"{number}.tar.gz","sha256":"{number:064x}","size":7'
        yield (
            f'{"," if number else ""}"{os_}:{release}:amd64:default":{{"arch":"amd64","os":"{os_}",'
            f'"release":"{release}","variant":"default","versions":{{"20261101_1000":{{"items":{{"i":{{{item}}}}}}}}}}}'
        )
    yield "}}"


def test_a_server_with_a_million_products_is_planned_within_the_functions_memory(tmp_path: Path) -> None:
    with (tmp_path / "products.json").open("w") as file:
        file.writelines(document())
    assert (tmp_path / "products.json").stat().st_size > 200_000_000
    done = subprocess.run(
        (sys.executable, "-c", PLAN, str(tmp_path)), env=os.environ, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert [key.rpartition("/")[0] for key in found["keys"]] == ["images/os007/r0003/amd64/default/20261101_1000"]
    assert found["peak_mib"] < FUNCTION_MIB
    assert found["cpu_s"] < RUN_S
