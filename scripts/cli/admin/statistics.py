"""Compute what `admin stats` shows: the counts of the access logs together with the catalog."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

import click

from cli.admin import output
from cli.admin.inventory import Catalog
from imageserver.access_logs.statistics import MOST_VERSIONS, Count, Fetches, Statistics, savings
from imageserver.format.wording import counted
from imageserver.operations.access_logs import Logs

MOST_SHOWN: Final = 20
"""Rows of a table; --json has all of them."""


def report(logs: Logs, counts: Statistics, there: Catalog, now: datetime) -> dict[str, Any]:
    """Return the answer of `admin stats --json`."""
    sizes = {(entry.version.path, entry.item.ftype): entry.item.size for entry in there.items}
    listed = {entry.version.path for entry in there.items}
    saved = savings(counts.versions, sizes)
    since = logs.since or logs.oldest
    return {
        "from": since.isoformat() if since else None,
        "to": now.isoformat(timespec="seconds"),
        "log_files": len(logs.files),
        "requests": counts.requests,
        "bytes": counts.size_bytes,
        "hit_ratio": ratio(counts.hits, counts.hits + counts.misses),
        "hit_bytes": counts.hit_bytes,
        "statuses": dict(sorted(counts.statuses.items())),
        "products": [{"product": path, **_plain(count)} for path, count in _largest(_by_product(counts.versions))],
        "versions": _versions(counts.versions, listed),
        "clients": [
            {"kind": client.kind, "version": client.version, **_plain(count)}
            for client, count in _largest(counts.clients)
        ],
        "countries": [{"country": name, **_plain(count)} for name, count in _largest(counts.countries)],
        "edge_locations": [{"location": name, **_plain(count)} for name, count in _largest(counts.locations)],
        "deltas": {
            "downloads": saved.downloads,
            "bytes": saved.size_bytes,
            "replaced_bytes": saved.replaced_bytes,
            "saved_bytes": saved.replaced_bytes - saved.size_bytes,
            "unknown": saved.unknown,
        },
        "uncounted": counts.uncounted,
        "unreadable_lines": dict(sorted(counts.unreadable.items())),
        "damaged_files": dict(sorted(counts.damaged.items())),
    }


def ratio(part: int, whole: int) -> float | None:
    """Return a share between 0 and 1; None if the whole is 0."""
    return round(part / whole, 4) if whole else None


def _plain(count: Count) -> dict[str, int]:
    return {"downloads": count.downloads, "bytes": count.size_bytes}


def _largest(counts: Mapping[Any, Count]) -> list[tuple[Any, Count]]:
    return sorted(counts.items(), key=lambda entry: (-entry[1].downloads, -entry[1].size_bytes, entry[0]))


def _by_product(fetched: Mapping[str, Fetches]) -> dict[str, Count]:
    """Return the sums over the versions of each product that was fetched, by its path."""
    sums: dict[str, Count] = {}
    for path, found in fetched.items():
        sums.setdefault(path.rpartition("/")[0], Count()).add(found.downloads, found.size_bytes)
    return sums


def _versions(fetched: Mapping[str, Fetches], listed: set[str]) -> list[dict[str, Any]]:
    """Return each version that was fetched or is listed, in order of path."""
    rows = []
    for path in sorted({*fetched, *listed}):
        found = fetched.get(path, Fetches())
        product, _, version = path.rpartition("/")
        rows.append(
            {
                "product": product,
                "version": version,
                "listed": path in listed,
                "downloads": found.downloads,
                "cut": found.cut,
                "bytes": found.size_bytes,
                "last_fetched": found.last_fetched or None,
            }
        )
    return rows


def tell(found: dict[str, Any]) -> None:
    """Print an answer of `report` for a person."""
    hits = "" if found["hit_ratio"] is None else f", {100 * found['hit_ratio']:.1f} % of them from the edge's cache"
    click.echo(
        f"{counted(found['requests'], 'request')} since {found['from']} in {counted(found['log_files'], 'log file')}, "
        f"{output.size(found['bytes'])} served{hits}"
    )
    _tell_counts("downloads by product", [(row["product"], row) for row in found["products"]])
    versions = sorted(found["versions"], key=lambda row: (-row["downloads"], row["product"], row["version"]))
    click.echo("downloads by version")
    _tell_lines(
        [
            f"{row['product']}/{row['version']}  {row['downloads']:,}  {output.size(row['bytes'])}  "
            f"last fetched {row['last_fetched'] or 'at an unknown time'}{'' if row['listed'] else '  not listed'}"
            for row in versions
            if _is_fetched(row)
        ]
    )
    _tell_counts("clients", [(f"{row['kind']} {row['version']}".strip(), row) for row in found["clients"]])
    if found["countries"]:
        _tell_counts("countries", [(row["country"], row) for row in found["countries"]])
    else:
        rows = [(row["location"], row) for row in found["edge_locations"]]
        _tell_counts("edge locations, since these logs have no countries", rows)
    deltas = found["deltas"]
    if deltas["downloads"]:
        click.echo(
            f"deltas: {counted(deltas['downloads'], 'download')}, {output.size(deltas['bytes'])} instead of "
            f"{output.size(deltas['replaced_bytes'])}"
        )
    idle = [f"{row['product']}/{row['version']}" for row in versions if row["listed"] and not _is_fetched(row)]
    if idle:
        click.echo(f"listed and not fetched in this time: {counted(len(idle), 'version')}")
        _tell_lines(idle)


def _is_fetched(row: dict[str, Any]) -> bool:
    """Return whether a version was fetched. Not every log tells when, and an answer may have had no bytes."""
    return bool(row["last_fetched"] or row["bytes"])


def _tell_counts(title: str, rows: list[tuple[str, dict[str, Any]]]) -> None:
    click.echo(title)
    _tell_lines([f"{name}  {row['downloads']:,}  {output.size(row['bytes'])}" for name, row in rows])


def _tell_lines(lines: list[str]) -> None:
    for line in lines[:MOST_SHOWN] or ["none"]:
        click.echo(f"  {line}")
    if len(lines) > MOST_SHOWN:
        click.echo(f"  and {len(lines) - MOST_SHOWN:,} more; --json has all of them")


def warn(counts: Statistics) -> None:
    """Say on standard error what was not counted."""
    for why, lines in sorted(counts.unreadable.items()):
        output.say(f"not counted: {counted(lines, 'line')}, each of which {why}")
    for key, why in sorted(counts.damaged.items()):
        output.say(f"not counted to its end: {output.one_line(key)} {why}")
    if counts.uncounted:
        output.say(
            f"not counted by version: {counts.uncounted:,} fetches of versions beyond the first {MOST_VERSIONS:,}"
        )
