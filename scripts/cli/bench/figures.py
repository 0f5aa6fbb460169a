"""What the bench measured: figures, their table, their JSON, and a plot without a plotting library."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from math import log
from pathlib import Path
from statistics import median
from typing import Final


@dataclass(frozen=True, slots=True)
class Figure:
    """A median with its spread. `ratio` compares with the figure named `against`, taken in the same run.

    Where less is better (seconds) the ratio is `against` / this one, so that more than 1 is always better.
    `runs`: how many measurements it is the median of; 0 for a value that is counted once because it cannot vary.
    A row compared with two others appears twice, under one name.
    """

    name: str
    unit: str
    median: float
    min: float
    max: float
    ratio: float | None = None
    against: str | None = None
    runs: int = 0


def figure(name: str, unit: str, values: Sequence[float], against: Figure | None = None) -> Figure:
    """Return the figure for one value per run, in `unit`, compared with `against`, which has the same unit."""
    found = Figure(name, unit, median(values), min(values), max(values), runs=len(values))
    return compared(found, against) if against else found


def exact(name: str, unit: str, value: float) -> Figure:
    """Return the figure for a value that is the same in every run."""
    return Figure(name, unit, value, value, value)


def compared(row: Figure, against: Figure) -> Figure:
    """Return the same figure with its ratio to another one."""
    ratio = None
    if row.median and against.median:
        less_is_better = row.unit in ("s", "CPU s", "ms", "CPU ms", "MiB")
        ratio = against.median / row.median if less_is_better else row.median / against.median
    return replace(row, ratio=ratio, against=against.name)


def beside_plain_json(what: str, way: str, taken: Mapping[str, Sequence[Mapping[str, float]]]) -> list[Figure]:
    """Return CPU seconds and peak memory of the runs with plain JSON, and of `way` compared with them."""
    found: list[Figure] = []
    for field, unit in (("cpu_s", "CPU s"), ("peak_mib", "MiB")):
        plain = figure(f"{what}: plain JSON, {unit}", unit, [run[field] for run in taken["plain"]])
        found += [plain, figure(f"{what}: {way}, {unit}", unit, [run[field] for run in taken[way]], plain)]
    return found


ENOUGH_RUNS: Final = 5
"""With fewer runs a median says little, and the table says so."""


def table(figures: Sequence[Figure]) -> str:
    """Return a Markdown table; numbers with three significant digits, and a mark on medians of too few runs."""
    lines = ["| what | median | unit | from .. to | runs | ratio | against |", "|---|--:|---|--:|--:|--:|---|"]
    for row in figures:
        ratio = f"{row.ratio:.2f} x" if row.ratio is not None else ""
        spread = f"{_short(row.min)} .. {_short(row.max)}" if row.min != row.max else ""
        mark = " (!)" if row.runs < ENOUGH_RUNS else ""
        runs = f"{row.runs}{mark}" if row.runs else ""
        cells = (row.name, _short(row.median), row.unit, spread, runs, ratio, row.against or "")
        lines.append(f"| {' | '.join(cells)} |")
    if any(0 < row.runs < ENOUGH_RUNS for row in figures):
        lines += ["", f"(!) fewer than {ENOUGH_RUNS} runs: no median to rely on"]
    return "\n".join(lines)


FIELDS: Final = ("name", "unit", "median", "min", "max", "ratio", "against")


def write_json(figures: Iterable[Figure], target: Path) -> None:
    """Write a list of {name, unit, median, min, max, ratio, against}."""
    rows = [{name: getattr(row, name) for name in FIELDS} for row in figures]
    target.write_text(json.dumps(rows, indent=1) + "\n")


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


_BAR: Final = 22
_LEFT: Final = 470
_WIDTH: Final = 980


def write_svg(figures: Iterable[Figure], target: Path, caption: str) -> None:
    """Write bars of every figure that has a ratio, with the spread in words; grouped by what they are compared with."""
    rows = [row for row in figures if row.ratio is not None]
    longest = max((row.ratio or 0.0 for row in rows), default=1.0)
    parts = [
        '<text x="10" y="20" font-weight="bold">Times better than the row compared with</text>',
        f'<text x="10" y="38" fill="#555">{escape(caption)}</text>',
    ]
    for line, row in enumerate(rows):
        y = 54 + line * _BAR
        length = max(1.0, (row.ratio or 0.0) / longest * (_WIDTH - _LEFT - 200))
        label = f"{row.ratio:.2f} x {row.against}"
        parts.append(
            f'<text x="{_LEFT - 8}" y="{y + 14}" text-anchor="end">{escape(row.name)}</text>'
            f'<rect x="{_LEFT}" y="{y + 2}" width="{length:.0f}" height="{_BAR - 6}" fill="#3a6ea5"/>'
            f'<text x="{_LEFT + length + 6:.0f}" y="{y + 14}" fill="#333">{escape(label)}</text>'
        )
    height = 64 + len(rows) * _BAR
    target.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" font-family="sans-serif" '
        f'font-size="12"><rect width="{_WIDTH}" height="{height}" fill="white"/>{"".join(parts)}</svg>\n'
    )


_PANEL: Final = (400, 250)  # width and height of the area between the axes
_COLOURS: Final = ("#3a6ea5", "#b5523b", "#4b8b3b", "#8a5a9e")

Line = Sequence[tuple[float, float]]


def write_growth_svg(series: Mapping[str, Line], target: Path, caption: str) -> None:
    """Write lines over logarithmic axes: one panel per unit. A name ends with its unit: `fold, MiB`."""
    panels: dict[str, dict[str, Line]] = {}
    for name, line in series.items():
        what, _, unit = name.rpartition(", ")
        panels.setdefault(unit, {})[what] = line
    width, height = _PANEL
    parts = [f'<text x="10" y="20" font-weight="bold">{escape(caption)}</text>']
    for number, (unit, lines) in enumerate(panels.items()):
        parts.append(f'<g transform="translate({40 + number * (width + 80)},70)">{_panel(unit, lines)}</g>')
    size = (len(panels) * (width + 80), height + 120)
    target.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size[0]} {size[1]}" font-family="sans-serif" '
        f'font-size="12"><rect width="{size[0]}" height="{size[1]}" fill="white"/>{"".join(parts)}</svg>\n'
    )


def _panel(unit: str, lines: Mapping[str, Line]) -> str:
    points = [point for line in lines.values() for point in line]
    low = [min(point[axis] for point in points) for axis in (0, 1)]
    high = [max(point[axis] for point in points) for axis in (0, 1)]

    def place(point: tuple[float, float]) -> tuple[float, float]:
        share = [log(point[a] / low[a]) / (log(high[a] / low[a]) or 1.0) for a in (0, 1)]
        return share[0] * _PANEL[0], (1 - share[1]) * _PANEL[1]

    parts = [f'<text x="0" y="-24" font-weight="bold">{escape(unit)}</text>']
    for number, (name, line) in enumerate(lines.items()):
        colour, off = _COLOURS[number % 4], -8 if number == 0 else 16  # numbers above the first line, below others
        places = [place(point) for point in line]
        path = " ".join(f"{x:.0f},{y:.0f}" for x, y in places)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [
            f'<circle cx="{x:.0f}" cy="{y:.0f}" r="3" fill="{colour}"/>'
            f'<text x="{x:.0f}" y="{y + off:.0f}" text-anchor="middle" fill="{colour}">{_short(point[1])}</text>'
            for (x, y), point in zip(places, line, strict=True)
        ]
        parts.append(f'<text x="{80 + 90 * number}" y="-24" fill="{colour}">{escape(name)}</text>')
    for x in sorted({point[0] for point in points}):
        parts.append(f'<text x="{place((x, low[1]))[0]:.0f}" y="{_PANEL[1] + 38}" text-anchor="middle">{x:,.0f}</text>')
    return "".join(parts)
