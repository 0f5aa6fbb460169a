"""The publish function: takes messages about records and products and writes the catalog."""

from imageserver.handlers import coldstart

# isort: split

import os
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from aws_lambda_powertools import Logger, Metrics, single_metric
from aws_lambda_powertools.metrics import MetricUnit
from aws_lambda_powertools.utilities.typing import LambdaContext

from imageserver.aws import cloudfront, events, queues
from imageserver.aws.clients import cloudfront_client, s3_client, sqs_client
from imageserver.catalog.rights import Rights
from imageserver.errors import InvalidUpload, SimplestreamsError, StorageUnavailable
from imageserver.format.keys import ProductId, parse_record_key, product_of, product_of_records
from imageserver.handlers import batches, telemetry
from imageserver.operations.publish import Published, PublishServices, Subject, lease_wait_seconds, publish
from imageserver.operations.view_documents import KnownViews, configured
from imageserver.settings import CLIENT_CHOICES, Settings
from imageserver.storage.s3 import S3Store
from imageserver.views.addresses import addresses

LAST_S: Final = 15.0
"""Seconds that a run reserves for the writes after the edge has invalidated; they take a few."""
MOST_TRIES_TOGETHER: Final = 3
"""A message that was received more often is published alone."""

logger = Logger(use_rfc3339=True)  # Lambda takes lines with another form of time for INFO
metrics = Metrics()
settings = Settings.from_environment(os.environ)
rights = Rights.parse(settings.publishers)
store = S3Store(s3_client(), settings.bucket)
known_views: KnownViews = {}
coldstart.loaded()


def invalidate(keys: Sequence[str], left_s: float) -> None:
    """Invalidate files at the edge. The client is made only when an overwrite or a deletion needs it."""
    if settings.distribution_id:
        paths = addresses(keys, configured(store).values()) if settings.views else keys
        cloudfront.invalidate(cloudfront_client(), settings.distribution_id, paths, time.sleep, left_s - LAST_S)


def notify(product: ProductId) -> None:
    """Have a later run publish a product of another stream."""
    queues.send(sqs_client(), settings.queue_url, events.changed(product.records_prefix))


@logger.inject_lambda_context
@metrics.log_metrics
def handler(event: dict[str, Any], context: LambdaContext) -> batches.Answer:
    """Publish all products of the batch, with one write for each stream. Failed messages stay in the queue.

    Only a message that was received many times is published alone, because a lost race for a document counts as a try
    too.
    """

    def publish_subjects(subjects: Sequence[Subject], _tries: int) -> Mapping[Subject, Exception]:
        services = _services(context)
        streams: dict[str, list[Subject]] = defaultdict(list)
        for subject in subjects:
            streams[product_of(subject).stream].append(subject)
        failures: dict[ProductId, Exception] = {}
        for stream, wanted in sorted(streams.items()):
            failures |= _publish_stream(stream, wanted, services)
        return {subject: failures[product_of(subject)] for subject in subjects if product_of(subject) in failures}

    return batches.handle_each(
        event,
        _subject_of,
        publish_subjects,
        settings.queue_url,
        logger,
        together=MOST_TRIES_TOGETHER,
        part_of=product_of,
    )


def _services(context: LambdaContext) -> PublishServices:
    return PublishServices(
        store=store,
        clients=CLIENT_CHOICES[settings.clients],
        now=lambda: datetime.now(UTC),
        pause=time.sleep,
        invalidate=lambda keys: invalidate(keys, batches.seconds_left(context)),
        lease_wait_s=lease_wait_seconds(batches.seconds_left(context)),
        server=settings.bucket,
        rights=rights,
        notify=notify,
        views=settings.views,
        known_views=known_views,
    )


def _subject_of(key: str) -> Subject | None:
    try:
        return product_of_records(key) if key.endswith("/") else parse_record_key(key)
    except InvalidUpload as refusal:
        logger.warning("not a record of ours", key=key, reason=str(refusal))
        return None


def _publish_stream(stream: str, wanted: Sequence[Subject], services: PublishServices) -> Mapping[ProductId, Exception]:
    """Publish products of one stream. On an unexpected exception, publish each half separately.

    A few writes thus isolate the product that raises it, and only that one is left out.
    """
    began = time.monotonic()
    products = sorted(set(map(product_of, wanted)))
    try:
        published = publish(stream, wanted, services)
    except SimplestreamsError as error:
        return dict.fromkeys(products, error)
    except Exception as error:  # noqa: BLE001  (handle_each logs it)
        if len(products) == 1:
            return {products[0]: error}
        first = set(products[: len(products) // 2])
        halves = ([s for s in wanted if (product_of(s) in first) == is_first] for is_first in (True, False))
        return {product: e for half in halves for product, e in _publish_stream(stream, half, services).items()}
    _report(published, len(products), round(time.monotonic() - began, 3))
    _ask_for_deltas(published)
    return published.failed


def _ask_for_deltas(published: Published) -> None:
    """Have delta look at each product with a new version. A version stays listed even if its request cannot be sent."""
    products = sorted({record.id.product for record in published.listed})
    if not settings.deltas_queue_url or not products:
        return
    try:
        queues.send_all(
            sqs_client(), settings.deltas_queue_url, [events.changed(one.records_prefix) for one in products]
        )
    except StorageUnavailable as error:
        logger.warning("no deltas are asked for", stream=published.stream, products=len(products), reason=str(error))


def _report(published: Published, products: int, seconds: float) -> None:
    """Log and count one stream and each version that was listed or delisted. `seconds` is the time it took."""
    logger.info(
        "published",
        stream=published.stream,
        products=products,
        listed=len(published.listed),
        delisted=len(published.delisted),
        writes=published.writes,
        attempts=published.attempts,
        lost_races=published.lost_races,
        repeats=published.repeats,
        tagged=len(published.tagged),
        had_lease=published.had_lease,
        outdated=len(published.outdated),
        bytes=published.catalog_bytes,
        seconds=seconds,
    )
    metrics.add_metric("CatalogWrites", MetricUnit.Count, published.writes)
    metrics.add_metric("LostRaces", MetricUnit.Count, published.lost_races)
    for version, size_bytes in published.delisted.items():
        logger.info("delisted", **telemetry.about(version), outcome="delisted", bytes=size_bytes, seconds=seconds)
    for record in published.listed:
        newest = max(datetime.fromisoformat(facts.uploaded) for facts in record.files.values())
        late = round((datetime.now(UTC) - newest).total_seconds(), 3)
        about = telemetry.about(record.id)
        logger.info(
            "listed", **about, outcome="listed", bytes=record.size_bytes, seconds=seconds, seconds_since_upload=late
        )
        metrics.add_metric("UploadToListedSeconds", MetricUnit.Seconds, late)
    with single_metric("CatalogBytes", MetricUnit.Bytes, published.catalog_bytes) as metric:
        metric.add_dimension("stream", published.stream)
