"""The delta function: takes messages about products and makes deltas of their newest versions.

A delta that cannot be made is noted in the record, and its message acknowledged. A message whose failure may be
temporary stays in the queue.
"""

from imageserver.handlers import coldstart

# isort: split

import os
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from aws_lambda_powertools import Logger, Metrics
from aws_lambda_powertools.metrics import MetricUnit
from aws_lambda_powertools.utilities.typing import LambdaContext

from imageserver.aws.clients import s3_client
from imageserver.catalog.delta_plan import RunCapacity
from imageserver.errors import InvalidUpload
from imageserver.format.keys import ProductId, product_of_records
from imageserver.handlers import batches, telemetry
from imageserver.operations.make_deltas import Delta, DeltaServices, Outcome, make_deltas
from imageserver.programs.xdelta3 import find_xdelta3
from imageserver.settings import Settings
from imageserver.storage.s3 import S3Store

STOP_S: Final = 60.0
"""The time that a run reserves to upload the delta and to note it."""

MISSING: Final = (
    "there is no xdelta3: apt install xdelta3 on your own machine; in AWS, sam build without XDELTA3=no, and deploy"
)

logger = Logger(use_rfc3339=True)  # Lambda takes lines with another form of time for INFO
metrics = Metrics()
settings = Settings.from_environment(os.environ)
store = S3Store(s3_client(), settings.bucket)
encoder = find_xdelta3()
coldstart.loaded()


@logger.inject_lambda_context
@metrics.log_metrics
def handler(event: dict[str, Any], context: LambdaContext) -> batches.Answer:
    """Make the deltas of each product of the batch. Messages that a later try may complete stay in the queue."""

    def make(products: Sequence[ProductId], _tries: int) -> Mapping[ProductId, Exception]:
        for product in products:
            _make(product, context)
        return {}

    return batches.handle_each(event, _product_of, make, settings.queue_url, logger)


def _product_of(key: str) -> ProductId | None:
    try:
        return product_of_records(key)
    except InvalidUpload as refusal:
        logger.warning("not a product of ours", key=key, reason=str(refusal))
        return None


def _make(product: ProductId, context: LambdaContext) -> None:
    if encoder is None:  # the package contains it, unless it was built without
        logger.warning("no delta is made", **telemetry.about(product), reason=MISSING)
        return
    folder = Path(tempfile.gettempdir())

    def capacity() -> RunCapacity:
        return RunCapacity(shutil.disk_usage(folder).free, settings.memory_mb, batches.seconds_left(context) - STOP_S)

    began = time.monotonic()
    services = DeltaServices(store, encoder, time.sleep, capacity, folder, settings.deltas)
    for delta in make_deltas(product, services):
        _report(delta, time.monotonic() - began)
        began = time.monotonic()


def _report(delta: Delta, seconds: float) -> None:
    """Log one delta and count it."""
    logger.info(
        f"delta {delta.outcome}",
        **telemetry.about(delta.version),
        base=delta.base,
        outcome=delta.outcome,
        bytes=delta.size_bytes,
        saved_bytes=delta.saved_bytes,
        seconds=round(seconds, 3),
        reason=delta.reason,
    )
    metrics.add_metric("DeltasMade", MetricUnit.Count, int(delta.outcome == Outcome.MADE))
    metrics.add_metric("DeltasDropped", MetricUnit.Count, int(delta.outcome == Outcome.DROPPED))
    metrics.add_metric("DeltaBytesSaved", MetricUnit.Bytes, delta.saved_bytes)
