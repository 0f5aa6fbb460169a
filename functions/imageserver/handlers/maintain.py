"""The maintain function: reconciles and prunes the bucket on a schedule.

The event is `{"task": "reconcile" | "prune" | "all", "dry_run": false}`. A run continues where the last one stopped,
and ends before its time is up; the next run continues from there.

The answer has for each task: `tasks` (the first thousand, each with its reason), `tasks_shown` and `tasks_total`,
`ended` or else `after` (where the next run continues), the `unreadable` records, and what `failed`. A run in which
something failed does the rest and then fails itself, unless it is a dry run: Lambda then tries it once more, and the
alarm and the dead letter name what failed.
"""

from imageserver.handlers import coldstart

# isort: split

import os
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from aws_lambda_powertools import Logger, Metrics, single_metric
from aws_lambda_powertools.metrics import MetricUnit
from aws_lambda_powertools.utilities.typing import LambdaContext

from imageserver.aws import cloudfront, events, queues
from imageserver.aws.clients import cloudfront_client, s3_client, sqs_client
from imageserver.aws.queues import QueueNotifier
from imageserver.catalog.rights import Rights
from imageserver.errors import SimplestreamsError
from imageserver.format.keys import ProductId
from imageserver.handlers import telemetry
from imageserver.operations.delta_requests import DeltaRequests
from imageserver.operations.prune import Rules, prune
from imageserver.operations.recent_fetches import ReasonToKeep, fetched_within, no_reason
from imageserver.operations.reconcile import RECENT, ReconcileServices, reconcile
from imageserver.operations.runs import Run, Task, remember, resume
from imageserver.operations.view_documents import configured
from imageserver.settings import CLIENT_CHOICES, Settings
from imageserver.site.layout import lay_out
from imageserver.storage.ranged_reader import SEVERAL
from imageserver.storage.s3 import S3Store
from imageserver.versions.retention import Rule
from imageserver.views.addresses import addresses
from imageserver.views.view import View

LAST_MS: Final = 120_000
"""No product is begun with less time left than this; the largest takes a minute."""
EDGE_PATIENCE_S: Final = 60.0
"""How long a deletion waits while CloudFront has as many invalidations in progress as it allows; half of LAST_MS."""
LOGS_S: Final = 300.0
"""How long access logs are read. If that is too short, nothing is withdrawn, and the rest of the run continues."""
MOST_SHOWN: Final = 1000
"""Tasks in one answer: Lambda returns 6 MB at most, about as much as the 20,000 tasks of a run take.

The log has all.
"""

logger = Logger(use_rfc3339=True)  # Lambda takes lines with another form of time for INFO
metrics = Metrics()
settings = Settings.from_environment(os.environ)
rights = Rights.parse(settings.publishers)
store = S3Store(s3_client(), settings.bucket)
rules = Rules(
    Rule(settings.retain_versions, settings.retain_days),
    settings.grace_hours,
    settings.stale_days,
    settings.refused_days,
    settings.keep_fetched_within_days,
)
coldstart.loaded()


@logger.inject_lambda_context
@metrics.log_metrics
def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    """Run the tasks that the event names. Return what was done, or would be, and why."""
    wanted = event.get("task", "all")
    if wanted not in (*TASKS, "all"):
        raise ValueError(f"the task is {wanted!r}, expected one of {', '.join(TASKS)}, all")
    answer, runs = {}, []
    for task in TASKS if wanted == "all" else (wanted,):
        run = Run(
            dry_run=bool(event.get("dry_run", False)),
            after=resume(store, task),
            time_left=lambda: context.get_remaining_time_in_millis() > LAST_MS,
            clock=time.monotonic,
        )
        TASKS[task](run)
        remember(store, task, run)
        _report(task, run)
        answer[task] = _answer(run)
        runs.append(run)
    for run in runs:
        if not run.dry_run:
            run.check()
    return answer


def _reconcile(run: Run) -> None:
    lay_out(store, run, settings.base_url)
    clients, now = CLIENT_CHOICES[settings.clients], datetime.now(UTC)
    since = now - RECENT
    deltas = DeltaRequests(settings.deltas, since, _ask_for_deltas) if settings.deltas_queue_url else None
    services = ReconcileServices(
        store, _notifier(), clients, rights, _invalidate, since, _views, deltas, now, time.sleep
    )
    reconcile(services, run)


def _prune(run: Run) -> None:
    now = datetime.now(UTC)
    reason_to_keep: ReasonToKeep = no_reason
    if rules.keep_fetched_days:
        logs, give_up = S3Store(s3_client(), settings.logs_bucket, SEVERAL), time.monotonic() + LOGS_S
        reason_to_keep = fetched_within(rules.keep_fetched_days, logs, now, lambda: time.monotonic() < give_up)
    prune(store, _notifier(), rules, now, time.sleep, run, _invalidate, _views, reason_to_keep)


TASKS: Final[Mapping[str, Callable[[Run], None]]] = {"reconcile": _reconcile, "prune": _prune}
"""The tasks, in the order in which `all` runs them."""


def _notifier() -> QueueNotifier:
    return QueueNotifier(sqs_client(), settings.arrivals_queue_url, settings.changes_queue_url)


def _ask_for_deltas(product: ProductId) -> None:
    queues.send(sqs_client(), settings.deltas_queue_url, events.changed(product.records_prefix))


def _views() -> Mapping[str, View]:
    return configured(store) if settings.views else {}


def _invalidate(keys: Sequence[str]) -> None:
    """Invalidate deleted keys at the edge, without waiting for completion."""
    if settings.distribution_id:
        paths = addresses(keys, _views().values())
        cloudfront.request_invalidation(
            cloudfront_client(), settings.distribution_id, paths, time.sleep, EDGE_PATIENCE_S
        )


def _report(task: str, run: Run) -> None:
    """Log each task and the run, and count them."""
    for done in run.tasks:
        _tell(task, done, "would be done" if run.dry_run else "done")
    for kept in run.kept:
        _tell(task, kept, "kept")
    for failure in run.failed:
        about = {**telemetry.about_path(failure.path), "path": failure.path, "what": failure.what, "task": task}
        trace = None if isinstance(failure.error, SimplestreamsError) else failure.error
        logger.error("failed", **about, error=type(failure.error).__name__, reason=str(failure.error), exc_info=trace)
    for key in run.unreadable:
        logger.error(
            "unreadable record", task=task, key=key, remedy="admin rebuild records, which keeps its withdrawal"
        )
    logger.info(
        "finished" if run.ended else "stopped, the next run goes on",
        task=task,
        tasks=len(run.tasks),
        failed=len(run.failed),
        looked_at=run.looked_at,
        after=run.after,
        dry_run=run.dry_run,
    )
    metrics.add_metric("UnreadableRecords", MetricUnit.Count, len(run.unreadable))
    if not run.dry_run:
        with single_metric("MaintainTasks", MetricUnit.Count, len(run.tasks)) as metric:
            metric.add_dimension("task", task)


def _tell(task: str, done: Task, outcome: str) -> None:
    logger.info(
        done.what,
        **telemetry.about_path(done.path),
        task=task,
        path=done.path,
        outcome=outcome,
        bytes=done.size_bytes,
        seconds=done.seconds,
        why=done.why,
    )


def _answer(run: Run) -> dict[str, Any]:
    shown = [{"what": done.what, "path": done.path, "why": done.why} for done in run.tasks[:MOST_SHOWN]]
    return {
        "tasks": shown,
        "tasks_shown": len(shown),
        "tasks_total": len(run.tasks),
        "ended": run.ended,
        "after": run.after,
        "unreadable": run.unreadable,
        "failed": [str(failure) for failure in run.failed],
    }
