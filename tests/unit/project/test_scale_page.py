"""infra/SCALE.md uses the numbers of the code and the template. A changed number fails here until the page has it."""

import re

import pytest

from cli.bench.folding import EDGE_COMPRESSES_BYTES
from gates import stack as stacks
from imageserver.api import status
from tests.support import PROJECT

PAGE = (PROJECT / "infra/SCALE.md").read_text()
SCRIPT = "scripts/upload"
RUSH = 5_000 / 3600
GIB = 1 << 30
LAMBDA_BYTES_S = 600e6 / 8


def number_in(file: str, pattern: str) -> int:
    """Return the number that a pattern finds in a file of the project."""
    found = re.search(pattern, (PROJECT / file).read_text())
    assert found, f"{file} has no {pattern}: count again in infra/SCALE.md, The upload API"
    return int(found[1])


def row_of(what: str) -> list[str]:
    (line,) = [line for line in PAGE.splitlines() if line.startswith(f"| {what}")]
    return [cell.strip(" *") for cell in line.strip("|").split("|")]


def test_waiting_publishers_are_counted_with_the_numbers_of_script_and_functions() -> None:
    asks_s = number_in(SCRIPT, r"longest=(\d+)")
    _, waiting, requests, runs, _ = row_of("the default of 4, once")
    assert float(waiting) == pytest.approx(RUSH * number_in(SCRIPT, r"patience=(\d+)"), rel=0.02)
    assert (requests, runs) == ("11 + 1.4 /s", "106")  # as tests/unit/imageserver/api/test_status.py counts them
    _, _, _, held_runs, _ = row_of("the same, if all were held")
    assert float(held_runs) == pytest.approx(
        float(waiting) * (asks_s - status.POLL_S) / (asks_s - status.POLL_S + 1), rel=0.02
    )
    assert f"it is held for {status.SHORT_HOLD_S:.0f} s" in PAGE


def test_the_page_has_the_limits_of_the_template() -> None:
    stack = stacks.deployed()
    ((_, stage),) = stack.of_type("AWS::ApiGatewayV2::Stage").items()
    rate, burst = (stage["DefaultRouteSettings"][f"Throttling{word}Limit"] for word in ("Rate", "Burst"))
    assert f"lets {rate} requests a second through, {burst} at once" in PAGE
    assert stack.properties("UploadsFunction")["MemorySize"] == 1024


def test_the_page_has_the_backlog_of_the_default_concurrency() -> None:
    runs = int(stacks.deployed().raw["Parameters"]["DigestConcurrency"]["Default"])
    read, arriving = runs * LAMBDA_BYTES_S, RUSH * GIB
    assert row_of("the default of")[0].startswith(f"the default of {runs}, once")
    assert f"default `DigestConcurrency` of {runs} ({read / 1e6:.0f} MB/s)" in PAGE
    assert f"take {arriving * 3600 / read / 3600:.0f} hours" in PAGE
    assert f"With {runs} executions digest reads {read / 1e6:.0f} MB/s of the {arriving / 1e9:.1f} GB/s" in PAGE
    assert f"a version waits for {(arriving - read) / read:.0f} t" in PAGE
    assert f"{read / 1e6:.0f} MB/s of uploads: `DigestConcurrency` above {runs}" in PAGE


def test_the_stream_limit_is_the_size_above_which_its_document_is_not_compressed() -> None:
    found = re.search(r"A version is ([\d,]+) bytes of JSON", PAGE)
    assert found
    versions = EDGE_COMPRESSES_BYTES / int(found[1].replace(",", ""))
    assert "Split a stream at 8,000 versions" in PAGE
    for page in ("functions/FORMAT.md", "infra/PERFORMANCE.md"):
        assert "(about 8,000 versions of three files" in (PROJECT / page).read_text()
    assert versions == pytest.approx(8000, rel=0.02)
