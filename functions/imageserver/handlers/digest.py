"""The digest function: takes events of uploads and writes the records of their versions."""

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

from imageserver.aws import events, queues
from imageserver.aws.clients import s3_client, sqs_client
from imageserver.errors import InvalidUpload, LeaseHeld, OutOfTime
from imageserver.format.keys import VersionId, version_of
from imageserver.handlers import batches, telemetry
from imageserver.operations.ingest import SLOWEST_BYTES_PER_S, Ingested, IngestServices, ingest
from imageserver.settings import Settings
from imageserver.storage.ranged_reader import LARGE, SMALL, hash_fan
from imageserver.storage.s3 import S3Store
from imageserver.versions.limits import Limits
from imageserver.versions.state import State

LARGE_FUNCTION_MB: Final = 1700
"""MB of memory from which a function has about a whole CPU for the digests, and room for more connections."""
FRESH: Final = 0.9
"""A run with this share of its time left reads a version of any size: the largest takes three quarters."""

logger = Logger(use_rfc3339=True)  # Lambda takes lines with another form of time for INFO
metrics = Metrics()
settings = Settings.from_environment(os.environ)
store = S3Store(s3_client(), settings.bucket, LARGE if settings.memory_mb >= LARGE_FUNCTION_MB else SMALL)
coldstart.loaded()


@logger.inject_lambda_context
@metrics.log_metrics
def handler(event: dict[str, Any], context: LambdaContext) -> batches.Answer:
    """Ingest each version of the batch once; messages of versions that failed stay in the queue.

    Once is enough, even after a failure, because all messages were sent before the folder is listed.
    """
    whole_s = batches.seconds_left(context)

    def ingest_version(versions: Sequence[VersionId], tries: int) -> Mapping[VersionId, Exception]:
        (version,) = versions
        left_s = batches.seconds_left(context)
        services = IngestServices(
            store=store,
            now=lambda: datetime.now(UTC),
            pause=time.sleep,
            max_bytes=settings.max_upload_bytes,
            lease_seconds=left_s,
            spread=hash_fan,
            budget_bytes=None if left_s > FRESH * whole_s else int(left_s * SLOWEST_BYTES_PER_S),
            is_suspect=tries > 1,
            limits=Limits(settings.max_files, settings.max_versions),
        )
        _ingest(version, services)
        return {}

    return batches.handle_each(event, _version_of, ingest_version, settings.queue_url, logger)


def _version_of(key: str) -> VersionId | None:
    try:
        return version_of(key)
    except InvalidUpload as refusal:
        logger.warning("refused", key=key, reason=str(refusal))
        telemetry.count_refusal("path")
        return None


def _ingest(version: VersionId, services: IngestServices) -> None:
    """Ingest a version, or hand it on to another run. Raise what `ingest` raises, and LeaseHeld.

    It is handed on by a new message: returning this one would count as a failed try, and a backlog hands a message on
    more often than a broken one should be tried. A run that hands anything on has used a tenth of its time and sends no
    more messages than it received, so this loop can neither spin nor grow; see RecursiveLoop in the template.
    """
    began = time.monotonic()
    try:
        ingested = ingest(version, services)
    except OutOfTime as late:
        logger.info("left for another run", **telemetry.about(version), reason=str(late))
        queues.send(sqs_client(), settings.queue_url, events.changed(version.prefix))
        return
    _report(ingested, time.monotonic() - began)
    if ingested.outcome == "leased by another worker":
        raise LeaseHeld(f"{version.path} is being read by another worker: its message is tried again later")


def _report(ingested: Ingested, seconds: float) -> None:
    """Log one version and count it."""
    record = ingested.record
    logger.info(
        "ingested",
        **telemetry.about(ingested.version),
        outcome=ingested.outcome,
        state=record.state if record else State.EMPTY,
        bytes=ingested.bytes_read,
        seconds=round(seconds, 3),
        lost_races=ingested.lost_races,
        reasons=[reason.sentence for reason in record.reasons] if record else [],
    )
    metrics.add_metric("VersionsIngested", MetricUnit.Count, 1)
    metrics.add_metric("BytesHashed", MetricUnit.Bytes, ingested.bytes_read)
    metrics.add_metric("LostRaces", MetricUnit.Count, ingested.lost_races)
    for key, error in ingested.unparsed.items():
        about = {**telemetry.about(ingested.version), "key": key, "error": type(error).__name__}
        logger.error("refused what no parser could read", **about, exc_info=error)
    for fault in ingested.new_faults:
        telemetry.count_refusal(fault or "other")
