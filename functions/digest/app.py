"""The digest function: notices about uploads in, records of versions out."""

import coldstart

# isort: split

import os
import time
from datetime import UTC, datetime
from functools import cache
from typing import Any

from aws_lambda_powertools import Logger, Metrics
from aws_lambda_powertools.metrics import MetricUnit
from aws_lambda_powertools.utilities.batch.types import PartialItemFailureResponse
from aws_lambda_powertools.utilities.data_classes.sqs_event import SQSRecord
from aws_lambda_powertools.utilities.typing import LambdaContext

import batches
import notices
import telemetry
from operations.settle import Settled, Tools, settle
from settings import Settings
from simplestreams.errors import ClaimedByAnother, RejectedUpload, SimplestreamsError
from simplestreams.keys import VersionId, version_of
from storage.clients import s3_client
from storage.s3 import S3Store
from storage.stream import LARGE, SMALL, HashFan

LARGE_FUNCTION_MB = 1700
"""From about here on a function has a whole CPU for the digests, and memory for more connections."""

logger = Logger()
metrics = Metrics()
settings = Settings.from_environment(os.environ)
store = S3Store(s3_client(), settings.bucket, LARGE if settings.memory_mb >= LARGE_FUNCTION_MB else SMALL)
coldstart.loaded()


@logger.inject_lambda_context
@metrics.log_metrics
def handler(event: dict[str, Any], context: LambdaContext) -> PartialItemFailureResponse:
    """Settle each version that the batch is about, once; messages of versions that failed stay in the queue."""
    tools = Tools(
        store=store,
        now=lambda: datetime.now(UTC),
        pause=time.sleep,
        max_bytes=settings.max_upload_bytes,
        claim_seconds=context.get_remaining_time_in_millis() / 1000,
        spread=HashFan,
    )

    @cache  # all messages of the batch were there before the first one is handled: one look serves them all
    def once(version: VersionId) -> None:
        began = time.monotonic()
        settled = settle(version, tools)
        _report(settled, time.monotonic() - began)
        if settled.outcome == "claimed by another":
            raise ClaimedByAnother(f"{version.path} is being read by another worker: its notice is tried again later")

    def record_handler(record: SQSRecord) -> None:
        for key in notices.keys(record.body):
            try:
                once(version_of(key))
            except RejectedUpload as refusal:
                logger.warning("refused", key=key, reason=str(refusal))
                telemetry.count_refusal("path")
            except ClaimedByAnother as busy:
                logger.info("comes back later", key=key, reason=str(busy))
                raise
            except SimplestreamsError as error:
                logger.error("left in the queue", key=key, error=type(error).__name__, reason=str(error))
                raise

    return batches.handle_each(event, record_handler, context, settings.queue_url, logger)


def _report(settled: Settled, seconds: float) -> None:
    """One line and the metrics of one version."""
    record = settled.record
    logger.info(
        "settled",
        **telemetry.about(settled.version),
        outcome=settled.outcome,
        state=record.state if record else "gone",
        bytes=settled.bytes_read,
        seconds=round(seconds, 3),
        lost_races=settled.lost_races,
        reasons=[reason.sentence for reason in record.reasons] if record else [],
    )
    metrics.add_metric("VersionsSettled", MetricUnit.Count, 1)
    metrics.add_metric("BytesHashed", MetricUnit.Bytes, settled.bytes_read)
    metrics.add_metric("LostRaces", MetricUnit.Count, settled.lost_races)
    for fault in settled.new_faults:
        telemetry.count_refusal(fault or "other")
