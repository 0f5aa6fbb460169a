"""`bench views`: its counts on a small server, and that varying counts are refused."""

from __future__ import annotations

import click
import pytest

from cli.bench.processes.views import measure
from cli.bench.viewing import figures_of

VERSIONS = 100
CATALOG = 2
"""Documents that change with one more version of a product: that of the products, and the feed."""


@pytest.mark.parametrize("views", [0, 1, 3])
@pytest.mark.parametrize(("kind", "changed"), [("all", CATALOG), ("channel", CATALOG), ("other", 0)])
def test_documents_are_written_only_where_they_change(views: int, kind: str, changed: int) -> None:
    assert measure(views, kind, VERSIONS)["writes"] == CATALOG + views * changed


def test_each_view_that_shows_the_product_costs_the_same_number_of_requests_and_any_other_none() -> None:
    for kind, each in (("all", 5), ("channel", 6), ("other", 0)):  # the document of a channel that moved is read again
        two, three = (measure(views, kind, VERSIONS)["requests"] for views in (2, 3))
        assert three - two == each


def test_figures_of_runs_that_asked_for_different_things_are_refused() -> None:
    runs = [{"cpu_s": 1.0, "requests": asked, "writes": 2} for asked in (10, 11)]
    assert [row.median for row in figures_of(1, "all", runs[:1])] == [1.0, 10, 2]
    with pytest.raises(click.ClickException, match="requests and writes vary"):
        figures_of(1, "all", runs)
