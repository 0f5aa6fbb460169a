"""`admin stats`: who fetches what, from the edge's access logs."""

from datetime import UTC, datetime

import click

from cli.admin import inventory, output, statistics
from cli.admin.arguments import command, main
from cli.admin.deployment import Deployment
from cli.admin.errors import NOTHING, end
from imageserver.operations.access_logs import PREFIX, count_requests, days_ago, find_logs


@main.command()
@click.option(
    "--days",
    type=click.IntRange(0),
    default=30,
    show_default=True,
    help="How many days back, to the hour; 0: as far back as there are logs.",
)
@command
def stats(deployment: Deployment, as_json: bool, days: int) -> None:
    """Count downloads by version, client and country, what the cache and deltas saved, and what is still fetched.

    It reads CloudFront's access logs, which arrive within an hour, some within a day. A download is a whole root, delta
    or unified tarball, or its first range; the metadata beside a root does not count. Addresses, tokens and queries are
    neither kept nor printed. Standard logs have no countries: then it shows the edge locations that served, by
    airport code. infra/README.md says how to get countries, and logs without addresses.

    \b
    ./scripts/admin stats --days 7
    ./scripts/admin --stack images stats --json
    """
    now = datetime.now(UTC)
    with output.busy("looking for access logs"):
        logs = find_logs(deployment.logs, days_ago(now, days))
    if not logs.files:
        since = f" of the last {days} days; the oldest is of {logs.oldest:%Y-%m-%d}" if logs.oldest else ""
        end(
            NOTHING,
            f"there are no access logs{since} below {PREFIX} in {deployment.logs_bucket}; the first arrive some hours "
            "after EdgeLogs was set to true, and only for hours with requests",
        )
    with output.bytes_progress() as progress:
        task = progress.add_task("counting", total=logs.size_bytes)
        counts = count_requests(deployment.logs, logs.files, lambda count: progress.advance(task, count))
    found = statistics.report(logs, counts, inventory.read_catalog(deployment.store), now)
    if as_json:
        output.print_json(found)
    else:
        statistics.tell(found)
    statistics.warn(counts)
