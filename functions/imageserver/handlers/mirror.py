"""The mirror function: compares other servers on a schedule, queues files to copy, and withdraws versions.

The event is `{"task": "mirror", "mirrors": ["NAME", …], "dry_run": false}`; without names it means every mirror. A
fault of an upstream is written into the mirror's status and counted, and does not fail the run: the next run compares
again. After any other failure the run compares the remaining mirrors and then fails, which raises an alarm.
"""

from imageserver.handlers import coldstart

# isort: split

import os
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from aws_lambda_powertools import Logger, Metrics
from aws_lambda_powertools.metrics import MetricUnit
from aws_lambda_powertools.utilities.typing import LambdaContext

from imageserver.aws.clients import s3_client, sqs_client
from imageserver.aws.queues import send_all
from imageserver.errors import SimplestreamsError, UpstreamRefused, UpstreamUnavailable
from imageserver.handlers import telemetry
from imageserver.operations.mirror_documents import announce, configured
from imageserver.operations.mirror_plan import Followed, MirrorServices, follow
from imageserver.operations.mirror_signatures import trusted
from imageserver.operations.runs import Run
from imageserver.operations.view_documents import configured as views_of
from imageserver.remote.server import RemoteServer
from imageserver.settings import Settings
from imageserver.storage.s3 import S3Store
from imageserver.upstream import messages
from imageserver.upstream.mapping import UpstreamFile
from imageserver.upstream.mirrors import Mirror
from imageserver.upstream.port import Upstream
from imageserver.views.view import View

TASK: Final = "mirror"
LAST_MS: Final = 60_000
"""No product is compared with less time left than this: the plans must still be written, and the copies queued."""

logger = Logger(use_rfc3339=True)  # Lambda takes lines with another form of time for INFO
metrics = Metrics()
settings = Settings.from_environment(os.environ)
store = S3Store(s3_client(), settings.bucket)
coldstart.loaded()


def ask(name: str, files: Sequence[UpstreamFile]) -> None:
    """Queue these files of a mirror for the copy function."""
    bodies = (messages.encode(messages.message_of(name, file)) for file in files)
    send_all(sqs_client(), settings.copies_queue_url, bodies)


@logger.inject_lambda_context
@metrics.log_metrics
def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    """Compare the mirrors. Return what each lacks."""
    if event.get("task") != TASK:
        raise ValueError(f"the task is {event.get('task')!r}, expected {TASK}")
    mirrors = configured(store)
    run = Run(
        dry_run=bool(event.get("dry_run", False)),
        time_left=lambda: context.get_remaining_time_in_millis() > LAST_MS,
        clock=time.monotonic,
    )
    services = MirrorServices(
        store=store,
        connect=_connect,
        ask=ask,
        now=lambda: datetime.now(UTC),
        pause=time.sleep,
        grace_hours=settings.grace_hours,
        most_bytes=settings.max_upload_bytes,
        views=_views,
    )
    followed = list(follow(mirrors, services, run, mirrors.keys() & set(event.get("mirrors", mirrors))))
    _report(followed, run)
    if followed and not run.dry_run:
        announce(store, mirrors, time.sleep, _views)
    run.failed = [one for one in run.failed if not isinstance(one.error, UpstreamRefused | UpstreamUnavailable)]
    run.check()
    return {"mirrors": {one.name: {"missing": one.status.missing, "error": one.status.error} for one in followed}}


def _views() -> Mapping[str, View]:
    return views_of(store) if settings.views else {}


def _connect(mirror: Mirror) -> Upstream:
    return trusted(RemoteServer(mirror, settings.base_url), mirror.keyring, lambda: datetime.now(UTC))


def _report(followed: Sequence[Followed], run: Run) -> None:
    """Log each mirror, each task and each failure, and count them."""
    for done in run.tasks:
        logger.info(done.what, **telemetry.about_path(done.path), path=done.path, bytes=done.size_bytes, why=done.why)
    for failure in run.failed:
        trace = None if isinstance(failure.error, SimplestreamsError) else failure.error
        logger.error(
            "failed",
            path=failure.path,
            what=failure.what,
            error=type(failure.error).__name__,
            reason=str(failure.error),
            exc_info=trace,
        )
    now = datetime.now(UTC)
    for one in followed:
        lag_s = one.status.lag_s(now)
        logger.info(
            "compared",
            mirror=one.name,
            unchanged=one.unchanged,
            missing=one.status.missing,
            bytes=one.status.missing_bytes,
            left_out=one.status.left_out_total,
            lag_s=round(lag_s),
            error=one.status.error,
        )
        metrics.add_metric("MirrorLagSeconds", MetricUnit.Seconds, lag_s)
        metrics.add_metric("MirrorFilesMissing", MetricUnit.Count, one.status.missing)
    refused = sum(isinstance(one.error, UpstreamRefused) for one in run.failed)
    metrics.add_metric("UpstreamsRefused", MetricUnit.Count, refused)
