"""The digest function: events of uploads in, records of versions out."""

from imageserver.handlers import coldstart

# isort: split

import os
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from aws_lambda_powertools import Logger, Metrics
from aws_lambda_powertools.metrics import MetricUnit
from aws_lambda_powertools.utilities.batch.types import PartialItemFailureResponse
from aws_lambda_powertools.utilities.typing import LambdaContext

from imageserver.aws import events, queues
from imageserver.aws.clients import s3_client, sqs_client
from imageserver.errors import InvalidUpload, LeaseHeld, OutOfTime, SimplestreamsError
from imageserver.format.keys import VersionId, version_of
from imageserver.handlers import batches, telemetry
from imageserver.operations.ingest import Ingested, IngestServices, ingest
from imageserver.settings import Settings
from imageserver.storage.ranged_reader import LARGE, SMALL, HashFan
from imageserver.storage.s3 import S3Store
from imageserver.versions.state import State

LARGE_FUNCTION_MB: Final = 1700
"""From about here on a function has a whole CPU for the digests, and memory for more connections."""
FRESH: Final = 0.9
"""A run that has so much of its time left takes a version of any size: the largest takes three quarters."""
SLOWEST_BYTES_PER_S: Final = 40_000_000
"""What a run reads at least; a function of the default size gets 75 MB/s."""

logger = Logger(use_rfc3339=True)  # Lambda takes lines with another form of time for INFO
metrics = Metrics()
settings = Settings.from_environment(os.environ)
store = S3Store(s3_client(), settings.bucket, LARGE if settings.memory_mb >= LARGE_FUNCTION_MB else SMALL)
coldstart.loaded()


@dataclass(slots=True)
class Batch:
    """The versions of one batch. Each is ingested once: all its messages were sent before the folder is listed.

    A failure counts too: its messages come back, and with them a new batch. `handed_on` are the versions that were sent
    to another run. One message is enough for all those of this batch.
    """

    context: LambdaContext
    whole_s: float
    outcomes: dict[VersionId, Exception | None] = field(default_factory=dict)
    handed_on: set[VersionId] = field(default_factory=set)

    def ingest(self, version: VersionId) -> None:
        """Ingest a version once. Raise what `ingest` raises, the same for each message, and LeaseHeld."""
        if version not in self.outcomes:
            self.outcomes[version] = self._outcome(version)
        if error := self.outcomes[version]:
            raise error

    def hand_on(self, version: VersionId) -> None:
        """Have another run ingest this version.

        By a message of its own: coming back would count as a try of this one, and a backlog has a message handed on
        more often than a broken one should be tried. A run that hands anything on has used a tenth of its time, and
        sends no more messages than it had, so this loop can neither spin nor grow; see RecursiveLoop in the template.
        """
        if version not in self.handed_on:
            queues.send(sqs_client(), settings.queue_url, events.changed(version.prefix))
            self.handed_on.add(version)

    def _outcome(self, version: VersionId) -> Exception | None:
        began = time.monotonic()
        try:
            ingested = ingest(version, self._services())
        except Exception as error:  # noqa: BLE001  (raised for each of its messages)
            return error
        _report(ingested, time.monotonic() - began)
        if ingested.outcome == "leased by another worker":
            return LeaseHeld(f"{version.path} is being read by another worker: its message is tried again later")
        return None

    def _services(self) -> IngestServices:
        left_s = seconds_left(self.context)
        return IngestServices(
            store=store,
            now=lambda: datetime.now(UTC),
            pause=time.sleep,
            max_bytes=settings.max_upload_bytes,
            lease_seconds=left_s,
            spread=HashFan,
            budget_bytes=None if left_s > FRESH * self.whole_s else int(left_s * SLOWEST_BYTES_PER_S),
        )


def seconds_left(context: LambdaContext) -> float:
    return context.get_remaining_time_in_millis() / 1000


@logger.inject_lambda_context
@metrics.log_metrics
def handler(event: dict[str, Any], context: LambdaContext) -> PartialItemFailureResponse:
    """Ingest each version that the batch is about; messages of versions that failed stay in the queue."""
    batch = Batch(context, seconds_left(context))
    return batches.handle_each(event, lambda key: _handle(key, batch), context, settings.queue_url, logger)


def _handle(key: str, batch: Batch) -> None:
    try:
        version = version_of(key)
    except InvalidUpload as refusal:
        logger.warning("refused", key=key, reason=str(refusal))
        telemetry.count_refusal("path")
        return
    try:
        batch.ingest(version)
    except OutOfTime as late:
        logger.info("left for another run", key=key, reason=str(late))
        batch.hand_on(version)
    except LeaseHeld as busy:
        logger.info("comes back later", key=key, reason=str(busy))
        raise
    except SimplestreamsError as error:
        logger.error("left in the queue", key=key, error=type(error).__name__, reason=str(error))
        raise


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
        telemetry.log_unexpected(logger, error, "refused what no parser could read", **telemetry.about_key(key))
    for fault in ingested.new_faults:
        telemetry.count_refusal(fault or "other")
