"""The copy function: takes messages about files of other servers and copies those files.

A file that upstream cannot provide (it is missing, or has another sha256) is noted for the operator and its message
acknowledged; the mirror asks for it again a day later. A message whose failure may be temporary stays in the queue.
"""

from imageserver.handlers import coldstart

# isort: split

import os
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final

from aws_lambda_powertools import Logger, Metrics
from aws_lambda_powertools.metrics import MetricUnit
from aws_lambda_powertools.utilities.typing import LambdaContext

from imageserver.aws import events, queues
from imageserver.aws.clients import s3_client, sqs_client
from imageserver.errors import InvalidUpload
from imageserver.format.keys import parse_key
from imageserver.handlers import batches, telemetry
from imageserver.operations.mirror_copy import Copied, CopyServices, Outcome, copy
from imageserver.operations.mirror_documents import configured, note_refusal
from imageserver.remote.server import RemoteServer
from imageserver.settings import Settings
from imageserver.storage.s3 import S3Store
from imageserver.upstream import messages
from imageserver.upstream.addresses import host_of
from imageserver.upstream.messages import MirrorMessage
from imageserver.upstream.mirrors import Mirror

MOST_SERVERS: Final = 4
"""Servers to which one process keeps connections open."""

logger = Logger(use_rfc3339=True)  # Lambda takes lines with another form of time for INFO
metrics = Metrics()
settings = Settings.from_environment(os.environ)
store = S3Store(s3_client(), settings.bucket)
coldstart.loaded()


@logger.inject_lambda_context
@metrics.log_metrics
def handler(event: dict[str, Any], context: LambdaContext) -> batches.Answer:
    """Copy each file of the batch. Messages about files that a later try may copy stay in the queue."""

    def copy_file(wanted: Sequence[MirrorMessage], _tries: int) -> Mapping[MirrorMessage, Exception]:
        (message,) = wanted
        _copy(message, context)
        return {}

    return batches.handle_each(event, lambda message: message, copy_file, settings.queue_url, logger, read=_messages)


def _messages(body: str) -> list[MirrorMessage]:
    try:
        return [messages.decode(body)]
    except messages.UnreadableMessage as error:
        raise events.UnreadableEvent(str(error)) from error


def _copy(message: MirrorMessage, context: LambdaContext) -> None:
    """Copy one file of a mirror that is still followed, or as much of it as this run can.

    The configuration, never the message, decides where a file comes from and which stream it goes into.
    """
    began = time.monotonic()
    mirror = configured(store).get(message.mirror)
    if mirror is None or not _is_below(message.key, mirror.stream):
        logger.warning("no mirror copies this file", mirror=message.mirror, key=message.key)
        return
    services = CopyServices(
        store=store,
        upstream=_server(mirror),
        now=lambda: datetime.now(UTC),
        pause=time.sleep,
        seconds_left=lambda: batches.seconds_left(context),
        host=host_of(mirror.address),
        most_bytes=settings.max_upload_bytes,
        is_wanted=lambda: message.mirror in configured(store),
    )
    copied = copy(message.file, services)
    _report(message, copied, time.monotonic() - began)
    if copied.outcome == Outcome.CONTINUED:  # by a new message: returning this one would count as a failed try
        queues.send(sqs_client(), settings.queue_url, messages.encode(message))
    if copied.outcome == Outcome.REFUSED:
        telemetry.count_refusal("upstream")
        note_refusal(store, message.mirror, message.key, copied.reason, datetime.now(UTC), time.sleep)


def _is_below(key: str, stream: str) -> bool:
    try:
        return parse_key(key).version.product.stream == stream
    except InvalidUpload:
        return False


@lru_cache(MOST_SERVERS)
def _server(mirror: Mirror) -> RemoteServer:
    """Return the server of a mirror. Connections that are still open are reused for the next file."""
    return RemoteServer(mirror, settings.base_url)


def _report(message: MirrorMessage, copied: Copied, seconds: float) -> None:
    """Log one file and count it."""
    logger.info(
        "copied" if copied.outcome == Outcome.COPIED else "not copied",
        **telemetry.about_path(message.key.rpartition("/")[0]),
        mirror=message.mirror,
        key=message.key,
        outcome=copied.outcome,
        bytes=copied.bytes_read,
        seconds=round(seconds, 3),
        reason=copied.reason,
    )
    metrics.add_metric("FilesCopied", MetricUnit.Count, int(copied.outcome == Outcome.COPIED))
    metrics.add_metric("BytesCopied", MetricUnit.Bytes, copied.bytes_read)
