"""The bench's own arithmetic: figures, their table, quiet runs, and the simulation of publishers."""

import json
from dataclasses import replace
from pathlib import Path

import click
import pytest

from cli.bench import planning
from cli.bench.burst import Burst, Logged
from cli.bench.burst import figures_of as figures_of_bursts
from cli.bench.copying import figures_of as copied_figures
from cli.bench.figures import Figure, exact, figure, table, write_growth_svg, write_json, write_svg
from cli.bench.folding import growth
from cli.bench.hashing import BASELINES, Baseline, Runs, figures_of, rows_of
from cli.bench.processes import plan
from cli.bench.processes.copy import Fetched
from cli.bench.processes.fold import name_of, prepare, record_of, with_our_fold, with_plain_json
from cli.bench.processes.read import Read, Taken
from cli.bench.scale import Scenario, simulate
from imageserver.versions.assessment import assess

BUSY = Scenario("busy", rate=2.0, window_s=1.0, seconds=60, products=5, leased=False)


def test_a_ratio_above_one_is_better_for_every_unit() -> None:
    slow, fast = figure("slow", "s", [4.0, 5.0, 6.0]), figure("few", "versions", [2.0])
    assert figure("fast", "s", [2.5], slow).ratio == pytest.approx(2.0)
    assert figure("many", "versions", [6.0], fast).ratio == pytest.approx(3.0)


def test_a_figure_has_its_median_and_spread() -> None:
    assert figure("a", "s", [3.0, 1.0, 2.0]) == Figure("a", "s", 2.0, 1.0, 3.0, runs=3)
    assert exact("a", "MiB", 2.0).runs == 0


def test_the_table_shows_each_ratio_and_its_baseline() -> None:
    slow = figure("slow", "s", [4.0] * 5)
    assert table([slow, figure("fast", "s", [1.0, 2.0, 3.0, 2.0, 2.0], slow)]).splitlines()[2:] == [
        "| slow | 4 | s |  | 5 |  |  |",
        "| fast | 2 | s | 1 .. 3 | 5 | 2.00 x | slow |",
    ]


def test_the_table_marks_medians_of_too_few_runs() -> None:
    lines = table([figure("twice", "s", [4.0, 5.0]), exact("counted", "bytes", 7)]).splitlines()[2:]
    assert lines == [
        "| twice | 4.5 | s | 4 .. 5 | 2 (!) |  |  |",
        "| counted | 7 | bytes |  |  |  |  |",
        "",
        "(!) fewer than 5 runs: no median to rely on",
    ]


def test_the_json_is_a_list_with_the_documented_fields(tmp_path: Path) -> None:
    write_json([figure("a", "s", [1.0])], tmp_path / "figures.json")
    assert json.loads((tmp_path / "figures.json").read_text()) == [
        {"name": "a", "unit": "s", "median": 1.0, "min": 1.0, "max": 1.0, "ratio": None, "against": None}
    ]


def test_plots_label_their_bars_and_sizes(tmp_path: Path) -> None:
    slow = figure("slow & plain", "s", [4.0])
    write_svg([slow, figure("fast <one>", "s", [1.0], slow)], tmp_path / "bars.svg", "a machine")
    bars = (tmp_path / "bars.svg").read_text()
    assert "fast &lt;one&gt;" in bars
    assert "4.00 x slow &amp; plain" in bars
    write_growth_svg({"fold": [(1000, 0.5), (10_000, 5)]}, tmp_path / "growth.svg", "growth")
    assert "10,000" in (tmp_path / "growth.svg").read_text()


def test_a_copy_is_compared_with_curl_and_with_the_plain_loop() -> None:
    taken = {how: [Fetched(seconds, 1.0, 50.0)] for how, seconds in (("curl", 4.0), ("plain loop", 5.0), ("copy", 2.0))}
    large = copied_figures(1, 400_000_000, taken)
    assert [(row.name, row.median, row.unit, row.ratio) for row in large[:4]] == [
        ("1 file of 400.0 MB: curl", 100.0, "MB/s", None),
        ("1 file of 400.0 MB: plain loop", 80.0, "MB/s", None),
        ("1 file of 400.0 MB: copy", 200.0, "MB/s", pytest.approx(2.0)),
        ("1 file of 400.0 MB: copy", 200.0, "MB/s", pytest.approx(2.5)),
    ]
    assert "1 file of 400.0 MB: curl: peak memory" not in {row.name for row in large}
    assert copied_figures(10, 1000, taken)[3].median == pytest.approx(300.0)


def test_benchmark_runs_are_chosen_by_disturbance_not_by_result() -> None:
    def taken(wall_s: float) -> Taken:
        return Taken(wall_s, 0.0, 0.0, "", "")

    runs = Runs([(0.5, taken(1.0)), (0.01, taken(9.0)), (0.02, taken(8.0))])
    assert [run.wall_s for run in runs.quiet(2)] == [9.0, 8.0]
    assert runs.is_done(2)
    assert not runs.is_done(3)


def test_synthetic_records_are_complete_and_render_into_a_listing(tmp_path: Path) -> None:
    assert record_of(0, 0).state == "complete"
    assert assess(record_of(3, 500)).state == "complete"
    size = prepare(40, tmp_path)
    document = json.loads((tmp_path / "document.json").read_bytes())
    assert size == (tmp_path / "document.json").stat().st_size
    assert {name: len(product["versions"]) for name, product in document["products"].items()} == {
        name_of(0): 20,
        name_of(1): 20,
    }
    assert with_our_fold(tmp_path) > size  # one more version, and the index
    assert with_plain_json(tmp_path) > size


def test_growth_keeps_the_series_apart() -> None:
    figures = [figure("1,000 versions: fold, CPU s", "CPU s", [1.0]), figure("1,000 versions: document", "MiB", [2.0])]
    assert growth(figures) == {"fold, CPU s": [(1000.0, 1.0)]}


@pytest.mark.parametrize(
    "scenario",
    [
        BUSY,
        replace(BUSY, publishers=5),
        replace(BUSY, streams=3),
        replace(BUSY, twice=0.5),
        replace(BUSY, late=0.5),
        replace(BUSY, twice=0.5, late=0.5, publishers=5),
    ],
)
def test_a_simulated_day_lists_every_version_whatever_the_races(scenario: Scenario) -> None:
    world = simulate(scenario)  # raises when a document is not the fold of all records
    assert len(world.listed_after) == 120
    assert sum(len(versions) for versions in world.records.values()) == 120
    assert world.attempts == world.writes + world.lost + world.idle
    assert not world.unlisted


def test_more_publishers_of_one_document_lose_more_races_and_a_lease_prevents_them() -> None:
    two, ten = simulate(BUSY), simulate(replace(BUSY, publishers=10))
    assert ten.lost / ten.attempts > two.lost / two.attempts > 0
    assert simulate(replace(BUSY, leased=True)).lost == 0


def test_a_duplicate_event_writes_nothing_more() -> None:
    rare = replace(BUSY, rate=0.02, seconds=3000, leased=True)  # seldom two versions in one batch
    world = simulate(replace(rare, twice=1.0))
    assert world.writes <= len(world.listed_after) == 60
    assert world.idle > 0.8 * world.writes


def test_a_late_event_delays_its_version_unless_another_event_of_its_product_arrives() -> None:
    def slow(products: int) -> int:
        world = simulate(replace(BUSY, seconds=120, late=0.2, products=products, leased=True))
        return sum(seconds > 60 for seconds in world.listed_after)

    assert slow(products=600) > 5 * slow(products=5)


def test_a_simulation_repeats_itself() -> None:
    assert simulate(BUSY, seed=3).listed_after == simulate(BUSY, seed=3).listed_after


def test_each_reader_is_compared_with_both_baselines() -> None:
    rows = rows_of("slow", Read("", "bucket", "object"), BASELINES)
    seconds = {"plain loop": 8.0, "two passes": 16.0, "ranged": 1.0}
    runs = {row.name: Runs([(0.0, Taken(seconds[row.read.how], 0.0, 0.0, "", ""))]) for row in rows}
    ratios = [(f.name.split(",")[0], f.against, f.ratio) for f in figures_of(rows, runs, 1) if f.unit == "s"]
    assert ratios == [
        ("slow: plain loop", None, None),
        ("slow: two passes", "slow: plain loop", 0.5),
        ("slow: small function", "slow: plain loop", 8.0),
        ("slow: small function", "slow: two passes", 16.0),
        ("slow: large function", "slow: plain loop", 8.0),
        ("slow: large function", "slow: two passes", 16.0),
    ]


@pytest.mark.parametrize("baseline", BASELINES)
def test_a_single_baseline_is_the_only_one_that_runs(baseline: Baseline) -> None:
    assert len(rows_of("slow", Read("", "bucket", "object"), [baseline])) == 3


def test_bursts_are_reported_with_their_median_and_their_worst() -> None:
    logged = Logged(catalog_writes=80, publish_attempts=50, publish_races=1, record_writes=100, record_races=0)
    found = {row.name: row for row in figures_of_bursts(100, [Burst(n, 60.0, 5.0, logged) for n in (100, 99, 100)])}
    lost = found["burst: versions lost"]
    assert (lost.median, lost.max, lost.runs) == (0, 1, 3)
    assert found["burst: catalog races lost"].median == pytest.approx(2.0)


def test_a_plan_of_another_server_finds_the_same_files_as_plain_json(tmp_path: Path) -> None:
    assert plan.prepare(40, tmp_path) == (tmp_path / plan.DOCUMENT).stat().st_size
    files = {how: way(tmp_path) for how, way in plan.WAYS.items()}
    assert files == dict.fromkeys(plan.WAYS, 40 // plan.VERSIONS_PER_PRODUCT * plan.KEEP * 3)


def test_plans_that_differ_give_no_figures() -> None:
    runs = {
        "plain": [{"cpu_s": 2.0, "peak_mib": 90.0, "result": 6}],
        "plan": [{"cpu_s": 1.0, "peak_mib": 30.0, "result": 6}],
    }
    *_, cpu_plain, cpu, _, peak = planning.figures_of(4, 1 << 20, runs)
    assert (cpu.median, cpu.ratio, cpu.against) == (1.0, 2.0, cpu_plain.name)
    assert (peak.median, peak.ratio) == (30.0, 3.0)
    runs["plan"][0]["result"] = 5
    with pytest.raises(click.ClickException, match=r"\[5, 6\] files"):
        planning.figures_of(4, 1 << 20, runs)
