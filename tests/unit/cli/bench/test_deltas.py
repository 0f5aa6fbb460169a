"""What `bench delta` measures, for roots of a few megabytes."""

from cli.bench.deltas import delta_figures
from tests.support import trees


@trees.needs_real_pairs
def test_a_delta_grows_with_the_changed_bytes_and_every_method_is_measured() -> None:
    figures = {one.name: one for one in delta_figures(1, (4, 8))}
    sizes = [figures[f"4 MB, {share} changed: delta: size"].median for share in ("1%", "2%", "10%")]
    assert sizes == sorted(sizes)
    assert 0 < sizes[0] < sizes[2] < 25
    cpu = figures["8 MB, 2% changed: delta: CPU"]
    assert cpu.against == "8 MB, 2% changed: simplestream-maintainer: CPU"
    assert cpu.median > 0
    assert figures["8 MB, 2% changed: delta: peak memory"].median > 10
