"""The monthly cost of a server in US dollars: the arithmetic behind COSTS.md, also for your own numbers.

    python3 infra/costs.py --versions 200 --kept 600 --served-gb 1000

List prices of us-east-1 in 2026. A month has 730 hours; a GB has 10^9 bytes, which AWS counts as 7 % less.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import Final

HOURS: Final = 730
DAYS: Final = HOURS / 24

# Requests of one version with three files, from its upload until it is deleted, in a product of V versions. LIST costs
# as much as PUT; DELETE is free. tests/unit/infra/test_costs.py counts the same requests.
PUTS: Final = 13
LISTS: Final = 22
GETS: Final = 30
GETS_FOR_EACH_SIBLING: Final = 4
PART_BYTES: Final = 6 * 2**20
"""Each part of a file is one more GET."""
WAIT_S: Final = 25.0
"""From the last upload to the listing, while `scripts/upload` waits: an event, the hash, an event, the catalog."""
POLL_S: Final = 0.5
LISTS_A_POLL: Final = 1.5
"""1 before the record exists, then 2; and 1 GET."""
HELD_BYTES: Final = 55
"""JSON of one version in a mirror's state."""
VERSION_BYTES: Final = 1235
"""JSON of one version in the catalog (SCALE.md)."""
CATALOG_WRITES: Final = 2
"""For one version: listed, and taken off the list. This is an upper limit: a batch of any size is one write."""

HASHED_GB_S: Final = 0.075
DIGEST_GB: Final = 1769 / 1024
PUBLISH_GB: Final = 1.0
PUBLISH_RUNS: Final = 4
UPLOADS_GB: Final = 1.0
MAINTAIN_GB: Final = 0.5
COPY_GB: Final = 0.5
MIRROR_GB: Final = 1769 / 1024
MIRROR_S: Final = 3.0
"""An hourly run of mirror that finds every server unchanged."""
PRODUCT_S: Final = 0.15
"""The time that maintain needs for one product of 20 versions: two listings, and its records 16 at a time."""

ALARM_METRICS: Final = 17
OWN_METRICS: Final = 11
"""Six without dimension, three reasons of refusals, two tasks of maintain. There is one more for each stream."""
MIRROR_ALARM_METRICS: Final = 7
MIRROR_METRICS: Final = 6
"""With MirrorSchedule: five without dimension, and one more reason of refusals."""
MESSAGES: Final = 11
"""For one version: three files are uploaded and deleted, and a record is written four times and deleted."""
DIGEST_RUNS: Final = 4
CALLS_A_RUN: Final = 3
"""Its messages are received, hidden for as long as the run lives (decisions/0011-killed-workers.md), and deleted."""
RENEW_S: Final = 20
"""The interval at which a long run hides its messages again."""
POLLERS: Final = 10
"""Lambda polls each of the two queues with five requests at once, which wait for 20 s."""
COPY_POLLERS: Final = 5
DELTA_GB: Final = 1769 / 1024
DELTA_DISK_GB: Final = 9.5
"""The disk of a run of delta, beyond the 512 MB that are free."""
DELTA_S: Final = 45.0
"""A run for two roots of 520 MB: 26 s to fetch them at the slowest, 13 s to encode, 3 s to decode."""
DELTA_BYTES: Final = 22_600_000
"""A delta between two of them with 2 % of the bytes in changed files."""
DELTA_ALARM_METRICS: Final = 3
DELTA_METRICS: Final = 3


@dataclass(frozen=True, slots=True)
class Server:
    """A server in a steady state: each month as many versions are deleted as are new."""

    versions: int
    kept: int
    served_gb: int
    products: int
    streams: int = 1
    version_gb: float = 0.5
    files: int = 3
    noncurrent_days: int = 30
    grace_hours: int = 24

    @property
    def siblings(self) -> float:
        """Versions of one product."""
        return self.kept / self.products

    @property
    def gb_a_day(self) -> float:
        """What is uploaded, and deleted, in a day."""
        return self.versions / DAYS * self.version_gb


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the bill; `amount` is the billed quantity."""

    what: str
    amount: str
    dollars: float


POLLS: Final = Row("SQS", f"{COPY_POLLERS * HOURS * 180 / 1e6:.1f} M requests", COPY_POLLERS * HOURS * 180 * 4e-7)
"""What Lambda's polling of a queue costs, used or not."""


def bill(server: Server) -> list[Row]:
    """Return every line of a month's bill."""
    digest = (server.version_gb / HASHED_GB_S + 1) * DIGEST_GB
    uploads = digest + PUBLISH_RUNS * PUBLISH_GB + (WAIT_S + 1) * UPLOADS_GB
    maintain = (HOURS + DAYS) * (1 + server.products * PRODUCT_S) * MAINTAIN_GB
    renewals = server.version_gb / HASHED_GB_S / RENEW_S
    messages = MESSAGES + CALLS_A_RUN * (DIGEST_RUNS + PUBLISH_RUNS) + renewals
    requests = POLLERS * HOURS * 3600 / 20 + messages * server.versions
    metrics = OWN_METRICS + server.streams
    paid = max(0, server.served_gb - 1000)
    paths = server.files * server.versions
    return [
        *_s3(server),
        Row(
            "Lambda, uploads and deletions",
            f"{server.versions:,} x {uploads:.0f} GB-s",
            server.versions * (uploads * 0.0000133334 + 12 * 2e-7),
        ),
        Row("Lambda, maintain", f"{maintain:,.0f} GB-s", maintain * 0.0000133334),
        Row("API Gateway", f"{4 * server.versions:,} requests", 4e-6 * server.versions),
        Row("SQS, 1 M requests free", f"{requests / 1e6:.1f} M requests", max(0.0, requests - 1e6) * 4e-7),
        Row("CloudWatch, alarms, 10 free", f"{ALARM_METRICS} metrics", (ALARM_METRICS - 10) * 0.10),
        Row("CloudWatch, custom metrics, 10 free", f"{metrics} metrics", (metrics - 10) * 0.30),
        Row(
            "CloudFront, 1 TB free, then $0.085/GB to 10 TB, $0.080 to 50 TB",
            f"{server.served_gb:,} GB",
            min(paid, 10_000) * 0.085 + max(0, paid - 10_000) * 0.080,
        ),
        Row("CloudFront, invalidations, 1,000 free", f"{paths:,} paths", max(0, paths - 1000) * 0.005),
    ]


def _s3(server: Server) -> list[Row]:
    kept = server.kept * server.version_gb
    deleted = server.gb_a_day * (server.grace_hours / 24 + server.noncurrent_days)
    document = server.kept / server.streams * VERSION_BYTES / 1e9
    generations = CATALOG_WRITES * server.versions / DAYS * server.noncurrent_days * document
    tags = server.files * server.kept
    polls = WAIT_S / POLL_S
    writes = server.versions * (PUTS + LISTS + polls * LISTS_A_POLL)
    reads = server.versions * (
        GETS + GETS_FOR_EACH_SIBLING * server.siblings + ceil(server.version_gb * 1e9 / PART_BYTES) + polls
    )
    each = (writes * 5e-6 + reads * 4e-7) / server.versions
    pages = (server.files + 1) * server.kept / 1000
    reconcile_lists, prune_lists = 2 * server.products + pages + 7, 4 * server.products + pages + 5
    maintain = (HOURS * reconcile_lists + DAYS * prune_lists) * 5e-6 + (HOURS + DAYS) * server.kept * 4e-7
    return [
        Row("S3, listed images", f"{kept:,.0f} GB", kept * 0.023),
        Row(
            "S3, deleted images until `GraceHours` and `NoncurrentDays` are over", f"{deleted:,.0f} GB", deleted * 0.023
        ),
        Row("S3, earlier generations of the catalog", f"{generations:,.1f} GB", generations * 0.023),
        Row("S3, the tags of listed files", f"{tags:,} tags", tags * 1e-6),
        Row("S3, requests of uploads and deletions", f"{server.versions:,} x ${each:.5f}", each * server.versions),
        Row("S3, requests of the hourly reconcile and of retention", f"{server.kept:,} records, hourly", maintain),
    ]


def always_on(server: Server, instances: int, instance: float, disk_gb: int) -> list[Row]:
    """Return the bill for the same from servers that run all the time; `instance` is dollars an hour."""
    out = max(0, server.served_gb - 100)
    return [
        Row("instances, on demand", f"{instances} x ${instance}/h", instances * instance * HOURS),
        Row("load balancer, $0.0225/h and $0.008 for each GB", "1", 0.0225 * HOURS + 0.008 * server.served_gb),
        Row("public IPv4 addresses", "3 x $0.005/h", 3 * 0.005 * HOURS),
        Row("gp3 disk, $0.08/GB", f"{instances} x {disk_gb:,} GB", instances * disk_gb * 0.08),
        Row(
            "data out, 100 GB free, then $0.090/GB to 10 TB, $0.085 to 50 TB",
            f"{server.served_gb:,} GB",
            min(out, 9_900) * 0.09 + max(0, out - 9_900) * 0.085,
        ),
    ]


def table(heads: Sequence[str], bills: Sequence[list[Row]]) -> str:
    """Return a Markdown table of bills that have the same lines, side by side, with their sums."""
    lines = [f"| | {' | '.join(f'{head} | $' for head in heads)} |", f"|---|{'--:|--:|' * len(heads)}"]
    for rows in zip(*bills, strict=True):
        lines.append(f"| {rows[0].what} | {' | '.join(f'{row.amount} | {row.dollars:,.2f}' for row in rows)} |")
    sums = " | ".join(f"| **{sum(row.dollars for row in rows):,.2f}**" for rows in bills)
    return "\n".join([*lines, f"| **total** | {sums} |"])


def following(servers: int, versions: int) -> list[Row]:
    """Return what MirrorSchedule adds to a month's bill, with an hourly schedule, before any image is copied.

    `versions` are those of all `servers` together: the mirrors' states are written daily, and kept for NoncurrentDays.
    """
    runs = HOURS * servers
    state_gb = versions * HELD_BYTES / 1e9 * DAYS
    return [
        Row("Lambda, mirror", f"{runs:,} runs", runs * MIRROR_S * MIRROR_GB * 0.0000133334),
        Row("S3, requests", f"{runs:,} runs", runs * (2 * 5e-6 + 6 * 4e-7)),
        Row("S3, earlier generations of the states of mirrors", f"{state_gb:,.1f} GB", state_gb * 0.023),
        POLLS,
        Row("CloudWatch, alarms", f"{MIRROR_ALARM_METRICS} metrics", MIRROR_ALARM_METRICS * 0.10),
        Row("CloudWatch, custom metrics", f"{MIRROR_METRICS} metrics", MIRROR_METRICS * 0.30),
    ]


LOOK_UPS: Final = 4
"""The number of reads of the store for a token, valid or not, by the edge's function."""


INDEX_READS: Final = 1 / 5
"""The share of requests for an index: a launch is some five requests."""
LOG_LINE_BYTES: Final = 250
"""Billed bytes in CloudWatch Logs for one use of a token: the line with the request's ID, and 26 bytes for each event,
including those that CloudFront may add at the start and the end."""


LOGS: Final = 24 * 30 * 30
"""Access logs of a month: CloudFront writes at least one an hour for each edge location that serves, here thirty."""
REDACT_S: Final = 0.3
"""The time of a run for a log, which is read and rewritten. The event of the rewritten log takes a shorter run."""
REDACT_GB: Final = 0.5
REDACT_ALARM_METRICS: Final = 3
"""Dead letters, errors, and throttles in the sum of all functions."""


def viewing(millions: float) -> list[Row]:
    """Return what Views adds to a month's bill with `millions` of requests; two million runs are free."""
    reads = millions * LOOK_UPS
    logged_gb = millions * INDEX_READS * LOG_LINE_BYTES / 1e3
    return [
        Row("CloudFront Functions, $0.10 a million, 2 free", f"{millions:,.1f} M runs", max(0.0, millions - 2) * 0.10),
        Row("KeyValueStore, $0.03 a million reads", f"{reads:,.1f} M reads", reads * 0.03),
        Row("CloudWatch Logs, uses of tokens", f"{millions * INDEX_READS:,.2f} M lines", logged_gb * 0.50),
        Row("Lambda, redact", f"{2 * LOGS:,} runs", 2 * LOGS * REDACT_S * REDACT_GB * 0.0000133334),
        Row("S3, access logs redacted", f"{LOGS:,} logs", LOGS * (2 * 4e-7 + 5e-6)),
        POLLS,
        Row("CloudWatch, alarms", f"{REDACT_ALARM_METRICS} metrics", REDACT_ALARM_METRICS * 0.10),
    ]


def making_deltas(versions: int, kept: int) -> list[Row]:
    """Return what Deltas=1 adds to a month's bill: a delta for each new version, stored for as long as `kept` are."""
    gb_s = versions * DELTA_S
    gets = versions * 2 * 520e6 / (4 << 20)
    stored_gb = kept * DELTA_BYTES / 1e9
    return [
        Row("Lambda, delta", f"{versions:,} runs", gb_s * (DELTA_GB * 0.0000133334 + DELTA_DISK_GB * 3.09e-8)),
        Row("S3, requests", f"{gets:,.0f} GET", gets * 4e-7 + versions * 3 * 5e-6),
        Row("S3, deltas stored", f"{stored_gb:,.1f} GB", stored_gb * 0.023),
        POLLS,
        Row("CloudWatch, alarms", f"{DELTA_ALARM_METRICS} metrics", DELTA_ALARM_METRICS * 0.10),
        Row("CloudWatch, custom metrics", f"{DELTA_METRICS} metrics", DELTA_METRICS * 0.30),
    ]


@dataclass(frozen=True, slots=True)
class Mirrored:
    """The cost of copying another server's images: once, and for their storage each month."""

    dollars_once: float
    dollars_a_month: float


def mirrored(files: int, size_bytes: int) -> Mirrored:
    """Return the price of `files` with these bytes in all. Transfer into AWS is free.

    Each file is copied in parts, and read once by digest. The other server limits the speed of copying; it is counted
    at the speed of digest. Requests are those of uploads, a third of a version for each file.
    """
    gb = size_bytes / 1e9
    requests = files * ((PUTS + LISTS) * 5e-6 + GETS * 4e-7) / 3 + size_bytes / PART_BYTES * (5e-6 + 4e-7)
    seconds = gb / HASHED_GB_S
    return Mirrored(requests + seconds * (DIGEST_GB + COPY_GB) * 0.0000133334, gb * 0.023)


SMALL: Final = Server(versions=50, kept=150, served_gb=200, products=15)
LARGE: Final = Server(versions=5_000, kept=10_000, served_gb=50_000, products=500, streams=2)


def main() -> None:
    parser = argparse.ArgumentParser(description="Print what a server costs in a month, in US dollars.")
    parser.add_argument("--versions", type=int, required=True, help="new versions a month")
    parser.add_argument("--kept", type=int, required=True, help="versions that are listed at a time")
    parser.add_argument("--served-gb", type=int, required=True, help="GB that clients download in a month")
    parser.add_argument("--products", type=int, help="products; without it, one for each 20 versions")
    parser.add_argument("--version-gb", type=float, default=0.5, help="GB of one version (default: 0.5)")
    parser.add_argument("--noncurrent-days", type=int, default=30, help="the parameter NoncurrentDays (default: 30)")
    given = parser.parse_args()
    server = Server(
        given.versions,
        given.kept,
        given.served_gb,
        given.products or ceil(given.kept / 20),
        streams=ceil(given.kept / 8000),
        version_gb=given.version_gb,
        noncurrent_days=given.noncurrent_days,
    )
    print(table(["a month"], [bill(server)]))


if __name__ == "__main__":
    main()
